//! The state of a branch's alerts: what stands, and what is still to be announced.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use chrono::TimeDelta;
use events::event::{AlertRaised, AlertResolved, AlertRule, AlertSeverity};
use events::{BranchName, Event, InstanceName, MessageId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::recent::{is_ahead, past};
use crate::rules::{self, Finding, Judgement};
use crate::scrub::scrub;
use crate::{Fact, Settings};

/// Everything that is kept of a branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BranchState {
    /// When it began to be kept. With the serial it orders everything that is announced of the branch.
    born: Timestamp,
    serial: u64,
    facts: Facts,
    standing: BTreeMap<AlertRule, Standing>,
    outbox: Vec<Announcement>,
    #[serde(default)]
    closed: bool,
}

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// How soon somebody should look.
    pub severity: AlertSeverity,
    /// Since when it is so.
    pub since: Timestamp,
    /// When it was last said.
    #[serde(default)]
    pub said_at: Option<Timestamp>,
    /// How often people were reminded of it.
    #[serde(default)]
    pub reminders: u32,
}

/// A change that is to be said, and has perhaps been said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Counts the changes of the branch.
    pub serial: u64,
    /// What is watched.
    pub rule: AlertRule,
    /// The change.
    pub change: Change,
}

/// An alert begins or ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It begins.
    Raise {
        /// How soon somebody should look.
        severity: AlertSeverity,
        /// One sentence, with the likely cause.
        message: String,
        /// What can be done.
        hint: String,
        /// Since when it is so.
        since: Timestamp,
    },
    /// It goes on.
    Remind {
        /// As it was raised.
        severity: AlertSeverity,
        /// One sentence, as it is now.
        message: String,
        /// What can be done.
        hint: String,
        /// Since when it is so, as it was raised.
        since: Timestamp,
        /// Counts from 1.
        number: u32,
    },
    /// It ends.
    Resolve {
        /// One sentence.
        message: String,
        /// Since when it had been so.
        since: Timestamp,
        /// When it was over.
        resolved_at: Timestamp,
    },
}

impl BranchState {
    /// A branch of which nothing was heard yet.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        BranchState {
            born: now,
            serial: 0,
            facts: Facts::new(now),
            standing: BTreeMap::new(),
            outbox: Vec::new(),
            closed: false,
        }
    }

    /// Takes a fact that became true at `at`, and looks. The changes are to be announced too ([`Self::outbox`]).
    pub fn observe(
        &mut self,
        at: Timestamp,
        fact: Fact,
        now: Timestamp,
        settings: &Settings,
    ) -> Vec<Announcement> {
        self.facts.settle(now);
        self.facts.take(at, fact, now);
        self.look(now, settings)
    }

    /// Takes a fact without looking: for what was true before the state was made.
    pub fn note(&mut self, at: Timestamp, fact: Fact, now: Timestamp) {
        self.facts.take(at, fact, now);
    }

    /// Whether nothing is known of the archive but that it kept up with its server.
    #[must_use]
    pub fn keeps_up(&self, settings: &Settings) -> bool {
        self.facts
            .looks()
            .iter()
            .all(|look| TimeDelta::seconds(look.what.secs) <= settings.lag)
            && !self.standing.contains_key(&AlertRule::ArchiveLag)
    }

    /// Whether somebody stopped the branch's server by hand.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.facts.is_stopped()
    }

    /// Looks what time has changed.
    pub fn look(&mut self, now: Timestamp, settings: &Settings) -> Vec<Announcement> {
        let before = self.outbox.len();
        if !self.closed {
            self.facts.settle(now);
            for rule in rules::RULES {
                match rules::judge(rule, &self.facts, now, settings) {
                    Judgement::Bad(finding) => self.bad(rule, finding, now, settings),
                    Judgement::Good(message) => self.good(rule, message, now),
                    Judgement::Unsettled => {}
                }
            }
        }
        self.outbox[before..].to_vec()
    }

    /// The branch is no longer protected: nothing of it stands any more, and nothing will be raised.
    pub fn close(&mut self, now: Timestamp) -> Vec<Announcement> {
        let before = self.outbox.len();
        self.closed = true;
        for rule in rules::RULES {
            self.good(rule, "the branch is no longer protected", now);
        }
        self.outbox[before..].to_vec()
    }

    /// Whether the branch was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What is known.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What stands.
    #[must_use]
    pub fn standing(&self) -> &BTreeMap<AlertRule, Standing> {
        &self.standing
    }

    /// What is to be announced, in this order.
    #[must_use]
    pub fn outbox(&self) -> &[Announcement] {
        &self.outbox
    }

    /// Forgets what was announced, up to this serial.
    pub fn announced(&mut self, serial: u64) {
        self.outbox
            .retain(|announcement| announcement.serial > serial);
    }

    fn bad(&mut self, rule: AlertRule, finding: Finding, now: Timestamp, settings: &Settings) {
        let mut since = finding.since;
        match self.standing.get(&rule) {
            Some(standing)
                if standing.severity >= finding.severity
                    && !is_another(rule, standing.since, finding.since) =>
            {
                return self.remind(rule, &finding, now, settings);
            }
            Some(standing) => {
                // By its beginning one alert is told from another.
                since = if since == standing.since { now } else { since };
                self.good(
                    rule,
                    "it has become worse, or there is more of it: it is raised anew",
                    now,
                );
            }
            None => {}
        }
        let Finding {
            severity,
            message,
            hint,
            ..
        } = finding;
        let standing = Standing {
            severity,
            since,
            said_at: Some(now),
            reminders: 0,
        };
        let _ = self.standing.insert(rule, standing);
        let raise = Change::Raise {
            severity,
            message: scrub(&message),
            hint: scrub(&hint),
            since,
        };
        self.say(rule, raise);
    }

    /// Says again what stands, if it was last said long ago.
    fn remind(&mut self, rule: AlertRule, finding: &Finding, now: Timestamp, settings: &Settings) {
        let (Some(pause), Some(standing)) = (settings.remind, self.standing.get_mut(&rule)) else {
            return;
        };
        // One of an older version was said nobody knows when; from now on it is counted.
        let said_at = past(*standing.said_at.get_or_insert(now), now);
        if now - said_at < pause {
            return;
        }
        standing.said_at = Some(now);
        standing.reminders = standing.reminders.saturating_add(1);
        let remind = Change::Remind {
            severity: standing.severity,
            message: scrub(&finding.message),
            hint: scrub(&finding.hint),
            since: standing.since,
            number: standing.reminders,
        };
        self.say(rule, remind);
    }

    fn good(&mut self, rule: AlertRule, message: &str, now: Timestamp) {
        if let Some(standing) = self.standing.remove(&rule) {
            let resolve = Change::Resolve {
                message: message.to_owned(),
                since: standing.since,
                resolved_at: now,
            };
            self.say(rule, resolve);
        }
    }

    fn say(&mut self, rule: AlertRule, change: Change) {
        self.serial += 1;
        self.outbox.push(Announcement {
            serial: self.serial,
            rule,
            change,
        });
    }

    /// The message's id: the same whoever publishes it, and whenever.
    #[must_use]
    pub fn message_id(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        said: &Announcement,
    ) -> MessageId {
        let (rule, born, serial) = (said.rule, self.born.timestamp_micros(), said.serial);
        MessageId::new(format!("alert:{instance}/{branch}/{rule}:{born}:{serial}"))
    }

    /// Whether `published`, the id of the last message about the same rule, is this announcement or came after it. A state
    /// that was born later has the last word, unless by a clock that was ahead: that one was there before.
    #[must_use]
    pub fn is_said(&self, said: &Announcement, published: &MessageId, now: Timestamp) -> bool {
        let mut parts = published.as_str().rsplit(':');
        let mut number = || parts.next()?.parse::<i64>().ok();
        let (Some(serial), Some(born)) = (number(), number()) else {
            return false;
        };
        let own = i64::try_from(said.serial).unwrap_or(i64::MAX);
        match born.cmp(&self.born.timestamp_micros()) {
            Ordering::Less => false,
            Ordering::Equal => serial >= own,
            Ordering::Greater => {
                Timestamp::from_timestamp_micros(born).is_some_and(|born| !is_ahead(born, now))
            }
        }
    }
}

impl Announcement {
    /// The event that says it.
    #[must_use]
    pub fn event(&self, instance: &InstanceName, branch: &BranchName) -> Event {
        let (instance, branch, rule) = (instance.clone(), branch.clone(), self.rule);
        let (severity, message, hint, since, reminder) = match self.change.clone() {
            Change::Resolve {
                message,
                since,
                resolved_at,
            } => {
                return Event::AlertResolved(AlertResolved {
                    instance,
                    branch,
                    rule,
                    message,
                    since,
                    resolved_at,
                });
            }
            Change::Raise {
                severity,
                message,
                hint,
                since,
            } => (severity, message, hint, since, 0),
            Change::Remind {
                severity,
                message,
                hint,
                since,
                number,
            } => (severity, message, hint, since, number),
        };
        Event::AlertRaised(AlertRaised {
            instance,
            branch,
            rule,
            severity,
            message,
            hint,
            since,
            reminder,
        })
    }
}

/// Whether a finding is news though an alert of its rule stands: another damaged backup is.
fn is_another(rule: AlertRule, standing: Timestamp, found: Timestamp) -> bool {
    rule == AlertRule::BackupDamaged && found > standing
}

#[cfg(test)]
mod tests;

//! What a message says, whatever it travels by.

use events::envelope::rfc3339;
use events::event::AlertSeverity;
use events::{BranchName, Envelope, Event, InstanceName, Timestamp};
use serde::Serialize;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Kind {
    #[serde(rename = "alert.raised")]
    Raised,
    #[serde(rename = "alert.reminded")]
    Reminded,
    #[serde(rename = "alert.resolved")]
    Resolved,
    #[serde(rename = "alert.test")]
    Test,
}

/// A message to people. This is the body of a webhook, see docs/alerts.md: fields may be added, and are never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Notice {
    /// Of the body's form.
    pub(crate) version: u32,
    /// The same when the same message is sent again.
    pub(crate) id: String,
    pub(crate) event: Kind,
    pub(crate) instance: Option<InstanceName>,
    pub(crate) branch: Option<BranchName>,
    pub(crate) rule: Option<String>,
    pub(crate) severity: Option<AlertSeverity>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Since when it is, or had been, so.
    pub(crate) since: Option<String>,
    pub(crate) resolved_at: Option<String>,
    /// Counts the reminders of an alert.
    pub(crate) reminder: Option<u32>,
    /// How long it lasts, of a reminder.
    pub(crate) lasts_seconds: Option<i64>,
    /// When it was said.
    pub(crate) at: String,
}

impl Notice {
    /// Of an alert; none of any other event.
    pub(crate) fn of(envelope: &Envelope<Event>) -> Option<Notice> {
        let blank = Notice {
            version: 1,
            id: envelope.id.to_string(),
            event: Kind::Test,
            instance: None,
            branch: None,
            rule: None,
            severity: None,
            message: String::new(),
            hint: None,
            since: None,
            resolved_at: None,
            reminder: None,
            lasts_seconds: None,
            at: rfc3339(envelope.time),
        };
        match &envelope.message {
            Event::AlertRaised(alert) => Some(Notice {
                event: match alert.reminder {
                    0 => Kind::Raised,
                    _ => Kind::Reminded,
                },
                reminder: Some(alert.reminder).filter(|number| *number > 0),
                lasts_seconds: Some((envelope.time - alert.since).num_seconds().max(0))
                    .filter(|_| alert.reminder > 0),
                instance: Some(alert.instance.clone()),
                branch: Some(alert.branch.clone()),
                rule: Some(alert.rule.to_string()),
                severity: Some(alert.severity),
                message: ::alerts::scrub(&alert.message),
                hint: Some(::alerts::scrub(&alert.hint)).filter(|hint| !hint.is_empty()),
                since: Some(rfc3339(alert.since)),
                ..blank
            }),
            Event::AlertResolved(alert) => Some(Notice {
                event: Kind::Resolved,
                instance: Some(alert.instance.clone()),
                branch: Some(alert.branch.clone()),
                rule: Some(alert.rule.to_string()),
                message: ::alerts::scrub(&alert.message),
                since: Some(rfc3339(alert.since)),
                resolved_at: Some(rfc3339(alert.resolved_at)),
                ..blank
            }),
            _ => None,
        }
    }

    /// A message that only shows that messages arrive.
    pub(crate) fn test(id: String, at: Timestamp) -> Notice {
        Notice {
            version: 1,
            id,
            event: Kind::Test,
            instance: None,
            branch: None,
            rule: None,
            severity: None,
            message: "this is a test of the notifications of Zektor; nothing is wrong".to_owned(),
            hint: None,
            since: None,
            resolved_at: None,
            reminder: None,
            lasts_seconds: None,
            at: rfc3339(at),
        }
    }

    /// One line: `CRITICAL orders/main: wal_gap`; of a reminder `CRITICAL orders/main: wal_gap, for 26 h`.
    pub(crate) fn headline(&self) -> String {
        let what = match (self.event, self.severity) {
            (Kind::Test, _) => return "TEST of notifications".to_owned(),
            (Kind::Resolved, _) => "RESOLVED",
            (_, Some(AlertSeverity::Critical)) => "CRITICAL",
            _ => "WARNING",
        };
        let name = |name: Option<&str>| name.unwrap_or("-").to_owned();
        let instance = name(self.instance.as_ref().map(InstanceName::as_str));
        let branch = name(self.branch.as_ref().map(BranchName::as_str));
        let lasts = self.lasts_seconds.map(lasting).unwrap_or_default();
        format!(
            "{what} {instance}/{branch}: {}{lasts}",
            name(self.rule.as_deref())
        )
    }
}

/// `, for 26 h`.
fn lasting(seconds: i64) -> String {
    match seconds / 3600 {
        0 => format!(", for {} min", seconds / 60),
        hours @ 1..72 => format!(", for {hours} h"),
        hours => format!(", for {} days", hours / 24),
    }
}

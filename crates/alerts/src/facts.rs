//! What is known of a branch: everything that the rules look at, and nothing that they do not.

use chrono::TimeDelta;
use events::event::{FailureCause, SlotRiskLevel};
use events::{BackupId, BackupType, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fact::{Completed, Fact, FailedDrill, Gap};
use crate::recent::{Dated, insert};

/// Completed backups that are remembered: enough for a median of each kind.
const COMPLETED: usize = 24;
const FAILED: usize = 8;
const GAPS: usize = 64;
const LET_GO: usize = 64;
const VERDICTS: usize = 64;
/// A rule about the archive's lag wants to see it twice.
const LOOKS: usize = 2;

/// The facts about one branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// What was wrong before this is not news.
    pub(crate) floor: Timestamp,
    #[serde(default)]
    pub(crate) completed: Vec<At<Completed>>,
    /// Since the last completed one, the newest of them.
    #[serde(default)]
    pub(crate) failed: Vec<At<Failure>>,
    #[serde(default)]
    pub(crate) verdicts: Vec<At<Verdict>>,
    #[serde(default)]
    pub(crate) let_go: Vec<At<Option<BackupId>>>,
    #[serde(default)]
    pub(crate) window: Option<At<Reach>>,
    #[serde(default)]
    pub(crate) shrunk: Option<Shrunk>,
    #[serde(default)]
    pub(crate) gaps: Vec<At<Gap>>,
    #[serde(default)]
    pub(crate) slot: Option<At<Slot>>,
    #[serde(default)]
    pub(crate) drill: Option<At<Option<FailedDrill>>>,
    #[serde(default)]
    pub(crate) lag: Vec<At<Lag>>,
    #[serde(default)]
    pub(crate) promise: Option<Promise>,
}

/// Something, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct At<T> {
    pub(crate) at: Timestamp,
    pub(crate) what: T,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) backup_id: BackupId,
    pub(crate) cause: FailureCause,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// What reading a stored backup has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) backup_id: BackupId,
    pub(crate) problem: Option<String>,
}

/// How far back a window reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reach {
    pub(crate) earliest: Option<Timestamp>,
    pub(crate) backup: Option<BackupId>,
}

/// A window that begins later than it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shrunk {
    pub(crate) seen_at: Timestamp,
    pub(crate) reached: Timestamp,
    pub(crate) backup: Option<BackupId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) level: SlotRiskLevel,
    pub(crate) message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lag {
    pub(crate) secs: i64,
    pub(crate) error: Option<String>,
}

/// What the schedules promise, and since when they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Promise {
    pub(crate) secs: i64,
    pub(crate) since: Timestamp,
}

impl Dated for At<Completed> {
    fn place(&self) -> (Timestamp, String) {
        (self.at, self.what.backup_id.to_string())
    }
}

impl Dated for At<Failure> {
    fn place(&self) -> (Timestamp, String) {
        (self.at, self.what.backup_id.to_string())
    }
}

impl Dated for At<Verdict> {
    fn place(&self) -> (Timestamp, String) {
        (self.at, self.what.backup_id.to_string())
    }
}

impl Dated for At<Option<BackupId>> {
    fn place(&self) -> (Timestamp, String) {
        (
            self.at,
            self.what.map(|id| id.to_string()).unwrap_or_default(),
        )
    }
}

impl Dated for At<Gap> {
    fn place(&self) -> (Timestamp, String) {
        (
            self.at,
            format!("{}/{}", self.what.timeline, self.what.from_lsn),
        )
    }
}

impl Dated for At<Lag> {
    fn place(&self) -> (Timestamp, String) {
        (self.at, String::new())
    }
}

impl Facts {
    pub(crate) fn new(floor: Timestamp) -> Self {
        Facts {
            floor,
            completed: Vec::new(),
            failed: Vec::new(),
            verdicts: Vec::new(),
            let_go: Vec::new(),
            window: None,
            shrunk: None,
            gaps: Vec::new(),
            slot: None,
            drill: None,
            lag: Vec::new(),
            promise: None,
        }
    }

    /// Takes a fact that became true at `at`. What is known already, or older than what would replace it, changes nothing.
    pub(crate) fn take(&mut self, at: Timestamp, fact: Fact) {
        // What was good long ago is worth knowing; what was bad then has been seen by somebody, or is over.
        let stale = at < self.floor;
        match fact {
            Fact::BackupCompleted(completed) => self.take_completed(at, completed),
            Fact::Promised(interval) => self.take_promise(at, interval),
            _ if stale => {}
            Fact::BackupFailed {
                backup_id,
                cause,
                message,
                hint,
            } => {
                let failure = Failure {
                    backup_id,
                    cause,
                    message,
                    hint,
                };
                self.take_failure(At { at, what: failure });
            }
            Fact::BackupVerified { backup_id, problem } => {
                self.take_verdict(At {
                    at,
                    what: Verdict { backup_id, problem },
                });
            }
            Fact::LetGo { backups } => self.take_let_go(at, &backups),
            Fact::WindowChanged { earliest, backup } => {
                self.take_window(At {
                    at,
                    what: Reach { earliest, backup },
                });
            }
            Fact::GapDetected(gap) => {
                // One that is older than all backups that are remembered was judged when they were completed.
                let old = self.completed.len() == COMPLETED
                    && Some(at) < self.completed.first().map(|c| c.at);
                if !old && !self.is_closed(&gap) {
                    let _ = insert(&mut self.gaps, At { at, what: gap }, GAPS);
                }
            }
            Fact::SlotRisk { level, message } => {
                newest(
                    &mut self.slot,
                    At {
                        at,
                        what: Slot { level, message },
                    },
                );
            }
            Fact::DrillEnded { failed, .. } => newest(&mut self.drill, At { at, what: failed }),
            Fact::LagSeen { lag, error } => {
                let secs = lag.num_seconds();
                let _ = insert(
                    &mut self.lag,
                    At {
                        at,
                        what: Lag { secs, error },
                    },
                    LOOKS,
                );
            }
        }
    }

    fn take_completed(&mut self, at: Timestamp, completed: Completed) {
        // It may be announced twice, at two times, by two workers.
        let known = |other: &At<Completed>| other.what.backup_id == completed.backup_id;
        if self.completed.iter().any(known)
            || !insert(
                &mut self.completed,
                At {
                    at,
                    what: completed,
                },
                COMPLETED,
            )
        {
            return;
        }
        let last = self.last_completed_at();
        self.failed.retain(|failure| Some(failure.at) > last);
        let gaps = std::mem::take(&mut self.gaps);
        self.gaps = gaps
            .into_iter()
            .filter(|gap| !self.is_closed(&gap.what))
            .collect();
    }

    fn take_failure(&mut self, failure: At<Failure>) {
        if Some(failure.at) > self.last_completed_at() {
            let _ = insert(&mut self.failed, failure, FAILED);
        }
    }

    fn take_verdict(&mut self, verdict: At<Verdict>) {
        // Whenever it was read: while a backup goes, reading it finds that something is missing, and nobody would
        // take that back.
        let gone = |gone: &At<Option<BackupId>>| gone.what == Some(verdict.what.backup_id);
        if self.let_go.iter().any(gone) {
            return;
        }
        let same = |other: &At<Verdict>| other.what.backup_id == verdict.what.backup_id;
        match self.verdicts.iter().position(same) {
            Some(index) if self.verdicts[index].at >= verdict.at => {}
            Some(index) => {
                drop(self.verdicts.remove(index));
                let _ = insert(&mut self.verdicts, verdict, VERDICTS);
            }
            None => {
                let _ = insert(&mut self.verdicts, verdict, VERDICTS);
            }
        }
    }

    fn take_let_go(&mut self, at: Timestamp, backups: &[BackupId]) {
        for backup_id in backups {
            let _ = insert(
                &mut self.let_go,
                At {
                    at,
                    what: Some(*backup_id),
                },
                LET_GO,
            );
            self.verdicts
                .retain(|verdict| verdict.what.backup_id != *backup_id);
        }
        if backups.is_empty() {
            let _ = insert(&mut self.let_go, At { at, what: None }, LET_GO);
        }
    }

    fn take_window(&mut self, now: At<Reach>) {
        if self
            .window
            .as_ref()
            .is_some_and(|before| before.at >= now.at)
        {
            return;
        }
        let before = self.window.replace(now.clone());
        // A loss that nobody has come over yet goes on; one that is over is forgotten.
        let standing = self
            .shrunk
            .take()
            .filter(|shrunk| !self.is_over(shrunk, now.at));
        self.shrunk = match (standing, before.map(|before| before.what)) {
            (Some(standing), _) => Some(standing),
            (
                None,
                Some(Reach {
                    earliest: Some(reached),
                    backup,
                }),
            ) if now.what.earliest.is_none_or(|earliest| earliest > reached) => Some(Shrunk {
                seen_at: now.at,
                reached,
                backup,
            }),
            _ => None,
        };
    }

    fn take_promise(&mut self, at: Timestamp, interval: Option<TimeDelta>) {
        self.promise = interval.map(|interval| {
            let secs = interval.num_seconds();
            match self.promise {
                // Backups that were fit for the old promise must not be overdue by the new one at once.
                Some(before) if secs < before.secs => Promise {
                    secs,
                    since: before.since.max(at),
                },
                Some(before) => Promise {
                    secs,
                    since: before.since,
                },
                None => Promise { secs, since: at },
            }
        });
    }

    /// Whether a backup is known that begins behind a gap.
    fn is_closed(&self, gap: &Gap) -> bool {
        self.completed
            .iter()
            .any(|At { what, .. }| what.start_lsn >= gap.to_lsn && what.timeline >= gap.timeline)
    }

    pub(crate) fn last_completed_at(&self) -> Option<Timestamp> {
        self.completed.last().map(|completed| completed.at)
    }

    /// The newest completed backup, and what up to seven of its kind before it have stored.
    pub(crate) fn sizes(&self) -> Option<(&At<Completed>, Vec<u64>)> {
        let newest = self.completed.last()?;
        let kind: BackupType = newest.what.backup_type;
        let before = self.completed.iter().rev().skip(1);
        let same = before.filter(|other| other.what.backup_type == kind);
        Some((
            newest,
            same.take(7).map(|other| other.what.stored_bytes).collect(),
        ))
    }
}

fn newest<T>(place: &mut Option<At<T>>, fact: At<T>) {
    if place.as_ref().is_none_or(|before| before.at < fact.at) {
        *place = Some(fact);
    }
}

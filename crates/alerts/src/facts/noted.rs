//! Single facts as they are kept: each with its moment, and its place among those of its kind.

use events::event::{FailureCause, SlotRiskLevel};
use events::{BackupId, ScheduleId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fact::{Completed, Gap};
use crate::recent::Dated;

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

/// A due backup that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) schedule: ScheduleId,
    pub(crate) reason: String,
}

/// What reading a stored backup has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) backup_id: BackupId,
    pub(crate) problem: Option<String>,
}

/// Whether a stored backup is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marked {
    pub(crate) backup_id: BackupId,
    pub(crate) to_go: bool,
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

impl Dated for At<Marked> {
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

impl Dated for At<u64> {
    fn place(&self) -> (Timestamp, String) {
        (self.at, String::new())
    }
}

impl Dated for At<Lag> {
    fn place(&self) -> (Timestamp, String) {
        (self.at, String::new())
    }
}

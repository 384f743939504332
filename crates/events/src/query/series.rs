//! Series for charts: one point a day at most, of the last two years.

use serde::{Deserialize, Serialize};

use crate::{BackupId, BranchName, InstanceName, Timestamp};

/// How have the backups and the WAL of a branch grown?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// From then on; the last thirty days when absent.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Up to then.
    #[serde(default)]
    pub to: Option<Timestamp>,
}

/// The series of a branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesView {
    /// Its completed backups, oldest first; at most 1000.
    pub backups: Vec<BackupPoint>,
    /// There were more in this time, before these.
    #[serde(default)]
    pub earlier_left_out: bool,
    /// Its WAL, by day, oldest first.
    pub wal: Vec<WalPoint>,
}

/// A completed backup, whether it is still there or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupPoint {
    /// The backup.
    pub id: BackupId,
    /// Its end.
    pub at: Timestamp,
    /// What it added to the repository, in bytes.
    pub size_bytes: u64,
    /// Size of the cluster's files, in bytes.
    pub logical_bytes: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A day of WAL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalPoint {
    /// The day's beginning, UTC.
    pub day: Timestamp,
    /// Bytes that were added in that day, as stored.
    pub added_bytes: u64,
    /// Bytes that were pruned in that day.
    pub pruned_bytes: u64,
    /// Bytes stored at its end.
    pub stored_bytes: u64,
}

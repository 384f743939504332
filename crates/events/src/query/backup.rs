//! Questions about backups.

use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::event::DamagedPage;
use crate::mark::{Deletion, Hold};
use crate::{BackupId, BackupType, BranchName, InstanceName, ScheduleId, Timestamp, Trigger};

/// Where a backup is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStatus {
    /// It waits for a worker.
    Requested,
    /// A worker is taking it.
    InProgress,
    /// It was given up.
    Failed,
    /// It is in the repository and restorable.
    Completed,
    /// Its retention ended, or somebody deleted it: it is gone, or goes after the time of grace.
    Expired,
    /// It was due and not taken, because another one of the branch was.
    Skipped,
}

/// Backups, newest first; only those that match every filter that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupList {
    /// Of this instance.
    pub instance: Option<InstanceName>,
    /// Of branches of this name.
    pub branch: Option<BranchName>,
    /// In this state.
    pub status: Option<BackupStatus>,
    /// Asked for by this schedule.
    pub schedule_id: Option<ScheduleId>,
    /// Asked for at or after this moment.
    pub from: Option<Timestamp>,
    /// Asked for before this moment.
    pub to: Option<Timestamp>,
    /// Whose name contains this, whatever its case.
    pub name: Option<String>,
    /// Those too that are gone from the repository, or were skipped; always with such a `status`.
    pub all: bool,
    /// At most so many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
    /// After so many. A long list is read faster, and misses nothing that comes or goes meanwhile, with `after`.
    pub offset: u32,
    /// After this place: [`Backups::next`] of the page before.
    pub after: Option<BackupPlace>,
}

/// Backups, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backups {
    /// The backups.
    pub backups: Vec<BackupView>,
    /// Where the next page begins; absent when this was the last one. A page may be shorter than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<BackupPlace>,
}

/// A place in a list of backups: behind this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPlace {
    /// The moment by which it is listed.
    pub at: Timestamp,
    /// The backup.
    pub id: BackupId,
}

/// Everything about one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupShow {
    /// Its instance; any when absent.
    #[serde(default)]
    pub instance: Option<InstanceName>,
    /// The backup.
    pub id: BackupId,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupView {
    /// The backup.
    pub id: BackupId,
    /// A name for people.
    pub name: String,
    /// Its instance.
    pub instance: InstanceName,
    /// Its branch.
    pub branch: BranchName,
    /// As it was asked for until it is completed, then as it was taken.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// Where it is in its life.
    pub status: BackupStatus,
    /// Its end by the server's clock.
    pub backed_up_at: Option<Timestamp>,
    /// What it added to the repository.
    pub size_bytes: Option<u64>,
    /// Size of the cluster's files.
    pub logical_bytes: Option<u64>,
    /// Where replay begins.
    pub start_lsn: Option<Lsn>,
    /// Where the copy becomes consistent.
    pub stop_lsn: Option<Lsn>,
    /// The timeline of both.
    pub timeline: Option<TimelineId>,
    /// What asked for it; absent only if its request has expired from the bus.
    pub trigger: Option<Trigger>,
    /// The schedule, if one asked.
    pub schedule_id: Option<ScheduleId>,
    /// When it expires; never when absent.
    pub expires_at: Option<Timestamp>,
    /// Until when the WAL after it is kept because of it; as long as the backup when absent.
    #[serde(default)]
    pub wal_until: Option<Timestamp>,
    /// Why it stays whatever its retention says.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// It is to go; until `delete_after` it can be kept after all.
    #[serde(default)]
    pub deletion: Option<Deletion>,
    /// When it was gone from the repository.
    #[serde(default)]
    pub deleted_at: Option<Timestamp>,
    /// When it was last read whole.
    #[serde(default)]
    pub verified_at: Option<Timestamp>,
    /// Whether it was found sound then.
    #[serde(default)]
    pub sound: Option<bool>,
    /// Why it failed, or was not taken.
    pub error: Option<String>,
    /// What can be done about it.
    pub hint: Option<String>,
    /// Pages with a wrong checksum on the source.
    pub damaged_pages: Vec<DamagedPage>,
    /// When it was asked for.
    pub requested_at: Option<Timestamp>,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// From the start of the successful attempt to its end, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Files in it.
    pub files: Option<u64>,
    /// `server_version_num`.
    pub server_version: Option<u32>,
    /// Who takes it, while it is in progress.
    pub worker: Option<String>,
    /// Bytes copied so far, while it is in progress.
    pub done_bytes: Option<u64>,
    /// Bytes in all as estimated, while it is in progress.
    pub total_bytes: Option<u64>,
}

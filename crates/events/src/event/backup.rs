//! Events in the life of a backup. All carry its id, and all stand on its fence.

use chrono::TimeDelta;
use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::FailureCause;
use crate::mark::BackupMark;
use crate::{
    BackupId, BackupType, BranchName, CommandId, InstanceName, PoolName, Retention, ScheduleId,
    Timestamp, Trigger, WalKeep,
};

/// Between the server's clock and the worker's, when both are right.
const MOST_BETWEEN_CLOCKS: TimeDelta = TimeDelta::minutes(1);

/// A backup is wanted; a worker is to take it. Said again of the same backup, for the workers of another pool, it takes
/// the place of what was said before ([`crate::Envelope::backup_request`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupRequested {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch to back up.
    pub branch: BranchName,
    /// A name for people.
    pub name: String,
    /// How to take it.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// What asked for it.
    pub trigger: Trigger,
    /// The schedule, if one asked.
    pub schedule_id: Option<ScheduleId>,
    /// How long to keep it, counted from its end; until deleted when absent.
    pub retention: Option<Retention>,
    /// How long WAL is kept because of it.
    #[serde(default)]
    pub wal: WalKeep,
    /// The workers that are to take it; those of the default pool when absent.
    #[serde(default)]
    pub pool: Option<PoolName>,
    /// When it was asked for.
    pub requested_at: Timestamp,
}

/// A backup is wanted, after another one of the branch that is being taken: `backup.requested` follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupQueued {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The backup that is being taken.
    pub behind: BackupId,
    /// What will be asked of the workers.
    pub request: BackupRequested,
}

/// A scheduled backup was not taken. The next one of the schedule will be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupSkipped {
    /// The backup that it would have been.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Its name for people.
    pub name: String,
    /// When it was due.
    pub due_at: Timestamp,
    /// The backup that was being taken.
    pub running: Option<BackupId>,
    /// One sentence.
    pub reason: String,
}

/// A stored backup is wanted for another time, or under another name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupUpdated {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// Everything that is wanted of it now.
    pub mark: BackupMark,
    /// When that was decided.
    pub updated_at: Timestamp,
}

/// A stored backup was read whole, and every byte compared with its digests; or a restore or drill has come upon
/// something of it that is missing or damaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupVerified {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The command that asked for it; of a restore or drill its own.
    pub command_id: CommandId,
    /// Whether it can be restored, with the WAL that makes it consistent.
    pub sound: bool,
    /// What is wrong, one sentence each; the first hundred.
    pub problems: Vec<String>,
    /// Files read; none if it was not read whole.
    pub files: u64,
    /// Bytes of files read.
    pub bytes: u64,
    /// When it was done.
    pub verified_at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A worker began an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupStarted {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The worker.
    pub worker: String,
    /// Names the attempt's own prefix in the repository.
    pub attempt: String,
    /// When it began.
    pub started_at: Timestamp,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupPhase {
    /// Waiting for the server's checkpoint.
    Checkpoint,
    /// Copying files.
    Copying,
    /// Waiting until the archive has the WAL that makes the backup consistent.
    WaitingForWal,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// The attempt goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupProgressed {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// What is being done.
    pub phase: BackupPhase,
    /// Bytes of the cluster copied so far.
    pub done_bytes: u64,
    /// Bytes to copy, the server's estimate.
    pub total_bytes: u64,
    /// Where its WAL begins, once the server has said so: nothing from there on is pruned meanwhile.
    #[serde(default)]
    pub start: Option<WalPoint>,
    /// Why this attempt came to nothing, one sentence; another one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A place in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WalPoint {
    /// The timeline.
    pub timeline: TimelineId,
    /// The place on it.
    pub lsn: Lsn,
}

/// A page whose checksum was wrong on the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DamagedPage {
    /// The file, relative to the data directory.
    pub file: String,
    /// The block's number in the file; absent when the server did not say.
    pub block: Option<u64>,
}

/// Everything that is shown of a completed backup. Also the head of its manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupSummary {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// A name for people.
    pub name: String,
    /// How it was taken: full or incremental.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// What asked for it.
    pub trigger: Trigger,
    /// The schedule, if one asked.
    pub schedule_id: Option<ScheduleId>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When the successful attempt began.
    pub started_at: Timestamp,
    /// Its end by the *server's* clock: not earlier than its consistency point. A target before it needs
    /// an earlier backup.
    pub backed_up_at: Timestamp,
    /// The same moment by the *worker's* clock; absent in what older versions took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// When it expires; never when absent.
    pub expires_at: Option<Timestamp>,
    /// Until when WAL is kept from its start on; as long as the backup when absent.
    #[serde(default)]
    pub wal_until: Option<Timestamp>,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where the copy becomes consistent.
    pub stop_lsn: Lsn,
    /// The timeline of both.
    pub timeline: TimelineId,
    /// The cluster's system identifier.
    pub system_identifier: SystemIdentifier,
    /// `server_version_num`.
    pub server_version: u32,
    /// The cluster's WAL segment size in bytes.
    pub wal_segment_size: WalSegmentSize,
    /// Size of the cluster's files.
    pub logical_bytes: u64,
    /// What this backup added to the repository.
    pub stored_bytes: u64,
    /// Files in it.
    pub files: u64,
    /// The attempt whose objects the manifest names.
    pub attempt: String,
    /// Pages with a wrong checksum on the source. The backup is kept, and flagged by this.
    pub damaged_pages: Vec<DamagedPage>,
}

impl BackupSummary {
    /// The moment from which on its retention counts: its end by the later of the server's clock and the worker's, so
    /// that neither of them, being behind, takes anything from what was promised.
    #[must_use]
    pub fn kept_from(&self) -> Timestamp {
        self.backed_up_at
            .max(self.ended_at.unwrap_or(self.backed_up_at))
    }

    /// By how much the server's clock was ahead of the worker's, or behind it, if that is more than between clocks that
    /// are right.
    #[must_use]
    pub fn clocks_differ_by(&self) -> Option<TimeDelta> {
        let ahead = self.backed_up_at - self.ended_at?;
        (ahead.abs() > MOST_BETWEEN_CLOCKS).then_some(ahead)
    }
}

/// The backup is in the repository, with the WAL that makes it consistent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupCompleted {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The backup, as its manifest describes it.
    pub summary: BackupSummary,
}

/// The backup was given up. The next scheduled run tries again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupFailed {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The likely cause.
    pub cause: FailureCause,
    /// Whether the same may succeed later without anybody changing anything; by the cause when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transient: Option<bool>,
    /// One sentence.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// When it was given up.
    pub failed_at: Timestamp,
}

//! Events in the life of a restore. All carry its id, and all stand on its fence.

use std::collections::BTreeMap;

use pg_format::{Lsn, TimelineId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::FailureCause;
use crate::plan::PlanCheck;
use crate::{BackupId, BranchName, ClusterSize, InstanceName, RestoreId, RestoreTarget, Timestamp};

/// A restore is wanted; its branch name is claimed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreRequested {
    /// The restore.
    pub restore_id: RestoreId,
    /// The instance.
    pub instance: InstanceName,
    /// The new branch.
    pub branch: BranchName,
    /// The branch whose past is restored.
    pub source_branch: BranchName,
    /// The moment.
    pub target: RestoreTarget,
    /// The compute tier of the new branch.
    pub size: ClusterSize,
    /// The source's roles keep their passwords.
    #[serde(default)]
    pub keep_passwords: bool,
    /// When it was asked for.
    pub requested_at: Timestamp,
}

/// What a restore will do, decided before anything is started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestorePlan {
    /// The base backup.
    pub backup_id: BackupId,
    /// The timeline recovery follows, pinned.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Nothing from here on is served to recovery.
    pub end_lsn: Lsn,
    /// Bytes of files to write.
    pub logical_bytes: u64,
    /// Bytes of WAL that recovery may have to replay.
    pub wal_bytes: u64,
    /// Recovery stops after the record that begins here, the last transaction end that will be in the branch;
    /// absent when it stops where the backup is consistent, or where the archive ends.
    #[serde(default)]
    pub stop_lsn: Option<Lsn>,
    /// The last commit that will be in the branch, also one of before the base backup; absent when the archived WAL has
    /// none.
    #[serde(default)]
    pub last_commit: Option<PlannedCommit>,
}

/// A commit, known before the restore from the commit-time index and the WAL itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedCommit {
    /// Its time, by the source server's clock.
    pub at: Timestamp,
    /// Where its record begins.
    pub lsn: Lsn,
    /// The transaction.
    pub xid: u32,
}

/// A restorer began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreStarted {
    /// The restore.
    pub restore_id: RestoreId,
    /// The instance.
    pub instance: InstanceName,
    /// The new branch.
    pub branch: BranchName,
    /// The restorer.
    pub restorer: String,
    /// What it will do.
    pub plan: RestorePlan,
    /// Backups that this restore has found damaged when it read them; the plan is made without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<BackupId>,
    /// When it began.
    pub started_at: Timestamp,
}

/// What a restorer is doing, in this order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RestorePhase {
    /// Writing the base backup's files.
    Materialise,
    /// Replaying WAL.
    Recover,
    /// Leaving recovery.
    Promote,
    /// New credentials, checks, opening.
    Open,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// The restore goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreProgressed {
    /// The restore.
    pub restore_id: RestoreId,
    /// The instance.
    pub instance: InstanceName,
    /// The new branch.
    pub branch: BranchName,
    /// What is being done.
    pub phase: RestorePhase,
    /// Bytes of this phase done.
    pub done_bytes: u64,
    /// Bytes of this phase in all; zero if unknown.
    pub total_bytes: u64,
}

/// An extension of the restored databases, and whether it can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExtensionCheck {
    /// The database it is installed in.
    pub database: String,
    /// The extension.
    pub name: String,
    /// The version the database has.
    pub version: String,
    /// Whether the branch's server has its files.
    pub state: ExtensionState,
    /// What is missing or was done, with the names of files; absent when there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Whether an extension's files are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionState {
    /// Ready to use.
    Present,
    /// The server that runs the branch does not have it.
    NeedsReinstalling,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// What came of a restore. Without credentials; those are in the instance document, sealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreSummary {
    /// The branch whose past was restored.
    pub source_branch: BranchName,
    /// What was asked for.
    pub target: RestoreTarget,
    /// The base backup.
    pub backup_id: BackupId,
    /// The compute tier.
    pub size: ClusterSize,
    /// The last WAL position replayed: where the branch left the source's history.
    pub stop_lsn: Lsn,
    /// The timeline the branch left.
    pub fork_timeline: TimelineId,
    /// The timeline the branch writes.
    pub timeline: TimelineId,
    /// Time of the last commit in the branch, replayed or of before the base backup; absent if the archived WAL has none.
    pub last_commit_at: Option<Timestamp>,
    /// Host the branch listens on.
    pub host: String,
    /// Port the branch listens on.
    pub port: u16,
    /// Milliseconds from start to open.
    pub duration_ms: u64,
    /// Milliseconds of each phase.
    pub phases: BTreeMap<String, u64>,
    /// Its extensions.
    pub extensions: Vec<ExtensionCheck>,
    /// What in it could act on the world outside, and what was done about it: `subscriptions`, `cron_jobs`,
    /// `foreign_servers`, `event_triggers`, `role_settings`, `settings`, `passwords`.
    #[serde(default)]
    pub checks: Vec<PlanCheck>,
    /// When it was opened.
    pub completed_at: Timestamp,
}

/// The branch is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreCompleted {
    /// The restore.
    pub restore_id: RestoreId,
    /// The instance.
    pub instance: InstanceName,
    /// The new branch.
    pub branch: BranchName,
    /// What came of it.
    pub summary: RestoreSummary,
}

/// The restore was given up; the branch name is free again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreFailed {
    /// The restore.
    pub restore_id: RestoreId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch that was to be.
    pub branch: BranchName,
    /// The likely cause.
    pub cause: FailureCause,
    /// One sentence.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// When it was given up.
    pub failed_at: Timestamp,
}

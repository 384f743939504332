//! Events in the life of a drill: a restore that is rehearsed in a sandbox, compared with what was foretold, and thrown
//! away. All carry its id, and all stand on its fence.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::DrillCheck;
use crate::event::{FailureCause, PlannedCommit, RestorePlan};
use crate::{BackupId, BranchName, DrillId, InstanceName, Timestamp, Trigger};

/// A rehearsal of a restore is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrillRequested {
    /// The drill.
    pub drill_id: DrillId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch whose past is restored; it is only read.
    pub branch: BranchName,
    /// What asked for it.
    pub trigger: Trigger,
    /// What must be true of the restored data.
    pub checks: Vec<DrillCheck>,
    /// When it was asked for.
    pub requested_at: Timestamp,
}

/// A restorer began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrillStarted {
    /// The drill.
    pub drill_id: DrillId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The restorer.
    pub restorer: String,
    /// The moment that was drawn.
    pub target: Timestamp,
    /// What the restore will do.
    pub plan: RestorePlan,
    /// When it began.
    pub started_at: Timestamp,
}

/// What is looked at, in this order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DrillStep {
    /// A moment was drawn and planned.
    Plan,
    /// The base backup's files were written.
    Materialise,
    /// WAL was replayed, and the last commit is the one foretold.
    Recover,
    /// `pg_amcheck` found nothing.
    Amcheck,
    /// The user's statements hold.
    Checks,
    /// The sandbox was removed.
    TearDown,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// How one of the looks came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrillCheckResult {
    /// `pg_amcheck`, or the name of the user's statement.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// It was not looked at, and the drill did not fail for that; `passed` is false.
    #[serde(default)]
    pub skipped: bool,
    /// One sentence.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What a drill has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrillSummary {
    /// The moment that was restored.
    pub target: Timestamp,
    /// The base backup it began from.
    pub backup_id: BackupId,
    /// The last commit, as foretold and as found.
    pub last_commit: Option<PlannedCommit>,
    /// What was looked at.
    pub checks: Vec<DrillCheckResult>,
    /// Bytes of files restored.
    pub logical_bytes: u64,
    /// From the beginning until the data could be read, in milliseconds: what a restore would take.
    pub restore_ms: u64,
    /// Everything, in milliseconds.
    pub duration_ms: u64,
    /// By step, in milliseconds.
    pub phases: BTreeMap<String, u64>,
    /// When it was done.
    pub completed_at: Timestamp,
}

/// The restore came out as foretold; nothing of it is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrillCompleted {
    /// The drill.
    pub drill_id: DrillId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// What it has shown.
    pub summary: DrillSummary,
}

/// It did not come out as foretold, or could not be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrillFailed {
    /// The drill.
    pub drill_id: DrillId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The moment that was drawn, if it came to that.
    pub target: Option<Timestamp>,
    /// The base backup, if it came to that.
    pub backup_id: Option<BackupId>,
    /// Where it failed.
    pub step: DrillStep,
    /// The likely cause.
    pub cause: FailureCause,
    /// Whether something that was stored is missing or not what was stored, as far as the drill came to it.
    #[serde(default)]
    pub damaged: bool,
    /// One sentence.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// What was looked at before.
    pub checks: Vec<DrillCheckResult>,
    /// When it failed.
    pub failed_at: Timestamp,
}

/// A due drill was not begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrillSkipped {
    /// The drill that it would have been.
    pub drill_id: DrillId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// When it was due.
    pub due_at: Timestamp,
    /// One sentence.
    pub reason: String,
}

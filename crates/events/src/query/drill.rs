//! Questions about drills.

use serde::{Deserialize, Serialize};

use crate::event::{DrillCheckResult, DrillStep};
use crate::{BackupId, BranchName, DrillId, InstanceName, Timestamp, Trigger};

/// Drills, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrillList {
    /// Of this instance.
    pub instance: Option<InstanceName>,
    /// At most so many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
    /// After so many.
    pub offset: u32,
}

/// One drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillShow {
    /// The drill.
    pub id: DrillId,
}

/// Drills, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drills {
    /// The drills.
    pub drills: Vec<DrillView>,
    /// The `offset` of those that come next; absent when these are the last.
    #[serde(default)]
    pub next: Option<u32>,
}

/// Where a drill is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillStatus {
    /// It waits for a restorer.
    Requested,
    /// A restorer is at it.
    InProgress,
    /// It came out as foretold.
    Completed,
    /// It did not.
    Failed,
    /// It was due and not begun.
    Skipped,
}

/// A drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillView {
    /// The drill.
    pub id: DrillId,
    /// Its instance.
    pub instance: InstanceName,
    /// Its branch.
    pub branch: BranchName,
    /// Where it is in its life.
    pub status: DrillStatus,
    /// What asked for it.
    pub trigger: Option<Trigger>,
    /// The moment that was restored.
    pub target: Option<Timestamp>,
    /// The base backup it began from.
    pub backup_id: Option<BackupId>,
    /// The last commit in it, as foretold and as found.
    pub last_commit_at: Option<Timestamp>,
    /// What was looked at.
    pub checks: Vec<DrillCheckResult>,
    /// From the beginning until the data could be read, in milliseconds.
    pub restore_ms: Option<u64>,
    /// Everything, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Where it failed.
    pub failed_step: Option<DrillStep>,
    /// Why it failed, or was skipped.
    pub error: Option<String>,
    /// What can be done about it.
    pub hint: Option<String>,
    /// When it was asked for.
    pub requested_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

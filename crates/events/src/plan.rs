//! The question "what would this restore do?" and its answer: a dry run, request and reply, never stored.
//!
//! Asked on [`crate::subject::restorer_plan`], payload JSON. Nothing is started, claimed or written.

use pg_format::Lsn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{RefusalCode, RestorePlan};
use crate::{BranchName, ClusterSize, InstanceName, RestoreTarget, Timestamp};

/// What would be restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreQuestion {
    /// The instance.
    pub instance: InstanceName,
    /// The branch whose past would be restored.
    pub source_branch: BranchName,
    /// The name of the new branch; not checked when absent.
    pub branch: Option<BranchName>,
    /// The moment.
    pub target: RestoreTarget,
    /// The compute tier of the new branch.
    #[serde(default)]
    pub size: ClusterSize,
}

/// What a restorer says to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum RestoreAnswer {
    /// It would work.
    Possible(RestorePreview),
    /// It would be refused.
    Refused(RestoreRefusal),
    /// The restorer could not find out, most likely because the object store cannot be reached.
    Unknown {
        /// One sentence.
        message: String,
        /// What can be done.
        hint: String,
    },
}

/// A restore that would work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestorePreview {
    /// What was asked for.
    pub target: RestoreTarget,
    /// What would be done.
    #[serde(flatten)]
    pub plan: RestorePlan,
    /// Where the branch will leave the source's history; absent where an older restorer answers.
    #[serde(default)]
    pub fork_lsn: Option<Lsn>,
    /// Milliseconds it may take, a guess from the bytes to write and to replay.
    pub estimated_ms: u64,
    /// What was looked at.
    pub checks: Vec<PlanCheck>,
    /// The latest moment that could be asked for now; absent when none can be yet.
    pub latest: Option<Timestamp>,
}

/// A restore that a rule forbids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreRefusal {
    /// The rule.
    pub code: RefusalCode,
    /// One sentence, with the nearest target that would work.
    pub message: String,
    /// What can be done.
    pub hint: String,
}

/// One thing that was looked at before a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanCheck {
    /// `base_backup`, `wal`, `timeline`, `damaged_pages`, `wal_gap`, `programs`, `disk`,
    /// `branch_name`.
    pub name: String,
    /// How it stands.
    pub state: CheckState,
    /// One sentence.
    pub detail: String,
}

/// How a check came out. What fails a check refuses the restore, so it is never among these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As it should be.
    Passed,
    /// The restore works, but somebody should know.
    Warning,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

//! Questions about restores.

use std::collections::BTreeMap;

use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::event::ExtensionCheck;
use crate::{BackupId, BranchName, ClusterSize, InstanceName, RestoreId, RestoreTarget, Timestamp};

/// Where a restore is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStatus {
    /// It waits for a restorer.
    Requested,
    /// A restorer is at it.
    InProgress,
    /// A rule forbids it; nothing was started.
    Refused,
    /// It was given up.
    Failed,
    /// The branch was opened.
    Completed,
}

/// Restores, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreList {
    /// Of this instance.
    pub instance: Option<InstanceName>,
    /// At most so many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
    /// After so many.
    pub offset: u32,
}

/// Restores, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restores {
    /// The restores.
    pub restores: Vec<RestoreView>,
    /// The `offset` of those that come next; absent when these are the last.
    #[serde(default)]
    pub next: Option<u32>,
}

/// Everything about one restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreShow {
    /// The restore.
    pub id: RestoreId,
}

/// A restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreView {
    /// The restore.
    pub id: RestoreId,
    /// Where it is in its life.
    pub status: RestoreStatus,
    /// Its instance.
    pub instance: InstanceName,
    /// The branch it makes.
    pub branch: BranchName,
    /// The branch whose past is restored; absent only if its request has expired from the bus.
    pub source_branch: Option<BranchName>,
    /// The moment.
    pub target: Option<RestoreTarget>,
    /// The compute tier.
    pub size: Option<ClusterSize>,
    /// The base backup.
    pub backup_id: Option<BackupId>,
    /// The last WAL position replayed.
    pub stop_lsn: Option<Lsn>,
    /// The timeline the branch writes.
    pub timeline: Option<TimelineId>,
    /// Time of the last commit in the branch.
    pub last_commit_at: Option<Timestamp>,
    /// Host the branch listened on when it was opened.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Milliseconds from start to open.
    pub duration_ms: Option<u64>,
    /// Milliseconds of each phase.
    pub phases: BTreeMap<String, u64>,
    /// The branch's extensions.
    pub extensions: Vec<ExtensionCheck>,
    /// When it was asked for.
    pub requested_at: Option<Timestamp>,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When the branch was opened.
    pub completed_at: Option<Timestamp>,
    /// Why it failed or was refused.
    pub error: Option<String>,
    /// What can be done about it.
    pub hint: Option<String>,
}

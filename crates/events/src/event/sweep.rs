//! Events of letting go: what retention decided, and what is gone.

use pg_format::{Lsn, TimelineId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::Sweep;
use crate::{BackupId, BranchName, InstanceName, SweepId, Timestamp};

/// A worker is to delete what nothing needs any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchSweepRequested {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The sweep.
    pub sweep_id: SweepId,
    /// What is to go, exactly.
    pub sweep: Sweep,
}

/// All that was to go is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchSwept {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The sweep.
    pub sweep_id: SweepId,
    /// Objects deleted.
    pub objects: u64,
    /// Bytes that were stored in them.
    pub bytes: u64,
    /// When it was done.
    pub swept_at: Timestamp,
}

/// A backup is gone from the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupExpired {
    /// The backup.
    pub backup_id: BackupId,
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The sweep that took it away.
    pub sweep_id: SweepId,
    /// When it was gone.
    pub expired_at: Timestamp,
}

/// WAL that nothing needs any more is gone from the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WalPruned {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The sweep that took it away.
    pub sweep_id: SweepId,
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte that is gone.
    pub from_lsn: Lsn,
    /// The byte after the last.
    pub to_lsn: Lsn,
    /// Segments deleted.
    pub segments: u64,
    /// Bytes that were stored in them.
    pub bytes: u64,
    /// When they were gone.
    pub pruned_at: Timestamp,
}

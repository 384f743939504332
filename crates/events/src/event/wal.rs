//! Events of the WAL archive.

use pg_format::{Lsn, TimelineId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BranchName, InstanceName, Timestamp};

/// What kind of object was archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WalObjectKind {
    /// A complete segment.
    Segment,
    /// The last, incomplete segment of a timeline that ended.
    Partial,
    /// A timeline history file.
    History,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// A WAL segment or history file is in the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WalSegmentArchived {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The timeline.
    pub timeline: TimelineId,
    /// The file's name: `000000010000000000000003` or `00000002.history`.
    pub segment: String,
    /// What it is.
    pub kind: WalObjectKind,
    /// First byte; `0/0` for a history file.
    pub start_lsn: Lsn,
    /// First byte after it; `0/0` for a history file.
    pub end_lsn: Lsn,
    /// Size in the repository.
    pub stored_bytes: u64,
    /// The object's time in the repository.
    pub archived_at: Timestamp,
}

/// Why WAL is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The server had removed it before it was read.
    RemovedByServer,
    /// The slot was lost or recreated.
    SlotLost,
    /// The server invalidated the slot (`max_slot_wal_keep_size`, `idle_replication_slot_timeout`).
    SlotInvalidated,
    /// The slot was released because it threatened the source's disk, as the policy allows.
    Released,
    /// The server never pushed it (`archive_command`).
    NotPushed,
    /// What was archived of it is damaged in the repository, or gone from there.
    Damaged,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// WAL is missing and cannot be had any more: no target in the gap can be restored, and none after it until
/// there is a backup that begins after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WalGapDetected {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The timeline.
    pub timeline: TimelineId,
    /// First missing byte.
    pub from_lsn: Lsn,
    /// First byte that is there again.
    pub to_lsn: Lsn,
    /// Why.
    pub cause: GapCause,
    /// When it was found.
    pub detected_at: Timestamp,
}

/// What the WAL that is held back for the archive means for the source's disk.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SlotRiskLevel {
    /// Nothing to fear.
    Low,
    /// It is growing; somebody should look.
    Warning,
    /// The disk, or the server's own limit, will be reached before long.
    Alert,
    /// The slot was released: WAL is missing from the archive.
    Released,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// The risk that a branch's slot is to its source's disk has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlotRiskChanged {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The level now.
    pub level: SlotRiskLevel,
    /// Bytes of WAL that the slot holds back.
    pub held_bytes: u64,
    /// Bytes it may hold back before something happens: the server's `max_slot_wal_keep_size`, or what is known of its
    /// disk; absent when nothing is known.
    pub limit_bytes: Option<u64>,
    /// One sentence: why, and what can be done.
    pub message: String,
    /// When it changed.
    pub changed_at: Timestamp,
}

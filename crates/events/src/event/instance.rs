//! Events of instances and branches.

use pg_format::{SystemIdentifier, TimelineId, WalSegmentSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::command::BranchOrigin;
use crate::document::{DrillSettings, Schedule};
use crate::event::ExtensionCheck;
use crate::window::Window;
use crate::{BranchName, ClusterSize, InstanceName, PoolName, RestoreId, Timestamp};

/// What anyone may know of a branch: its document without the credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RegisteredBranch {
    /// The cluster's system identifier.
    pub system_identifier: SystemIdentifier,
    /// The timeline it was on when it was registered.
    pub timeline: TimelineId,
    /// `server_version_num` when it was registered.
    pub server_version: u32,
    /// The cluster's WAL segment size in bytes.
    pub wal_segment_size: WalSegmentSize,
    /// What it was restored from; absent for `main`.
    pub origin: Option<BranchOrigin>,
    /// Compute tier of a branch that Zektor runs; absent for `main`.
    pub size: Option<ClusterSize>,
    /// When it was registered.
    pub created_at: Timestamp,
}

impl From<&crate::document::ActiveBranch> for RegisteredBranch {
    fn from(active: &crate::document::ActiveBranch) -> Self {
        RegisteredBranch {
            system_identifier: active.system_identifier,
            timeline: active.timeline,
            server_version: active.server_version,
            wal_segment_size: active.wal_segment_size,
            origin: active.origin.clone(),
            size: active.size,
            created_at: active.created_at,
        }
    }
}

/// What is wanted of an instance was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceUpdated {
    /// The instance.
    pub instance: InstanceName,
    /// `main`.
    pub branch: BranchName,
    /// The workers that take its backups; those of the default pool when absent.
    pub pool: Option<PoolName>,
    /// When and how restores are rehearsed.
    pub drills: Option<DrillSettings>,
    /// What could not be looked at when it was changed, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An instance is protected from now on, by these schedules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceRegistered {
    /// The instance.
    pub instance: InstanceName,
    /// `main`.
    pub branch: BranchName,
    /// The registered cluster.
    pub main: RegisteredBranch,
    /// Its schedules, made in the same write.
    pub schedules: Vec<Schedule>,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// An instance is no longer protected. What is stored stays in the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceRemoved {
    /// The instance.
    pub instance: InstanceName,
    /// `main`.
    pub branch: BranchName,
    /// The replication slot, if it could not be dropped: it holds WAL on the server until somebody drops it.
    #[serde(default)]
    pub slot_left: Option<String>,
}

/// A restored branch is part of its instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchRegistered {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// Its cluster.
    pub registered: RegisteredBranch,
}

/// The restorer is to remove a branch's compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchDeletionRequested {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// Its backups and its WAL are deleted with it.
    #[serde(default)]
    pub purge: bool,
    /// The restore that made it: another branch may have the name by now. Absent in what older versions said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_id: Option<RestoreId>,
}

/// A branch and its compute are gone; its backups stay until their own retention ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchDeleted {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The restore that made it: another branch may have the name by now. Absent in what older versions said, and of a
    /// branch that was gone before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_id: Option<RestoreId>,
}

/// A branch's server was stopped; its files are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchStopped {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

/// A branch's server was started again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchStarted {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

/// What of a branch can be restored has changed its shape. That its end moves on with the clock is no change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchWindowChanged {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The window now.
    pub window: Window,
    /// When that was seen.
    pub changed_at: Timestamp,
}

/// A restored branch's extensions were created anew where their files are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchExtensionsReinstalled {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// How its extensions stand now.
    pub extensions: Vec<ExtensionCheck>,
    /// When it was done.
    pub reinstalled_at: Timestamp,
}

//! Questions about instances, branches and schedules.

use pg_format::{Lsn, SystemIdentifier, TimelineId};
use serde::{Deserialize, Serialize};

use crate::{
    BackupId, BranchName, ClusterSize, InstanceName, PoolName, RestoreId, Retention, ScheduleId,
    Timestamp,
};

/// Which instances are there?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceList {
    /// At most so many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
    /// After this one: [`Instances::next`] of the page before.
    pub after: Option<InstanceName>,
}

/// Instances, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instances {
    /// The instances.
    pub instances: Vec<InstanceView>,
    /// After which the next page begins; absent when this was the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<InstanceName>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its name.
    pub name: InstanceName,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Its branches.
    pub branches: u64,
    /// Its completed backups, over all branches.
    pub backups: u64,
    /// What they store.
    pub stored_bytes: u64,
    /// The newest of them.
    pub last_backup_at: Option<Timestamp>,
    /// The workers that take its backups; those of the default pool when absent.
    #[serde(default)]
    pub pool: Option<PoolName>,
    /// When a rehearsed restore last came out as foretold.
    #[serde(default)]
    pub proven_at: Option<Timestamp>,
    /// The moment that it restored.
    #[serde(default)]
    pub proven_target: Option<Timestamp>,
    /// How long that took until the data could be read, in milliseconds.
    #[serde(default)]
    pub proven_in_ms: Option<u64>,
    /// Alerts that stand.
    #[serde(default)]
    pub alerts: u64,
}

/// Everything about one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceShow {
    /// The instance.
    pub instance: InstanceName,
}

/// An instance with its branches and schedules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceDetail {
    /// The instance.
    #[serde(flatten)]
    pub instance: InstanceView,
    /// Its branches, by name.
    pub branch_list: Vec<BranchView>,
    /// Its schedules, by name.
    pub schedules: Vec<ScheduleView>,
}

/// Which branches has an instance?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchList {
    /// The instance.
    pub instance: InstanceName,
}

/// Branches, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Branches {
    /// The branches.
    pub branches: Vec<BranchView>,
}

/// Everything about one branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchShow {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

/// What a branch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchState {
    /// It is archived and backed up.
    Active,
    /// Its server was stopped; its files are kept.
    Stopped,
    /// Its compute is being removed.
    Deleting,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BranchView {
    /// Its instance.
    pub instance: InstanceName,
    /// Its name.
    pub name: BranchName,
    /// What it is doing.
    pub state: BranchState,
    /// The branch it was restored from; absent for `main`.
    pub source_branch: Option<BranchName>,
    /// The restore that made it.
    pub restore_id: Option<RestoreId>,
    /// The backup that restore began from.
    pub backup_id: Option<BackupId>,
    /// Where it left the branch it was restored from.
    pub fork_lsn: Option<Lsn>,
    /// The timeline it left.
    pub fork_timeline: Option<TimelineId>,
    /// The timeline it was on when it was registered.
    pub timeline: TimelineId,
    /// The cluster's system identifier.
    pub system_identifier: SystemIdentifier,
    /// `server_version_num` when it was registered.
    pub server_version: u32,
    /// The cluster's WAL segment size in bytes.
    pub wal_segment_size: u64,
    /// Compute tier of a branch that Zektor runs.
    pub size: Option<ClusterSize>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Its newest completed backup.
    pub last_backup_at: Option<Timestamp>,
    /// What of it can be restored; absent before that was announced for the first time.
    #[serde(default)]
    pub window: Option<WindowShape>,
}

/// What of a branch can be restored, as announced. Its end moves on with the clock and is not announced; the
/// question on [`crate::subject::restorer_window`] has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowShape {
    /// The first moment that can be restored; absent when none can be.
    pub earliest: Option<Timestamp>,
    /// Whether every moment from then on can be restored.
    pub complete: bool,
    /// How many gaps lie in between.
    pub gaps: u64,
    /// When it came to be so.
    pub changed_at: Timestamp,
}

/// Which schedules has an instance?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleList {
    /// The instance.
    pub instance: InstanceName,
}

/// Schedules, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedules {
    /// The schedules.
    pub schedules: Vec<ScheduleView>,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleView {
    /// The schedule.
    pub id: ScheduleId,
    /// Its instance.
    pub instance: InstanceName,
    /// A name for people.
    pub name: String,
    /// Five-field cron expression, in the time zone below.
    pub cron: String,
    /// IANA time zone.
    pub timezone: String,
    /// How long its backups are kept.
    pub retention: Retention,
    /// The branch it backs up.
    pub branch: BranchName,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last asked for a backup.
    pub last_at: Option<Timestamp>,
    /// It does not fire while this is set.
    #[serde(default)]
    pub paused: bool,
}

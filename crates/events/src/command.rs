//! Commands: what somebody wants. Each goes to one service, and its outcome is an event with the command's
//! id as causation.

use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::message::messages;
use crate::{
    ArchiveMode, BackupId, BackupType, BranchName, ClusterSize, DiskRiskPolicy, InstanceName,
    RestoreId, RestoreTarget, Retention, SealedSecret, Timestamp,
};

messages! {
    /// A command, version 1. Subject: `zektor.command.<type>.<instance>`.
    Command {
        /// To the scheduler: protect this database.
        InstanceAdd(InstanceAdd) = "instance.add", at (instance);
        /// To the scheduler: stop protecting it; what is stored stays.
        InstanceRemove(InstanceRemove) = "instance.remove", at (instance);
        /// To the scheduler: back this branch up now.
        BackupCreate(BackupCreate) = "backup.create", at (instance);
        /// To the scheduler: make a new branch from the past.
        RestoreCreate(RestoreCreate) = "restore.create", at (instance);
        /// To the scheduler, from the restorer: this branch is ready.
        BranchRegister(BranchRegister) = "branch.register", at (instance);
        /// To the scheduler: remove a restored branch and its compute.
        BranchDelete(BranchDelete) = "branch.delete", at (instance);
        /// To the restorer: create the extensions of a branch anew whose files are there again.
        ExtensionsReinstall(ExtensionsReinstall) = "extensions.reinstall", at (instance);
        /// To the restorer: stop the branch's server, keep its files.
        BranchStop(BranchStop) = "branch.stop", at (instance);
        /// To the restorer: start it again.
        BranchStart(BranchStart) = "branch.start", at (instance);
    }
}

/// Protect a database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceAdd {
    /// The new instance's name.
    pub instance: InstanceName,
    /// Connection URI of a role with REPLICATION, sealed for (instance, main).
    pub dsn: SealedSecret,
    /// Whether the daily schedule with seven days' retention is made with it.
    pub default_schedule: bool,
    /// How its WAL comes into the repository.
    #[serde(default)]
    pub archive_mode: ArchiveMode,
    /// What is done when the slot threatens the source's disk.
    #[serde(default)]
    pub disk_risk: DiskRiskPolicy,
}

/// Stop protecting an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceRemove {
    /// The instance.
    pub instance: InstanceName,
}

/// Take a backup now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupCreate {
    /// The instance.
    pub instance: InstanceName,
    /// The branch to back up.
    pub branch: BranchName,
    /// A name for people; made from the time when absent.
    pub name: Option<String>,
    /// How to take it.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// How long to keep it; until deleted when absent.
    pub retention: Option<Retention>,
}

/// Make a new branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreCreate {
    /// The instance.
    pub instance: InstanceName,
    /// The branch whose past is restored; it is only read.
    pub source_branch: BranchName,
    /// The name of the new branch.
    pub branch: BranchName,
    /// The moment.
    pub target: RestoreTarget,
    /// The compute tier of the new branch.
    pub size: ClusterSize,
    /// The source's roles keep their passwords, so that applications can log in as they do there.
    #[serde(default)]
    pub keep_passwords: bool,
}

/// What a branch came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchOrigin {
    /// The branch whose past it is.
    pub branch: BranchName,
    /// The restore that made it.
    pub restore_id: RestoreId,
    /// The backup the restore began from.
    pub backup_id: BackupId,
    /// The timeline the branch left.
    pub fork_timeline: TimelineId,
    /// Where it left it.
    pub fork_lsn: Lsn,
    /// The compute directory that has its files and its server; only a restorer there can stop, start or
    /// remove it. Absent in what was written before holders had names.
    #[serde(default)]
    pub holder: Option<String>,
}

/// A branch that the restorer has built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchRegister {
    /// The instance.
    pub instance: InstanceName,
    /// The new branch.
    pub branch: BranchName,
    /// Where it comes from.
    pub origin: BranchOrigin,
    /// The timeline it writes.
    pub timeline: TimelineId,
    /// The cluster's system identifier (the source's own).
    pub system_identifier: SystemIdentifier,
    /// `server_version_num`.
    pub server_version: u32,
    /// The cluster's WAL segment size in bytes.
    pub wal_segment_size: WalSegmentSize,
    /// The compute tier.
    pub size: ClusterSize,
    /// Connection URI with the new credentials, sealed for (instance, branch).
    pub dsn: SealedSecret,
    /// When it was opened.
    pub created_at: Timestamp,
}

/// Remove a restored branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchDelete {
    /// The instance.
    pub instance: InstanceName,
    /// The branch; never `main`.
    pub branch: BranchName,
    /// Its backups and its WAL are deleted with it, at once and for good.
    #[serde(default)]
    pub purge: bool,
}

/// Create a restored branch's extensions anew, where the server has their files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExtensionsReinstall {
    /// The instance.
    pub instance: InstanceName,
    /// The branch; never `main`.
    pub branch: BranchName,
}

/// Stop a branch's server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchStop {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

/// Start a branch's server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BranchStart {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

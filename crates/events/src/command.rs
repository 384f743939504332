//! Commands: what somebody wants. Each goes to one service, and its outcome is an event with the command's
//! id as causation.

use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::DrillSettings;
use crate::message::messages;
use crate::{
    ArchiveMode, BackupId, BackupType, BranchName, ClusterSize, DiskRiskPolicy, InstanceName,
    PoolName, RestoreId, RestoreTarget, Retention, ScheduleId, SealedSecret, Timestamp, WalKeep,
};

messages! {
    /// A command, version 1. Subject: `zektor.command.<type>.<instance>`.
    Command {
        /// To the scheduler: protect this database.
        InstanceAdd(InstanceAdd) = "instance.add", at (instance);
        /// To the scheduler: stop protecting it; what is stored stays.
        InstanceRemove(InstanceRemove) = "instance.remove", at (instance);
        /// To the scheduler: change what is wanted of an instance.
        InstanceUpdate(InstanceUpdate) = "instance.update", at (instance);
        /// To the scheduler: back up a branch regularly.
        ScheduleCreate(ScheduleCreate) = "schedule.create", at (instance);
        /// To the scheduler: change, pause or resume a schedule.
        ScheduleUpdate(ScheduleUpdate) = "schedule.update", at (instance);
        /// To the scheduler: forget a schedule; its backups stay as long as they were to stay.
        ScheduleDelete(ScheduleDelete) = "schedule.delete", at (instance);
        /// To the scheduler: back this branch up now.
        BackupCreate(BackupCreate) = "backup.create", at (instance);
        /// To the scheduler: rename a backup, or keep it for another time.
        BackupUpdate(BackupUpdate) = "backup.update", at (instance);
        /// To the scheduler: keep a backup whatever its retention.
        BackupHold(BackupHold) = "backup.hold", at (instance);
        /// To the scheduler: no longer.
        BackupRelease(BackupRelease) = "backup.release", at (instance);
        /// To the scheduler: delete a backup, after the time of grace.
        BackupDelete(BackupDelete) = "backup.delete", at (instance);
        /// To the scheduler: keep a backup that was to be deleted.
        BackupUndelete(BackupUndelete) = "backup.undelete", at (instance);
        /// To the scheduler: take a backup that failed once more.
        BackupRetry(BackupRetry) = "backup.retry", at (instance);
        /// To the backup workers: read a stored backup whole and compare every byte with its digests.
        BackupVerify(BackupVerify) = "backup.verify", at (instance);
        /// To the scheduler: rehearse a restore.
        DrillRun(DrillRun) = "drill.run", at (instance);
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
    /// How long WAL is kept because of it; the default rule when absent.
    #[serde(default)]
    pub wal: Option<WalKeep>,
}

/// Change what is wanted of an instance. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceUpdate {
    /// The instance.
    pub instance: InstanceName,
    /// The workers that take its backups; [`PoolName::DEFAULT`] for those that serve everyone.
    #[serde(default)]
    pub pool: Option<PoolName>,
    /// Where its server is now, sealed for (instance, main). It must be the same cluster.
    #[serde(default)]
    pub dsn: Option<SealedSecret>,
    /// When and how restores are rehearsed.
    #[serde(default)]
    pub drills: Option<DrillSettings>,
    /// No drills any more.
    #[serde(default)]
    pub no_drills: bool,
}

/// Back up a branch regularly. The schedule has the command's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleCreate {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// A name for people, unique among the instance's schedules; generated when absent.
    pub name: Option<String>,
    /// Five-field cron expression, in the time zone below.
    pub cron: String,
    /// IANA time zone.
    pub timezone: String,
    /// How long its backups are kept.
    pub retention: Retention,
    /// How long WAL is kept because of its backups; the default rule when absent.
    #[serde(default)]
    pub wal: Option<WalKeep>,
}

/// Change a schedule. What is absent stays as it is; backups that were made stay as they were made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleUpdate {
    /// The instance.
    pub instance: InstanceName,
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Another name.
    #[serde(default)]
    pub name: Option<String>,
    /// Another expression.
    #[serde(default)]
    pub cron: Option<String>,
    /// Another zone.
    #[serde(default)]
    pub timezone: Option<String>,
    /// Another retention, for backups to come.
    #[serde(default)]
    pub retention: Option<Retention>,
    /// Another time for the WAL, for backups to come.
    #[serde(default)]
    pub wal: Option<WalKeep>,
    /// Pause or resume.
    #[serde(default)]
    pub paused: Option<bool>,
}

/// Forget a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleDelete {
    /// The instance.
    pub instance: InstanceName,
    /// The schedule.
    pub schedule_id: ScheduleId,
}

/// Rename a backup, or keep it for another time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupUpdate {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The backup.
    pub backup_id: BackupId,
    /// Another name.
    #[serde(default)]
    pub name: Option<String>,
    /// Another time, counted from the backup's end.
    #[serde(default)]
    pub retention: Option<Retention>,
    /// Until it is deleted by hand.
    #[serde(default)]
    pub forever: bool,
}

macro_rules! about_a_backup {
    ($($(#[$doc:meta])* $type:ident { $($(#[$field_doc:meta])* $field:ident: $field_type:ty,)* })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        pub struct $type {
            /// The instance.
            pub instance: InstanceName,
            /// The branch.
            pub branch: BranchName,
            /// The backup.
            pub backup_id: BackupId,
            $($(#[$field_doc])* pub $field: $field_type,)*
        }
    )+};
}

about_a_backup! {
    /// Keep a backup whatever its retention.
    BackupHold {
        /// Why, for those who wonder later.
        #[serde(default)]
        reason: Option<String>,
    }
    /// Keep it no longer than its retention says.
    BackupRelease {}
    /// Delete a backup, after the time of grace.
    BackupDelete {}
    /// Keep a backup that was to be deleted: until it is deleted again, or for a time counted from now.
    BackupUndelete {
        /// For so long, counted from now.
        #[serde(default)]
        retention: Option<Retention>,
    }
    /// Take a backup that failed once more, as it was asked for. The new one has the command's id.
    BackupRetry {}
    /// Read a stored backup whole and compare every byte with its digests.
    BackupVerify {}
}

/// Rehearse a restore. The drill has the command's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrillRun {
    /// The instance.
    pub instance: InstanceName,
    /// The branch whose past is restored.
    pub branch: BranchName,
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

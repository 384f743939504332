//! Events: what has happened. Kept for a year; the catalog is nothing but their projection.

mod alert;
mod backup;
mod drill;
mod instance;
mod restore;
mod schedule;
mod sweep;
mod wal;

pub use alert::{AlertRaised, AlertResolved, AlertRule, AlertSeverity};
pub use backup::{
    BackupCompleted, BackupFailed, BackupPhase, BackupProgressed, BackupQueued, BackupRequested,
    BackupSkipped, BackupStarted, BackupSummary, BackupUpdated, BackupVerified, DamagedPage,
    WalPoint,
};
pub use drill::{
    DrillCheckResult, DrillCompleted, DrillFailed, DrillRequested, DrillSkipped, DrillStarted,
    DrillStep, DrillSummary,
};
pub use instance::{
    BranchDeleted, BranchDeletionRequested, BranchExtensionsReinstalled, BranchRegistered,
    BranchStarted, BranchStopped, BranchWindowChanged, InstanceRegistered, InstanceRemoved,
    InstanceUpdated, RegisteredBranch,
};
pub use restore::{
    ExtensionCheck, ExtensionState, PlannedCommit, RestoreCompleted, RestoreFailed, RestorePhase,
    RestorePlan, RestoreProgressed, RestoreRequested, RestoreStarted, RestoreSummary,
};
pub use schedule::{ScheduleCreated, ScheduleDeleted, ScheduleUpdated};
pub use sweep::{BackupExpired, BranchSweepRequested, BranchSwept, WalPruned};
pub use wal::{
    GapCause, SlotRiskChanged, SlotRiskLevel, WalGapDetected, WalObjectKind, WalSegmentArchived,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::message::messages;
use crate::{BranchName, CommandId, InstanceName};

messages! {
    /// An event, version 1. Subject: `zektor.<type>.<instance>.<branch>[.<id>]`.
    Event {
        /// An instance is protected from now on.
        InstanceRegistered(InstanceRegistered) = "instance.registered", at (instance, branch);
        /// An instance is no longer protected.
        InstanceRemoved(InstanceRemoved) = "instance.removed", at (instance, branch);
        /// What is wanted of an instance was changed.
        InstanceUpdated(InstanceUpdated) = "instance.updated", at (instance, branch);
        /// A command about an instance was refused by a rule.
        InstanceRefused(Refused) = "instance.refused", at (instance, branch);
        /// A restored branch is part of its instance.
        BranchRegistered(BranchRegistered) = "branch.registered", at (instance, branch);
        /// The restorer is to remove a branch's compute.
        BranchDeletionRequested(BranchDeletionRequested) = "branch.deletion_requested", at (instance, branch);
        /// A branch and its compute are gone.
        BranchDeleted(BranchDeleted) = "branch.deleted", at (instance, branch);
        /// A branch's server was stopped.
        BranchStopped(BranchStopped) = "branch.stopped", at (instance, branch);
        /// A branch's server was started.
        BranchStarted(BranchStarted) = "branch.started", at (instance, branch);
        /// What of a branch can be restored has changed its shape: its beginning, its gaps, or whether there is any.
        BranchWindowChanged(BranchWindowChanged) = "branch.window_changed", at (instance, branch);
        /// A branch's extensions were created anew.
        BranchExtensionsReinstalled(BranchExtensionsReinstalled) = "branch.extensions_reinstalled", at (instance, branch);
        /// A worker is to delete what nothing needs any more.
        BranchSweepRequested(BranchSweepRequested) = "branch.sweep_requested", at (instance, branch, sweep_id);
        /// It is deleted.
        BranchSwept(BranchSwept) = "branch.swept", at (instance, branch, sweep_id);
        /// A command about a branch was refused by a rule.
        BranchRefused(Refused) = "branch.refused", at (instance, branch);
        /// A branch is backed up regularly from now on.
        ScheduleCreated(ScheduleCreated) = "schedule.created", at (instance, branch, schedule_id);
        /// A schedule was changed, paused or resumed.
        ScheduleUpdated(ScheduleUpdated) = "schedule.updated", at (instance, branch, schedule_id);
        /// A schedule is forgotten.
        ScheduleDeleted(ScheduleDeleted) = "schedule.deleted", at (instance, branch, schedule_id);
        /// A command about a schedule was refused by a rule.
        ScheduleRefused(Refused) = "schedule.refused", at (instance, branch, command_id);
        /// A backup is wanted, after another one of the branch that is being taken.
        BackupQueued(BackupQueued) = "backup.queued", at (instance, branch, backup_id);
        /// A scheduled backup was not taken.
        BackupSkipped(BackupSkipped) = "backup.skipped", at (instance, branch, backup_id);
        /// A backup is wanted; a worker is to take it.
        BackupRequested(BackupRequested) = "backup.requested", at (instance, branch, backup_id);
        /// A worker began an attempt.
        BackupStarted(BackupStarted) = "backup.started", at (instance, branch, backup_id);
        /// The attempt goes on.
        BackupProgressed(BackupProgressed) = "backup.progressed", at (instance, branch, backup_id);
        /// The backup is in the repository and restorable.
        BackupCompleted(BackupCompleted) = "backup.completed", at (instance, branch, backup_id);
        /// The backup was given up.
        BackupFailed(BackupFailed) = "backup.failed", at (instance, branch, backup_id);
        /// A stored backup was renamed, held, released, marked for deletion or kept for another time.
        BackupUpdated(BackupUpdated) = "backup.updated", at (instance, branch, backup_id);
        /// A stored backup was read whole.
        BackupVerified(BackupVerified) = "backup.verified", at (instance, branch, backup_id);
        /// A backup is gone from the repository.
        BackupExpired(BackupExpired) = "backup.expired", at (instance, branch, backup_id);
        /// A backup was refused by a rule.
        BackupRefused(Refused) = "backup.refused", at (instance, branch, command_id);
        /// A restore is wanted; its branch name is claimed.
        RestoreRequested(RestoreRequested) = "restore.requested", at (instance, branch, restore_id);
        /// A restorer began, with this plan.
        RestoreStarted(RestoreStarted) = "restore.started", at (instance, branch, restore_id);
        /// The restore goes on.
        RestoreProgressed(RestoreProgressed) = "restore.progressed", at (instance, branch, restore_id);
        /// The branch is open.
        RestoreCompleted(RestoreCompleted) = "restore.completed", at (instance, branch, restore_id);
        /// The restore was given up; nothing of it is left.
        RestoreFailed(RestoreFailed) = "restore.failed", at (instance, branch, restore_id);
        /// A restore was refused by a rule, before anything was started.
        RestoreRefused(Refused) = "restore.refused", at (instance, branch, command_id);
        /// A rehearsal of a restore is wanted.
        DrillRequested(DrillRequested) = "drill.requested", at (instance, branch, drill_id);
        /// A restorer began, with this plan.
        DrillStarted(DrillStarted) = "drill.started", at (instance, branch, drill_id);
        /// The restore came out as foretold; nothing of it is left.
        DrillCompleted(DrillCompleted) = "drill.completed", at (instance, branch, drill_id);
        /// It did not.
        DrillFailed(DrillFailed) = "drill.failed", at (instance, branch, drill_id);
        /// A due drill was not begun.
        DrillSkipped(DrillSkipped) = "drill.skipped", at (instance, branch, drill_id);
        /// A drill was refused by a rule.
        DrillRefused(Refused) = "drill.refused", at (instance, branch, command_id);
        /// Something needs somebody's attention.
        AlertRaised(AlertRaised) = "alert.raised", at (instance, branch, rule);
        /// It no longer does.
        AlertResolved(AlertResolved) = "alert.resolved", at (instance, branch, rule);
        /// A WAL segment or history file is in the repository.
        WalSegmentArchived(WalSegmentArchived) = "wal.segment.archived", at (instance, branch);
        /// WAL is missing and cannot be had any more.
        WalGapDetected(WalGapDetected) = "wal.gap.detected", at (instance, branch);
        /// WAL that nothing needs any more is gone from the repository.
        WalPruned(WalPruned) = "wal.pruned", at (instance, branch);
        /// The WAL held back for the archive threatens the source's disk more, or less, than before.
        SlotRiskChanged(SlotRiskChanged) = "wal.slot.risk_changed", at (instance, branch);
    }
}

/// A command that a rule forbids. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// The instance the command named.
    pub instance: InstanceName,
    /// The branch it named, or `main`.
    pub branch: BranchName,
    /// The command.
    pub command_id: CommandId,
    /// The rule.
    pub code: RefusalCode,
    /// One sentence.
    pub message: String,
    /// What can be done.
    pub hint: String,
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// A limit is reached.
    Limit,
    /// The name is in use.
    NameTaken,
    /// What the command names does not exist.
    NotFound,
    /// The target is outside the restorable window, or too young.
    OutsideWindow,
    /// The source cannot be protected as it is.
    UnsuitableSource,
    /// The source could not be reached or did not let us in.
    SourceUnreachable,
    /// The command makes no sense as given.
    Invalid,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// What, in the world, made something fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// The object store.
    Storage,
    /// The connection to PostgreSQL.
    Connection,
    /// WAL that is missing or not archived in time.
    Wal,
    /// PostgreSQL refused or failed.
    Source,
    /// The compute that a branch runs on.
    Compute,
    /// Nothing: somebody did not want it any more.
    Cancelled,
    /// A defect of Zektor.
    #[serde(other)]
    Internal,
}

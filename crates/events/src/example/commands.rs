//! One of each command.

use pg_format::{TimelineId, WalSegmentSize};

use super::values::*;
use crate::command;
use crate::*;

/// One of each command, in the order of the table.
#[must_use]
pub fn commands() -> Vec<Command> {
    let sealed = || SealedSecret::from_base64("c2VhbGVk".to_owned());
    vec![
        Command::InstanceAdd(command::InstanceAdd {
            instance: instance(),
            dsn: sealed(),
            default_schedule: true,
            archive_mode: ArchiveMode::Stream,
            disk_risk: DiskRiskPolicy::Keep,
        }),
        Command::InstanceRemove(command::InstanceRemove {
            instance: instance(),
        }),
        Command::InstanceUpdate(command::InstanceUpdate {
            instance: instance(),
            pool: PoolName::new("eu").ok(),
            dsn: None,
            drills: Some(drills()),
            no_drills: false,
        }),
        Command::ScheduleCreate(command::ScheduleCreate {
            instance: instance(),
            branch: BranchName::main(),
            name: Some("monthly".to_owned()),
            cron: "0 3 1 * *".to_owned(),
            timezone: "Europe/Berlin".to_owned(),
            retention: Retention::SEVEN_DAYS,
            wal: None,
        }),
        Command::ScheduleUpdate(command::ScheduleUpdate {
            instance: instance(),
            schedule_id: SCHEDULE,
            name: None,
            cron: None,
            timezone: None,
            retention: None,
            wal: None,
            paused: Some(true),
        }),
        Command::ScheduleDelete(command::ScheduleDelete {
            instance: instance(),
            schedule_id: SCHEDULE,
        }),
        Command::BackupCreate(command::BackupCreate {
            instance: instance(),
            branch: BranchName::main(),
            name: Some("before the migration".to_owned()),
            backup_type: BackupType::Auto,
            retention: Some(Retention::SEVEN_DAYS),
            wal: Some(WalKeep::For(Retention::SEVEN_DAYS)),
        }),
        Command::BackupUpdate(command::BackupUpdate {
            instance: instance(),
            branch: BranchName::main(),
            backup_id: BACKUP,
            name: Some("audit 2026".to_owned()),
            retention: None,
            forever: true,
        }),
        Command::BackupHold(command::BackupHold {
            instance: instance(),
            branch: BranchName::main(),
            backup_id: BACKUP,
            reason: Some("audit".to_owned()),
        }),
        Command::BackupRelease(command::BackupRelease {
            instance: instance(),
            branch: BranchName::main(),
            backup_id: BACKUP,
        }),
        Command::BackupDelete(command::BackupDelete {
            instance: instance(),
            branch: BranchName::main(),
            backup_id: BACKUP,
        }),
        Command::BackupUndelete(command::BackupUndelete {
            instance: instance(),
            branch: BranchName::main(),
            backup_id: BACKUP,
            retention: None,
        }),
        Command::BackupRetry(command::BackupRetry {
            instance: instance(),
            branch: BranchName::main(),
            backup_id: BACKUP,
        }),
        Command::BackupVerify(command::BackupVerify {
            instance: instance(),
            branch: BranchName::main(),
            backup_id: BACKUP,
        }),
        Command::DrillRun(command::DrillRun {
            instance: instance(),
            branch: BranchName::main(),
        }),
        Command::RestoreCreate(command::RestoreCreate {
            instance: instance(),
            source_branch: BranchName::main(),
            branch: restored(),
            target: RestoreTarget::Time { at: at(120) },
            size: ClusterSize::Small,
            keep_passwords: false,
        }),
        Command::BranchRegister(command::BranchRegister {
            instance: instance(),
            branch: restored(),
            origin: origin(),
            timeline: TimelineId(2),
            system_identifier: SYSTEM,
            server_version: 180_006,
            wal_segment_size: WalSegmentSize::DEFAULT,
            size: ClusterSize::Small,
            dsn: sealed(),
            created_at: at(300),
        }),
        Command::BranchDelete(command::BranchDelete {
            instance: instance(),
            branch: restored(),
            purge: false,
        }),
        Command::ExtensionsReinstall(command::ExtensionsReinstall {
            instance: instance(),
            branch: restored(),
        }),
        Command::BranchStop(command::BranchStop {
            instance: instance(),
            branch: restored(),
        }),
        Command::BranchStart(command::BranchStart {
            instance: instance(),
            branch: restored(),
        }),
    ]
}

//! One example of every message: the golden files are made from these, and tests begin with them.

use std::collections::BTreeMap;

use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use uuid::Uuid;

use crate::command::{self, BranchOrigin};
use crate::document::Schedule;
use crate::event::{self, *};
use crate::plan::{CheckState, PlanCheck};
use crate::window::{Window, WindowGap};
use crate::{
    ArchiveMode, BackupId, BackupSummary, BackupType, BranchName, ClusterSize, Command, CommandId,
    DiskRiskPolicy, Event, InstanceName, RestoreId, RestoreSummary, RestoreTarget, Retention,
    ScheduleId, SealedSecret, Timestamp, Trigger,
};

/// A fixed moment and `seconds`.
#[must_use]
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + chrono::TimeDelta::seconds(1_790_000_000 + seconds)
}

/// The instance of the examples.
#[must_use]
pub fn instance() -> InstanceName {
    InstanceName::new("orders").unwrap_or_else(|_| unreachable!("a valid name"))
}

/// The restored branch of the examples.
#[must_use]
pub fn restored() -> BranchName {
    BranchName::new("before-delete").unwrap_or_else(|_| unreachable!("a valid name"))
}

const fn uuid(last: u128) -> Uuid {
    Uuid::from_u128(0x0193_5a00_0000_7000_8000_0000_0000_0000 + last)
}

const BACKUP: BackupId = BackupId(uuid(1));
const RESTORE: RestoreId = RestoreId(uuid(2));
const COMMAND: CommandId = CommandId(uuid(3));
const SCHEDULE: ScheduleId = ScheduleId(uuid(4));
const SYSTEM: SystemIdentifier = SystemIdentifier(7_400_000_000_000_000_001);

/// The default schedule of the examples.
#[must_use]
pub fn schedule() -> Schedule {
    Schedule {
        id: SCHEDULE,
        name: "daily".to_owned(),
        cron: "17 2 * * *".to_owned(),
        timezone: "UTC".to_owned(),
        retention: Retention::SEVEN_DAYS,
        branch: BranchName::main(),
        created_at: at(0),
    }
}

fn registered(origin: Option<BranchOrigin>) -> RegisteredBranch {
    let size = origin.as_ref().map(|_| ClusterSize::Small);
    RegisteredBranch {
        system_identifier: SYSTEM,
        timeline: TimelineId(1),
        server_version: 180_006,
        wal_segment_size: WalSegmentSize::DEFAULT,
        origin,
        size,
        created_at: at(0),
    }
}

fn origin() -> BranchOrigin {
    BranchOrigin {
        branch: BranchName::main(),
        restore_id: RESTORE,
        backup_id: BACKUP,
        fork_timeline: TimelineId(1),
        fork_lsn: Lsn(0x500_0000),
        holder: Some("db-2-3f1c9a04".to_owned()),
    }
}

/// The completed backup of the examples.
#[must_use]
pub fn backup_summary() -> BackupSummary {
    BackupSummary {
        backup_id: BACKUP,
        instance: instance(),
        branch: BranchName::main(),
        name: "before the migration".to_owned(),
        backup_type: BackupType::Full,
        trigger: Trigger::Manual,
        schedule_id: None,
        requested_at: at(0),
        started_at: at(1),
        backed_up_at: at(60),
        expires_at: Some(at(7 * 86_400)),
        start_lsn: Lsn(0x200_0028),
        stop_lsn: Lsn(0x200_0158),
        timeline: TimelineId(1),
        system_identifier: SYSTEM,
        server_version: 180_006,
        wal_segment_size: WalSegmentSize::DEFAULT,
        logical_bytes: 2_147_483_648,
        stored_bytes: 268_435_456,
        files: 1_024,
        attempt: "019355a1".to_owned(),
        damaged_pages: vec![DamagedPage {
            file: "base/5/16384".to_owned(),
            block: Some(7),
        }],
    }
}

/// The completed restore of the examples.
#[must_use]
pub fn restore_summary() -> RestoreSummary {
    RestoreSummary {
        source_branch: BranchName::main(),
        target: RestoreTarget::Time { at: at(120) },
        backup_id: BACKUP,
        size: ClusterSize::Small,
        stop_lsn: Lsn(0x500_0000),
        fork_timeline: TimelineId(1),
        timeline: TimelineId(2),
        last_commit_at: Some(at(119)),
        host: "127.0.0.1".to_owned(),
        port: 6543,
        duration_ms: 4_200,
        phases: BTreeMap::from([
            ("materialise".to_owned(), 2_000),
            ("recover".to_owned(), 1_500),
        ]),
        extensions: vec![ExtensionCheck {
            database: "app".to_owned(),
            name: "plpgsql".to_owned(),
            version: "1.0".to_owned(),
            state: ExtensionState::Present,
            detail: None,
        }],
        checks: vec![PlanCheck {
            name: "subscriptions".to_owned(),
            state: CheckState::Warning,
            detail: "1 subscription was disabled: orders_feed in app".to_owned(),
        }],
        completed_at: at(300),
    }
}

fn refused() -> Refused {
    Refused {
        instance: instance(),
        branch: restored(),
        command_id: COMMAND,
        code: RefusalCode::NameTaken,
        message: "branch before-delete exists already".to_owned(),
        hint: "Choose another name, or delete the branch first.".to_owned(),
    }
}

fn window() -> Window {
    Window {
        earliest: Some(at(30)),
        latest: Some(at(300)),
        latest_lsn: Some(Lsn(0xA00_0000)),
        gaps: vec![WindowGap {
            timeline: TimelineId(1),
            from_lsn: Lsn(0x400_0000),
            to_lsn: Some(Lsn(0x900_0000)),
            from: Some(at(95)),
            restorable_again_at: Some(at(150)),
        }],
        complete: false,
        earliest_backup_id: Some(BACKUP),
        timeline: Some(TimelineId(1)),
    }
}

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
        Command::BackupCreate(command::BackupCreate {
            instance: instance(),
            branch: BranchName::main(),
            name: Some("before the migration".to_owned()),
            backup_type: BackupType::Auto,
            retention: Some(Retention::SEVEN_DAYS),
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

/// One of each event, in the order of the table.
#[must_use]
pub fn events() -> Vec<Event> {
    let mut events = instance_events();
    events.extend(backup_events());
    events.extend(restore_events());
    events.extend(wal_events());
    events
}

fn instance_events() -> Vec<Event> {
    let (instance, branch) = (instance(), restored());
    vec![
        Event::InstanceRegistered(InstanceRegistered {
            instance: instance.clone(),
            branch: BranchName::main(),
            main: registered(None),
            schedules: vec![schedule()],
            created_at: at(0),
        }),
        Event::InstanceRemoved(InstanceRemoved {
            instance: instance.clone(),
            branch: BranchName::main(),
            slot_left: None,
        }),
        Event::InstanceRefused(refused()),
        Event::BranchRegistered(BranchRegistered {
            instance: instance.clone(),
            branch: branch.clone(),
            registered: registered(Some(origin())),
        }),
        Event::BranchDeletionRequested(BranchDeletionRequested {
            instance: instance.clone(),
            branch: branch.clone(),
            purge: false,
        }),
        Event::BranchDeleted(BranchDeleted {
            instance: instance.clone(),
            branch: branch.clone(),
        }),
        Event::BranchStopped(BranchStopped {
            instance: instance.clone(),
            branch: branch.clone(),
        }),
        Event::BranchStarted(event::BranchStarted {
            instance: instance.clone(),
            branch: branch.clone(),
        }),
        Event::BranchWindowChanged(BranchWindowChanged {
            instance: instance.clone(),
            branch: branch.clone(),
            window: window(),
            changed_at: at(310),
        }),
        Event::BranchExtensionsReinstalled(BranchExtensionsReinstalled {
            instance,
            branch,
            extensions: restore_summary().extensions,
            reinstalled_at: at(320),
        }),
        Event::BranchRefused(refused()),
    ]
}

fn backup_events() -> Vec<Event> {
    let (backup_id, instance, branch) = (BACKUP, instance(), BranchName::main());
    vec![
        Event::BackupRequested(BackupRequested {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            name: "before the migration".to_owned(),
            backup_type: BackupType::Auto,
            trigger: Trigger::Manual,
            schedule_id: None,
            retention: Some(Retention::SEVEN_DAYS),
            requested_at: at(0),
        }),
        Event::BackupStarted(BackupStarted {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            worker: "worker-1".to_owned(),
            attempt: "019355a1".to_owned(),
            started_at: at(1),
        }),
        Event::BackupProgressed(BackupProgressed {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            phase: BackupPhase::Copying,
            done_bytes: 1_073_741_824,
            total_bytes: 2_147_483_648,
        }),
        Event::BackupCompleted(BackupCompleted {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            summary: backup_summary(),
        }),
        Event::BackupFailed(BackupFailed {
            backup_id,
            instance,
            branch,
            cause: FailureCause::Connection,
            message: "cannot connect to 127.0.0.1:5432: connection refused".to_owned(),
            hint: "Check that the server runs and that the address is right.".to_owned(),
            failed_at: at(30),
        }),
        Event::BackupRefused(refused()),
    ]
}

fn restore_events() -> Vec<Event> {
    let (restore_id, instance, branch) = (RESTORE, instance(), restored());
    vec![
        Event::RestoreRequested(RestoreRequested {
            restore_id,
            instance: instance.clone(),
            branch: branch.clone(),
            source_branch: BranchName::main(),
            target: RestoreTarget::Time { at: at(120) },
            size: ClusterSize::Small,
            keep_passwords: false,
            requested_at: at(250),
        }),
        Event::RestoreStarted(RestoreStarted {
            restore_id,
            instance: instance.clone(),
            branch: branch.clone(),
            restorer: "restorer-1".to_owned(),
            plan: RestorePlan {
                backup_id: BACKUP,
                timeline: TimelineId(1),
                start_lsn: Lsn(0x200_0028),
                end_lsn: Lsn(0x600_0000),
                logical_bytes: 2_147_483_648,
                wal_bytes: 67_108_864,
                stop_lsn: Some(Lsn(0x5FF_F000)),
                last_commit: Some(PlannedCommit {
                    at: at(119),
                    lsn: Lsn(0x5FF_F000),
                    xid: 8122,
                }),
            },
            started_at: at(251),
        }),
        Event::RestoreProgressed(RestoreProgressed {
            restore_id,
            instance: instance.clone(),
            branch: branch.clone(),
            phase: RestorePhase::Materialise,
            done_bytes: 1_073_741_824,
            total_bytes: 2_147_483_648,
        }),
        Event::RestoreCompleted(RestoreCompleted {
            restore_id,
            instance: instance.clone(),
            branch: branch.clone(),
            summary: restore_summary(),
        }),
        Event::RestoreFailed(RestoreFailed {
            restore_id,
            instance,
            branch,
            cause: FailureCause::Compute,
            message: "postgres could not be started".to_owned(),
            hint: "See the branch's server log.".to_owned(),
            failed_at: at(280),
        }),
        Event::RestoreRefused(refused()),
    ]
}

fn wal_events() -> Vec<Event> {
    let (instance, branch) = (instance(), BranchName::main());
    vec![
        Event::WalSegmentArchived(WalSegmentArchived {
            instance: instance.clone(),
            branch: branch.clone(),
            timeline: TimelineId(1),
            segment: "000000010000000000000003".to_owned(),
            kind: WalObjectKind::Segment,
            start_lsn: Lsn(0x300_0000),
            end_lsn: Lsn(0x400_0000),
            stored_bytes: 1_234_567,
            archived_at: at(90),
        }),
        Event::WalGapDetected(WalGapDetected {
            instance: instance.clone(),
            branch: branch.clone(),
            timeline: TimelineId(1),
            from_lsn: Lsn(0x400_0000),
            to_lsn: Lsn(0x900_0000),
            cause: GapCause::RemovedByServer,
            detected_at: at(100),
        }),
        Event::SlotRiskChanged(SlotRiskChanged {
            instance,
            branch,
            level: SlotRiskLevel::Warning,
            held_bytes: 6_442_450_944,
            limit_bytes: Some(10_737_418_240),
            message: "the slot holds back 6 GiB of the 10 GiB that the server allows".to_owned(),
            changed_at: at(110),
        }),
    ]
}

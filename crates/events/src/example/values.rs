//! The values that the examples are made of.

use std::collections::BTreeMap;

use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use uuid::Uuid;

use crate::command::BranchOrigin;
use crate::document::{DrillCheck, DrillSettings, Schedule, Sweep, WalStretch};
use crate::event::*;
use crate::mark::{BackupMark, DeletedBy, Deletion, Expiry, Hold, Verification};
use crate::plan::{CheckState, PlanCheck};
use crate::window::{Window, WindowGap};
use crate::{
    BackupId, BackupSummary, BackupType, BranchName, ClusterSize, CommandId, DrillId, InstanceName,
    RestoreId, RestoreSummary, RestoreTarget, Retention, ScheduleId, SweepId, Timestamp, Trigger,
    WalKeep,
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

pub(crate) const fn uuid(last: u128) -> Uuid {
    Uuid::from_u128(0x0193_5a00_0000_7000_8000_0000_0000_0000 + last)
}

pub(crate) const BACKUP: BackupId = BackupId(uuid(1));
pub(crate) const RESTORE: RestoreId = RestoreId(uuid(2));
pub(crate) const COMMAND: CommandId = CommandId(uuid(3));
pub(crate) const SCHEDULE: ScheduleId = ScheduleId(uuid(4));
pub(crate) const DRILL: DrillId = DrillId(uuid(5));
pub(crate) const SWEEP: SweepId = SweepId(uuid(6));
pub(crate) const SYSTEM: SystemIdentifier = SystemIdentifier(7_400_000_000_000_000_001);

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
        wal: None,
        paused: false,
    }
}

/// The drills of the examples.
#[must_use]
pub fn drills() -> DrillSettings {
    DrillSettings {
        cron: Some("30 4 * * 0".to_owned()),
        timezone: "Europe/Berlin".to_owned(),
        branch: BranchName::main(),
        checks: vec![DrillCheck {
            name: "orders are there".to_owned(),
            database: None,
            sql: "SELECT count(*) > 0 FROM orders".to_owned(),
        }],
        created_at: at(0),
    }
}

/// The mark of the examples.
#[must_use]
pub fn mark() -> BackupMark {
    BackupMark {
        name: Some("audit 2026".to_owned()),
        expiry: Some(Expiry {
            expires_at: Some(at(365 * 86_400)),
        }),
        hold: Some(Hold {
            reason: Some("audit".to_owned()),
            since: at(400),
        }),
        deletion: Some(Deletion {
            by: DeletedBy::User,
            asked_at: at(500),
            delete_after: at(500 + 86_400),
        }),
        verified: Some(Verification {
            sound: true,
            at: at(550),
        }),
        commands: vec![COMMAND],
    }
}

/// The drill that came out well.
#[must_use]
pub fn drill_summary() -> DrillSummary {
    DrillSummary {
        target: at(120),
        backup_id: BACKUP,
        last_commit: Some(last_commit()),
        checks: vec![DrillCheckResult {
            name: "pg_amcheck".to_owned(),
            passed: true,
            skipped: false,
            detail: "no corruption was found".to_owned(),
            duration_ms: 900,
        }],
        logical_bytes: 2_147_483_648,
        restore_ms: 3_500,
        duration_ms: 5_000,
        phases: BTreeMap::from([
            ("materialise".to_owned(), 2_000),
            ("recover".to_owned(), 1_500),
        ]),
        completed_at: at(600),
    }
}

pub(crate) fn last_commit() -> PlannedCommit {
    PlannedCommit {
        at: at(119),
        lsn: Lsn(0x5FF_F000),
        xid: 8122,
    }
}

pub(crate) fn plan() -> RestorePlan {
    RestorePlan {
        backup_id: BACKUP,
        timeline: TimelineId(1),
        start_lsn: Lsn(0x200_0028),
        end_lsn: Lsn(0x600_0000),
        logical_bytes: 2_147_483_648,
        wal_bytes: 67_108_864,
        stop_lsn: Some(Lsn(0x5FF_F000)),
        last_commit: Some(last_commit()),
    }
}

pub(crate) fn sweep() -> Sweep {
    Sweep {
        sweep_id: SWEEP,
        asked_at: at(700),
        backups: vec![BACKUP],
        wal: vec![WalStretch {
            timeline: TimelineId(1),
            from_lsn: Lsn(0x100_0000),
            to_lsn: Lsn(0x300_0000),
        }],
        histories: Vec::new(),
        leftovers: Vec::new(),
        hollow: false,
        purge: false,
        withdrawn_at: None,
    }
}

pub(crate) fn requested() -> BackupRequested {
    BackupRequested {
        backup_id: BACKUP,
        instance: instance(),
        branch: BranchName::main(),
        name: "before the migration".to_owned(),
        backup_type: BackupType::Auto,
        trigger: Trigger::Manual,
        schedule_id: None,
        retention: Some(Retention::SEVEN_DAYS),
        wal: WalKeep::AsLongAsBackup,
        pool: None,
        requested_at: at(0),
    }
}

pub(crate) fn registered(origin: Option<BranchOrigin>) -> RegisteredBranch {
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

pub(crate) fn origin() -> BranchOrigin {
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
        ended_at: None,
        expires_at: Some(at(7 * 86_400)),
        wal_until: None,
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

pub(crate) fn refused() -> Refused {
    Refused {
        instance: instance(),
        branch: restored(),
        command_id: COMMAND,
        code: RefusalCode::NameTaken,
        message: "branch before-delete exists already".to_owned(),
        hint: "Choose another name, or delete the branch first.".to_owned(),
    }
}

pub(crate) fn window() -> Window {
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

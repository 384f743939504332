//! One of each event.

use pg_format::{Lsn, TimelineId};

use super::values::*;
use crate::event::{self, *};
use crate::*;

/// One of each event, in the order of the table.
#[must_use]
pub fn events() -> Vec<Event> {
    let mut events = instance_events();
    events.extend(schedule_events());
    events.extend(backup_events());
    events.extend(restore_events());
    events.extend(drill_events());
    events.extend(alert_events());
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
        Event::InstanceUpdated(InstanceUpdated {
            instance: instance.clone(),
            branch: BranchName::main(),
            pool: PoolName::new("eu").ok(),
            drills: Some(drills()),
            warnings: Vec::new(),
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
            restore_id: None,
        }),
        Event::BranchDeleted(BranchDeleted {
            instance: instance.clone(),
            branch: branch.clone(),
            restore_id: None,
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
            instance: instance.clone(),
            branch: branch.clone(),
            extensions: restore_summary().extensions,
            reinstalled_at: at(320),
        }),
        Event::BranchSweepRequested(BranchSweepRequested {
            instance: instance.clone(),
            branch: branch.clone(),
            sweep_id: SWEEP,
            sweep: sweep(),
        }),
        Event::BranchSwept(BranchSwept {
            instance,
            branch,
            sweep_id: SWEEP,
            objects: 5,
            bytes: 268_435_456,
            swept_at: at(720),
        }),
        Event::BranchRefused(refused()),
    ]
}

fn schedule_events() -> Vec<Event> {
    let (instance, branch, schedule_id) = (instance(), BranchName::main(), SCHEDULE);
    let next = vec![at(3_600)];
    vec![
        Event::ScheduleCreated(ScheduleCreated {
            instance: instance.clone(),
            branch: branch.clone(),
            schedule_id,
            schedule: schedule(),
            next: next.clone(),
        }),
        Event::ScheduleUpdated(ScheduleUpdated {
            instance: instance.clone(),
            branch: branch.clone(),
            schedule_id,
            schedule: schedule(),
            next,
        }),
        Event::ScheduleDeleted(ScheduleDeleted {
            instance,
            branch,
            schedule_id,
            name: "daily".to_owned(),
        }),
        Event::ScheduleRefused(refused()),
    ]
}

fn drill_events() -> Vec<Event> {
    let (drill_id, instance, branch) = (DRILL, instance(), BranchName::main());
    vec![
        Event::DrillRequested(DrillRequested {
            drill_id,
            instance: instance.clone(),
            branch: branch.clone(),
            trigger: Trigger::Schedule,
            checks: drills().checks,
            requested_at: at(590),
        }),
        Event::DrillStarted(DrillStarted {
            drill_id,
            instance: instance.clone(),
            branch: branch.clone(),
            restorer: "restorer-1".to_owned(),
            target: at(120),
            plan: plan(),
            started_at: at(591),
        }),
        Event::DrillCompleted(DrillCompleted {
            drill_id,
            instance: instance.clone(),
            branch: branch.clone(),
            summary: drill_summary(),
        }),
        Event::DrillFailed(DrillFailed {
            drill_id,
            instance: instance.clone(),
            branch: branch.clone(),
            target: Some(at(120)),
            backup_id: Some(BACKUP),
            step: DrillStep::Checks,
            cause: FailureCause::Source,
            damaged: false,
            message: "the check \"orders are there\" does not hold".to_owned(),
            hint: "Restore to the same moment and look.".to_owned(),
            checks: Vec::new(),
            failed_at: at(600),
        }),
        Event::DrillSkipped(DrillSkipped {
            drill_id,
            instance,
            branch,
            due_at: at(590),
            reason: "the drill before is still running".to_owned(),
        }),
        Event::DrillRefused(refused()),
    ]
}

fn alert_events() -> Vec<Event> {
    let (instance, branch) = (instance(), BranchName::main());
    vec![
        Event::AlertRaised(AlertRaised {
            instance: instance.clone(),
            branch: branch.clone(),
            rule: AlertRule::BackupFailing,
            severity: AlertSeverity::Critical,
            message:
                "2 backups in a row failed, the last one because the object store did not answer"
                    .to_owned(),
            hint: "Check the object store.".to_owned(),
            since: at(30),
            reminder: 0,
        }),
        Event::AlertResolved(AlertResolved {
            instance,
            branch,
            rule: AlertRule::BackupFailing,
            message: "a backup was completed".to_owned(),
            since: at(30),
            resolved_at: at(90),
        }),
    ]
}

fn backup_events() -> Vec<Event> {
    let (backup_id, instance, branch) = (BACKUP, instance(), BranchName::main());
    vec![
        Event::BackupQueued(BackupQueued {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            behind: BackupId(uuid(9)),
            request: requested(),
        }),
        Event::BackupSkipped(BackupSkipped {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            schedule_id: SCHEDULE,
            name: "daily 2026-09-21T02:17:00Z".to_owned(),
            due_at: at(0),
            running: Some(BackupId(uuid(9))),
            reason: "another backup of the branch was being taken".to_owned(),
        }),
        Event::BackupRequested(requested()),
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
            start: Some(WalPoint {
                timeline: TimelineId(1),
                lsn: Lsn(0x0200_0028),
            }),
            problem: None,
        }),
        Event::BackupCompleted(BackupCompleted {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            summary: backup_summary(),
        }),
        Event::BackupFailed(BackupFailed {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            cause: FailureCause::Connection,
            transient: Some(true),
            message: "cannot connect to 127.0.0.1:5432: connection refused".to_owned(),
            hint: "Check that the server runs and that the address is right.".to_owned(),
            failed_at: at(30),
        }),
        Event::BackupUpdated(BackupUpdated {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            mark: mark(),
            updated_at: at(500),
        }),
        Event::BackupVerified(BackupVerified {
            backup_id,
            instance: instance.clone(),
            branch: branch.clone(),
            command_id: COMMAND,
            sound: true,
            problems: Vec::new(),
            files: 1_024,
            bytes: 2_147_483_648,
            verified_at: at(550),
            duration_ms: 8_000,
        }),
        Event::BackupExpired(BackupExpired {
            backup_id,
            instance,
            branch,
            sweep_id: SWEEP,
            expired_at: at(710),
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
            plan: plan(),
            passed_over: Vec::new(),
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
        Event::WalPruned(WalPruned {
            instance: instance.clone(),
            branch: branch.clone(),
            sweep_id: SWEEP,
            timeline: TimelineId(1),
            from_lsn: Lsn(0x100_0000),
            to_lsn: Lsn(0x300_0000),
            segments: 2,
            bytes: 2_469_134,
            pruned_at: at(715),
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

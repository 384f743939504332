//! What happens to an instance over time: backups that are marked, verified and let go, WAL that is pruned, drills, alerts.

use events::event::{
    AlertRule, BackupExpired, BackupUpdated, BackupVerified, DrillCompleted, WalPruned,
};
use events::mark::{BackupMark, DeletedBy, Deletion};
use events::{
    BackupId, BranchName, CommandId, DrillId, Event, ScheduleId, SweepId, Timestamp, example,
};
use pg_format::{Lsn, TimelineId};

use super::{SEGMENT_SIZE, archived, backup_id, backup_life, event, instance};

const DAY: i64 = 86_400;

/// The wish that a backup goes.
pub(crate) fn deletion(by: DeletedBy, second: i64) -> BackupMark {
    BackupMark {
        deletion: Some(Deletion {
            by,
            asked_at: example::at(second),
            delete_after: example::at(second + DAY),
        }),
        ..BackupMark::default()
    }
}

pub(crate) fn marked(name: &str, id: BackupId, mark: BackupMark, second: i64) -> Event {
    Event::BackupUpdated(BackupUpdated {
        backup_id: id,
        instance: instance(name),
        branch: BranchName::main(),
        mark,
        updated_at: example::at(second),
    })
}

pub(crate) fn verified(name: &str, id: BackupId, sound: bool, second: i64) -> Event {
    Event::BackupVerified(BackupVerified {
        backup_id: id,
        instance: instance(name),
        branch: BranchName::main(),
        command_id: CommandId(uuid::Uuid::nil()),
        sound,
        problems: Vec::new(),
        files: 1,
        bytes: 1,
        verified_at: example::at(second),
        duration_ms: 1,
    })
}

pub(crate) fn expired(name: &str, id: BackupId, second: i64) -> Event {
    Event::BackupExpired(BackupExpired {
        backup_id: id,
        instance: instance(name),
        branch: BranchName::main(),
        sweep_id: SweepId(uuid::Uuid::nil()),
        expired_at: example::at(second),
    })
}

/// A due backup that was not taken.
pub(crate) fn skipped(name: &str, id: BackupId, schedule: ScheduleId) -> Event {
    let Event::BackupSkipped(mut skipped) = event("backup.skipped") else {
        unreachable!("the type was asked for");
    };
    (skipped.instance, skipped.branch) = (instance(name), BranchName::main());
    (skipped.backup_id, skipped.schedule_id) = (id, schedule);
    Event::BackupSkipped(skipped)
}

/// A backup that is taken, marked, kept after all, verified, marked again and, in the end, gone.
pub(crate) fn full_life(name: &str, id: BackupId) -> Vec<Event> {
    let mut life = backup_life(name, id, true);
    life.extend([
        marked(name, id, example::mark(), 1000),
        verified(name, id, false, 1001),
        marked(name, id, BackupMark::default(), 1002),
        verified(name, id, true, 1003),
        marked(name, id, deletion(DeletedBy::Retention, 1004), 1004),
        expired(name, id, 1004 + DAY),
    ]);
    life
}

/// This segment of timeline 1, archived at this second.
pub(crate) fn archived_at(name: &str, number: u64, second: i64) -> Event {
    let Event::WalSegmentArchived(mut event) = archived(name, number) else {
        unreachable!("the type was asked for");
    };
    event.archived_at = example::at(second);
    event.stored_bytes = 1000 + number;
    Event::WalSegmentArchived(event)
}

/// The segments from the one to before the other were let go.
pub(crate) fn pruned(name: &str, from: u64, to: u64, second: i64) -> Event {
    Event::WalPruned(WalPruned {
        instance: instance(name),
        branch: BranchName::main(),
        sweep_id: SweepId(uuid::Uuid::nil()),
        timeline: TimelineId(1),
        from_lsn: Lsn(from * SEGMENT_SIZE),
        to_lsn: Lsn(to * SEGMENT_SIZE),
        segments: to - from,
        bytes: 1,
        pruned_at: example::at(second),
    })
}

/// WAL that comes day by day, and goes from its beginning and from between.
pub(crate) fn wal_life(name: &str) -> Vec<Event> {
    let come = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| archived_at(name, number, number as i64 * DAY / 3))
    };
    let mut life: Vec<Event> = come(0..12).collect();
    life.push(pruned(name, 0, 4, 5 * DAY));
    life.extend(come(12..18));
    life.push(pruned(name, 8, 10, 7 * DAY));
    life.push(pruned(name, 4, 6, 8 * DAY));
    life
}

/// A drill that is asked for, begun, and comes out.
pub(crate) fn drill_life(name: &str, number: u128, completed_at: Option<Timestamp>) -> Vec<Event> {
    let last = match completed_at {
        Some(_) => "drill.completed",
        None => "drill.failed",
    };
    let mut life = ["drill.requested", "drill.started", last].map(event);
    for event in &mut life {
        let (id, of) = match event {
            Event::DrillRequested(event) => (&mut event.drill_id, &mut event.instance),
            Event::DrillStarted(event) => (&mut event.drill_id, &mut event.instance),
            Event::DrillFailed(event) => (&mut event.drill_id, &mut event.instance),
            Event::DrillCompleted(DrillCompleted {
                drill_id,
                instance,
                summary,
                ..
            }) => {
                summary.completed_at = completed_at.unwrap_or(summary.completed_at);
                (drill_id, instance)
            }
            _ => unreachable!("a drill's life"),
        };
        *id = DrillId(uuid::Uuid::from_u128(number));
        *of = instance(name);
    }
    life.to_vec()
}

/// An alert that is raised, and is over.
pub(crate) fn alert_life(name: &str, rule: AlertRule, since: i64) -> [Event; 2] {
    let (Event::AlertRaised(mut raised), Event::AlertResolved(mut resolved)) =
        (event("alert.raised"), event("alert.resolved"))
    else {
        unreachable!("the types were asked for");
    };
    (raised.instance, raised.branch) = (instance(name), BranchName::main());
    (resolved.instance, resolved.branch) = (instance(name), BranchName::main());
    (raised.rule, raised.since) = (rule, example::at(since));
    (resolved.rule, resolved.since) = (rule, example::at(since));
    resolved.resolved_at = example::at(since + 60);
    [Event::AlertRaised(raised), Event::AlertResolved(resolved)]
}

/// Lives of which anything may be told again at any time: nothing of it goes backwards.
pub(crate) fn unmoved_lives(name: &str) -> Vec<Vec<Event>> {
    let first = name.bytes().map(u128::from).sum::<u128>() << 32;
    let mut lives = vec![
        full_life(name, backup_id(first)),
        wal_life(name),
        drill_life(name, first + 1, Some(example::at(600))),
        drill_life(name, first + 2, None),
        alert_life(name, AlertRule::WalGap, 10).to_vec(),
        alert_life(name, AlertRule::WalGap, 90)[..1].to_vec(),
        vec![event("branch.sweep_requested"), event("branch.swept")],
        vec![skipped(
            name,
            backup_id(first + 3),
            ScheduleId(uuid::Uuid::nil()),
        )],
    ];
    // What is told of a copy that goes on is only the last word while it goes on.
    for life in &mut lives {
        life.retain(|event| !matches!(event, Event::BackupProgressed(_)));
    }
    lives
}

//! The rules as tables: what is heard, hour by hour, and what is said.

mod archive;
mod clocks;
mod drills;
mod growth;
mod promises;
mod properties;
mod reminders;

use events::event::{DrillStep, FailureCause, GapCause, SlotRiskLevel};
use events::{BackupId, BackupType, DrillId, ScheduleId};
use pg_format::{Lsn, TimelineId};

use super::*;
use crate::fact::{Completed, FailedDrill, Gap, Promised};

const GIB: u64 = 1 << 30;

/// Minutes after the beginning.
pub(super) fn at(minutes: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap()
}

pub(super) fn backup(number: u128) -> BackupId {
    format!("00000000-0000-7000-8000-{number:012}")
        .parse()
        .unwrap()
}

pub(super) fn completed(number: u128, stored_bytes: u64) -> Fact {
    completed_at(number, stored_bytes, 0)
}

pub(super) fn completed_at(number: u128, stored_bytes: u64, start: u64) -> Fact {
    Fact::BackupCompleted(Completed {
        backup_id: backup(number),
        backup_type: BackupType::Full,
        stored_bytes,
        start_lsn: Lsn(start),
        timeline: TimelineId(1),
        took_secs: 600,
        damaged_pages: 0,
        kept_secs: None,
    })
}

pub(super) fn failed(number: u128, cause: FailureCause) -> Fact {
    Fact::BackupFailed {
        backup_id: backup(number),
        cause,
        message: "postgres://zektor:geheim@db/x did not answer.".to_owned(),
        hint: String::new(),
    }
}

pub(super) fn gap(from: u64, to: u64) -> Fact {
    Fact::GapDetected(Gap {
        timeline: TimelineId(1),
        from_lsn: Lsn(from),
        to_lsn: Lsn(to),
        cause: GapCause::SlotLost,
    })
}

pub(super) fn window(earliest: Option<i64>, number: u128) -> Fact {
    Fact::WindowChanged {
        earliest: earliest.map(at),
        backup: Some(backup(number)),
    }
}

pub(super) fn slot(level: SlotRiskLevel) -> Fact {
    Fact::SlotRisk {
        level,
        message: "it holds back 9 of 10 GiB".to_owned(),
    }
}

pub(super) fn drill(number: u128, step: Option<DrillStep>) -> Fact {
    Fact::DrillEnded {
        drill_id: DrillId(backup(number).0),
        failed: step.map(|step| FailedDrill {
            step,
            cause: FailureCause::Source,
            damaged: false,
            message: "the last commit is not the one foretold".to_owned(),
            hint: "Look.".to_owned(),
            false_checks: Vec::new(),
        }),
    }
}

pub(super) fn lag(minutes: i64) -> Fact {
    Fact::LagSeen {
        lag: TimeDelta::minutes(minutes),
        error: None,
    }
}

/// By one schedule, kept for a week.
pub(super) fn promised(hours: i64) -> Fact {
    Fact::Promised(vec![promise(1, hours, 7)])
}

pub(super) fn promise(number: u128, hours: i64, days: i64) -> Promised {
    Promised {
        schedule: ScheduleId(backup(number).0),
        name: format!("schedule {number}"),
        every: TimeDelta::hours(hours),
        kept: TimeDelta::days(days),
        since: at(0),
    }
}

fn resumed(hours: i64, minute: i64) -> Fact {
    let since = at(minute);
    Fact::Promised(vec![Promised {
        since,
        ..promise(1, hours, 7)
    }])
}

/// A step of a story: something is heard, or only time has gone by.
type Step = (i64, Option<Fact>);

/// Tells a story to a new branch; what it says, with the minute: `30 +backup_failing warning`, `90 -backup_failing`.
/// Nobody is reminded of anything.
fn tell(steps: Vec<Step>) -> Vec<String> {
    let settings = Settings {
        remind: None,
        ..Settings::default()
    };
    tell_with(&settings, steps)
}

pub(super) fn tell_with(settings: &Settings, steps: Vec<Step>) -> Vec<String> {
    let mut state = BranchState::new(at(0));
    let mut said = Vec::new();
    let mut now = at(0);
    for (minute, fact) in steps {
        // What is of earlier is heard late.
        now = now.max(at(minute));
        let changes = match fact {
            Some(fact) => {
                let changes = state.observe(at(minute), fact.clone(), now, settings);
                let before = state.clone();
                let again = state.observe(at(minute), fact, now, settings);
                assert_eq!((again, &state), (Vec::new(), &before), "heard twice");
                changes
            }
            None => state.look(now, settings),
        };
        said.extend(changes.into_iter().map(|said| match said.change {
            Change::Raise {
                severity: AlertSeverity::Warning,
                ..
            } => format!("{minute} +{} warning", said.rule),
            Change::Raise {
                severity: AlertSeverity::Critical,
                ..
            } => format!("{minute} +{} critical", said.rule),
            Change::Remind { number, .. } => format!("{minute} {number}x{}", said.rule),
            Change::Resolve { .. } => format!("{minute} -{}", said.rule),
        }));
    }
    said
}

fn check(steps: Vec<Step>, said: &[&str]) {
    assert_eq!(tell(steps), said);
}

#[test]
fn two_failures_in_a_row_are_told_once_with_their_cause() {
    use FailureCause::{Connection, Storage};
    check(vec![(1, Some(failed(1, Storage)))], &[]);
    check(
        vec![
            (1, Some(failed(1, Storage))),
            (2, Some(completed(2, 1))),
            (3, Some(failed(3, Storage))),
        ],
        &[],
    );
    check(
        vec![
            (1, Some(failed(1, Storage))),
            (2, Some(failed(2, Connection))),
            (3, Some(failed(3, Connection))),
            (9, None),
            (10, Some(completed(4, 1))),
            (11, Some(failed(5, Storage))),
            (12, Some(failed(6, Storage))),
        ],
        &[
            "2 +backup_failing warning",
            "10 -backup_failing",
            "12 +backup_failing warning",
        ],
    );
    // Heard too late: the backup that was completed meanwhile was after it.
    check(
        vec![
            (10, Some(completed(4, 1))),
            (2, Some(failed(1, Storage))),
            (3, Some(failed(2, Storage))),
        ],
        &[],
    );
}

#[test]
fn the_message_names_the_cause_and_no_address() {
    let mut state = BranchState::new(at(0));
    let settings = Settings::default();
    for n in 1..3 {
        let _ = state.observe(
            at(n),
            failed(u128::try_from(n).unwrap(), FailureCause::Connection),
            at(n),
            &settings,
        );
    }
    let Change::Raise {
        message,
        hint,
        since,
        ..
    } = &state.outbox()[0].change
    else {
        panic!("raised");
    };
    assert_eq!(
        message,
        "2 backups in a row failed, probably because of the connection to PostgreSQL: postgres://*** did not answer"
    );
    assert_eq!(
        hint,
        "Check that PostgreSQL runs and lets the backup user in."
    );
    assert_eq!(*since, at(1));
}

#[test]
fn a_backup_is_overdue_by_the_schedules_that_are_in_force() {
    let hour = 60;
    // Daily: 1.5 days and the ten minutes that the last one took.
    check(
        vec![
            (0, Some(promised(24))),
            (hour, Some(completed(1, 1))),
            (hour * 37 + 10, None),
            (hour * 37 + 11, None),
            (hour * 38, Some(completed(2, 1))),
        ],
        &["2231 +backup_overdue warning", "2280 -backup_overdue"],
    );
    // Hourly: not before 26 hours; never completed is urgent.
    check(
        vec![
            (0, Some(promised(1))),
            (hour * 26, None),
            (hour * 26 + 1, None),
        ],
        &["1561 +backup_overdue critical"],
    );
    // Without a schedule, or with none that is in force: never.
    check(
        vec![(hour, Some(completed(1, 1))), (hour * 10_000, None)],
        &[],
    );
    check(
        vec![
            (0, Some(promised(1))),
            (hour, Some(Fact::Promised(vec![]))),
            (hour * 10_000, None),
        ],
        &[],
    );
    // Resumed, or made more frequent: the promise counts from then on.
    check(
        vec![
            (hour, Some(completed(1, 1))),
            (hour * 1000, Some(resumed(24, hour * 1000))),
            (hour * 1030, None),
            (hour * 1036 + 11, None),
        ],
        &["62171 +backup_overdue warning"],
    );
    // Pausing ends it.
    check(
        vec![
            (0, Some(promised(1))),
            (hour * 27, None),
            (hour * 28, Some(Fact::Promised(vec![]))),
        ],
        &["1620 +backup_overdue critical", "1680 -backup_overdue"],
    );
}

#[test]
fn a_damaged_backup_is_told_until_it_is_gone_or_sound() {
    let verified = |number, problem: Option<&str>| Fact::BackupVerified {
        backup_id: backup(number),
        problem: problem.map(str::to_owned),
    };
    check(
        vec![
            (1, Some(verified(1, Some("pack 3 is missing")))),
            (2, Some(verified(2, Some("pack 4 is missing")))),
            (
                3,
                Some(Fact::LetGo {
                    backup_id: backup(1),
                }),
            ),
            (1, Some(verified(1, Some("pack 3 is missing")))),
            (4, Some(verified(2, None))),
        ],
        &[
            "1 +backup_damaged critical",
            "2 -backup_damaged",
            "2 +backup_damaged critical",
            "4 -backup_damaged",
        ],
    );
    // It was read while it went, and both are heard in any order.
    let (unsound, gone) = (
        verified(1, Some("pack 3 is missing")),
        Fact::LetGo {
            backup_id: backup(1),
        },
    );
    check(
        vec![(1, Some(gone.clone())), (2, Some(unsound.clone()))],
        &[],
    );
    check(
        vec![(2, Some(unsound)), (1, Some(gone))],
        &["2 +backup_damaged critical", "1 -backup_damaged"],
    );
}

#[test]
fn a_damaged_backup_that_is_to_go_is_no_longer_told_unless_it_is_kept_after_all() {
    let unsound = Fact::BackupVerified {
        backup_id: backup(1),
        problem: Some("pack 3 is missing".to_owned()),
    };
    let marked = |to_go| Fact::BackupMarked {
        backup_id: backup(1),
        to_go,
    };
    check(
        vec![
            (1, Some(unsound.clone())),
            (3, Some(marked(true))),
            // Told late, and again.
            (2, Some(marked(false))),
            (3, Some(marked(true))),
            (4, Some(unsound)),
            (5, Some(marked(false))),
        ],
        &[
            "1 +backup_damaged critical",
            "3 -backup_damaged",
            "5 +backup_damaged critical",
        ],
    );
}

#[test]
fn what_was_wrong_long_before_is_no_news() {
    let week = 7 * 1440;
    check(
        vec![
            (-week, Some(failed(1, FailureCause::Wal))),
            (-week + 1, Some(failed(2, FailureCause::Wal))),
            (-week + 2, Some(gap(1, 2))),
            (-week + 3, Some(drill(1, Some(DrillStep::Recover)))),
            (1, None),
        ],
        &[],
    );
}

#[test]
fn a_branch_that_is_gone_has_no_alerts() {
    let mut state = BranchState::new(at(0));
    let settings = Settings::default();
    let raised = state.observe(at(1), gap(1, 2), at(1), &settings);
    assert_eq!(raised.len(), 1);
    assert_eq!(state.close(at(2)).len(), 1);
    assert_eq!(state.observe(at(3), gap(5, 6), at(3), &settings), []);
    assert!(state.standing().is_empty() && state.is_closed());
    state.announced(1);
    assert_eq!(state.outbox().len(), 1);
}

#[test]
fn announcements_know_whether_they_were_said() {
    let (instance, branch) = (InstanceName::new("orders").unwrap(), BranchName::main());
    let settings = Settings::default();
    let mut state = BranchState::new(at(0));
    let raised = state.observe(at(1), gap(1, 2), at(1), &settings).remove(0);
    let resolved = state
        .observe(at(2), completed_at(1, 1, 2), at(2), &settings)
        .remove(0);
    let id = |said| state.message_id(&instance, &branch, said);
    assert!(state.is_said(&raised, &id(&raised), at(3)));
    assert!(state.is_said(&raised, &id(&resolved), at(3)));
    assert!(!state.is_said(&resolved, &id(&raised), at(3)));
    let later = BranchState::new(at(9));
    assert!(
        !later.is_said(&raised, &id(&resolved), at(3)),
        "of a branch of the same name before"
    );
    assert!(!state.is_said(&raised, &MessageId::new("something else"), at(3)));
}

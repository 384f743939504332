//! Several schedules on one branch.

use super::*;

const HOUR: i64 = 60;
const DAY: i64 = 24 * HOUR;

fn kept(number: i64, days: Option<i64>) -> Option<Fact> {
    let Fact::BackupCompleted(completed) = completed(u128::try_from(number).unwrap(), 1) else {
        unreachable!("it is one");
    };
    Some(Fact::BackupCompleted(Completed {
        kept_secs: days.map(|days| days * 86_400),
        ..completed
    }))
}

fn daily_and_monthly() -> Fact {
    Fact::Promised(vec![promise(1, 24, 7), promise(2, 31 * 24, 365)])
}

fn skipped(number: u128) -> Option<Fact> {
    Some(Fact::FireSkipped {
        schedule: ScheduleId(backup(number).0),
        reason: "another backup of the branch was being taken.".to_owned(),
    })
}

#[test]
fn the_daily_backups_do_not_keep_the_promise_of_one_that_is_kept_for_a_year() {
    // For two months each fire of the monthly schedule is skipped, because the daily one is faster.
    let month = 31 * DAY;
    let mut steps = vec![(0, Some(daily_and_monthly())), (1, kept(1, Some(365)))];
    for day in 1..=60 {
        steps.push((day * DAY, kept(day + 1, Some(7))));
        if day % 31 == 0 {
            steps.push((day * DAY + 1, skipped(2)));
        }
    }
    // One and a half months, the ten minutes that the last one took, and it is looked at once a day.
    let told = (1 + month * 3 / 2 + 10) / DAY + 1;
    check(
        steps.clone(),
        &[&format!("{} +backup_overdue warning", told * DAY)],
    );
    steps.push((61 * DAY, kept(99, Some(366))));
    check(
        steps,
        &[
            &format!("{} +backup_overdue warning", told * DAY),
            &format!("{} -backup_overdue", 61 * DAY),
        ],
    );
}

#[test]
fn whoever_keeps_a_backup_as_long_keeps_the_promise() {
    // A month is as long as it is; one by hand is kept until somebody deletes it.
    for good in [Some(31), Some(30), Some(28), None] {
        let promise = Fact::Promised(vec![promise(1, 24, 31)]);
        let steps = vec![(0, Some(promise)), (DAY, kept(1, good)), (2 * DAY, None)];
        check(steps, &[]);
    }
    let promise = Fact::Promised(vec![promise(1, 24, 31)]);
    let steps = vec![(0, Some(promise)), (DAY, kept(1, Some(7))), (2 * DAY, None)];
    check(steps, &["2880 +backup_overdue warning"]);
}

#[test]
fn the_message_names_the_schedule_what_is_missing_and_why() {
    let message = |steps: Vec<Step>| {
        let (settings, mut state) = (Settings::default(), BranchState::new(at(0)));
        let mut last = String::new();
        for (minute, fact) in steps {
            let said = match fact {
                Some(fact) => state.observe(at(minute), fact, at(minute), &settings),
                None => state.look(at(minute), &settings),
            };
            for said in said {
                if let Change::Raise { message, .. } = said.change {
                    last = message;
                }
            }
        }
        last
    };
    let never = vec![(0, Some(promised(24))), (37 * HOUR, None)];
    assert_eq!(
        message(never),
        "no backup was ever completed, though schedule \"schedule 1\" promises one every 24 h"
    );
    let late = vec![
        (0, Some(promised(24))),
        (HOUR, kept(1, None)),
        (38 * HOUR, None),
    ];
    assert_eq!(
        message(late),
        "no backup was completed for 37 h, though schedule \"schedule 1\" promises one every 24 h"
    );
    let mut crowded = vec![(0, Some(daily_and_monthly()))];
    crowded.extend((0..47).map(|day| (day * DAY + 1, kept(day + 1, Some(7)))));
    crowded.push((31 * DAY, skipped(2)));
    crowded.sort_by_key(|(minute, _)| *minute);
    crowded.push((47 * DAY, None));
    assert_eq!(
        message(crowded),
        "no backup that is kept for 365 days was ever completed, though schedule \"schedule 2\" promises one every \
         31 days; it was due and skipped: another backup of the branch was being taken"
    );
}

#[test]
fn a_month_of_many_backups_hides_none_that_is_kept_longer() {
    // More than are remembered one by one.
    let mut steps = vec![(0, Some(daily_and_monthly())), (1, kept(1, Some(365)))];
    steps.extend((1..40 * 24).map(|hour| (hour * HOUR, kept(hour + 1, Some(7)))));
    check(steps, &[]);
}

#[test]
fn a_promise_that_becomes_more_counts_from_then_on() {
    let longer = |days| Some(Fact::Promised(vec![promise(1, 24, days)]));
    check(
        vec![
            (0, longer(7)),
            (100 * DAY, kept(1, Some(7))),
            (100 * DAY + 1, longer(365)),
            (101 * DAY, None),
            (102 * DAY, None),
        ],
        &["146880 +backup_overdue warning"],
    );
}

/// No schedule promises the first backup of a restored branch.
#[test]
fn a_restored_branch_wants_one_backup_at_all() {
    let wanted = || {
        let once = Promised {
            every: TimeDelta::zero(),
            kept: TimeDelta::zero(),
            ..promise(1, 0, 0)
        };
        Some(Fact::Promised(vec![once]))
    };
    let late = 26 * HOUR + 1;
    let begun = [(0, wanted()), (25 * HOUR, wanted()), (late, wanted())];
    let mut steps = begun.to_vec();
    steps.push((30 * HOUR, kept(1, Some(7))));
    steps.push((900 * DAY, wanted()));
    check(
        steps,
        &["1561 +backup_overdue critical", "1800 -backup_overdue"],
    );
    // Kept for good, however long ago; and two failures by hand are forgotten as on a branch without a schedule.
    let mut state = BranchState::new(at(0));
    let settings = Settings::default();
    let mut said = Vec::new();
    for (minute, fact) in begun {
        said.extend(state.observe(at(minute), fact.unwrap(), at(minute), &settings));
    }
    let [
        Announcement {
            change: Change::Raise { message, .. },
            ..
        },
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    assert_eq!(
        message,
        "no backup was ever completed, though the branch has been open for 26 h"
    );
}

#[test]
fn a_server_that_was_stopped_has_no_overdue_backup_and_time_to_make_one_when_it_is_started() {
    let steps = vec![
        (0, Some(promised(24))),
        (10, Some(Fact::ServerStopped)),
        (50 * HOUR, None),
        (50 * HOUR, Some(Fact::ServerStarted)),
        (80 * HOUR, None),
        // One and a half days after it was started.
        (86 * HOUR, None),
        (86 * HOUR + 1, None),
    ];
    check(steps, &["5161 +backup_overdue critical"]);
}

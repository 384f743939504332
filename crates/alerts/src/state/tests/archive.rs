//! Rules about WAL and the window.

use events::SweepId;

use super::*;

#[test]
fn a_lag_is_told_when_it_was_seen_twice_and_over_when_it_was_not_seen_twice() {
    check(
        vec![
            (1, Some(lag(6))),
            (2, Some(lag(1))),
            (3, Some(lag(6))),
            (4, Some(lag(1))),
        ],
        &[],
    );
    check(
        vec![
            (1, Some(lag(6))),
            (2, Some(lag(7))),
            (3, Some(lag(1))),
            (4, Some(lag(8))),
            (5, Some(lag(1))),
            (6, Some(lag(1))),
        ],
        &["2 +archive_lag warning", "6 -archive_lag"],
    );
    check(
        vec![
            (1, Some(lag(6))),
            (2, Some(lag(7))),
            (62, Some(lag(67))),
            (63, Some(lag(68))),
        ],
        &[
            "2 +archive_lag warning",
            "63 -archive_lag",
            "63 +archive_lag critical",
        ],
    );
}

#[test]
fn a_server_that_somebody_stopped_has_no_lag_and_one_that_was_started_none_from_before() {
    // Its archive stands still while the clock goes on.
    let behind =
        |minutes: std::ops::Range<i64>| minutes.map(|minute| (minute, Some(lag(minute - 1))));
    let mut steps = vec![(1, Some(Fact::ServerStopped))];
    steps.extend(behind(2..90));
    check(steps.clone(), &[]);
    // Started; what the archiver says counts from then on, whatever it last knew.
    steps.push((100, Some(Fact::ServerStarted)));
    steps.extend(behind(101..106));
    check(steps.clone(), &[]);
    steps.extend(behind(106..109));
    check(steps, &["107 +archive_lag warning"]);
    // Stopped while it was behind: nobody needs to look any more.
    check(
        vec![
            (1, Some(lag(6))),
            (2, Some(lag(7))),
            (3, Some(Fact::ServerStopped)),
            (2, Some(Fact::ServerStarted)),
            (4, Some(lag(9))),
            (5, Some(lag(10))),
        ],
        &["2 +archive_lag warning", "3 -archive_lag"],
    );
}

#[test]
fn a_gap_is_over_when_a_backup_that_begins_behind_it_is_complete() {
    check(
        vec![
            (1, Some(gap(100, 200))),
            (2, Some(completed_at(1, 1, 150))),
            (3, Some(gap(300, 400))),
            (4, Some(completed_at(2, 1, 250))),
            (5, Some(completed_at(3, 1, 400))),
            (6, Some(gap(100, 200))),
        ],
        &["1 +wal_gap critical", "5 -wal_gap"],
    );
}

#[test]
fn wal_that_is_damaged_later_is_told_though_backups_begin_behind_it() {
    let damaged = Fact::GapDetected(Gap {
        timeline: TimelineId(1),
        from_lsn: Lsn(100),
        to_lsn: Lsn(200),
        cause: GapCause::Damaged,
    });
    check(
        vec![
            (1, Some(completed_at(1, 1, 250))),
            (2, Some(damaged.clone())),
            (2, Some(damaged)),
            (3, Some(completed_at(2, 1, 300))),
        ],
        &["2 +wal_gap critical", "3 -wal_gap"],
    );
}

#[test]
fn a_window_that_shrinks_is_told_unless_something_explains_it() {
    let day = 1440;
    let gone = |number: u128| {
        let backup_id = backup(number);
        Some(Fact::LetGo { backup_id })
    };
    // Retention took the backup away, and that is heard before, or a little after.
    check(
        vec![
            (1, Some(window(Some(-day), 1))),
            (2, gone(1)),
            (3, Some(window(Some(-9), 2))),
            (60, None),
        ],
        &[],
    );
    check(
        vec![
            (1, Some(window(Some(-day), 1))),
            (3, Some(window(Some(-9), 2))),
            (5, gone(1)),
            (60, None),
        ],
        &[],
    );
    // Nobody did: told after ten minutes, over when the window is as long as it was.
    check(
        vec![
            (1, Some(window(Some(-day), 1))),
            (3, Some(window(Some(-9), 2))),
            (12, None),
            (13, None),
            (day / 2, None),
            (day, None),
        ],
        &["13 +window_shrinking warning", "1440 -window_shrinking"],
    );
    // Another deletion explains nothing.
    check(
        vec![
            (1, Some(window(Some(-day), 1))),
            (2, gone(7)),
            (90, Some(window(Some(-9), 2))),
            (100, None),
        ],
        &["100 +window_shrinking warning"],
    );
    // None at all is urgent; there never was one is not.
    check(
        vec![
            (1, Some(window(Some(-day), 1))),
            (2, gone(1)),
            (3, Some(window(None, 1))),
            (13, None),
        ],
        &["13 +window_shrinking critical"],
    );
    check(vec![(1, Some(window(None, 1))), (60, None)], &[]);
    // It grows backwards.
    check(
        vec![
            (1, Some(window(Some(-9), 1))),
            (2, Some(window(Some(-day), 1))),
            (60, None),
        ],
        &[],
    );
    // After a week it is how things are.
    check(
        vec![
            (1, Some(window(Some(-day * 365), 1))),
            (3, Some(window(Some(-9), 2))),
            (13, None),
            (day * 7 + 4, None),
        ],
        &["13 +window_shrinking warning", "10084 -window_shrinking"],
    );
}

#[test]
fn a_sweep_explains_a_shorter_window_only_by_what_it_takes() {
    let asked = |number: u128, gone: &[u128], end| Fact::SweepAsked {
        sweep_id: SweepId(backup(number).0),
        backups: gone.iter().copied().map(backup).collect(),
        wal: vec![(TimelineId(1), Lsn(end))],
    };
    let swept = |number: u128, objects| Fact::Swept {
        sweep_id: SweepId(backup(number).0),
        objects,
    };
    let tell = |sweep: Fact, end: Option<Fact>, told: &[&str]| {
        check(
            vec![
                (0, Some(completed_at(1, 1, 500))),
                (0, Some(completed_at(2, 1, 900))),
                (1, Some(window(Some(-1440), 1))),
                (2, Some(sweep)),
                (3, end),
                (4, Some(window(Some(-9), 2))),
                (60, None),
            ],
            told,
        );
    };
    let shrunk = &["60 +window_shrinking warning"][..];
    // It takes the backup, or the WAL that leads on from it.
    tell(asked(1, &[1], 500), Some(swept(1, 9)), &[]);
    tell(asked(1, &[], 900), Some(swept(1, 9)), &[]);
    tell(asked(1, &[], 900), None, &[]);
    // What retention does every hour: a backup that nobody began with, and WAL from before.
    tell(asked(1, &[7], 500), Some(swept(1, 9)), shrunk);
    // It was withdrawn, and has taken nothing.
    tell(asked(1, &[1], 900), Some(swept(1, 0)), shrunk);
}

#[test]
fn a_slot_is_told_as_announced_and_over_when_it_is_calm() {
    use SlotRiskLevel::{Alert, Low, Warning};
    check(
        vec![
            (1, Some(slot(Warning))),
            (2, Some(slot(Alert))),
            (3, Some(slot(Warning))),
            (4, Some(slot(Low))),
            (6, Some(slot(Warning))),
            (7, Some(slot(Low))),
            (12, None),
        ],
        &[
            "1 +slot_disk_risk warning",
            "2 -slot_disk_risk",
            "2 +slot_disk_risk critical",
            "12 -slot_disk_risk",
        ],
    );
}

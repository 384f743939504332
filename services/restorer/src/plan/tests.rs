mod looking_back;
mod not_yet;
mod oracle;
mod world;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use events::event::RefusalCode;
use events::{BackupId, RestoreId, RestoreTarget, Timestamp};
use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId};
use repository::WalObjectKind;
use uuid::Uuid;
use wal_index::{Ends, Interval, SegmentIndex, TransactionEnd};

use self::world::{Kind, Record, SIZE, World, backup, into, minute, position, segments, world};
use super::{Archive, KnownWal, Missing, Plan, Stop, StoredPlan, Stretch, pg_time};

fn number(plan: &Plan) -> u128 {
    plan.backup.backup_id.0.as_u128()
}

fn time(at: Timestamp) -> RestoreTarget {
    RestoreTarget::Time { at }
}

fn lsn(lsn: Lsn) -> RestoreTarget {
    RestoreTarget::Lsn { lsn }
}

fn of(id: u128) -> RestoreTarget {
    let id = BackupId(Uuid::from_u128(id));
    RestoreTarget::Backup {
        id,
        even_damaged: false,
    }
}

fn point(name: &str) -> RestoreTarget {
    RestoreTarget::RestorePoint {
        name: name.to_owned(),
    }
}

/// The commit of a segment.
fn commit(number: u64) -> Lsn {
    Lsn(into(number).0 + 0x40_0040)
}

/// The rollback of a segment.
fn abort(number: u64) -> Lsn {
    Lsn(into(number).0 + 0x40_2000)
}

fn after(record: Lsn) -> Lsn {
    Lsn(record.0 + 64)
}

#[test]
fn every_target_becomes_a_record() {
    let world = world();
    let check = |target: RestoreTarget, base: u128, stop: Lsn, last_commit: u64| {
        let plan = world.ask(target.clone()).unwrap();
        assert_eq!(number(&plan), base, "{target:?}");
        assert_eq!(plan.stop, Stop::Lsn(stop), "{target:?}");
        assert_eq!(plan.end_lsn, after(stop), "{target:?}");
        let last = plan.prediction.unwrap().last_commit.unwrap();
        assert_eq!(last.lsn, commit(last_commit), "{target:?}");
        assert_eq!(plan.summary().last_commit, Some(last));
        assert_eq!(plan.summary().stop_lsn, Some(stop));
    };
    let seconds = |number: i64, seconds| time(minute(number) + TimeDelta::seconds(seconds));
    check(seconds(15, 10), 1, commit(15), 15);
    check(seconds(15, 9), 1, abort(14), 14);
    check(seconds(15, 30), 1, abort(15), 15);
    check(
        time(minute(21) - TimeDelta::microseconds(1)),
        1,
        abort(20),
        20,
    );
    check(seconds(30, 10), 2, commit(30), 30);
    // Nothing ended after minute 39: PostgreSQL alone would refuse.
    check(time(minute(40)), 2, abort(39), 39);
    check(lsn(commit(15)), 1, commit(15), 15);
    check(lsn(Lsn(commit(15).0 - 1)), 1, commit(15), 15);
    check(
        lsn(Lsn(commit(15).0 + 1)),
        1,
        Lsn(commit(15).0 + 0x1000 - 64),
        15,
    );
    check(point("point 30"), 2, Lsn(commit(30).0 + 0x1000 - 64), 30);
    check(point("point 15"), 1, Lsn(commit(15).0 + 0x1000 - 64), 15);
    check(RestoreTarget::Transaction { xid: 1060 }, 2, commit(30), 30);
    check(RestoreTarget::Latest, 2, Lsn(abort(39).0 + 0x1000), 39);
}

#[test]
fn a_backup_is_what_it_is_at_its_end() {
    let world = world();
    for target in [
        of(1),
        time(minute(11)),
        lsn(abort(10)),
        lsn(Lsn(into(11).0 - 1)),
    ] {
        let plan = world.ask(target.clone()).unwrap();
        assert_eq!(
            (number(&plan), &plan.stop),
            (1, &Stop::EndOfWal),
            "{target:?}"
        );
        assert_eq!(plan.end_lsn, into(11), "{target:?}");
        let predicted = plan.prediction.unwrap();
        assert_eq!(
            predicted.last_noted,
            Some(minute(10) + TimeDelta::seconds(30))
        );
        assert_eq!(predicted.last_commit.unwrap().lsn, commit(10));
    }
}

#[test]
fn what_cannot_succeed_is_refused_with_the_nearest_target() {
    let full = world();
    let check = |world: &World, target: RestoreTarget, code: RefusalCode, says: &str| {
        let refusal = world.ask(target).unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        let text = format!("{refusal} {}", refusal.hint);
        assert!(text.contains(says), "{text} has no {says:?}");
        assert!(!refusal.hint.is_empty());
    };
    let outside = RefusalCode::OutsideWindow;
    let text = |at| events::envelope::rfc3339(at);
    let early = minute(11) - TimeDelta::microseconds(1);
    check(&full, time(early), outside, &text(minute(11)));
    check(&full, time(minute(41)), outside, &text(minute(40)));
    check(
        &full,
        time(minute(59)),
        outside,
        "less than 120 seconds ago",
    );
    check(&full, time(minute(70)), outside, "is in the future");
    check(&full, time(minute(70)), outside, &text(minute(40)));
    check(&full, lsn(commit(10)), outside, &into(11).to_string());
    check(
        &full,
        lsn(Lsn(into(10).0 - 1)),
        outside,
        &into(11).to_string(),
    );
    check(
        &full,
        lsn(Lsn(into(40).0 + 1)),
        outside,
        &into(40).to_string(),
    );
    check(&full, of(9), RefusalCode::NotFound, "no completed backup");
    check(
        &full,
        point(&"x".repeat(64)),
        RefusalCode::Invalid,
        "cannot be the name",
    );
    check(
        &full,
        point("Point 3O"),
        RefusalCode::NotFound,
        "\"point 30\"",
    );
    check(&full, point("point 10"), outside, &into(11).to_string());
    let transaction = |xid| RestoreTarget::Transaction { xid };
    check(
        &full,
        transaction(1061),
        RefusalCode::Invalid,
        "rolled back",
    );
    check(&full, transaction(9), RefusalCode::NotFound, "1078");
    check(&full, transaction(1020), outside, &into(11).to_string());
    let mut empty = full.clone();
    empty.archive = Archive::default();
    check(
        &empty,
        RestoreTarget::Latest,
        RefusalCode::NotFound,
        "no completed backup",
    );
    let mut silent = full.clone();
    silent.archive.position = None;
    check(&silent, RestoreTarget::Latest, outside, "no wal");
}

#[test]
fn a_gap_cuts_the_window_by_the_times_in_the_wal() {
    let mut gapped = world();
    let missing = SegmentName::new(TimelineId(1), 30, SIZE);
    let objects = &mut gapped.archive.objects;
    objects.retain(|object| object.kind != WalObjectKind::Segment(missing));
    let gap = missing.start(SIZE);
    let says = |world: &World, target: RestoreTarget, says: &str| {
        let refusal = world.ask(target).unwrap_err().to_string();
        assert!(refusal.contains(says), "{refusal} has no {says:?}");
    };
    let last = minute(29) + TimeDelta::seconds(30);
    let nearest = Lsn(abort(29).0 + 0x1000);
    for (target, nearest) in [
        (RestoreTarget::Latest, nearest.to_string()),
        (lsn(into(35)), nearest.to_string()),
        (time(minute(35)), events::envelope::rfc3339(last)),
        (
            time(last + TimeDelta::microseconds(1)),
            events::envelope::rfc3339(last),
        ),
    ] {
        says(&gapped, target.clone(), &gap.to_string());
        says(&gapped, target, &nearest);
    }
    // What the refusals named is accepted.
    let plan = gapped.ask(lsn(nearest)).unwrap();
    assert_eq!(plan.stop, Stop::Lsn(nearest));
    let plan = gapped.ask(time(last)).unwrap();
    assert_eq!(plan.stop, Stop::Lsn(abort(29)));
    assert_eq!(plan.notes[0].name, "wal_gap");
    let before = gapped.ask(time(last - TimeDelta::microseconds(1))).unwrap();
    assert_eq!(before.stop, Stop::Lsn(commit(29)));
    assert!(before.notes.is_empty());
    // A backup behind the gap does not need what is missing.
    let behind = backup(3, 1, into(32), into(33), minute(33));
    gapped.archive.backups.push(behind);
    assert_eq!(number(&gapped.ask(time(minute(35))).unwrap()), 3);
    says(
        &gapped,
        time(minute(31)),
        &events::envelope::rfc3339(minute(33)),
    );
    assert_eq!(number(&gapped.ask(time(minute(33))).unwrap()), 3);
    says(&gapped, point("point 31"), "behind a gap");
}

#[test]
fn a_time_that_the_backup_already_passed_takes_an_older_one() {
    let mut world = world();
    // The clock was wrong for one commit while backup 2 was taken.
    let odd = world.records.iter_mut().find(|one| one.start == commit(20));
    odd.unwrap().time = minute(35);
    let plan = world.ask(time(minute(25))).unwrap();
    assert_eq!((number(&plan), &plan.stop), (1, &Stop::Lsn(abort(19))));
    // Without it there is none, and the nearest is after the odd one.
    let _ = world.archive.backups.remove(0);
    let refusal = world.ask(time(minute(25))).unwrap_err().to_string();
    let nearest = minute(35);
    assert!(
        refusal.contains(&events::envelope::rfc3339(nearest)),
        "{refusal}"
    );
    assert!(world.ask(time(nearest)).is_ok());
}

#[test]
fn a_backup_beyond_the_position_can_be_restored_as_the_window_says() {
    let mut world = world();
    let archive = &mut world.archive;
    archive.position = position(1, into(35), minute(35));
    archive
        .backups
        .push(backup(3, 1, into(34), into(38), minute(38)));
    let window = repository::window(archive, &|_, _| None);
    assert_eq!(window.latest, Some(minute(38)));
    assert_eq!(number(&world.ask(time(minute(38))).unwrap()), 3);
    let plan = world.ask(time(minute(37))).unwrap();
    assert_eq!((number(&plan), &plan.stop), (2, &Stop::Lsn(abort(36))));
    assert_eq!(plan.notes[0].name, "not_proven");
    assert_eq!(world.ask(RestoreTarget::Latest).unwrap().end_lsn, into(38));
    let beyond = time(minute(38) + TimeDelta::microseconds(1));
    assert!(world.ask(beyond).is_err());
}

#[test]
fn a_transaction_is_looked_for_with_one_reading_of_each_segment() {
    let wide = |segment: u64| {
        let start = SIZE.start_of(segment).0;
        let interval = |number: u64| Interval {
            start: Lsn(start + number * 0x1000),
            end: Lsn(start + (number + 1) * 0x1000),
            ends: Some(Ends {
                count: 1,
                commits: 1,
                min_time: pg_time(minute(0)),
                max_time: pg_time(minute(0)),
                min_xid: 0,
                max_xid: u32::MAX,
                last: end(Lsn(start + number * 0x1000)),
                last_commit: None,
            }),
        };
        SegmentIndex {
            segment,
            start: Lsn(start),
            end: Lsn(start + 4 * 0x1000),
            intervals: (0..4).map(interval).collect(),
            events: Vec::new(),
            open: Vec::new(),
            undecoded: 0,
        }
    };
    let mut known = KnownWal::default();
    let all = Lsn(0)..SIZE.start_of(3);
    known.add_index(all.clone(), (0..3).map(wide).collect());
    let mut readings = 0;
    while let Err(missing) = known.end_of(77, &all) {
        let Missing::Records { range, at } = missing else {
            panic!("{missing:?}");
        };
        known.add_stretch(Stretch::new(range, at));
        readings += 1;
    }
    assert_eq!(readings, 3);
}

fn end(lsn: Lsn) -> TransactionEnd {
    TransactionEnd {
        lsn,
        end: after(lsn),
        time: pg_time(minute(0)),
        xid: 5,
        committed: true,
    }
}

/// A record a little behind the rollback of segment 25.
fn record(offset: u64, kind: Kind) -> Record {
    Record {
        start: Lsn(abort(25).0 + 0x1000 + offset),
        end: Lsn(abort(25).0 + 0x1000 + offset + 64),
        time: minute(25) + TimeDelta::seconds(40),
        xid: 7,
        kind,
    }
}

#[test]
fn what_is_prepared_before_the_next_end_is_replayed() {
    let mut world = world();
    let prepared = record(0x100, Kind::Prepare);
    let stop = prepared.start;
    world.records.push(prepared);
    world.records.sort_by_key(|one| one.start);
    let plan = world.ask(time(minute(26))).unwrap();
    assert_eq!((&plan.stop, plan.end_lsn), (&Stop::Lsn(stop), after(stop)));
    let predicted = plan.prediction.unwrap();
    assert_eq!(
        predicted.last_noted,
        Some(minute(25) + TimeDelta::seconds(30))
    );
}

#[test]
fn the_files_of_a_database_stay_until_its_drop_is_committed() {
    let mut world = world();
    let committed = commit(26);
    let dropped = record(0x100, Kind::Drop(committed));
    let prepared = record(0x200, Kind::Prepare);
    let drop_at = dropped.start;
    world.records.extend([dropped, prepared]);
    world.records.sort_by_key(|one| one.start);
    let plan = world.ask(time(minute(26))).unwrap();
    assert_eq!(
        plan.stop,
        Stop::Lsn(abort(25)),
        "not what is behind the drop"
    );
    assert!(plan.half_dropped.is_empty());
    // Another transaction commits between the drop and its commit.
    let mut between = record(0x300, Kind::Commit);
    between.time = minute(25) + TimeDelta::seconds(50);
    world.records.push(between.clone());
    world.records.sort_by_key(|one| one.start);
    let plan = world.ask(time(minute(26))).unwrap();
    assert_eq!(plan.stop, Stop::Lsn(between.start));
    assert_eq!(plan.half_dropped, [(16_384, drop_at)]);
    let later = world.ask(time(minute(27))).unwrap();
    assert!(later.half_dropped.is_empty());
}

/// Timeline 2 leaves timeline 1 in segment 30; the old server went on to segment 33.
fn after_promotion() -> World {
    let mut world = world();
    let text = format!("1\t{}\tno recovery target specified\n", into(30));
    let history = TimelineHistory::parse(TimelineId(2), &text).unwrap();
    let archive = &mut world.archive;
    archive.objects = segments(1, 10..34).chain(segments(2, 30..41)).collect();
    archive.position = position(2, into(40), minute(40));
    archive.histories = BTreeMap::from([(TimelineId(2), history)]);
    let abandoned = backup(4, 1, into(31), into(32), minute(32));
    archive.backups.push(abandoned);
    world
}

#[test]
fn follows_the_timeline_that_is_archived_now() {
    let mut world = after_promotion();
    let plan = world.ask(time(minute(35))).unwrap();
    // Backup 4 was taken on the abandoned end of timeline 1.
    assert_eq!((number(&plan), plan.history.timeline()), (2, TimelineId(2)));
    let plan = world.ask(of(4)).unwrap();
    assert_eq!(
        (plan.end_lsn, plan.history.timeline()),
        (into(32), TimelineId(1))
    );
    world.archive.histories = BTreeMap::new();
    let refusal = world.ask(RestoreTarget::Latest).unwrap_err();
    assert!(refusal.message.contains("history"));
}

#[test]
fn a_stored_plan_is_the_same_plan() {
    let plan = after_promotion().ask(time(minute(35))).unwrap();
    let stored = StoredPlan::new(RestoreId(Uuid::from_u128(5)), &plan);
    let text = serde_json::to_string(&stored).unwrap();
    let read: StoredPlan = serde_json::from_str(&text).unwrap();
    assert_eq!(read.plan().unwrap(), plan);
}

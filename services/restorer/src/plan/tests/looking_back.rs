//! The last commit, where it is older than the base.

use chrono::TimeDelta;
use events::RestoreTarget;
use events::event::RestorePlan;
use pg_format::{Lsn, SegmentName, TimelineId};
use repository::WalObjectKind;

use super::world::{Kind, Record, SIZE, World, minute, world};
use super::{abort, commit, lsn, number, of, point, time};
use crate::plan::Plan;

/// Nobody commits behind segment 15; backup 2 begins in segment 20.
fn quiet() -> World {
    let mut world = world();
    let late = |one: &Record| one.kind == Kind::Commit && one.start > commit(15);
    world.records.retain(|one| !late(one));
    world
}

fn without(mut world: World, segment: u64) -> World {
    let gone = WalObjectKind::Segment(SegmentName::new(TimelineId(1), segment, SIZE));
    world.archive.objects.retain(|object| object.kind != gone);
    world
}

fn told(plan: &Plan) -> String {
    let checks = plan.checks();
    let told = checks.iter().find(|check| check.name == "last_commit");
    told.map_or_else(String::new, |check| check.detail.clone())
}

#[test]
fn the_last_commit_may_be_older_than_the_base() {
    let world = quiet();
    for target in [
        of(2),
        time(minute(25)),
        lsn(abort(25)),
        point("point 30"),
        RestoreTarget::Latest,
    ] {
        let plan = world.ask(target.clone()).unwrap();
        assert_eq!(number(&plan), 2, "{target:?}");
        let RestorePlan { last_commit, .. } = plan.summary();
        let last = last_commit.unwrap();
        assert_eq!(last.lsn, commit(15), "{target:?}");
        assert_eq!(last.at, minute(15) + TimeDelta::seconds(10));
        assert_eq!(told(&plan), "");
    }
}

#[test]
fn nothing_is_looked_for_behind_missing_wal() {
    let told_since = |world: &World, since: Lsn| {
        let plan = world.ask(of(2)).unwrap();
        assert_eq!(plan.prediction.unwrap().last_commit, None);
        let told = told(&plan);
        assert!(told.contains(&format!("from {since} to")), "{told}");
    };
    told_since(&without(quiet(), 17), SIZE.start_of(18));
    told_since(&without(quiet(), 19), SIZE.start_of(20));
    // To the beginning of the archive.
    let mut nobody = quiet();
    nobody.records.retain(|one| one.kind != Kind::Commit);
    told_since(&nobody, SIZE.start_of(10));
    // A commit before the hole does no harm behind it.
    let plan = without(quiet(), 12).ask(of(2)).unwrap();
    assert_eq!(plan.summary().last_commit.unwrap().lsn, commit(15));
}

#[test]
fn a_commit_across_the_border_of_two_steps_is_found() {
    let mut world = quiet();
    for border in [18, 19, 20].map(|number| SIZE.start_of(number)) {
        let across = Record {
            start: Lsn(border.0 - 32),
            end: Lsn(border.0 + 32),
            time: minute(19),
            xid: 5_000,
            kind: Kind::Commit,
        };
        world.records.push(across.clone());
        world.records.sort_by_key(|one| one.start);
        let plan = world.ask(of(2)).unwrap();
        assert_eq!(plan.summary().last_commit.unwrap().lsn, across.start);
    }
}

//! What a refusal of a time that cannot be asked for yet names.

use chrono::TimeDelta;
use events::Timestamp;
use events::envelope::rfc3339;
use events::event::{GapCause, RefusalCode};
use pg_format::{Lsn, SegmentName, TimelineId};
use repository::{GapProof, WalGap, WalObjectKind};

use super::world::{POLICY, SIZE, World, backup, into, minute, position, world};
use super::{Stop, abort, after, number, time};
use crate::plan::latest;

fn seconds(minutes: i64, seconds: i64) -> Timestamp {
    minute(minutes) + TimeDelta::seconds(seconds)
}

fn refused(world: &World, at: Timestamp, now: Timestamp) -> String {
    let refusal = world.ask_at(&time(at), now).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::OutsideWindow);
    format!("{refusal}; {}", refusal.hint)
}

/// Backup 1 has just ended.
fn young() -> World {
    let mut world = world();
    let _ = world.archive.backups.pop();
    world.archive.position = position(1, into(12), seconds(11, 25));
    world
}

/// Segment 30 is missing; backup 3 ends behind it, at minute 33.
fn gapped() -> World {
    let mut world = world();
    let missing = WalObjectKind::Segment(SegmentName::new(TimelineId(1), 30, SIZE));
    let archive = &mut world.archive;
    archive.objects.retain(|object| object.kind != missing);
    archive
        .backups
        .push(backup(3, 1, into(32), into(33), minute(33)));
    archive.position = position(1, into(34), seconds(33, 30));
    world
}

#[test]
fn before_the_first_backup_is_old_enough_no_time_is_named_that_is_refused() {
    let (world, now) = (young(), seconds(11, 30));
    for (at, why) in [
        (seconds(11, 20), "is less than 120 seconds ago"),
        (seconds(12, 20), "is in the future"),
    ] {
        let said = refused(&world, at, now);
        assert!(said.contains(why), "{said}");
        // What may be asked for, and when.
        for named in [minute(11), minute(13)] {
            assert!(said.contains(&rfc3339(named)), "{said}");
        }
        assert!(
            !said.contains(&rfc3339(now - TimeDelta::minutes(2))),
            "{said}"
        );
        assert!(said.contains("--latest"), "{said}");
    }
    assert_eq!(
        world.learn(|known| latest(&world.archive, known, now, POLICY)),
        Ok(None)
    );
    assert!(world.ask_at(&time(minute(11)), minute(13)).is_ok());
}

#[test]
fn behind_a_gap_the_latest_time_is_the_one_before_it() {
    let (world, now) = (gapped(), minute(34));
    let last = seconds(29, 30);
    for at in [seconds(33, 10), seconds(34, 10)] {
        let said = refused(&world, at, now);
        for named in [last, minute(33), minute(35)] {
            assert!(said.contains(&rfc3339(named)), "{said}");
        }
        assert!(!said.contains(&rfc3339(minute(32))), "{said}");
    }
    assert_eq!(
        world.learn(|known| latest(&world.archive, known, now, POLICY)),
        Ok(Some(last))
    );
    assert!(world.ask_at(&time(last), now).is_ok());
    assert_eq!(
        number(&world.ask_at(&time(minute(33)), minute(35)).unwrap()),
        3
    );
}

#[test]
fn what_was_proven_before_a_gap_stays_restorable() {
    let gap = SIZE.start_of(30);
    let known = |proof: GapProof| {
        let mut world = gapped();
        world.archive.gaps = vec![WalGap {
            timeline: TimelineId(1),
            from_lsn: gap,
            to_lsn: SIZE.start_of(31),
            cause: GapCause::SlotLost,
            detected_at: minute(31),
            proven: Some(proof),
        }];
        world
    };
    let at = seconds(29, 50);
    let world = known(GapProof { lsn: gap, at });
    for asked in [seconds(29, 40), at] {
        let plan = world.ask(time(asked)).unwrap();
        assert_eq!(
            (&plan.stop, plan.end_lsn),
            (&Stop::Lsn(abort(29)), after(abort(29)))
        );
        assert!(plan.notes.iter().all(|note| note.name != "wal_gap"));
    }
    let said = refused(&world, at + TimeDelta::microseconds(1), minute(60));
    assert!(said.contains(&rfc3339(at)), "{said}");
    let window = repository::window(&world.archive, &|_, _| Some(seconds(29, 10)));
    assert_eq!(window.gaps[0].from, Some(at));
    // It is of WAL that is not there.
    let beyond = known(GapProof {
        lsn: Lsn(gap.0 + 8),
        at,
    });
    let said = refused(&beyond, at, minute(60));
    assert!(said.contains(&rfc3339(seconds(29, 30))), "{said}");
    let window = repository::window(&beyond.archive, &|_, _| Some(seconds(29, 10)));
    assert_eq!(window.gaps[0].from, Some(seconds(29, 10)));
}

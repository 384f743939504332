//! Plans against what replay does, record by record: times out of order, rollbacks, prepared transactions, gaps.

use chrono::TimeDelta;
use events::event::BackupSummary;
use events::{RestoreTarget, Timestamp};
use pg_format::{Lsn, SegmentName, TimelineId};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use repository::WalObjectKind;

use super::world::{Kind, POLICY, Record, SIZE, World, backup, into, minute, position, segments};
use crate::plan::{self, Archive, Plan, Stop};

/// Records in segments 0 to 11, with a clock that goes back and forth.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let step = (1_u64..0x18_0000, 0_i64..90, 0_i64..40, 0_u8..8);
    vec(step, 1..120).prop_map(|steps| {
        let (mut at, mut clock) = (SIZE.bytes() / 2, 0);
        let record = |(index, (skip, forth, back, kind)): (usize, (u64, i64, i64, u8))| {
            at += skip / 8 * 8;
            let start = Lsn(at);
            at += 64;
            clock += forth;
            Record {
                start,
                end: Lsn(at),
                time: minute(0) + TimeDelta::seconds(clock - back),
                xid: 100 + index as u32,
                kind: match kind {
                    0..4 => Kind::Commit,
                    4 => Kind::Abort,
                    5 => Kind::Prepare,
                    _ => Kind::Other,
                },
            }
        };
        steps.into_iter().enumerate().map(record).collect()
    })
}

/// What recovery from a base replays of the WAL before `reach`, up to PostgreSQL's own rule.
struct Replay<'a> {
    ends: Vec<&'a Record>,
    prepared: Vec<&'a Record>,
    /// The record before which it stops.
    stopped: Option<&'a Record>,
}

fn replay<'a>(
    records: &'a [Record],
    base: &BackupSummary,
    reach: Lsn,
    at: Timestamp,
) -> Replay<'a> {
    let mut replay = Replay {
        ends: Vec::new(),
        prepared: Vec::new(),
        stopped: None,
    };
    let there = |one: &&Record| one.start >= base.start_lsn && one.end <= reach;
    for record in records.iter().filter(there) {
        match record.kind {
            Kind::Commit | Kind::Abort if record.time > at => {
                replay.stopped = Some(record);
                break;
            }
            Kind::Commit | Kind::Abort => replay.ends.push(record),
            Kind::Prepare => replay.prepared.push(record),
            _ => {}
        }
    }
    replay
}

/// What the plan has recovery replay.
fn planned<'a>(records: &'a [Record], plan: &Plan) -> (Vec<&'a Record>, Vec<&'a Record>) {
    let through = match plan.stop {
        Stop::Lsn(lsn) => lsn,
        Stop::EndOfWal => Lsn(plan.end_lsn.0 - 1),
    };
    let within = |one: &&Record| one.start >= plan.backup.start_lsn && one.start <= through;
    let replayed = records.iter().filter(within);
    let ended = |one: &&&Record| matches!(one.kind, Kind::Commit | Kind::Abort);
    let prepared = |one: &&&Record| one.kind == Kind::Prepare;
    (
        replayed.clone().filter(|one| ended(&one)).collect(),
        replayed.filter(|one| prepared(&one)).collect(),
    )
}

proptest! {
    #[test]
    fn a_time_means_what_postgres_means(
        records in records(),
        bases in vec((0_usize..120, 0_usize..20, 0_i64..60), 1..4),
        hole in 0_u64..30,
        ends_in_interval in 1_usize..6,
        target in 0_i64..4_000,
        whole in any::<bool>(),
    ) {
        let last = records.last().unwrap();
        let latest = records.iter().map(|one| one.time).max().unwrap() + TimeDelta::seconds(60);
        let backups = bases.iter().enumerate().map(|(id, (from, length, later))| {
            let from = (*from).min(records.len() - 1);
            let to = (from + length).min(records.len() - 1);
            let ended = records[..=to].iter().map(|one| one.time).max().unwrap();
            // Backups may end while the clock is odd.
            let ended = ended + TimeDelta::seconds(later - 30);
            backup(id as u128, 1, records[from].start, records[to].end, ended.min(latest))
        });
        let gone = SegmentName::new(TimelineId(1), hole, SIZE);
        let world = World {
            archive: Archive {
                backups: backups.collect(),
                position: position(1, last.end, latest),
                objects: segments(1, 0..SIZE.segment_of(last.end) + 1)
                    .filter(|object| whole || object.kind != WalObjectKind::Segment(gone))
                    .collect(),
                ..Archive::default()
            },
            records,
            ends_in_interval,
        };
        let at = minute(0) + TimeDelta::seconds(target);
        let now = latest + TimeDelta::hours(1);
        let reach = |base: &BackupSummary| {
            let gap = gone.start(SIZE);
            let cut = !whole && gone.end(SIZE) > base.start_lsn && gap < last_end(&world);
            if cut { gap.max(base.start_lsn) } else { last_end(&world) }
        };
        match world.ask_at(&RestoreTarget::Time { at }, now) {
            Ok(plan) => {
                let base = &plan.backup;
                let expected = replay(&world.records, base, reach(base), at);
                let (ends, prepared) = planned(&world.records, &plan);
                prop_assert!(base.backed_up_at <= at && at <= latest);
                prop_assert!(base.stop_lsn <= plan.end_lsn && plan.end_lsn <= reach(base));
                prop_assert_eq!(names(&ends), names(&expected.ends));
                prop_assert_eq!(names(&prepared), names(&expected.prepared));
                if let Some(stopped) = expected.stopped {
                    prop_assert!(stopped.start >= base.stop_lsn);
                }
                let predicted = plan.prediction.unwrap();
                let noted = ends.iter().rev().find(|end| plan.stop != Stop::Lsn(end.start));
                prop_assert_eq!(predicted.last_noted, noted.map(|end| end.time));
                // In the base's files is what was committed before; it is told as far back as there is no hole.
                let hole = !whole && gone.start(SIZE) < base.start_lsn;
                let floor = if hole { gone.end(SIZE) } else { Lsn(0) };
                let through = match plan.stop {
                    Stop::Lsn(lsn) => lsn,
                    Stop::EndOfWal => Lsn(plan.end_lsn.0 - 1),
                };
                let held = |one: &&Record| {
                    one.kind == Kind::Commit && (floor..=through).contains(&one.start)
                };
                let commit = world.records.iter().rev().find(held);
                prop_assert_eq!(
                    predicted.last_commit.map(|commit| commit.xid),
                    commit.map(|commit| commit.xid)
                );
            }
            Err(refusal) => {
                prop_assert!(!refusal.hint.is_empty());
                // What is named instead can be asked for.
                let asked = now.min(at.max(latest));
                let named = world.learn(|known| plan::latest(&world.archive, known, asked, POLICY));
                if let Ok(Some(named)) = named {
                    let named = RestoreTarget::Time { at: named };
                    prop_assert!(world.ask_at(&named, asked).is_ok(), "{named:?}");
                }
                // No base would have done.
                for base in world.archive.backups.iter().filter(|_| at <= latest) {
                    if base.backed_up_at > at || reach(base) < base.stop_lsn {
                        continue;
                    }
                    let expected = replay(&world.records, base, reach(base), at);
                    let stops = expected.stopped.is_some_and(|one| one.start >= base.stop_lsn);
                    let never = expected.stopped.is_none() && reach(base) == last_end(&world);
                    prop_assert!(!stops && !never, "{refusal}, but {base:?} leads there");
                }
            }
        }
    }

    #[test]
    fn a_position_is_the_first_record_there(
        records in records(),
        base in (0_usize..60, 0_usize..20),
        ends_in_interval in 1_usize..6,
        target in 0_u64..0x1000_0000,
    ) {
        let from = base.0.min(records.len() - 1);
        let to = (from + base.1).min(records.len() - 1);
        let last = records.last().unwrap().end;
        let backups = vec![backup(1, 1, records[from].start, records[to].end, minute(0))];
        let world = World {
            archive: Archive {
                backups,
                position: position(1, last, minute(4_000)),
                objects: segments(1, 0..SIZE.segment_of(last) + 1).collect(),
                ..Archive::default()
            },
            records,
            ends_in_interval,
        };
        let target = Lsn(target % (last.0 + 0x10_0000));
        let stop = world.archive.backups[0].stop_lsn;
        match world.ask_at(&RestoreTarget::Lsn { lsn: target }, minute(5_000)) {
            Ok(plan) if target >= stop => {
                let first = world.records.iter().find(|one| one.start >= target);
                let record = first.or(world.records.last()).unwrap();
                let expected = if record.end > stop { Stop::Lsn(record.start) } else { Stop::EndOfWal };
                prop_assert_eq!(plan.stop, expected);
                prop_assert_eq!(plan.end_lsn, record.end.max(stop));
            }
            Ok(plan) => {
                prop_assert_eq!(plan.end_lsn, stop);
                let between = world.records.iter().filter(|one| one.start > target && one.start < stop);
                prop_assert!(between.clone().all(|one| one.kind == Kind::Other));
            }
            Err(_) => prop_assert!(target > last || target < stop),
        }
    }
}

fn last_end(world: &World) -> Lsn {
    world.records.last().unwrap().end
}

fn names(records: &[&Record]) -> Vec<u32> {
    records.iter().map(|record| record.xid).collect()
}

#[test]
fn the_places_of_the_story_are_in_their_segments() {
    assert_eq!(SIZE.segment_of(into(3)), 3);
}

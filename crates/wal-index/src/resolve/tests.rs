//! Searches against the plain rule, over transaction ends whose times are out of order.

use pg_format::{Lsn, PgTimestamp, WalSegmentSize};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::{Bounds, Resolved, Search, Step, Target};
use crate::model::{Commit, Ends, Interval, SegmentIndex, TransactionEnd};

const SEGMENT: u64 = 1 << 20;

/// Ends with gaps of 0 to 60 units of 8 bytes between records, times that go back and forth, few xids.
fn ends() -> impl Strategy<Value = Vec<TransactionEnd>> {
    let one = (0u64..60, 1u64..30, -3i64..5, 0u32..12, any::<bool>());
    vec(one, 0..60).prop_map(|steps| {
        let (mut at, mut clock) = (SEGMENT, 100);
        steps
            .into_iter()
            .map(|(gap, length, jump, xid, committed)| {
                let lsn = Lsn(at + gap * 8);
                let end = Lsn(lsn.0 + length * 8);
                at = end.0;
                clock += jump;
                let time = PgTimestamp(clock);
                TransactionEnd {
                    lsn,
                    end,
                    time,
                    xid,
                    committed,
                }
            })
            .collect()
    })
}

/// An index of them, cut at these positions.
fn index(ends: &[TransactionEnd], cuts: &[u64]) -> Vec<SegmentIndex> {
    let start = Lsn(SEGMENT);
    let mut borders: Vec<u64> = cuts.iter().map(|cut| SEGMENT + cut * 8).collect();
    borders.push(2 * SEGMENT);
    borders.sort_unstable();
    borders.dedup();
    let mut from = start;
    let intervals = borders.into_iter().filter_map(|border| {
        let to = Lsn(border);
        let within: Vec<_> = ends
            .iter()
            .filter(|end| end.lsn >= from && end.lsn < to)
            .collect();
        let interval = Interval {
            start: from,
            end: to,
            ends: summary(&within),
        };
        (std::mem::replace(&mut from, to) < to).then_some(interval)
    });
    vec![SegmentIndex {
        segment: WalSegmentSize::new(SEGMENT).unwrap().segment_of(start),
        start,
        end: Lsn(2 * SEGMENT),
        intervals: intervals.collect(),
        events: Vec::new(),
        open: Vec::new(),
        undecoded: 0,
    }]
}

fn summary(ends: &[&TransactionEnd]) -> Option<Ends> {
    let last = **ends.last()?;
    let unknown = ends.iter().any(|end| end.xid == 0);
    Some(Ends {
        count: ends.len() as u32,
        commits: ends.iter().filter(|end| end.committed).count() as u32,
        min_time: ends.iter().map(|end| end.time).min().unwrap(),
        max_time: ends.iter().map(|end| end.time).max().unwrap(),
        min_xid: ends.iter().map(|end| end.xid).min().unwrap(),
        max_xid: if unknown {
            u32::MAX
        } else {
            ends.iter().map(|end| end.xid).max().unwrap()
        },
        last,
        last_commit: ends.iter().rev().find_map(|end| end.commit()),
    })
}

/// What replay does, record by record.
fn oracle(ends: &[TransactionEnd], target: Target, bounds: Bounds) -> Step {
    let mut last = None;
    let mut last_commit: Option<Commit> = None;
    for end in ends {
        if end.lsn < bounds.from || end.end > bounds.to {
            continue;
        }
        let stops_before = match target {
            Target::Time(time) => end.time > time,
            Target::Before(lsn) => end.lsn >= lsn,
            Target::Through(lsn) => end.lsn > lsn,
            Target::Transaction(_) | Target::Latest => false,
        };
        if stops_before {
            return Step::Found(Resolved {
                last,
                last_commit,
                next: Some(*end),
            });
        }
        last = Some(*end);
        last_commit = end.commit().or(last_commit);
        if target == Target::Transaction(end.xid) {
            return Step::Found(Resolved {
                last,
                last_commit,
                next: None,
            });
        }
    }
    if matches!(target, Target::Transaction(_)) {
        return Step::NoSuchTransaction;
    }
    Step::Found(Resolved {
        last,
        last_commit,
        next: None,
    })
}

/// The answer, and how many intervals were read for it.
fn search(
    ends: &[TransactionEnd],
    index: &[SegmentIndex],
    target: Target,
    bounds: Bounds,
) -> (Step, u32) {
    let mut search = Search::new(target, bounds);
    let mut read = 0;
    loop {
        match search.step(index).unwrap() {
            Step::Read { start, end } => {
                read += 1;
                let within = ends
                    .iter()
                    .filter(|found| found.lsn >= start && found.lsn < end);
                search.supply(start, within.copied().collect());
            }
            step => return (step, read),
        }
    }
}

proptest! {
    #[test]
    fn the_answer_is_that_of_replay(
        ends in ends(),
        cuts in vec(0u64..3000, 0..20),
        times in vec(80i64..180, 1..6),
        positions in vec(0u64..3000, 1..6),
        xids in vec(1u32..13, 1..4),
        from in 0u64..2000,
        length in 0u64..3000,
    ) {
        let index = index(&ends, &cuts);
        let from = Lsn(SEGMENT + from * 8);
        let to = Lsn((from.0 + length * 8).min(2 * SEGMENT));
        let bounds = Bounds { from, to };
        let targets = times.into_iter().map(|time| Target::Time(PgTimestamp(time)))
            .chain(positions.iter().map(|at| Target::Before(Lsn(SEGMENT + at * 8))))
            .chain(positions.iter().map(|at| Target::Through(Lsn(SEGMENT + at * 8))))
            .chain(xids.into_iter().map(Target::Transaction))
            .chain([Target::Latest]);
        for target in targets {
            let (found, read) = search(&ends, &index, target, bounds);
            prop_assert_eq!(found, oracle(&ends, target, bounds), "{:?}", target);
            prop_assert!(read <= 3 || matches!(target, Target::Transaction(_)));
        }
    }
}

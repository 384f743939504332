//! Commits over time, from the intervals alone.
//!
//! The last commit of an interval is counted at its own time, the others at the earliest time in it. An interval is
//! closed at the first transaction end that makes it span a minute, or 512 KiB: so all are counted within a minute of
//! when they were, and at most that much too early (as far as times do not run backwards).

use std::collections::BTreeMap;

use pg_format::PgTimestamp;

use crate::model::Interval;

/// How many buckets there may be.
const MOST: i64 = 200;
/// What is easy to read, in seconds.
const WIDTHS: [i64; 9] = [1, 5, 15, 60, 300, 900, 3600, 21_600, 86_400];
const MICROS: i64 = 1_000_000;

/// Commits over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// How wide they are, in seconds.
    pub width_seconds: u64,
    /// The earliest first, without the empty ones.
    pub buckets: Vec<Bucket>,
}

/// Commits in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// When it begins: a multiple of the width, in Unix time.
    pub start: PgTimestamp,
    /// Commits in it.
    pub commits: u64,
}

/// Counts the commits from `from` to `to`, where given, both included; at most about 200 buckets.
#[must_use]
pub fn buckets<'a>(
    intervals: impl IntoIterator<Item = &'a Interval>,
    from: Option<PgTimestamp>,
    to: Option<PgTimestamp>,
) -> Buckets {
    let mut counted: Vec<(i64, u64)> = Vec::new();
    let wanted =
        |time: PgTimestamp| from.is_none_or(|from| time >= from) && to.is_none_or(|to| time <= to);
    for ends in intervals
        .into_iter()
        .filter_map(|interval| interval.ends.as_ref())
    {
        let Some(last) = ends.last_commit else {
            continue;
        };
        let others = u64::from(ends.commits.saturating_sub(1));
        for (time, commits) in [(ends.min_time, others), (last.time, 1)] {
            if commits > 0 && wanted(time) {
                counted.push((time.to_unix_micros(), commits));
            }
        }
    }
    let times = || counted.iter().map(|(time, _)| *time);
    let (first, last) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let width = width(last.saturating_sub(first) / MICROS);
    let mut buckets: BTreeMap<i64, u64> = BTreeMap::new();
    for (time, commits) in counted {
        let start = time - time.rem_euclid(width * MICROS);
        let count = buckets.entry(start).or_default();
        *count = count.saturating_add(commits);
    }
    Buckets {
        width_seconds: width.unsigned_abs(),
        buckets: buckets
            .into_iter()
            .map(|(start, commits)| Bucket {
                start: PgTimestamp::from_unix_micros(start),
                commits,
            })
            .collect(),
    }
}

/// The narrowest width, in seconds, of which few enough cover so many seconds.
fn width(seconds: i64) -> i64 {
    const DAY: i64 = 86_400;
    WIDTHS
        .into_iter()
        .find(|width| seconds / width < MOST)
        // A clock may run wild: any span gets few enough.
        .unwrap_or_else(|| DAY * (seconds / DAY / MOST + 1))
}

#[cfg(test)]
mod tests {
    use pg_format::Lsn;
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::model::{Ends, TransactionEnd};

    fn interval(min: i64, commits: u32, last: i64) -> Interval {
        let end = TransactionEnd {
            lsn: Lsn(8),
            end: Lsn(16),
            time: PgTimestamp::from_unix_micros(last),
            xid: 3,
            committed: commits > 0,
        };
        Interval {
            start: Lsn(0),
            end: Lsn(16),
            ends: Some(Ends {
                count: commits.max(1),
                commits,
                min_time: PgTimestamp::from_unix_micros(min),
                max_time: end.time,
                min_xid: 3,
                max_xid: 3,
                last: end,
                last_commit: end.commit(),
            }),
        }
    }

    #[test]
    fn the_width_fits_the_span() {
        let check = |seconds, expected| assert_eq!(width(seconds), expected, "{seconds}");
        check(0, 1);
        check(199, 1);
        check(200, 5);
        check(86_400, 900);
        check(30 * 86_400, 21_600);
        check(200 * 86_400, 2 * 86_400);
    }

    #[test]
    fn an_idle_hour_does_not_move_the_last_commit() {
        let second = |second: i64| second * MICROS;
        let found = buckets(&[interval(second(10), 3, second(3610))], None, None);
        let counts: Vec<_> = found
            .buckets
            .iter()
            .map(|b| (b.start.to_unix_micros(), b.commits))
            .collect();
        assert_eq!(found.width_seconds, 60);
        assert_eq!(counts, [(second(0), 2), (second(3600), 1)]);
    }

    proptest! {
        #[test]
        fn every_commit_is_counted_once(intervals in vec((-1_000_000i64..1_000_000_000_000, 0u32..50, 0i64..1_000_000_000), 0..50)) {
            let intervals: Vec<_> = intervals.into_iter()
                .map(|(min, commits, span)| interval(min, commits, min + span)).collect();
            let all: u64 = intervals.iter().map(|i| u64::from(i.ends.as_ref().unwrap().commits)).sum();
            let found = buckets(&intervals, None, None);
            prop_assert_eq!(found.buckets.iter().map(|bucket| bucket.commits).sum::<u64>(), all);
            prop_assert!(found.buckets.len() <= 201);
        }
    }
}

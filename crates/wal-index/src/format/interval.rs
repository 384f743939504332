//! Intervals and transaction ends, stored as differences.

use pg_format::{Lsn, PgTimestamp};
use serde::{Deserialize, Serialize};

use crate::model::{Commit, Ends, Interval, TransactionEnd};

/// An interval: it begins where the one before ends, and its times are told from the latest before.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredInterval {
    #[serde(rename = "b")]
    bytes: u64,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    ends: Option<StoredEnds>,
}

#[derive(Serialize, Deserialize)]
struct StoredEnds {
    /// Ends, then those that are not commits.
    #[serde(rename = "n")]
    counts: (u32, u32),
    /// Earliest time, from the latest of the interval before; latest time, from the earliest.
    #[serde(rename = "t")]
    times: (i64, i64),
    #[serde(rename = "x")]
    xids: (u32, u32),
    /// Told from the interval's start and latest time.
    #[serde(rename = "l")]
    last: StoredEnd,
    /// Left out if the last end is it, or there is none.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    last_commit: Option<(u64, i64, u32)>,
}

/// Position and time from where the container says, bytes, xid, and whether it committed.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct StoredEnd(u64, i64, u64, u32, u8);

impl StoredEnd {
    pub(super) fn of(end: &TransactionEnd, start: Lsn, time: i64) -> Self {
        StoredEnd(
            end.lsn.0.wrapping_sub(start.0),
            end.time.0.wrapping_sub(time),
            end.end.bytes_since(end.lsn),
            end.xid,
            u8::from(end.committed),
        )
    }

    pub(super) fn into_end(self, start: Lsn, time: i64) -> TransactionEnd {
        let lsn = Lsn(start.0.wrapping_add(self.0));
        TransactionEnd {
            lsn,
            end: lsn.saturating_add(self.2),
            time: PgTimestamp(time.wrapping_add(self.1)),
            xid: self.3,
            committed: self.4 != 0,
        }
    }
}

impl StoredInterval {
    pub(super) fn of(interval: &Interval, from: &mut i64) -> Self {
        StoredInterval {
            bytes: interval.end.bytes_since(interval.start),
            ends: interval
                .ends
                .as_ref()
                .map(|ends| StoredEnds::of(ends, interval.start, from)),
        }
    }

    pub(super) fn into_interval(self, position: &mut Lsn, from: &mut i64) -> Interval {
        let start = *position;
        *position = start.saturating_add(self.bytes);
        Interval {
            start,
            end: *position,
            ends: self.ends.map(|ends| ends.into_ends(start, from)),
        }
    }
}

impl StoredEnds {
    fn of(ends: &Ends, start: Lsn, from: &mut i64) -> Self {
        let (min, max) = (ends.min_time.0, ends.max_time.0);
        let first = min.wrapping_sub(*from);
        *from = max;
        let last_commit = ends
            .last_commit
            .filter(|commit| Some(*commit) != ends.last.commit())
            .map(|commit| {
                let time = commit.time.0.wrapping_sub(max);
                (commit.lsn.0.wrapping_sub(start.0), time, commit.xid)
            });
        StoredEnds {
            counts: (ends.count, ends.count.saturating_sub(ends.commits)),
            times: (first, max.wrapping_sub(min)),
            xids: (ends.min_xid, ends.max_xid.wrapping_sub(ends.min_xid)),
            last: StoredEnd::of(&ends.last, start, max),
            last_commit,
        }
    }

    fn into_ends(self, start: Lsn, from: &mut i64) -> Ends {
        let min = from.wrapping_add(self.times.0);
        let max = min.wrapping_add(self.times.1);
        *from = max;
        let last = self.last.into_end(start, max);
        let last_commit = self.last_commit.map(|(lsn, time, xid)| Commit {
            lsn: Lsn(start.0.wrapping_add(lsn)),
            time: PgTimestamp(max.wrapping_add(time)),
            xid,
        });
        Ends {
            count: self.counts.0,
            commits: self.counts.0.saturating_sub(self.counts.1),
            min_time: PgTimestamp(min),
            max_time: PgTimestamp(max),
            min_xid: self.xids.0,
            max_xid: self.xids.0.wrapping_add(self.xids.1),
            last,
            last_commit: last_commit.or_else(|| last.commit()),
        }
    }
}

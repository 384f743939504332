//! When an interval is closed, and what it says.

use pg_format::{Lsn, PgTimestamp};

use crate::model::{Ends, Interval, TransactionEnd};

/// Closed at the next transaction end when it is as long as this: reading the WAL of one is quick.
const BYTES: u64 = 512 << 10;
/// Closed earlier, once it has this much and spans a second, so that a slow stretch is told second by second.
const SLOW_BYTES: u64 = 16 << 10;
const SLOW_MICROS: i64 = 1_000_000;
/// Closed however short it is.
const LONG_MICROS: i64 = 60_000_000;

/// The interval that is not closed.
#[derive(Clone, Debug)]
pub(super) struct IntervalBuilder {
    start: Lsn,
    ends: Option<Ends>,
}

impl IntervalBuilder {
    pub(super) fn new(start: Lsn) -> Self {
        IntervalBuilder { start, ends: None }
    }

    pub(super) fn start(&self) -> Lsn {
        self.start
    }

    pub(super) fn ends(&self) -> Option<&Ends> {
        self.ends.as_ref()
    }

    pub(super) fn add(&mut self, end: TransactionEnd) {
        let (min_xid, max_xid) = match end.xid {
            0 => (0, u32::MAX),
            xid => (xid, xid),
        };
        let ends = self.ends.get_or_insert(Ends {
            count: 0,
            commits: 0,
            min_time: end.time,
            max_time: end.time,
            min_xid,
            max_xid,
            last: end,
            last_commit: None,
        });
        ends.count = ends.count.saturating_add(1);
        ends.commits = ends.commits.saturating_add(u32::from(end.committed));
        ends.min_time = ends.min_time.min(end.time);
        ends.max_time = ends.max_time.max(end.time);
        ends.min_xid = ends.min_xid.min(min_xid);
        ends.max_xid = ends.max_xid.max(max_xid);
        ends.last = end;
        ends.last_commit = end.commit().or(ends.last_commit);
    }

    /// Whether to close it at `end`, where a transaction end has just ended.
    pub(super) fn is_full(&self, end: Lsn) -> bool {
        let bytes = end.bytes_since(self.start);
        let micros = self.ends.as_ref().map_or(0, |ends| {
            let (PgTimestamp(max), PgTimestamp(min)) = (ends.max_time, ends.min_time);
            max.saturating_sub(min)
        });
        bytes >= BYTES || micros >= LONG_MICROS || (bytes >= SLOW_BYTES && micros >= SLOW_MICROS)
    }

    /// Ends it at `end`, and begins the next one there.
    pub(super) fn close(&mut self, end: Lsn, intervals: &mut Vec<Interval>) {
        let closed = std::mem::replace(self, IntervalBuilder::new(end));
        if closed.start < end {
            intervals.push(Interval {
                start: closed.start,
                end,
                ends: closed.ends,
            });
        }
    }
}

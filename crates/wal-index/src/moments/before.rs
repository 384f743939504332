//! Where to stop to come out just before something, without reading WAL.

use pg_format::{Lsn, PgTimestamp};

use crate::model::{Interval, SegmentIndex, TransactionEnd, TransactionEvent};

/// Where to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// The last transaction end before it.
    pub last: TransactionEnd,
    /// This time, as a target, leads to the same: no transaction end before it, as far back as the index that was
    /// asked goes, is later.
    pub time: Option<PgTimestamp>,
}

/// The transaction ends before a position.
#[derive(Debug, Default)]
pub(super) struct EndsBefore {
    last: Option<TransactionEnd>,
    latest: Option<PgTimestamp>,
    /// Up to where intervals have been passed.
    passed: Lsn,
}

impl EndsBefore {
    /// Passes the intervals that end at or before `lsn`.
    pub(super) fn pass_until(&mut self, segment: &SegmentIndex, lsn: Lsn) {
        let from = segment
            .intervals
            .partition_point(|interval| interval.start < self.passed);
        for interval in segment.intervals.iter().skip(from) {
            if interval.end > lsn {
                break;
            }
            self.pass(interval);
        }
        // Also before its first interval is passed, a segment may not follow the one before.
        if self.passed < segment.start {
            *self = EndsBefore::default();
        }
    }

    /// Passes the rest of a segment.
    pub(super) fn pass_segment(&mut self, segment: &SegmentIndex) {
        self.pass_until(segment, segment.end);
    }

    fn pass(&mut self, interval: &Interval) {
        if interval.start != self.passed {
            // A hole: nothing is replayed across it.
            *self = EndsBefore::default();
        }
        self.passed = interval.end;
        if let Some(ends) = &interval.ends {
            self.last = Some(ends.last);
            self.latest = self.latest.max(Some(ends.max_time));
        }
    }

    /// Where to stop so that nothing from `before` on is replayed, which is the event's commit record or an earlier
    /// record of the transaction. `None` if that is not known, or there is no transaction end before.
    pub(super) fn before(&self, event: &TransactionEvent, before: Lsn) -> Option<Before> {
        let last = event.previous.or(self.last)?;
        if last.lsn >= before {
            return None;
        }
        let latest = self.latest.max(event.latest_before)?;
        // Just before the commit's time; the first transaction end that is later must be the commit.
        let target = PgTimestamp(event.commit.time.0.saturating_sub(1));
        Some(Before {
            last,
            time: (latest <= target).then_some(target),
        })
    }
}

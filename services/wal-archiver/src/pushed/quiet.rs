//! How far the archive must go to be complete at a moment: pure.
//!
//! Segments are pushed when they are full. A database that rests may have its last records, of the background writer
//! and checkpoints, in an open segment for ever; forcing it out each time would fill the archive with empty segments,
//! each forced switch being WAL itself. But a commit has an xid, and the end of a snapshot (`xmax`) is the one behind
//! the last that has ended. So while that stays, nothing has ended since a moment at which everything before it had;
//! and while no transaction with an xid is open either, none is about to. Then what was needed at that moment is enough.

use pg_format::{Lsn, WalSegmentSize};

use super::server::Observation;

/// A segment begins with a page header of so many bytes (`SizeOfXLogLongPHD`); an insert position behind it alone
/// says that the segment is empty.
const FIRST_PAGE_HEADER_BYTES: u64 = 40;

/// The earliest observation since which nothing can have been committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    size: WalSegmentSize,
    since: Option<(u64, Lsn)>,
}

impl Quiet {
    pub(super) fn new(size: WalSegmentSize) -> Self {
        Quiet { size, since: None }
    }

    /// Everything that was committed by the observation's clock lies before this.
    pub(super) fn needed(&mut self, seen: &Observation) -> Lsn {
        let end = match self.size.offset_in_segment(seen.lsn) {
            0..=FIRST_PAGE_HEADER_BYTES => self.size.floor(seen.lsn),
            _ => seen.lsn,
        };
        match self.since {
            Some((xmax, lsn)) if xmax == seen.xmax => match seen.open {
                true => end,
                false => lsn.min(end),
            },
            _ => {
                let resting = seen.xmin == seen.xmax;
                self.since = resting.then_some((seen.xmax, end));
                end
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pg_format::{PgTimestamp, TimelineId};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[track_caller]
    fn check(quiet: &mut Quiet, xids: (u64, u64, bool), lsn: u64, needed: u64) {
        let seen = Observation {
            clock: PgTimestamp(0),
            timeline: TimelineId(1),
            standby: false,
            xmin: xids.0,
            xmax: xids.1,
            open: xids.2,
            lsn: Lsn(lsn),
        };
        assert_eq!(quiet.needed(&seen), Lsn(needed));
    }

    #[test]
    fn records_without_transactions_need_not_be_archived() {
        let mut quiet = Quiet::new(WalSegmentSize::new(MIB).unwrap());
        check(&mut quiet, (700, 700, false), 3 * MIB + 40, 3 * MIB);
        check(&mut quiet, (700, 700, false), 3 * MIB + 156, 3 * MIB);
        check(&mut quiet, (700, 700, false), 4 * MIB + 9_000, 3 * MIB);
        check(
            &mut quiet,
            (701, 701, false),
            4 * MIB + 9_500,
            4 * MIB + 9_500,
        );
        check(
            &mut quiet,
            (701, 701, false),
            4 * MIB + 9_700,
            4 * MIB + 9_500,
        );
    }

    #[test]
    fn a_transaction_that_was_open_may_have_ended_since() {
        let mut quiet = Quiet::new(WalSegmentSize::new(MIB).unwrap());
        check(&mut quiet, (699, 700, false), 3 * MIB + 100, 3 * MIB + 100);
        check(&mut quiet, (700, 700, false), 3 * MIB + 200, 3 * MIB + 200);
        check(&mut quiet, (700, 700, false), 3 * MIB + 300, 3 * MIB + 200);
        // One that is about to commit may have taken its time already.
        check(&mut quiet, (700, 700, true), 3 * MIB + 400, 3 * MIB + 400);
        // It is not there any more, and has not ended: it had no xid.
        check(&mut quiet, (700, 700, false), 3 * MIB + 500, 3 * MIB + 200);
        check(&mut quiet, (700, 702, true), 3 * MIB + 600, 3 * MIB + 600);
        check(&mut quiet, (702, 702, false), 3 * MIB + 700, 3 * MIB + 700);
    }
}

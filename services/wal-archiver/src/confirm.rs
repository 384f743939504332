//! What may be confirmed to the server: a pure account of what is stored, in order.
//!
//! The flush position moves the slot, and the server removes whole segments behind it. A `.partial` is
//! replaced and its segment is streamed again after a restart, so a confirmation that rests on one
//! stays inside its segment: only the complete object lets the server have the segment. The position stays
//! there too, for a restart begins with the segment that the position lies in.
//!
//! What is durable stays durable, so no end here ever goes back.

use std::collections::VecDeque;

use pg_format::{Lsn, SegmentNumber, WalSegmentSize};

/// What of one timeline is stored.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    size: WalSegmentSize,
    /// Every segment below is stored; always the beginning of a segment.
    complete_end: Lsn,
    /// Complete segments from `complete_end` on, in order, and whether each is stored.
    uploading: VecDeque<bool>,
    /// How far the newest `.partial` of each place goes.
    partial_end: Lsn,
    /// The farthest that was ever stored without a gap.
    durable_end: Lsn,
}

impl Ledger {
    /// Everything before `start`, the beginning of a segment, is stored.
    #[must_use]
    pub(crate) fn new(size: WalSegmentSize, start: Lsn) -> Self {
        Ledger {
            size,
            complete_end: start,
            uploading: VecDeque::new(),
            partial_end: start,
            durable_end: start,
        }
    }

    /// The next segment is complete and its upload begins.
    pub(crate) fn segment_begun(&mut self) {
        self.uploading.push_back(false);
    }

    /// A segment is stored; true if the end of the unbroken chain moved by it.
    pub(crate) fn segment_stored(&mut self, number: SegmentNumber) -> bool {
        let first = self.size.segment_of(self.complete_end);
        let index = number
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(stored) = index.and_then(|index| self.uploading.get_mut(index)) {
            *stored = true;
        }
        let before = self.complete_end;
        while self.uploading.front() == Some(&true) {
            let _ = self.uploading.pop_front();
            self.complete_end = self.complete_end.saturating_add(self.size.bytes());
        }
        self.note_durable();
        before != self.complete_end
    }

    /// The open segment is stored up to `end`.
    pub(crate) fn partial_stored(&mut self, end: Lsn) {
        self.partial_end = self.partial_end.max(end);
        self.note_durable();
    }

    /// Complete segments that are not stored yet.
    #[must_use]
    pub(crate) fn uploading(&self) -> usize {
        self.uploading.iter().filter(|stored| !**stored).count()
    }

    /// Every segment before this is stored.
    #[must_use]
    pub(crate) fn complete_end(&self) -> Lsn {
        self.complete_end
    }

    /// Stored without a gap up to here, `.partial` included; what the server may be told.
    #[must_use]
    pub(crate) fn durable_end(&self) -> Lsn {
        self.durable_end
    }

    fn note_durable(&mut self) {
        let segment_end = self.complete_end.saturating_add(self.size.bytes());
        let last_inside = self.complete_end.saturating_add(self.size.bytes() - 1);
        let end = if self.partial_end <= segment_end {
            self.partial_end.min(last_inside).max(self.complete_end)
        } else {
            // It belongs to a later segment, and one between is still on its way.
            self.complete_end
        };
        self.durable_end = self.durable_end.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;
    use pg_format::{Lsn, WalSegmentSize};

    const MIB: u64 = 1 << 20;

    fn ledger() -> Ledger {
        Ledger::new(WalSegmentSize::new(MIB).unwrap(), Lsn(3 * MIB))
    }

    #[track_caller]
    fn check(ledger: &Ledger, durable: u64, uploading: usize) {
        let found = (ledger.durable_end(), ledger.uploading());
        assert_eq!(found, (Lsn(durable), uploading));
    }

    #[test]
    fn segments_are_confirmed_in_order() {
        let mut ledger = ledger();
        ledger.segment_begun();
        ledger.segment_begun();
        assert!(!ledger.segment_stored(4));
        check(&ledger, 3 * MIB, 1);
        assert!(ledger.segment_stored(3));
        check(&ledger, 5 * MIB, 0);
        assert!(!ledger.segment_stored(3), "twice is once");
        check(&ledger, 5 * MIB, 0);
    }

    #[test]
    fn even_a_full_partial_counts_inside_its_segment_only() {
        let mut ledger = ledger();
        ledger.partial_stored(Lsn(3 * MIB + 5));
        check(&ledger, 3 * MIB + 5, 0);
        ledger.partial_stored(Lsn(4 * MIB));
        check(&ledger, 4 * MIB - 1, 0);
        ledger.segment_begun();
        assert!(ledger.segment_stored(3));
        check(&ledger, 4 * MIB, 0);
    }

    #[test]
    fn a_partial_beyond_a_segment_on_its_way_counts_for_nothing_yet() {
        let mut ledger = ledger();
        ledger.segment_begun();
        ledger.partial_stored(Lsn(4 * MIB + 9));
        check(&ledger, 3 * MIB, 1);
        assert!(ledger.segment_stored(3));
        check(&ledger, 4 * MIB + 9, 0);
    }

    #[test]
    fn a_partial_of_the_next_segment_does_not_take_back_what_was_stored_of_this_one() {
        let mut ledger = ledger();
        ledger.partial_stored(Lsn(3 * MIB + 5));
        ledger.segment_begun();
        ledger.partial_stored(Lsn(4 * MIB + 9));
        check(&ledger, 3 * MIB + 5, 1);
        assert!(ledger.segment_stored(3));
        check(&ledger, 4 * MIB + 9, 0);
    }
}

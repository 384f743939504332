//! The unbroken chain of pushed segments along the server's history: pure.
//!
//! What must stay true: its end never goes beyond a segment that is not in the listing, and where a timeline was left
//! inside a segment, that segment is the newer timeline's.

use std::collections::{BTreeMap, BTreeSet};

use pg_format::{Lsn, SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{WalObject, WalObjectKind};

use crate::start_point::archived_under;

/// What is archived, and how far without a gap.
#[derive(Debug)]
pub(super) struct Chain {
    history: TimelineHistory,
    size: WalSegmentSize,
    archived: BTreeSet<SegmentName>,
    partials: BTreeSet<SegmentName>,
    bytes: BTreeMap<SegmentName, u64>,
    timeline: TimelineId,
    /// The first segment that is not there.
    next: SegmentNumber,
    begun: bool,
}

/// What a look at the chain found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) segments: u64,
    pub(super) stored_bytes: u64,
    /// Timelines that were left on the way, with where the next one begins.
    pub(super) switches: Vec<(TimelineId, Lsn)>,
}

impl Chain {
    pub(super) fn new(history: TimelineHistory, size: WalSegmentSize) -> Self {
        Chain {
            timeline: history.timeline(),
            history,
            size,
            archived: BTreeSet::new(),
            partials: BTreeSet::new(),
            bytes: BTreeMap::new(),
            next: 0,
            begun: false,
        }
    }

    /// The store lists these.
    pub(super) fn see(&mut self, objects: &[WalObject]) {
        for object in objects {
            match object.kind {
                WalObjectKind::Segment(name) => {
                    let new = self.archived.insert(name);
                    if new {
                        let _ = self.bytes.insert(name, object.stored_bytes);
                    }
                }
                WalObjectKind::Partial(name) => {
                    let _ = self.partials.insert(name);
                }
                WalObjectKind::History => {}
            }
        }
    }

    /// It is there, though no listing said so.
    pub(super) fn found(&mut self, name: SegmentName) {
        let _ = self.archived.insert(name);
    }

    /// Everything before `lsn`, the beginning of a segment, is there.
    pub(super) fn begin(&mut self, lsn: Lsn, timeline: TimelineId) {
        self.next = self.size.segment_of(lsn);
        self.timeline = timeline;
        self.begun = true;
        self.bytes.clear();
    }

    /// Goes as far as there are segments.
    pub(super) fn advance(&mut self) -> Steps {
        let mut steps = Steps::default();
        while self.archived.contains(&self.name(self.next)) {
            let stored = self.bytes.remove(&self.name(self.next));
            steps.stored_bytes += stored.unwrap_or_default();
            steps.segments += 1;
            self.next += 1;
        }
        let end = self.end();
        let path = self.history.path();
        for range in path.iter().filter(|range| range.timeline > self.timeline) {
            if range.start < end {
                steps.switches.push((range.timeline, range.start));
            }
        }
        if let Some((timeline, _)) = steps.switches.last() {
            self.timeline = *timeline;
        }
        steps
    }

    /// The segment that is missing, and the first one that is there behind it.
    pub(super) fn next_beyond(&self) -> Option<(SegmentName, SegmentName)> {
        let on_the_way = |name: &&SegmentName| {
            let number = name.number(self.size);
            number > self.next && **name == self.name(number)
        };
        let beyond = self.archived.iter().filter(on_the_way);
        let beyond = beyond.min_by_key(|name| name.number(self.size))?;
        Some((self.name(self.next), *beyond))
    }

    /// Everything before this is there.
    pub(super) fn end(&self) -> Lsn {
        self.size.start_of(self.next)
    }

    /// The number of the first segment that is not there.
    pub(super) fn next(&self) -> SegmentNumber {
        self.next
    }

    pub(super) fn timeline(&self) -> TimelineId {
        self.timeline
    }

    pub(super) fn history(&self) -> &TimelineHistory {
        &self.history
    }

    pub(super) fn archived(&self) -> &BTreeSet<SegmentName> {
        &self.archived
    }

    pub(super) fn partials(&self) -> &BTreeSet<SegmentName> {
        &self.partials
    }

    /// The last segment of the chain, behind which the listing has something new.
    pub(super) fn last(&self) -> Option<SegmentName> {
        let last = self.next.checked_sub(1).filter(|_| self.begun)?;
        Some(self.name(last))
    }

    /// What lies before is of no use any more.
    pub(super) fn forget_before(&mut self, number: SegmentNumber) {
        let size = self.size;
        self.archived.retain(|name| name.number(size) >= number);
        self.partials.retain(|name| name.number(size) >= number);
    }

    fn name(&self, number: SegmentNumber) -> SegmentName {
        let timeline = archived_under(&self.history, number, self.size);
        SegmentName::new(timeline, number, self.size)
    }
}

#[cfg(test)]
mod tests {
    use events::Timestamp;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(MIB).unwrap()
    }

    fn segment(timeline: u32, number: u64) -> SegmentName {
        SegmentName::new(TimelineId(timeline), number, size())
    }

    fn objects(names: &[(u32, u64)]) -> Vec<WalObject> {
        let object = |(timeline, number): &(u32, u64)| WalObject {
            timeline: TimelineId(*timeline),
            kind: WalObjectKind::Segment(segment(*timeline, *number)),
            stored_bytes: 10,
            last_modified: Timestamp::UNIX_EPOCH,
        };
        names.iter().map(object).collect()
    }

    /// Timeline 2 left timeline 1 in the middle of segment 5.
    fn promoted() -> TimelineHistory {
        let switch = Lsn(5 * MIB + MIB / 2);
        TimelineHistory::root(TimelineId(1))
            .fork(TimelineId(2), switch, "test")
            .unwrap()
    }

    fn chain(history: TimelineHistory, at: u64) -> Chain {
        let mut chain = Chain::new(history, size());
        chain.begin(Lsn(at * MIB), TimelineId(1));
        chain
    }

    #[test]
    fn it_goes_as_far_as_nothing_is_missing() {
        let mut chain = chain(TimelineHistory::root(TimelineId(1)), 3);
        assert_eq!(chain.advance(), Steps::default());
        chain.see(&objects(&[(1, 3), (1, 4), (1, 6), (1, 8)]));
        let steps = chain.advance();
        assert_eq!((steps.segments, steps.stored_bytes), (2, 20));
        assert_eq!(chain.end(), Lsn(5 * MIB));
        assert_eq!(chain.last(), Some(segment(1, 4)));
        assert_eq!(chain.next_beyond(), Some((segment(1, 5), segment(1, 6))));
        chain.see(&objects(&[(1, 5), (1, 6)]));
        assert_eq!(chain.advance().segments, 2, "the one that was waited for");
        assert_eq!(chain.next_beyond(), Some((segment(1, 7), segment(1, 8))));
    }

    #[test]
    fn a_shared_segment_is_the_newer_timelines() {
        let mut chain = chain(promoted(), 4);
        // The old primary went on for a while.
        chain.see(&objects(&[(1, 4), (1, 5), (1, 6)]));
        assert_eq!(chain.advance().switches, []);
        assert_eq!(
            (chain.end(), chain.timeline()),
            (Lsn(5 * MIB), TimelineId(1))
        );
        assert_eq!(
            chain.next_beyond(),
            None,
            "what it wrote alone is no part of it"
        );
        chain.see(&objects(&[(2, 5), (2, 6)]));
        let steps = chain.advance();
        let switch = Lsn(5 * MIB + MIB / 2);
        assert_eq!(steps.switches, [(TimelineId(2), switch)]);
        assert_eq!(
            (chain.end(), chain.timeline()),
            (Lsn(7 * MIB), TimelineId(2))
        );
        assert_eq!(chain.advance(), Steps::default());
    }
}

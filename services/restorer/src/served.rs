//! Which WAL files a recovery may be given, and how far into the last one. Pure.
//!
//! What must stay true: no byte at or after [`ServedWal::end`] is ever given, and no file of a timeline that
//! is not on the pinned path. Every other name is answered "absent", because the plan knows that it is.

use pg_format::{Lsn, SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};

/// The WAL of one plan, by file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedWal {
    history: TimelineHistory,
    size: WalSegmentSize,
    start: Lsn,
    end: Lsn,
}

/// What a file that recovery asks for is to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A segment it may have.
    Segment(SegmentName),
    /// The history of a timeline on the path.
    History(TimelineId),
    /// Known not to be part of this restore.
    Absent,
}

impl ServedWal {
    /// WAL from the segment that holds `start` up to but without `end`, along `history`.
    #[must_use]
    pub fn new(history: TimelineHistory, size: WalSegmentSize, start: Lsn, end: Lsn) -> Self {
        ServedWal {
            history,
            size,
            start,
            end,
        }
    }

    /// Nothing from here on is served.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Where replay begins.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// The segment size.
    #[must_use]
    pub fn size(&self) -> WalSegmentSize {
        self.size
    }

    /// The path.
    #[must_use]
    pub fn history(&self) -> &TimelineHistory {
        &self.history
    }

    /// Number of the first segment.
    #[must_use]
    pub fn first(&self) -> SegmentNumber {
        self.size.segment_of(self.start)
    }

    /// Number of the last segment; below [`Self::first`] when there is nothing to serve.
    #[must_use]
    pub fn last(&self) -> SegmentNumber {
        self.size.segment_ending_at(self.end)
    }

    /// The files that can hold place `number`, in the order in which recovery asks for them: the newest
    /// timeline of the path that has begun by then, and older ones that hold every byte that is wanted there
    /// (`XLogFileReadAnyTLI`, PostgreSQL `src/backend/access/transam/xlogrecovery.c`). Empty outside the plan.
    #[must_use]
    pub fn segments(&self, number: SegmentNumber) -> Vec<SegmentName> {
        if number < self.first() || number > self.last() || self.end <= self.start {
            return Vec::new();
        }
        let wanted = self.end.min(self.size.start_of(number + 1));
        let path = self.history.path();
        path.iter()
            .rev()
            .filter(|range| self.size.segment_of(range.start) <= number)
            .filter(|range| range.end.is_none_or(|end| end >= wanted))
            .map(|range| SegmentName::new(range.timeline, number, self.size))
            .collect()
    }

    /// What the file of this name is to the plan.
    #[must_use]
    pub fn wanted(&self, file: &str) -> Wanted {
        if let Some(timeline) = file.strip_suffix(".history") {
            return match TimelineId::from_hex(timeline) {
                // Timeline 1 has no history file.
                Ok(timeline) if timeline.0 > 1 && self.history.contains(timeline) => {
                    Wanted::History(timeline)
                }
                _ => Wanted::Absent,
            };
        }
        match SegmentName::parse(file, self.size) {
            Ok(name) if self.segments(name.number(self.size)).contains(&name) => {
                Wanted::Segment(name)
            }
            _ => Wanted::Absent,
        }
    }

    /// How many bytes of this segment may be given; the rest is zeros.
    #[must_use]
    pub fn valid_bytes(&self, name: SegmentName) -> u64 {
        self.end
            .bytes_since(name.start(self.size))
            .min(self.size.bytes())
    }
}

#[cfg(test)]
mod tests {
    use pg_format::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};
    use proptest::prelude::{prop_assert, proptest};

    use super::{ServedWal, Wanted};

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    /// Timeline 2 begins inside segment 5; served from segment 3 up to a little into segment 6.
    fn served() -> ServedWal {
        let text = format!(
            "1\t{}\tno recovery target specified\n",
            Lsn(5 * SIZE.bytes() + 100)
        );
        let history = TimelineHistory::parse(TimelineId(2), &text).unwrap();
        let (start, end) = (Lsn(3 * SIZE.bytes() + 40), Lsn(6 * SIZE.bytes() + 10));
        ServedWal::new(history, SIZE, start, end)
    }

    #[test]
    fn only_what_is_on_the_path_and_before_the_end() {
        let served = served();
        let check = |file: &str, there: bool| {
            assert_eq!(served.wanted(file) != Wanted::Absent, there, "{file}");
        };
        check("000000010000000000000003", true);
        check("000000010000000000000004", true);
        check("000000020000000000000005", true);
        check("000000020000000000000006", true);
        check("000000010000000000000002", false);
        check("000000010000000000000005", false);
        check("000000020000000000000007", false);
        check("000000030000000000000005", false);
        check("00000002.history", true);
        check("00000001.history", false);
        check("00000003.history", false);
        check("000000010000000000000003.partial", false);
        check("../data/PG_VERSION", false);
        assert_eq!(served.valid_bytes(served.segments(6)[0]), 10);
        assert_eq!(served.valid_bytes(served.segments(5)[0]), SIZE.bytes());
    }

    #[test]
    fn before_a_switch_the_older_timelines_segment_will_do() {
        let end = Lsn(5 * SIZE.bytes() + 50);
        let served = ServedWal::new(served().history, SIZE, Lsn(5 * SIZE.bytes()), end);
        let timelines: Vec<u32> = served
            .segments(5)
            .iter()
            .map(|name| name.timeline.0)
            .collect();
        assert_eq!(timelines, [2, 1]);
    }

    #[test]
    fn an_end_on_a_segment_boundary_needs_no_further_segment() {
        let history = TimelineHistory::root(TimelineId(1));
        let end = Lsn(4 * SIZE.bytes());
        let served = ServedWal::new(history, SIZE, Lsn(3 * SIZE.bytes()), end);
        assert!(served.segments(4).is_empty());
        assert_eq!(served.valid_bytes(served.segments(3)[0]), SIZE.bytes());
    }

    proptest! {
        #[test]
        fn never_beyond_the_end(start in 0_u64..1 << 40, length in 0_u64..1 << 30, number in 0_u64..1 << 17) {
            let history = TimelineHistory::root(TimelineId(1));
            let end = Lsn(start + length);
            let served = ServedWal::new(history, SIZE, Lsn(start), end);
            for name in served.segments(number) {
                let given = name.start(SIZE).saturating_add(served.valid_bytes(name));
                prop_assert!(given <= end && name.start(SIZE) < end);
                prop_assert!(name.end(SIZE) > Lsn(start));
            }
        }
    }
}

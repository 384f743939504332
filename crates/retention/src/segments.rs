//! The listing of WAL, as runs of segments: a million of them are a few runs.

use std::collections::BTreeMap;

use pg_format::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};

use crate::stored::{WalFile, WalFileKind};

/// The WAL of all timelines.
pub(crate) struct Segments {
    size: WalSegmentSize,
    timelines: BTreeMap<TimelineId, Listing>,
}

/// The WAL of one timeline.
#[derive(Default)]
struct Listing {
    /// Segments of which there is anything.
    stored: Vec<Run>,
    /// Segments that are complete.
    complete: Vec<Run>,
    /// Where WAL ends in segments of which there is only the beginning.
    partial: BTreeMap<SegmentNumber, Lsn>,
    /// What was stored before each segment, in the order of the runs; one more than there are segments.
    bytes_before: Vec<u64>,
}

/// Segments without a hole, first and last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: SegmentNumber,
    pub(crate) last: SegmentNumber,
    /// Segments in runs before.
    before: usize,
}

fn push(runs: &mut Vec<Run>, number: SegmentNumber) {
    match runs.last_mut() {
        Some(run) if run.last == number => {}
        Some(run) if run.last.checked_add(1) == Some(number) => run.last = number,
        last => {
            let before = last.map_or(0, |run| run.index_of(run.last) + 1);
            runs.push(Run {
                first: number,
                last: number,
                before,
            });
        }
    }
}

impl Run {
    fn index_of(self, number: SegmentNumber) -> usize {
        // As many were listed, so they fit.
        self.before + usize::try_from(number - self.first).unwrap_or(usize::MAX)
    }
}

/// The runs that have anything of `first..=last`.
fn touching(runs: &[Run], first: SegmentNumber, last: SegmentNumber) -> &[Run] {
    let from = runs.partition_point(|run| run.last < first);
    let to = runs.partition_point(|run| run.first <= last);
    runs.get(from..to).unwrap_or_default()
}

impl Segments {
    pub(crate) fn of(files: &[WalFile], size: WalSegmentSize) -> Self {
        let key = |file: &&WalFile| (file.timeline, file.number, file.kind);
        let mut sorted: Vec<&WalFile> = files.iter().collect();
        if !sorted.is_sorted_by_key(key) {
            sorted.sort_unstable_by_key(key);
        }
        let mut timelines: BTreeMap<TimelineId, Listing> = BTreeMap::new();
        for of_one in sorted.chunk_by(|a, b| a.timeline == b.timeline) {
            if let Some(first) = of_one.first() {
                let _ = timelines.insert(first.timeline, Listing::of(of_one, size));
            }
        }
        Segments { size, timelines }
    }

    pub(crate) fn timelines(&self) -> impl Iterator<Item = TimelineId> {
        self.timelines.keys().copied()
    }

    /// What is stored of `first..=last`, without the holes.
    pub(crate) fn stored(
        &self,
        timeline: TimelineId,
        first: SegmentNumber,
        last: SegmentNumber,
    ) -> impl Iterator<Item = Run> {
        let listing = self.timelines.get(&timeline);
        let runs = listing.map_or(&[][..], |listing| touching(&listing.stored, first, last));
        runs.iter().map(move |run| {
            let begin = run.first.max(first);
            Run {
                first: begin,
                last: run.last.min(last),
                before: run.index_of(begin),
            }
        })
    }

    /// What a run that [`Self::stored`] gave stores, in bytes.
    pub(crate) fn bytes(&self, timeline: TimelineId, run: Run) -> u64 {
        let Some(listing) = self.timelines.get(&timeline) else {
            return 0;
        };
        let before = |index: usize| listing.bytes_before.get(index).copied().unwrap_or(0);
        before(run.index_of(run.last) + 1).saturating_sub(before(run.before))
    }

    /// Whether all of `first..=last` are complete.
    pub(crate) fn are_complete(
        &self,
        timeline: TimelineId,
        first: SegmentNumber,
        last: SegmentNumber,
    ) -> bool {
        let Some(listing) = self.timelines.get(&timeline) else {
            return false;
        };
        let found = touching(&listing.complete, first, last);
        matches!(found, [run] if run.first <= first && last <= run.last)
    }

    /// Up to where the WAL of one segment goes; `None` when there is nothing of it.
    pub(crate) fn end_of(&self, timeline: TimelineId, number: SegmentNumber) -> Option<Lsn> {
        if self.are_complete(timeline, number, number) {
            return Some(self.size.start_of(number.saturating_add(1)));
        }
        self.timelines.get(&timeline)?.partial.get(&number).copied()
    }
}

impl Listing {
    /// Of one timeline's files, in order.
    fn of(files: &[&WalFile], size: WalSegmentSize) -> Self {
        let mut listing = Listing::default();
        listing.bytes_before.reserve(files.len() + 1);
        let mut bytes = 0_u64;
        for file in files {
            let segments = listing.stored.last().map(|run| run.last);
            if segments != Some(file.number) {
                listing.bytes_before.push(bytes);
            }
            bytes = bytes.saturating_add(file.stored_bytes);
            push(&mut listing.stored, file.number);
            match file.kind {
                WalFileKind::Complete => push(&mut listing.complete, file.number),
                WalFileKind::Partial { raw_bytes } => {
                    let raw_bytes = raw_bytes.min(size.bytes());
                    let end = size.start_of(file.number).saturating_add(raw_bytes);
                    let _ = listing.partial.insert(file.number, end);
                }
            }
        }
        listing.bytes_before.push(bytes);
        listing
    }
}

#[cfg(test)]
mod tests {
    use pg_format::{Lsn, TimelineId, WalSegmentSize};

    use super::Segments;
    use crate::stored::{WalFile, WalFileKind};

    const MIB: u64 = 1 << 20;

    fn file(timeline: u32, number: u64, kind: WalFileKind) -> WalFile {
        WalFile {
            timeline: TimelineId(timeline),
            number,
            kind,
            stored_bytes: 10 + number,
        }
    }

    #[test]
    fn runs_bytes_and_ends() {
        let whole = |timeline, number| file(timeline, number, WalFileKind::Complete);
        let part = |number, raw_bytes| file(1, number, WalFileKind::Partial { raw_bytes });
        let files = [
            whole(2, 5),
            part(4, 7),
            whole(1, 2),
            whole(1, 3),
            part(3, 9),
            whole(1, 7),
            part(8, 2 * MIB),
        ];
        let segments = Segments::of(&files, WalSegmentSize::new(MIB).unwrap());
        let stored = |first, last| {
            let runs = segments.stored(TimelineId(1), first, last);
            runs.map(|run| (run.first, run.last, segments.bytes(TimelineId(1), run)))
                .collect::<Vec<_>>()
        };
        // Segment 3 is stored twice.
        assert_eq!(stored(0, 9), [(2, 4, 12 + 26 + 14), (7, 8, 17 + 18)]);
        assert_eq!(stored(3, 7), [(3, 4, 26 + 14), (7, 7, 17)]);
        assert_eq!(stored(5, 6), []);
        let complete = |first, last| segments.are_complete(TimelineId(1), first, last);
        assert!(complete(2, 3) && !complete(2, 4) && !complete(3, 7) && complete(7, 7));
        let end = |number| segments.end_of(TimelineId(1), number);
        assert_eq!(end(3), Some(Lsn(4 * MIB)));
        assert_eq!(end(4), Some(Lsn(4 * MIB + 7)));
        assert_eq!(end(8), Some(Lsn(9 * MIB)));
        assert_eq!(end(5), None);
    }
}

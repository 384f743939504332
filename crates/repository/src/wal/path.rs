//! Which file of the archive holds each segment's place along a timeline's history.

use std::collections::BTreeMap;
use std::ops::Range;

use events::event::BackupSummary;
use pg_format::wal::WalBlockSize;
use pg_format::{
    Lsn, SegmentName, SegmentNumber, SystemIdentifier, TimelineHistory, TimelineId, TimelineRange,
    WalSegmentSize,
};

use super::{OpenSegment, WalObject, WalObjectKind};
use crate::archive::Archive;

/// Of which cluster WAL is, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalFormat {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Its segment size.
    pub segment_size: WalSegmentSize,
    /// Its WAL page size.
    pub block_size: WalBlockSize,
    /// Its major version.
    pub server_major: u32,
}

impl WalFormat {
    /// The WAL that a backup is recovered with. Servers built with another WAL page size are not archived.
    #[must_use]
    pub fn of(backup: &BackupSummary) -> Self {
        WalFormat {
            system_identifier: backup.system_identifier,
            segment_size: backup.wal_segment_size,
            block_size: WalBlockSize::DEFAULT,
            server_major: backup.server_version / 10_000,
        }
    }
}

/// The WAL of a branch along one history, as a listing showed it.
///
/// The rule of [`super::wal_coverage`] for all of the WAL at once: of several timelines' files for one segment's place
/// that one is taken which fills it furthest on the history, and of equals the newest timeline's, as recovery does.
#[derive(Clone, Debug)]
pub struct WalPath {
    pub(crate) history: TimelineHistory,
    pub(crate) format: WalFormat,
    places: BTreeMap<SegmentNumber, Place>,
}

/// The file that holds a segment's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: SegmentName,
    /// The complete segment, not a `.partial`.
    pub(crate) complete: bool,
    /// The byte after the last one of use.
    pub(crate) end: Lsn,
}

impl WalPath {
    /// The WAL in `objects` and `open` along `history`.
    #[must_use]
    pub fn new(
        objects: &[WalObject],
        open: &[OpenSegment],
        history: TimelineHistory,
        format: WalFormat,
    ) -> Self {
        WalPath {
            places: places(objects, open, &history, format.segment_size),
            history,
            format,
        }
    }

    /// The archive's WAL on the way to `timeline`; `None` if that timeline's history is not there, or no backup tells
    /// which cluster it is of.
    #[must_use]
    pub fn to(archive: &Archive, timeline: TimelineId) -> Option<Self> {
        let format = WalFormat::of(archive.backups.first()?);
        let history = archive.history(timeline)?;
        Some(Self::new(&archive.objects, &archive.open, history, format))
    }

    /// The history it goes along.
    #[must_use]
    pub fn history(&self) -> &TimelineHistory {
        &self.history
    }

    /// The stretches that are archived without a gap, in order.
    #[must_use]
    pub fn stretches(&self) -> Vec<Range<Lsn>> {
        stretches(&self.places, self.format.segment_size)
    }

    pub(crate) fn place(&self, number: SegmentNumber) -> Option<Place> {
        self.places.get(&number).copied()
    }

    /// The segments of a range that have a file.
    pub(crate) fn numbers(
        &self,
        range: std::ops::RangeInclusive<SegmentNumber>,
    ) -> impl Iterator<Item = (SegmentNumber, Place)> + '_ {
        let places = (!range.is_empty()).then(|| self.places.range(range));
        places
            .into_iter()
            .flatten()
            .map(|(number, place)| (*number, *place))
    }
}

/// Every stretch of WAL along `history` of which each byte is in one of `objects` or `open`, in order; no two touch.
///
/// [`super::wal_coverage`] is [`super::WalCoverage::Complete`] from one position to another when one stretch holds
/// both. A `.partial` counts as far as it goes, and ends its stretch unless it goes to the end of its segment. On the
/// newest timeline WAL may go on beyond what is proven.
#[must_use]
pub fn wal_stretches(
    objects: &[WalObject],
    history: &TimelineHistory,
    size: WalSegmentSize,
    open: &[OpenSegment],
) -> Vec<Range<Lsn>> {
    stretches(&places(objects, open, history, size), size)
}

fn stretches(places: &BTreeMap<SegmentNumber, Place>, size: WalSegmentSize) -> Vec<Range<Lsn>> {
    let mut stretches: Vec<Range<Lsn>> = Vec::new();
    for (number, place) in places {
        let start = size.start_of(*number);
        match stretches.last_mut() {
            Some(last) if last.end == start => last.end = place.end,
            _ => stretches.push(start..place.end),
        }
    }
    stretches
}

fn places(
    objects: &[WalObject],
    open: &[OpenSegment],
    history: &TimelineHistory,
    size: WalSegmentSize,
) -> BTreeMap<SegmentNumber, Place> {
    let path = history.path();
    let complete = objects.iter().filter_map(|object| match object.kind {
        WalObjectKind::Segment(name) => Some((name, true, name.end(size))),
        WalObjectKind::Partial(_) | WalObjectKind::History => None,
    });
    let open = open.iter().map(|open| {
        let end = open.name.start(size).saturating_add(open.raw_bytes);
        (open.name, false, end.min(open.name.end(size)))
    });
    let mut places: BTreeMap<SegmentNumber, Place> = BTreeMap::new();
    for (name, complete, end) in complete.chain(open) {
        let Some(end) = on_path(&path, size, name, end) else {
            continue;
        };
        let found = Place {
            name,
            complete,
            end,
        };
        let rank = |place: &Place| (place.end, place.name.timeline, place.complete);
        let place = places.entry(name.number(size)).or_insert(found);
        if rank(&found) > rank(place) {
            *place = found;
        }
    }
    places
}

/// Up to where a file that ends at `end` is of use on the path; `None` if nowhere. The part before its timeline began
/// is: the server copies it into the timeline's first segment.
fn on_path(
    path: &[TimelineRange],
    size: WalSegmentSize,
    name: SegmentName,
    end: Lsn,
) -> Option<Lsn> {
    let range = path.iter().find(|range| range.timeline == name.timeline)?;
    let begun = size.segment_of(range.start) <= name.number(size);
    let end = range.end.map_or(end, |left| left.min(end));
    (begun && end > name.start(size)).then_some(end)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
    use proptest::prelude::{Strategy, prop, prop_assert_eq, proptest};

    use super::super::{OpenSegment, WalCoverage, WalObject, WalObjectKind, wal_coverage};
    use super::wal_stretches;

    const QUARTER: u64 = 1 << 18;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(4 * QUARTER).unwrap()
    }

    fn segments() -> impl Strategy<Value = Vec<(u32, u64)>> {
        prop::collection::vec((1..4_u32, 0..8_u64), 0..24)
    }

    proptest! {
        #[test]
        fn agrees_with_the_coverage_of_each_stretch(
            complete in segments(),
            open in prop::collection::vec((1..4_u32, 0..8_u64, 1..4_u64), 0..4),
            switches in (1..16_u64, 1..32_u64),
            from in 0..32_u64,
            to in 0..33_u64,
        ) {
            let (size, timeline) = (size(), TimelineId(3));
            let lsn = |quarter: u64| Lsn(quarter * QUARTER);
            let text = format!("1\t{}\tx\n2\t{}\tx\n", lsn(switches.0), lsn(switches.1));
            let history = TimelineHistory::parse(timeline, &text).unwrap();
            let name = |timeline, number| SegmentName::new(TimelineId(timeline), number, size);
            let objects: Vec<_> = complete.iter().map(|(timeline, number)| WalObject {
                timeline: TimelineId(*timeline),
                kind: WalObjectKind::Segment(name(*timeline, *number)),
                stored_bytes: 1,
                last_modified: DateTime::UNIX_EPOCH,
            }).collect();
            let open: Vec<_> = open.iter().map(|(timeline, number, quarters)| OpenSegment {
                name: name(*timeline, *number),
                raw_bytes: quarters * QUARTER,
            }).collect();
            let (from, to) = (lsn(from), lsn(to));
            let stretches = wal_stretches(&objects, &history, size, &open);
            let in_one = from >= to || stretches.iter().any(|one| one.start <= from && one.end >= to);
            let coverage = wal_coverage(&objects, &history, size, from, to, &open);
            prop_assert_eq!(in_one, coverage == WalCoverage::Complete, "{:?}", stretches);
        }
    }
}

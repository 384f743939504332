//! The stretches of WAL that are archived without a gap, along a timeline's history.

use std::collections::BTreeMap;
use std::ops::Range;

use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineRange, WalSegmentSize};

use super::{OpenSegment, WalObject, WalObjectKind};

/// Every stretch of WAL along `history` of which each byte is in one of `objects` or `open`, in order; no two touch.
///
/// The same rule as [`super::wal_coverage`], for all of the WAL at once: it is [`super::WalCoverage::Complete`] from
/// one position to another when one stretch holds both. A `.partial` counts as far as it goes, and ends its stretch
/// unless it goes to the end of its segment. On the newest timeline WAL may go on beyond what is proven.
#[must_use]
pub fn wal_stretches(
    objects: &[WalObject],
    history: &TimelineHistory,
    size: WalSegmentSize,
    open: &[OpenSegment],
) -> Vec<Range<Lsn>> {
    let path = history.path();
    let complete = objects.iter().filter_map(|object| match object.kind {
        WalObjectKind::Segment(name) => Some((name, name.end(size))),
        WalObjectKind::Partial(_) | WalObjectKind::History => None,
    });
    let open = open.iter().map(|open| {
        let end = open.name.start(size).saturating_add(open.raw_bytes);
        (open.name, end.min(open.name.end(size)))
    });
    // How far each segment's place is filled, by whichever timeline's file fills it furthest.
    let mut places: BTreeMap<u64, Lsn> = BTreeMap::new();
    for (name, end) in complete.chain(open) {
        let Some(end) = on_path(&path, size, name, end) else {
            continue;
        };
        let place = places.entry(name.number(size)).or_default();
        *place = end.max(*place);
    }
    let mut stretches: Vec<Range<Lsn>> = Vec::new();
    for (number, end) in places {
        let start = size.start_of(number);
        match stretches.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => stretches.push(start..end),
        }
    }
    stretches
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

//! Whether the archive holds every byte that a recovery will ask for.

use std::collections::BTreeSet;

use pg_format::{Lsn, SegmentName, TimelineHistory, WalSegmentSize};

use super::{OpenSegment, WalObject, WalObjectKind};
use crate::{BranchReader, RepositoryError, Result};

/// What is archived of a stretch of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalCoverage {
    /// Every byte.
    Complete,
    /// Not every byte.
    Missing {
        /// The first segment that is not there, or not far enough.
        first: SegmentName,
    },
}

/// Whether `objects` hold the WAL from `from` up to but without `to`, along the history of the
/// timeline that recovery follows.
///
/// For each place recovery takes the newest timeline's segment that it finds, also when the switch
/// lies inside: a server copies the part before the switch into the new timeline's first segment
/// (`XLogFileReadAnyTLI`, PostgreSQL `src/backend/access/transam/xlogrecovery.c`). An older
/// timeline's segment will do if that timeline holds every byte that is wanted there. Only the last
/// place may be filled by one of `open`, the `.partial`s and how far they go.
#[must_use]
pub fn wal_coverage(
    objects: &[WalObject],
    history: &TimelineHistory,
    size: WalSegmentSize,
    from: Lsn,
    to: Lsn,
    open: &[OpenSegment],
) -> WalCoverage {
    let archived: BTreeSet<SegmentName> = objects
        .iter()
        .filter_map(|object| match object.kind {
            WalObjectKind::Segment(name) => Some(name),
            WalObjectKind::Partial(_) | WalObjectKind::History => None,
        })
        .collect();
    let is_there = |name: SegmentName, wanted: Lsn| {
        let partial = open.iter().any(|open| {
            let end = name.start(size).saturating_add(open.raw_bytes);
            wanted == to && open.name == name && end >= to
        });
        partial || archived.contains(&name)
    };
    if to <= from {
        return WalCoverage::Complete;
    }
    let path = history.path();
    for number in size.segment_of(from)..=size.segment_ending_at(to) {
        let wanted = to.min(size.start_of(number + 1));
        let mut holders = path
            .iter()
            .rev()
            .filter(|range| size.segment_of(range.start) <= number)
            .filter(|range| range.end.is_none_or(|end| end >= wanted))
            .map(|range| SegmentName::new(range.timeline, number, size))
            .peekable();
        let newest = holders.peek().copied();
        if !holders.any(|name| is_there(name, wanted)) {
            let unnamed = SegmentName::new(history.timeline(), number, size);
            return WalCoverage::Missing {
                first: newest.unwrap_or(unnamed),
            };
        }
    }
    WalCoverage::Complete
}

impl BranchReader {
    /// Asks the store whether the archive holds the WAL from `from` up to but without `to`, along
    /// `history`: [`wal_coverage`] of what is there now, the `.partial` of the last segment included.
    ///
    /// Lists all of the branch's WAL. To wait for the archive to arrive somewhere, read
    /// [`Self::wal_position`].
    ///
    /// # Errors
    /// The store failed, or a `.partial` is damaged.
    pub async fn wal_coverage(
        &self,
        history: &TimelineHistory,
        size: WalSegmentSize,
        from: Lsn,
        to: Lsn,
    ) -> Result<WalCoverage> {
        let objects = self.list_wal(size).await?;
        let last = size.segment_ending_at(to);
        let mut open = Vec::new();
        for object in &objects {
            let WalObjectKind::Partial(name) = object.kind else {
                continue;
            };
            if name.number(size) != last {
                continue;
            }
            match RepositoryError::absent_as_none(self.open_segment(name).await)? {
                Some(segment) => open.push(segment),
                // Deleted since the listing: its segment was complete before that.
                None => return self.coverage_of_listing(history, size, from, to).await,
            }
        }
        Ok(wal_coverage(&objects, history, size, from, to, &open))
    }

    async fn coverage_of_listing(
        &self,
        history: &TimelineHistory,
        size: WalSegmentSize,
        from: Lsn,
        to: Lsn,
    ) -> Result<WalCoverage> {
        let objects = self.list_wal(size).await?;
        Ok(wal_coverage(&objects, history, size, from, to, &[]))
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};

    use super::{OpenSegment, WalCoverage, WalObject, WalObjectKind, wal_coverage};

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn segment(timeline: u32, number: u64) -> SegmentName {
        SegmentName::new(TimelineId(timeline), number, SIZE)
    }

    /// Timeline 2 begins in the middle of segment 5 of timeline 1.
    fn history() -> TimelineHistory {
        let text = format!(
            "1\t{}\tno recovery target specified\n",
            Lsn(5 * SIZE.bytes() + 100)
        );
        TimelineHistory::parse(TimelineId(2), &text).unwrap()
    }

    fn check(archived: &[(u32, u64)], to: u64, open: Option<(u32, u64, u64)>) -> Option<String> {
        let objects: Vec<_> = archived
            .iter()
            .map(|(timeline, number)| WalObject {
                timeline: TimelineId(*timeline),
                kind: WalObjectKind::Segment(segment(*timeline, *number)),
                stored_bytes: 1,
                last_modified: DateTime::UNIX_EPOCH,
            })
            .collect();
        let open = open.map(|(timeline, number, raw_bytes)| {
            let name = segment(timeline, number);
            OpenSegment { name, raw_bytes }
        });
        let from = Lsn(3 * SIZE.bytes() + 40);
        match wal_coverage(&objects, &history(), SIZE, from, Lsn(to), open.as_slice()) {
            WalCoverage::Complete => None,
            WalCoverage::Missing { first } => Some(first.to_string()),
        }
    }

    #[test]
    fn follows_the_timelines() {
        let all = [(1, 3), (1, 4), (2, 5), (2, 6)];
        let end = 7 * SIZE.bytes();
        assert_eq!(check(&all, end, None), None);
        assert_eq!(
            check(&all, end + 1, None).unwrap(),
            segment(2, 7).to_string()
        );
        // The old timeline's segment is not what recovery asks for where the new one begins.
        let old = [(1, 3), (1, 4), (1, 5), (2, 6)];
        assert_eq!(check(&old, end, None).unwrap(), segment(2, 5).to_string());
        let before_the_switch = 5 * SIZE.bytes() + 100;
        assert_eq!(check(&old, before_the_switch, None), None);
        assert_eq!(check(&all, before_the_switch, None), None);
        assert_eq!(
            check(&all[1..], end, None).unwrap(),
            segment(1, 3).to_string()
        );
        assert_eq!(check(&[], 3 * SIZE.bytes() + 40, None), None);
    }

    #[test]
    fn the_open_segment_counts_as_far_as_it_goes() {
        let all = [(1, 3), (1, 4), (2, 5)];
        let to = 6 * SIZE.bytes() + 1000;
        assert_eq!(check(&all, to, Some((2, 6, 1000))), None);
        assert_eq!(
            check(&all, to, Some((2, 6, 999))).unwrap(),
            segment(2, 6).to_string()
        );
        assert_eq!(
            check(&all, to, Some((1, 6, 1000))).unwrap(),
            segment(2, 6).to_string()
        );
        let gap = [(1, 3), (2, 5), (2, 6)];
        assert_eq!(
            check(&gap, to, Some((1, 4, 1 << 24))).unwrap(),
            segment(1, 4).to_string()
        );
    }
}

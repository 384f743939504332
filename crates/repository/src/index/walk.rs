//! Walks along the index of a stretch of WAL, and builds what is not stored.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt};
use pg_format::{Lsn, SegmentNumber, TimelineId};
use wal_index::{Commit, IndexBuilder, IndexSettings, OpenTransaction, SegmentIndex};

use super::{IndexSlice, group_of, is_lost};
use crate::wal::{Feed, Place};
use crate::{BranchReader, Result, WalPath};

/// Group objects that are read at the same time.
const GROUPS_AT_ONCE: usize = 8;
/// Segments that are looked through at once for the last commit.
const STEP_SEGMENTS: u64 = 64;

impl BranchReader {
    /// The index of the WAL along `path` from `from` up to `to`. All of it in memory: [`Self::each_index`] is for long
    /// stretches.
    ///
    /// # Errors
    /// As there.
    pub async fn wal_index(
        &self,
        path: &WalPath,
        settings: IndexSettings,
        from: Lsn,
        to: Lsn,
    ) -> Result<IndexSlice> {
        let mut segments = Vec::new();
        let keep = |_, segment| segments.push(segment);
        let missing = self.each_index(path, settings, from, to, keep).await?;
        Ok(IndexSlice { segments, missing })
    }

    /// Shows the index of each segment that has something from `from` up to `to`, in order, with the timeline of the
    /// file. Gives back what could not be covered.
    ///
    /// What is not stored is built from the WAL, which costs reading it: the segments that are missing, the beginning of
    /// the one behind each row of them, and, if nothing is stored of the one before `from`, that one too, for what
    /// transactions in flight did there.
    ///
    /// # Errors
    /// The server's version is not known, or the store failed. Damage is no error.
    pub async fn each_index(
        &self,
        path: &WalPath,
        settings: IndexSettings,
        from: Lsn,
        to: Lsn,
        mut visit: impl FnMut(TimelineId, SegmentIndex) + Send,
    ) -> Result<Vec<Range<Lsn>>> {
        let size = path.format.segment_size;
        let mut missing = Vec::new();
        if to <= from {
            return Ok(missing);
        }
        let first = size.segment_of(from);
        let before = first.saturating_sub(1);
        let numbers = path.numbers(before..=size.segment_ending_at(to));
        let groups = groups(numbers);
        let mut groups = futures::stream::iter(groups)
            .map(|group| async {
                let stored = self.index_group(group.timeline, group.number).await?;
                Ok::<_, crate::RepositoryError>((group, stored))
            })
            .buffered(GROUPS_AT_ONCE);
        let mut walk = Walk {
            branch: self,
            path,
            settings,
            carry: None,
            rebuilding: None,
        };
        let mut covered = from;
        while let Some((group, stored)) = groups.try_next().await? {
            let mut stored = stored.into_iter().peekable();
            for (number, place) in group.places {
                while stored.next_if(|one| one.segment < number).is_some() {}
                let stored = stored.next_if(|one| one.segment == number);
                let start = size.start_of(number);
                let Some(index) = walk.segment(number, place, stored).await? else {
                    continue;
                };
                if index.end <= covered {
                    continue;
                }
                if start.min(to) > covered {
                    missing.push(covered..start.min(to));
                }
                covered = index.end;
                visit(place.name.timeline, index);
            }
        }
        if covered < to {
            missing.push(covered..to);
        }
        Ok(missing)
    }

    /// The last commit that begins before `before`, looked for backwards as far as `not_before`.
    ///
    /// # Errors
    /// As [`Self::each_index`].
    pub async fn last_commit_before(
        &self,
        path: &WalPath,
        settings: IndexSettings,
        before: Lsn,
        not_before: Lsn,
    ) -> Result<Option<Commit>> {
        let size = path.format.segment_size;
        let mut to = before;
        while to > not_before {
            let first = size.segment_ending_at(to).saturating_sub(STEP_SEGMENTS - 1);
            let from = size.start_of(first).max(not_before);
            let slice = self.wal_index(path, settings, from, to).await?;
            let segments = slice.segments.iter().rev();
            let mut intervals = segments.flat_map(|one| one.intervals.iter().rev());
            let found = intervals.find_map(|interval| {
                let commit = interval.ends.as_ref()?.last_commit?;
                (interval.start < before).then_some((interval.start, commit))
            });
            match found {
                Some((_, commit)) if commit.lsn < before => return Ok(Some(commit)),
                // The interval goes on behind `before`, and does not tell what in it was before.
                Some((start, _)) => {
                    let ends = self.ends_between(path, start, before).await?;
                    if let Some(commit) = ends.iter().rev().find_map(|end| end.commit()) {
                        return Ok(Some(commit));
                    }
                    to = start;
                }
                None => to = from,
            }
        }
        Ok(None)
    }
}

/// Consecutive segments of one object.
struct Group {
    timeline: TimelineId,
    number: u64,
    places: Vec<(SegmentNumber, Place)>,
}

fn groups(numbers: impl Iterator<Item = (SegmentNumber, Place)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (number, place) in numbers {
        let timeline = place.name.timeline;
        let fits =
            |group: &&mut Group| group.timeline == timeline && group.number == group_of(number);
        match groups.last_mut().filter(fits) {
            Some(group) => group.places.push((number, place)),
            None => groups.push(Group {
                timeline,
                number: group_of(number),
                places: vec![(number, place)],
            }),
        }
    }
    groups
}

struct Walk<'a> {
    branch: &'a BranchReader,
    path: &'a WalPath,
    settings: IndexSettings,
    /// Where the last index ended, and what was in flight there.
    carry: Option<(Lsn, Vec<OpenTransaction>)>,
    /// Has built the segment before, and has begun with the next.
    rebuilding: Option<(Feed<'a>, IndexBuilder)>,
}

impl Walk<'_> {
    /// The index of the next segment, as far as its WAL goes; `None` if nothing of it can be read.
    async fn segment(
        &mut self,
        number: SegmentNumber,
        place: Place,
        stored: Option<SegmentIndex>,
    ) -> Result<Option<SegmentIndex>> {
        let start = self.path.format.segment_size.start_of(number);
        let fits = |one: &SegmentIndex| one.start == start && one.end == place.end;
        let index = match stored.filter(fits) {
            Some(stored) => {
                self.rebuilding = None;
                stored
            }
            None => {
                let index = self.build(number, place).await?;
                if index.end <= start {
                    self.carry = None;
                    return Ok(None);
                }
                index
            }
        };
        self.carry = Some((index.end, index.open.clone()));
        Ok(Some(index))
    }

    async fn build(&mut self, number: SegmentNumber, place: Place) -> Result<SegmentIndex> {
        let size = self.path.format.segment_size;
        let start = size.start_of(number);
        let carry = self.carry.take().filter(|(end, _)| *end == start);
        let (mut feed, mut builder) = match self.rebuilding.take().filter(|_| carry.is_some()) {
            Some(rebuilding) => rebuilding,
            None => {
                let open = carry.map(|(_, open)| open).unwrap_or_default();
                let builder = IndexBuilder::new(self.settings, size, start, open);
                (Feed::new(self.branch, self.path, number)?, builder)
            }
        };
        loop {
            builder.advance(feed.reached());
            if let Some(finished) = builder.take_finished() {
                self.rebuilding = Some((feed, builder));
                return Ok(finished);
            }
            match feed.piece(&mut |record| builder.observe(record)).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if is_lost(&error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(segment = %place.name, error, "WAL cannot be read for the index");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(builder.unfinished(feed.reached()))
    }
}

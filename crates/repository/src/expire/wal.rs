//! WAL that goes, and what goes with it.
//!
//! What is to go is listed once, all of it; what is deleted is what was listed then ([`super::listed`]). So whoever asks
//! between the pieces whether it is still wanted deletes nothing that was stored after that was decided.

use std::collections::{BTreeSet, VecDeque};

use events::document::WalStretch;
use object_store::ObjectMeta;
use pg_format::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

use super::listed::Going;
use super::{Advanced, Deleted};
use crate::index::{group_range, parse_group, parse_relation_map};
use crate::wal::parse;
use crate::{BranchWriter, RepositoryError, Result, WalObject, WalObjectKind};

/// Segments that are deleted before somebody may be asked again whether the rest is to go.
const PIECE: usize = 1000;

impl BranchWriter {
    /// Deletes the segments that lie wholly in the stretches, and their `.partial`, and what tells of nothing but them:
    /// groups of the commit-time index, names of relations, and records of gaps.
    ///
    /// # Errors
    /// The store failed; some of it may be gone.
    pub async fn prune_wal(
        &self,
        stretches: &[WalStretch],
        size: WalSegmentSize,
        advanced: Advanced<'_>,
    ) -> Result<Vec<Deleted>> {
        let mut pruned = vec![Deleted::default(); stretches.len()];
        let mut pruning = self.find_prunable(stretches, &[], size).await?;
        while let Some((number, gone)) = self.prune_some(&mut pruning, advanced).await? {
            pruned[number] = pruned[number].and(gone);
        }
        let around = self.prune_around(&mut pruning, advanced).await?;
        if let Some(last) = pruned.last_mut() {
            *last = last.and(around);
        }
        Ok(pruned)
    }

    /// Lists what [`Self::prune_wal`] would delete, to be deleted piece by piece, and these timelines' history files.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_prunable(
        &self,
        stretches: &[WalStretch],
        histories: &[TimelineId],
        size: WalSegmentSize,
    ) -> Result<Pruning> {
        let (mut left, mut going) = (BTreeSet::new(), vec![Vec::new(); stretches.len()]);
        let mut files = VecDeque::new();
        for (key, meta) in self.store.list(&self.layout.wal()).await? {
            let Some((timeline, kind)) = parse(&key, size) else {
                continue;
            };
            let Some(name) = segment_name(kind) else {
                if histories.contains(&timeline) {
                    files.push_back((key, meta));
                }
                continue;
            };
            match stretches.iter().position(|one| lies_in(one, name, size)) {
                None => drop(left.insert((timeline, name.number(size)))),
                Some(stretch) => going[stretch].push(Going {
                    segment: Some(name),
                    complete: matches!(kind, WalObjectKind::Segment(_)),
                    ..Going::of((key, meta))
                }),
            }
        }
        let mut pieces = VecDeque::new();
        for (number, mut objects) in going.into_iter().enumerate() {
            objects.sort_by_key(|one| one.segment.map(|name| name.number(size)));
            let of_one = objects.chunks(PIECE);
            pieces.extend(of_one.map(|piece| (number, piece.to_vec().into())));
        }
        let end = stretches.iter().map(|stretch| stretch.to_lsn).max();
        let around = match end {
            None => Around::default(),
            Some(end) => {
                let rest = Rest::of(left, size, end);
                Around {
                    groups: self.groups_going(stretches, &rest).await?,
                    maps: self.relation_maps_going(&rest).await?,
                    gaps: self.gaps_going(&rest).await?,
                }
            }
        };
        Ok(Pruning {
            stretches: stretches.to_vec(),
            size,
            pieces,
            around,
            histories: files,
        })
    }

    /// Deletes the next segments, not many at a time nor for long, and tells of which stretch they were; `None` when none
    /// is left.
    ///
    /// # Errors
    /// The store failed; some of them may be gone.
    pub async fn prune_some(
        &self,
        pruning: &mut Pruning,
        advanced: Advanced<'_>,
    ) -> Result<Option<(usize, Deleted)>> {
        let Some((number, mut piece)) = pruning.pieces.pop_front() else {
            return Ok(None);
        };
        let timeline = pruning.stretches[number].timeline;
        let directory = self.layout.wal_of(timeline);
        let gone = self.delete_some(&directory, &mut piece, advanced).await?;
        if !piece.is_empty() {
            pruning.pieces.push_front((number, piece));
        }
        Ok(Some((number, gone)))
    }

    /// Deletes what tells of nothing but WAL that is gone. To be called when all of the segments are.
    ///
    /// # Errors
    /// The store failed; some of it may be gone.
    pub async fn prune_around(
        &self,
        pruning: &mut Pruning,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let Around { groups, maps, gaps } = std::mem::take(&mut pruning.around);
        let mut deleted = Deleted::default();
        for (directory, going) in [
            (self.layout.wal_index(), groups),
            (self.layout.relation_maps(), maps),
            (self.layout.wal_gaps(), gaps),
        ] {
            deleted = deleted.and(self.delete_each(&directory, going, advanced).await?);
        }
        Ok(deleted)
    }

    /// Deletes the next history file; `None` when none is left. To be called when the WAL is gone.
    ///
    /// # Errors
    /// The store failed.
    pub async fn prune_history(&self, pruning: &mut Pruning) -> Result<Option<Deleted>> {
        match pruning.histories.pop_front() {
            None => Ok(None),
            Some((key, listed)) => Ok(Some(
                self.delete_listed(&key, &listed).await?.unwrap_or_default(),
            )),
        }
    }

    /// Groups of the index that begin in a stretch, or have its beginning, and of which no segment is left. Also those
    /// of an earlier sweep, which were stored while their segments went. There may be one behind the end, of what was
    /// archived since the listing.
    async fn groups_going(&self, stretches: &[WalStretch], rest: &Rest) -> Result<Vec<Going>> {
        let mut listed = self.store.list(&self.layout.wal_index()).await?;
        listed.retain(|(key, _)| {
            let Some((timeline, group)) = parse_group(key) else {
                return false;
            };
            let numbers = group_range(group);
            let touched = stretches.iter().any(|stretch| {
                let last = rest.size.segment_ending_at(stretch.to_lsn);
                let first = rest.size.segment_of(stretch.from_lsn);
                stretch.timeline == timeline && first < numbers.end && last >= numbers.start
            });
            let kept = rest
                .segments
                .range((timeline, numbers.start)..(timeline, numbers.end));
            let before = numbers.end <= rest.size.segment_of(rest.end);
            (touched || before) && kept.count() == 0
        });
        Ok(listed.into_iter().map(Going::of).collect())
    }

    /// Of each timeline all that were begun before the last one that is not behind what is left.
    async fn relation_maps_going(&self, rest: &Rest) -> Result<Vec<Going>> {
        let mut listed = self.store.list(&self.layout.relation_maps()).await?;
        let maps: Vec<_> = listed
            .iter()
            .map(|(key, _)| parse_relation_map(key))
            .collect();
        let superseded = |timeline, lsn| {
            let mut others = maps.iter().flatten();
            others.any(|other| other.0 == timeline && other.1 > lsn && other.1 <= rest.from)
        };
        listed.retain(|(key, _)| {
            parse_relation_map(key).is_some_and(|(timeline, lsn)| superseded(timeline, lsn))
        });
        Ok(listed.into_iter().map(Going::of).collect())
    }

    /// Records of gaps before everything that is left.
    async fn gaps_going(&self, rest: &Rest) -> Result<Vec<Going>> {
        let mut going = Vec::new();
        for (key, meta) in self.store.list(&self.layout.wal_gaps()).await? {
            match self.wal_gap(&key).await {
                Ok(gap) if gap.to_lsn <= rest.from => going.push(Going::of((key, meta))),
                Ok(_) | Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => {}
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(going)
    }
}

/// WAL that is to be deleted, piece by piece.
#[derive(Debug)]
pub struct Pruning {
    stretches: Vec<WalStretch>,
    size: WalSegmentSize,
    /// Each of one stretch, the oldest first.
    pieces: VecDeque<(usize, VecDeque<Going>)>,
    around: Around,
    histories: VecDeque<(String, ObjectMeta)>,
}

/// What tells of nothing but WAL that is to go.
#[derive(Debug, Default)]
struct Around {
    groups: Vec<Going>,
    maps: Vec<Going>,
    gaps: Vec<Going>,
}

impl Pruning {
    /// Up to where a stretch is gone, when nothing more of it is deleted; `None` when all of it is there.
    #[must_use]
    pub fn gone_until(&self, stretch: usize) -> Option<Lsn> {
        let whole = self.stretches.get(stretch)?;
        let mut left = self.pieces.iter().filter(|(number, _)| *number == stretch);
        let first = left.find_map(|(_, piece)| piece.iter().find_map(|one| one.segment));
        let until = first.map_or(whole.to_lsn, |first| first.start(self.size));
        (until > whole.from_lsn).then_some(until)
    }
}

/// The WAL that is left.
#[derive(Debug)]
struct Rest {
    size: WalSegmentSize,
    segments: BTreeSet<(TimelineId, SegmentNumber)>,
    /// The end of what is pruned.
    end: Lsn,
    /// Its first byte, on any timeline; the end of what was pruned when there is none.
    from: Lsn,
}

impl Rest {
    fn of(segments: BTreeSet<(TimelineId, SegmentNumber)>, size: WalSegmentSize, end: Lsn) -> Self {
        let first = segments.iter().map(|(_, number)| *number).min();
        Rest {
            size,
            segments,
            end,
            from: first.map_or(end, |first| size.start_of(first)),
        }
    }
}

fn segment_name(kind: WalObjectKind) -> Option<SegmentName> {
    match kind {
        WalObjectKind::History => None,
        WalObjectKind::Segment(name) | WalObjectKind::Partial(name) => Some(name),
    }
}

/// Whether the object is of a segment that lies wholly in the stretch.
pub(crate) fn holds(stretch: &WalStretch, object: &WalObject, size: WalSegmentSize) -> bool {
    segment_name(object.kind).is_some_and(|name| lies_in(stretch, name, size))
}

fn lies_in(stretch: &WalStretch, name: SegmentName, size: WalSegmentSize) -> bool {
    stretch.timeline == name.timeline
        && stretch.from_lsn <= name.start(size)
        && name.end(size) <= stretch.to_lsn
}

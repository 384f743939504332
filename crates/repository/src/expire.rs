//! Deletes what retention lets go of: backups, WAL, history files. Who may, and what, is decided elsewhere
//! (`docs/decisions/0014`); here it is only done.
//!
//! What must stay true: every call may be repeated, after any failure and by anybody, and what is gone already is no
//! error. At no moment is there a backup that cannot be restored: its manifest goes before anything it names. WAL goes
//! the oldest first, so that what is left of a stretch stays connected with what is kept.

use std::collections::{BTreeSet, VecDeque};

use events::BackupId;
use events::document::WalStretch;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectMeta;
use pg_format::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

use crate::index::{group_range, parse_group, parse_relation_map};
use crate::{BranchWriter, Manifest, RepositoryError, Result, WalObject, WalObjectKind, layout};

/// Manifests that are read, and objects that are deleted, at the same time.
const AT_ONCE: usize = 16;

/// Segments that are deleted before somebody may be asked again whether the rest is to go.
const PIECE: usize = 1000;

/// Hears of each object that is gone, because there may be many.
pub type Advanced<'a> = &'a (dyn Fn() + Send + Sync);

/// What a call deleted. What an earlier one had deleted is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Objects.
    pub objects: u64,
    /// Complete WAL segments among them.
    pub segments: u64,
    /// What they stored.
    pub bytes: u64,
}

impl Deleted {
    /// Both.
    #[must_use]
    pub fn and(self, other: Deleted) -> Deleted {
        Deleted {
            objects: self.objects + other.objects,
            segments: self.segments + other.segments,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// What names packs.
enum Named {
    By(Box<Manifest>),
    Unknown,
    Gone,
}

/// The packs that backups which stay have from others.
#[derive(Clone, Debug, Default)]
pub struct NamedPacks {
    pub(crate) keys: BTreeSet<String>,
    /// A manifest is damaged, and what it names is not among them.
    pub(crate) unreadable: bool,
}

impl BranchWriter {
    /// The packs of other backups that the manifests of all but the `going` name. To be read before the first of them
    /// is deleted.
    ///
    /// A damaged manifest names nothing: what it is of cannot be restored.
    ///
    /// # Errors
    /// A manifest was made by a newer Zektor: what it names is not known; or the store failed.
    pub async fn packs_named_by_others(&self, going: &[BackupId]) -> Result<NamedPacks> {
        let mut others = self.list_backups().await?;
        others.retain(|backup| !going.contains(backup));
        let manifests = others.into_iter().map(|backup| async move {
            match self.manifest(backup).await {
                Ok(manifest) => Ok(Named::By(Box::new(manifest))),
                Err(error @ RepositoryError::Corrupt { .. }) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "what a damaged manifest names is not kept for it");
                    Ok(Named::Unknown)
                }
                Err(error) if error.is_absent() => Ok(Named::Gone),
                Err(error) => Err(error),
            }
        });
        let mut manifests = futures::stream::iter(manifests).buffer_unordered(AT_ONCE);
        let (mut keys, mut unreadable) = (BTreeSet::new(), false);
        while let Some(read) = manifests.try_next().await? {
            let manifest = match read {
                Named::By(manifest) => manifest,
                Named::Unknown => {
                    unreadable = true;
                    continue;
                }
                Named::Gone => continue,
            };
            let own = manifest.summary.backup_id;
            let borrowed = manifest.packs.iter().filter(|pack| pack.backup != own);
            keys.extend(
                borrowed.map(|pack| self.layout.pack(pack.backup, &pack.attempt, pack.number)),
            );
        }
        Ok(NamedPacks { keys, unreadable })
    }

    /// Deletes a backup: its manifest, then what all attempts at it stored, but for what others name, then its mark.
    ///
    /// # Errors
    /// The store failed; without the manifest the backup is gone all the same, and another call deletes the rest.
    pub async fn delete_backup(
        &self,
        backup: BackupId,
        named: &NamedPacks,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let directory = self.layout.backup(backup);
        let beside = self.store.list(&directory).await?;
        let (manifest, beside): (Vec<_>, Vec<_>) = beside
            .into_iter()
            .partition(|(key, _)| layout::committed(key).is_some());
        let mut deleted = self.delete_all(manifest, advanced).await?;
        let packs = self.store.list(&self.layout.packs(backup)).await?;
        let packs = packs.into_iter();
        let packs = packs.filter(|(key, _)| !named.keys.contains(key));
        deleted = deleted.and(self.delete_all(packs.collect(), advanced).await?);
        deleted = deleted.and(self.delete_all(beside, advanced).await?);
        // A listing may lag behind.
        self.store.delete(&self.layout.manifest(backup)).await?;
        self.delete_mark(backup).await?;
        self.store.sweep(&self.layout.packs(backup), "").await;
        self.store.sweep(&directory, "").await;
        Ok(deleted)
    }

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
        let mut pruning = self.find_prunable(stretches, size).await?;
        while let Some((number, gone)) = self.prune_some(&mut pruning, advanced).await? {
            pruned[number] = pruned[number].and(gone);
        }
        let around = self.prune_around(&pruning, advanced).await?;
        if let Some(last) = pruned.last_mut() {
            *last = last.and(around);
        }
        Ok(pruned)
    }

    /// Lists what [`Self::prune_wal`] would delete, to be deleted piece by piece.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_prunable(
        &self,
        stretches: &[WalStretch],
        size: WalSegmentSize,
    ) -> Result<Pruning> {
        let (mut left, mut going) = (Vec::new(), vec![Vec::new(); stretches.len()]);
        for object in self.list_wal(size).await? {
            match stretches.iter().position(|one| holds(one, &object, size)) {
                Some(stretch) => going[stretch].push(object),
                None => left.push(object),
            }
        }
        let mut pieces = VecDeque::new();
        for (number, mut objects) in going.into_iter().enumerate() {
            objects.sort_by_key(|object| segment_name(object.kind).map(|name| name.number(size)));
            let of_one = objects.chunks(PIECE);
            pieces.extend(of_one.map(|piece| (number, piece.to_vec())));
        }
        let end = stretches.iter().map(|stretch| stretch.to_lsn).max();
        Ok(Pruning {
            stretches: stretches.to_vec(),
            pieces,
            rest: end.map(|end| Rest::of(&left, size, end)),
        })
    }

    /// Deletes the next segments, not many at a time, and tells of which stretch they were; `None` when none is left.
    ///
    /// # Errors
    /// The store failed; some of them may be gone.
    pub async fn prune_some(
        &self,
        pruning: &mut Pruning,
        advanced: Advanced<'_>,
    ) -> Result<Option<(usize, Deleted)>> {
        let Some((number, piece)) = pruning.pieces.pop_front() else {
            return Ok(None);
        };
        let gone = self.delete_wal_objects(piece, advanced).await?;
        Ok(Some((number, gone)))
    }

    /// Deletes what tells of nothing but WAL that is gone. To be called when all of the segments are.
    ///
    /// # Errors
    /// The store failed; some of it may be gone.
    pub async fn prune_around(&self, pruning: &Pruning, advanced: Advanced<'_>) -> Result<Deleted> {
        let Some(rest) = &pruning.rest else {
            return Ok(Deleted::default());
        };
        let groups = self.delete_groups(&pruning.stretches, rest, advanced);
        let around = groups.await?;
        let around = around.and(self.delete_relation_maps(rest, advanced).await?);
        Ok(around.and(self.delete_gaps(rest, advanced).await?))
    }

    /// Deletes the history file of a timeline that nothing is left of.
    ///
    /// # Errors
    /// The store failed.
    pub async fn delete_history(&self, timeline: TimelineId) -> Result<()> {
        self.store.delete(&self.layout.history(timeline)).await
    }

    async fn delete_wal_objects(
        &self,
        objects: Vec<WalObject>,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let deletions = objects.into_iter().map(|object| async move {
            self.delete_wal(&object).await?;
            let segment = matches!(object.kind, WalObjectKind::Segment(_));
            Ok::<_, RepositoryError>(Deleted {
                objects: 1,
                segments: u64::from(segment),
                bytes: object.stored_bytes,
            })
        });
        // In their order, but for the few that are under way.
        let deletions = futures::stream::iter(deletions).buffered(AT_ONCE);
        add_up(deletions, advanced).await
    }

    pub(crate) async fn delete_all(
        &self,
        objects: Vec<(String, ObjectMeta)>,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let deletions = objects.into_iter().map(|(key, meta)| async move {
            self.store.delete(&key).await?;
            Ok::<_, RepositoryError>(Deleted {
                objects: 1,
                segments: 0,
                bytes: meta.size,
            })
        });
        let deletions = futures::stream::iter(deletions).buffer_unordered(AT_ONCE);
        add_up(deletions, advanced).await
    }

    /// Groups of the index that begin in a stretch, or have its beginning, and of which no segment is left. Also those
    /// of an earlier sweep, which were stored while their segments went. Of what was archived since the listing there
    /// may be one behind the end.
    async fn delete_groups(
        &self,
        stretches: &[WalStretch],
        rest: &Rest,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
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
        self.delete_all(listed, advanced).await
    }

    /// Of each timeline all that were begun before the last one that is not behind what is left.
    async fn delete_relation_maps(&self, rest: &Rest, advanced: Advanced<'_>) -> Result<Deleted> {
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
        self.delete_all(listed, advanced).await
    }

    /// Records of gaps before everything that is left.
    async fn delete_gaps(&self, rest: &Rest, advanced: Advanced<'_>) -> Result<Deleted> {
        let mut going = Vec::new();
        for (key, meta) in self.store.list(&self.layout.wal_gaps()).await? {
            match self.wal_gap(&key).await {
                Ok(gap) if gap.to_lsn <= rest.from => going.push((key, meta)),
                Ok(_) | Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => {}
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        self.delete_all(going, advanced).await
    }
}

/// WAL that is to be deleted, piece by piece.
#[derive(Debug)]
pub struct Pruning {
    stretches: Vec<WalStretch>,
    /// Each of one stretch, the oldest first.
    pieces: VecDeque<(usize, Vec<WalObject>)>,
    rest: Option<Rest>,
}

impl Pruning {
    /// Up to where a stretch is gone, when nothing more of it is deleted; `None` when all of it is there.
    #[must_use]
    pub fn gone_until(&self, stretch: usize) -> Option<Lsn> {
        let whole = self.stretches.get(stretch)?;
        let mut left = self.pieces.iter().filter(|(number, _)| *number == stretch);
        let first = left.find_map(|(_, piece)| piece.iter().find_map(|one| segment_name(one.kind)));
        let until = match (first, &self.rest) {
            (Some(first), Some(rest)) => first.start(rest.size),
            _ => whole.to_lsn,
        };
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
    fn of(left: &[WalObject], size: WalSegmentSize, end: Lsn) -> Self {
        let names = left.iter().filter_map(|object| segment_name(object.kind));
        let segments: BTreeSet<_> = names
            .map(|name| (name.timeline, name.number(size)))
            .collect();
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
    segment_name(object.kind).is_some_and(|name| {
        stretch.timeline == name.timeline
            && stretch.from_lsn <= name.start(size)
            && name.end(size) <= stretch.to_lsn
    })
}

async fn add_up(
    deletions: impl futures::Stream<Item = Result<Deleted>>,
    advanced: Advanced<'_>,
) -> Result<Deleted> {
    let add = |sum: Deleted, one| {
        advanced();
        std::future::ready(Ok(sum.and(one)))
    };
    deletions.try_fold(Deleted::default(), add).await
}

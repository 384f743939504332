//! Everything the repository says of a branch, read at once, for whoever decides about restores: the restorer's plan
//! and the restorable window.
//!
//! What must stay true: damage to one object takes away the targets that need it and no others, so a damaged object is
//! passed over with a warning, as if it were not there. A store that cannot be asked is an error: nothing is concluded
//! from its silence.

mod damage;
mod known;

pub use known::KnownManifests;
pub(crate) use known::Version;

use std::collections::BTreeMap;

use events::BackupId;
use events::document::Sweep;
use events::event::BackupSummary;
use futures::{StreamExt as _, TryStreamExt as _};
use pg_format::{TimelineHistory, TimelineId, WalSegmentSize};

use self::known::Told;
use crate::{
    BranchReader, GapProof, Marks, OpenSegment, RepositoryError, Result, WalGap, WalObject,
    WalObjectKind, WalPosition, expire, mark,
};

/// A `.partial` may be completed while its object is looked at; so often the listing is made anew.
const MOST_LISTINGS: u32 = 5;
/// Objects that are read at the same time; each takes a request's time, and somebody waits for the answer.
const AT_ONCE: usize = 16;

/// What the repository says of a branch.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// The completed backups, in any order, as their marks have them.
    pub backups: Vec<BackupSummary>,
    /// What is wanted of them since they were made.
    pub marks: Marks,
    /// The other backups whose packs they name.
    pub refers_to: BTreeMap<BackupId, Vec<BackupId>>,
    /// Backups that are there and whose manifest cannot be read.
    pub unreadable: Vec<BackupId>,
    /// How far WAL is proven complete; absent before anything was archived. Read before the listing.
    pub position: Option<WalPosition>,
    /// The listing of its WAL; empty while there is no backup.
    pub objects: Vec<WalObject>,
    /// The histories of its timelines; timeline 1 has none.
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    /// The `.partial` objects, and how far each goes.
    pub open: Vec<OpenSegment>,
    /// What the archiver recorded as missing for good, the first found first. What is missing is decided by the
    /// listing; these only tell why, and where WAL goes on.
    pub gaps: Vec<WalGap>,
}

impl Archive {
    /// The history of a timeline; `None` if it is not there.
    #[must_use]
    pub fn history(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        match self.histories.get(&timeline) {
            Some(history) => Some(history.clone()),
            None => (timeline == TimelineId(1)).then(|| TimelineHistory::root(timeline)),
        }
    }

    /// What was proven before gaps of this history.
    #[must_use]
    pub fn proofs_before_gaps(&self, history: &TimelineHistory) -> Vec<GapProof> {
        let proofs = self.gaps.iter().filter_map(|gap| {
            let proof = gap.proven?;
            let left = history.switch_point(gap.timeline);
            let on_it = history.contains(gap.timeline) && left.is_none_or(|left| proof.lsn <= left);
            on_it.then_some(proof)
        });
        proofs.collect()
    }

    /// What is left when a sweep is done. Whoever restores acts as if it were.
    #[must_use]
    pub fn without(mut self, sweep: &Sweep) -> Self {
        let Some(size) = self.backups.first().map(|backup| backup.wal_segment_size) else {
            return self;
        };
        let swept = |object: &WalObject| match object.kind {
            WalObjectKind::History => sweep.histories.contains(&object.timeline),
            _ => sweep
                .wal
                .iter()
                .any(|stretch| expire::holds(stretch, object, size)),
        };
        let gone: Vec<WalObjectKind> = self
            .objects
            .iter()
            .filter(|object| swept(object))
            .map(|object| object.kind)
            .collect();
        self.open
            .retain(|open| !gone.contains(&WalObjectKind::Partial(open.name)));
        self.objects.retain(|object| !swept(object));
        self.histories
            .retain(|timeline, _| !sweep.histories.contains(timeline));
        self.backups
            .retain(|backup| !sweep.backups.contains(&backup.backup_id));
        self
    }
}

/// Reads it. The position is read first: what it proves is in the later listing. What was found damaged of its WAL is not
/// in it.
///
/// # Errors
/// The store failed.
pub async fn read(branch: &BranchReader) -> Result<Archive> {
    let archive = read_with(branch, None, None).await?;
    Ok(archive.without_damaged_wal())
}

/// The same, with the listing of WAL also where there is no backup: for whoever decides about letting go.
///
/// Gives back the branch's segment size too; `None` when neither a backup nor the branch's record tells it.
///
/// # Errors
/// The store failed.
pub async fn read_all(branch: &BranchReader) -> Result<(Archive, Option<WalSegmentSize>)> {
    read_all_of(branch, None).await
}

/// The same, for whoever reads the branch again and again: manifests that are known are not read again. Everything else
/// is, marks above all.
///
/// # Errors
/// The store failed.
pub async fn read_new(
    branch: &BranchReader,
    known: &KnownManifests,
) -> Result<(Archive, Option<WalSegmentSize>)> {
    read_all_of(branch, Some(known)).await
}

async fn read_all_of(
    branch: &BranchReader,
    known: Option<&KnownManifests>,
) -> Result<(Archive, Option<WalSegmentSize>)> {
    let record = usable(branch.record().await)?;
    let size = record.map(|record| record.wal_segment_size);
    let archive = read_with(branch, size, known).await?;
    let told = archive.backups.first();
    let size = size.or(told.map(|backup| backup.wal_segment_size));
    Ok((archive, size))
}

async fn read_with(
    branch: &BranchReader,
    size: Option<WalSegmentSize>,
    known: Option<&KnownManifests>,
) -> Result<Archive> {
    let position = position(branch).await?;
    let (stored, gaps) = futures::try_join!(stored(branch, known), gaps(branch))?;
    let mut archive = Archive {
        gaps,
        position,
        ..stored
    };
    let told = archive.backups.first();
    let Some(size) = told.map(|backup| backup.wal_segment_size).or(size) else {
        return Ok(archive);
    };
    (archive.objects, archive.open) = wal(branch, size).await?;
    let mut timelines = Vec::new();
    for object in &archive.objects {
        if object.kind == WalObjectKind::History {
            timelines.push(object.timeline);
        }
    }
    archive.histories = histories(branch, timelines).await?;
    Ok(archive)
}

/// How far the archive is proven complete, if that is known.
///
/// # Errors
/// The store failed.
pub async fn position(branch: &BranchReader) -> Result<Option<WalPosition>> {
    usable(branch.wal_position().await)
}

/// The object, if it is there and can be read.
fn usable<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error @ (RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. })) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an object of the repository is passed over"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The backups and their marks.
async fn stored(branch: &BranchReader, known: Option<&KnownManifests>) -> Result<Archive> {
    let (listed, marked) = branch.list_backups_and_marks().await?;
    if let Some(known) = known {
        known.keep_only(branch, &listed.keys().copied().collect());
    }
    let manifests = async {
        let read = |(id, version)| async move { Ok((id, told(branch, known, id, version).await?)) };
        let read = futures::stream::iter(listed).map(read).buffered(AT_ONCE);
        read.try_collect::<Vec<_>>().await
    };
    let (manifests, marks) = futures::try_join!(manifests, branch.marks_in(marked))?;
    let mut archive = Archive {
        marks,
        ..Archive::default()
    };
    let mut unread = Vec::new();
    for (id, told) in manifests {
        let Some(Told { summary, others }) = told else {
            unread.push(id);
            continue;
        };
        if !others.is_empty() {
            let _ = archive.refers_to.insert(id, others);
        }
        let summary = mark::effective(summary, &archive.marks.of(id));
        archive.backups.push(summary);
    }
    if !unread.is_empty() {
        // One that was deleted since the listing is no backup any more.
        let (still, _) = branch.list_backups_and_marks().await?;
        archive.unreadable = unread
            .into_iter()
            .filter(|id| still.contains_key(id))
            .collect();
    }
    Ok(archive)
}

/// What a manifest tells, if it can be read.
async fn told(
    branch: &BranchReader,
    known: Option<&KnownManifests>,
    id: BackupId,
    version: Version,
) -> Result<Option<Told>> {
    if let Some(told) = known.and_then(|known| known.get(branch, id, &version)) {
        return Ok(Some(told));
    }
    let told = usable(branch.manifest(id).await)?.map(Told::by);
    if let (Some(known), Some(told)) = (known, &told) {
        known.keep(branch, id, version, told);
    }
    Ok(told)
}

async fn gaps(branch: &BranchReader) -> Result<Vec<WalGap>> {
    let keys = branch.wal_gap_keys().await?;
    let gap = |key: String| async move { usable(branch.wal_gap(&key).await) };
    Ok(WalGap::in_order(all(keys, gap).await?))
}

/// Reads what can be used of some objects, side by side, in their order.
async fn all<K, T, F>(keys: impl IntoIterator<Item = K>, read: impl Fn(K) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<Option<T>>>,
{
    let read = futures::stream::iter(keys).map(read).buffered(AT_ONCE);
    read.try_filter_map(|found| std::future::ready(Ok(found)))
        .try_collect()
        .await
}

/// The listing, and how far the `.partial` objects in it go.
async fn wal(
    branch: &BranchReader,
    size: WalSegmentSize,
) -> Result<(Vec<WalObject>, Vec<OpenSegment>)> {
    let mut listings = 0;
    'list: loop {
        listings += 1;
        let objects = branch.list_wal(size).await?;
        let mut open = Vec::new();
        for object in &objects {
            let WalObjectKind::Partial(name) = object.kind else {
                continue;
            };
            match branch.open_segment(name).await {
                // Completed since the listing, and the complete segment is not in it.
                Err(error) if error.is_absent() && listings < MOST_LISTINGS => continue 'list,
                opened => open.extend(usable(opened)?),
            }
        }
        return Ok((objects, open));
    }
}

async fn histories(
    branch: &BranchReader,
    timelines: Vec<TimelineId>,
) -> Result<BTreeMap<TimelineId, TimelineHistory>> {
    let text = |timeline| async move {
        let text = usable(branch.get_history(timeline).await)?;
        Ok(text.map(|text| (timeline, text)))
    };
    let mut histories = BTreeMap::new();
    for (timeline, text) in all(timelines, text).await? {
        match TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text)) {
            Ok(history) => drop(histories.insert(timeline, history)),
            // Whoever decides refuses what would lead over it.
            Err(error) => tracing::warn!(%timeline, %error, "a timeline history is not understood"),
        }
    }
    Ok(histories)
}

#[cfg(test)]
mod tests;

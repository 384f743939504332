//! Everything the repository says of a branch, read at once, for whoever decides about restores: the restorer's plan
//! and the restorable window.
//!
//! What must stay true: damage to one object takes away the targets that need it and no others, so a damaged object is
//! passed over with a warning, as if it were not there. A store that cannot be asked is an error: nothing is concluded
//! from its silence.

mod damage;

use std::collections::{BTreeMap, BTreeSet};

use events::BackupId;
use events::document::Sweep;
use events::event::BackupSummary;
use futures::{StreamExt as _, TryStreamExt as _};
use pg_format::{TimelineHistory, TimelineId, WalSegmentSize};

use crate::{
    BranchReader, Marks, OpenSegment, RepositoryError, Result, WalGap, WalObject, WalObjectKind,
    WalPosition, expire, mark,
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

/// Reads it. The position is read first: what it proves is in the later listing.
///
/// # Errors
/// The store failed.
pub async fn read(branch: &BranchReader) -> Result<Archive> {
    read_with(branch, None).await
}

/// The same, with the listing of WAL also where there is no backup: for whoever decides about letting go.
///
/// Gives back the branch's segment size too; `None` when neither a backup nor the branch's record tells it.
///
/// # Errors
/// The store failed.
pub async fn read_all(branch: &BranchReader) -> Result<(Archive, Option<WalSegmentSize>)> {
    let record = usable(branch.record().await)?;
    let size = record.map(|record| record.wal_segment_size);
    let archive = read_with(branch, size).await?;
    let told = archive.backups.first();
    let size = size.or(told.map(|backup| backup.wal_segment_size));
    Ok((archive, size))
}

async fn read_with(branch: &BranchReader, size: Option<WalSegmentSize>) -> Result<Archive> {
    let position = position(branch).await?;
    let (stored, gaps) = futures::try_join!(stored(branch), gaps(branch))?;
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
async fn stored(branch: &BranchReader) -> Result<Archive> {
    let (ids, marked) = branch.list_backups_and_marks().await?;
    let manifests = async {
        let read = |id| async move { Ok((id, usable(branch.manifest(id).await)?)) };
        let read = futures::stream::iter(ids.clone())
            .map(read)
            .buffered(AT_ONCE);
        read.try_collect::<Vec<_>>().await
    };
    let (manifests, marks) = futures::try_join!(manifests, branch.marks_in(marked))?;
    let mut archive = Archive {
        marks,
        ..Archive::default()
    };
    let mut unread = Vec::new();
    for (id, manifest) in manifests {
        let Some(manifest) = manifest else {
            unread.push(id);
            continue;
        };
        let others: BTreeSet<BackupId> = manifest.packs.iter().map(|pack| pack.backup).collect();
        let others: Vec<_> = others.into_iter().filter(|other| *other != id).collect();
        if !others.is_empty() {
            let _ = archive.refers_to.insert(id, others);
        }
        let summary = mark::effective(manifest.summary, &archive.marks.of(id));
        archive.backups.push(summary);
    }
    if !unread.is_empty() {
        // One that was deleted since the listing is no backup any more.
        let (still, _) = branch.list_backups_and_marks().await?;
        archive.unreadable = unread.into_iter().filter(|id| still.contains(id)).collect();
    }
    Ok(archive)
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
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use chrono::DateTime;
    use events::event::{BackupSummary, GapCause};
    use events::{BackupId, BackupType, BranchName, InstanceName, Trigger};
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt as _};
    use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize};

    use super::{WalObjectKind, read};
    use crate::faulty::{Fault, FaultyStore, Operation};
    use crate::{BackupOptions, BranchWriter, Repository, RetryPolicy, WalGap, WalPosition};

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(MIB).unwrap()
    }

    fn name(number: u64) -> SegmentName {
        SegmentName::new(TimelineId(1), number, size())
    }

    fn repository(store: Arc<dyn ObjectStore>) -> (Repository, BranchWriter) {
        let retry = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        let repository = Repository::with_store(store, "", retry);
        let instance = InstanceName::new("orders").unwrap();
        let writer = repository.writer(&instance, &BranchName::main());
        (repository, writer)
    }

    async fn back_up(writer: &BranchWriter, id: BackupId) {
        let at = DateTime::UNIX_EPOCH;
        let files = writer.begin_backup(id, "a", BackupOptions::default());
        let stored = files.unwrap().finish().await.unwrap();
        let summary = BackupSummary {
            backup_id: id,
            instance: writer.instance().clone(),
            branch: writer.branch().clone(),
            name: "test".to_owned(),
            backup_type: BackupType::Full,
            trigger: Trigger::Manual,
            schedule_id: None,
            requested_at: at,
            started_at: at,
            backed_up_at: at,
            expires_at: None,
            wal_until: None,
            start_lsn: Lsn(3 * MIB + 40),
            stop_lsn: Lsn(3 * MIB + 80),
            timeline: TimelineId(1),
            system_identifier: SystemIdentifier(7),
            server_version: 160_000,
            wal_segment_size: size(),
            logical_bytes: stored.totals.logical_bytes,
            stored_bytes: stored.totals.stored_bytes,
            files: stored.totals.files,
            attempt: "a".to_owned(),
            damaged_pages: Vec::new(),
        };
        let _ = stored.commit(summary).await.unwrap();
    }

    fn id(number: u128) -> BackupId {
        BackupId(uuid::Uuid::from_u128(number))
    }

    /// Two backups, segments 3 and 4, a part of 5, and a position.
    async fn fill(writer: &BranchWriter) {
        for number in [1, 2] {
            back_up(writer, id(number)).await;
        }
        for number in [3, 4] {
            let raw = Bytes::from(vec![0; MIB as usize]);
            let _ = writer.put_segment(name(number), raw).await.unwrap();
        }
        let part = Bytes::from_static(&[0; 500]);
        let _ = writer.put_partial(name(5), part).await.unwrap();
        let position = WalPosition {
            timeline: TimelineId(1),
            lsn: Lsn(5 * MIB + 500),
            proven_at: DateTime::UNIX_EPOCH,
            first_segment: name(3).to_string(),
            updated: DateTime::UNIX_EPOCH,
        };
        writer.put_wal_position(&position).await.unwrap();
        for from in [9, 7] {
            let gap = WalGap {
                timeline: TimelineId(1),
                from_lsn: Lsn(from * MIB),
                to_lsn: Lsn((from + 1) * MIB),
                cause: GapCause::SlotLost,
                detected_at: DateTime::from_timestamp(from as i64, 0).unwrap(),
            };
            writer.put_wal_gap(&gap).await.unwrap();
        }
    }

    /// Overwrites with garbage whatever has such a name.
    async fn damage(store: &InMemory, part: &str) {
        use futures::TryStreamExt as _;
        let all: Vec<_> = store.list(None).try_collect().await.unwrap();
        let mut damaged = 0;
        for object in all {
            if object.location.as_ref().contains(part) {
                let _ = store.put(&object.location, "garbage".into()).await.unwrap();
                damaged += 1;
            }
        }
        assert_eq!(damaged, 1, "{part}");
    }

    #[tokio::test]
    async fn damage_is_passed_over() {
        let store = Arc::new(InMemory::new());
        let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
        fill(&writer).await;
        let archive = read(writer.reader()).await.unwrap();
        assert_eq!((archive.backups.len(), archive.open.len()), (2, 1));
        assert!(archive.position.is_some());
        let gaps = |gaps: &[WalGap]| {
            gaps.iter()
                .map(|gap| gap.from_lsn.0 / MIB)
                .collect::<Vec<_>>()
        };
        assert_eq!(gaps(&archive.gaps), [7, 9]);
        damage(&store, &format!("gaps/00000001-{:016X}", 9 * MIB)).await;
        damage(&store, &format!("{}/manifest", id(1).0)).await;
        damage(&store, ".partial").await;
        let archive = read(writer.reader()).await.unwrap();
        assert_eq!((archive.backups.len(), archive.open.len()), (1, 0));
        assert_eq!(gaps(&archive.gaps), [7]);
        assert_eq!(archive.backups[0].backup_id, id(2));
        assert!(archive.position.is_some());
        damage(&store, "position").await;
        let archive = read(writer.reader()).await.unwrap();
        assert!(archive.position.is_none());
        assert_eq!(archive.backups.len(), 1);
    }

    #[tokio::test]
    async fn a_store_that_fails_is_an_error() {
        let store = Arc::new(InMemory::new());
        let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
        fill(&writer).await;
        let faulty = FaultyStore::new(store, |operation, path| {
            let manifest = path.as_ref().ends_with("/manifest");
            match operation == Operation::Get && manifest {
                true => Fault::Fail,
                false => Fault::Pass,
            }
        });
        let (_, writer) = repository(Arc::new(faulty));
        assert!(read(writer.reader()).await.is_err());
    }

    #[tokio::test]
    async fn a_hundred_backups_take_a_few_requests_time() {
        let store = Arc::new(InMemory::new());
        let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
        for number in 0..100 {
            back_up(&writer, id(number)).await;
        }
        let delay = Duration::from_millis(30);
        let slow = FaultyStore::new(store, move |operation, path| {
            let manifest = path.as_ref().ends_with("/manifest");
            match operation == Operation::Get && manifest {
                true => Fault::Delay(delay),
                false => Fault::Pass,
            }
        });
        let (_, slow) = repository(Arc::new(slow));
        let begin = tokio::time::Instant::now();
        let archive = read(slow.reader()).await.unwrap();
        assert_eq!(archive.backups.len(), 100);
        assert!(begin.elapsed() < 50 * delay, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn a_segment_that_is_completed_meanwhile_is_in_the_listing() {
        let store = Arc::new(InMemory::new());
        let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
        fill(&writer).await;
        let looked = Arc::new(tokio::sync::Notify::new());
        let looks = Arc::clone(&looked);
        let slow = FaultyStore::new(store, move |operation, path| {
            if operation == Operation::Get && path.as_ref().ends_with(".partial") {
                looks.notify_one();
                return Fault::Delay(Duration::from_secs(1));
            }
            Fault::Pass
        });
        let (_, slow) = repository(Arc::new(slow));
        let completing = async {
            looked.notified().await;
            let raw = Bytes::from(vec![0; MIB as usize]);
            let _ = writer.put_segment(name(5), raw).await.unwrap();
            writer.delete_partial(name(5)).await.unwrap();
        };
        let (archive, ()) = tokio::join!(read(slow.reader()), completing);
        let archive = archive.unwrap();
        let complete = WalObjectKind::Segment(name(5));
        assert!(archive.objects.iter().any(|one| one.kind == complete));
        assert!(archive.open.is_empty());
    }
}

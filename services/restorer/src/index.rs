//! The commit-time index as the restorer reads it: complete groups of it are kept in memory, so that questions are
//! answered at once.
//!
//! What must stay true: what is kept never changes any more. A group is kept when all of its segments are complete and
//! covered, and WAL comes after it; the key holds when the branch was made, so that a branch that was purged and made
//! anew under its name is not taken for the old one: it may have the same cluster, timeline and segments. Every
//! restorer asks the repository for that, so it does not matter which of them purged.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use events::event::BackupSummary;
use events::{BranchName, InstanceName, Timestamp};
use futures::{StreamExt as _, TryStreamExt as _};
use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use repository::{BranchReader, ErrorClass, IndexSlice, RepositoryError, WalPath};
use wal_index::{IndexSettings, Interval, SegmentIndex};

/// Segments that are kept and thrown away together; the objects of the repository hold as many.
const GROUP_SEGMENTS: u64 = 64;
/// Read at the same time.
const GROUPS_AT_ONCE: usize = 8;
/// Kept; each is about a third of a megabyte on a busy server.
const MOST_GROUPS: usize = 128;

/// Which WAL a group is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    instance: InstanceName,
    branch: BranchName,
    made_at: Timestamp,
    cluster: SystemIdentifier,
    timeline: TimelineId,
    group: u64,
}

/// The index of some WAL.
#[derive(Clone, Debug, Default)]
pub struct IndexCache {
    groups: Arc<Mutex<Groups>>,
    turns: Arc<Mutex<Turns>>,
}

/// Who reads the index of a branch: one at a time. What is not stored is built from the WAL, which may take long;
/// whoever asks again meanwhile, because he did not want to wait, finds it kept then. As many as there are branches.
type Turns = HashMap<(InstanceName, BranchName), Arc<tokio::sync::Mutex<()>>>;

#[derive(Debug, Default)]
struct Groups {
    kept: HashMap<Key, (u64, Arc<Vec<SegmentIndex>>)>,
    uses: u64,
}

impl Groups {
    fn get(&mut self, key: &Key) -> Option<Arc<Vec<SegmentIndex>>> {
        self.uses += 1;
        let (used, kept) = self.kept.get_mut(key)?;
        *used = self.uses;
        Some(Arc::clone(kept))
    }

    fn put(&mut self, key: Key, group: Arc<Vec<SegmentIndex>>) {
        self.uses += 1;
        let _ = self.kept.insert(key, (self.uses, group));
        while self.kept.len() > MOST_GROUPS {
            let oldest = self.kept.iter().min_by_key(|(_, (used, _))| *used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            let _ = self.kept.remove(&key);
        }
    }
}

/// A cluster's WAL, and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The cluster.
    pub cluster: SystemIdentifier,
    /// Its segment size.
    pub size: WalSegmentSize,
}

impl Cut {
    /// The WAL that a backup is recovered with.
    #[must_use]
    pub fn of(backup: &BackupSummary) -> Self {
        Cut {
            cluster: backup.system_identifier,
            size: backup.wal_segment_size,
        }
    }
}

impl IndexCache {
    /// The index of the WAL of `range` along `path`.
    ///
    /// A last record that is archived only in part is part of the last interval, and nothing in it; so the index goes
    /// to the end of the range exactly when the WAL is there and sound.
    ///
    /// # Errors
    /// The store failed, or the server's version is not known.
    pub async fn read(
        &self,
        reader: &BranchReader,
        path: &WalPath,
        cut: Cut,
        range: Range<Lsn>,
    ) -> Result<IndexSlice, RepositoryError> {
        let Some(last_byte) = range
            .end
            .0
            .checked_sub(1)
            .filter(|last| *last >= range.start.0)
        else {
            return Ok(IndexSlice::default());
        };
        let group_of = |lsn| cut.size.segment_of(lsn) / GROUP_SEGMENTS;
        let groups = group_of(range.start)..=group_of(Lsn(last_byte));
        let turn = self.turn(reader);
        let _turn = turn.lock().await;
        let made_at = made_at(reader).await?;
        let slices = futures::stream::iter(groups)
            .map(|group| {
                let key = made_at.map(|made_at| Key {
                    instance: reader.instance().clone(),
                    branch: reader.branch().clone(),
                    made_at,
                    cluster: cut.cluster,
                    timeline: path.history().timeline(),
                    group,
                });
                self.group(reader, path, cut.size, (group, key), &range)
            })
            .buffered(GROUPS_AT_ONCE);
        let slices: Vec<IndexSlice> = slices.try_collect().await?;
        let mut all = IndexSlice::default();
        for slice in slices {
            all.segments.extend(slice.segments);
            all.missing.extend(slice.missing);
        }
        if let Some(tail) = all
            .missing
            .last()
            .cloned()
            .filter(|one| one.end == range.end)
            && let Some(last) = all.segments.last_mut().filter(|one| one.end == tail.start)
            && is_sound(reader, path, &tail).await?
        {
            last.end = tail.end;
            last.intervals.push(Interval {
                start: tail.start,
                end: tail.end,
                ends: None,
            });
            let _ = all.missing.pop();
        }
        Ok(all)
    }

    async fn group(
        &self,
        reader: &BranchReader,
        path: &WalPath,
        size: WalSegmentSize,
        (group, key): (u64, Option<Key>),
        range: &Range<Lsn>,
    ) -> Result<IndexSlice, RepositoryError> {
        let start = size.start_of(group * GROUP_SEGMENTS);
        let end = size.start_of((group + 1) * GROUP_SEGMENTS);
        let (from, to) = (start.max(range.start), end.min(range.end));
        let kept = key.as_ref().and_then(|key| self.groups().get(key));
        if let Some(kept) = kept {
            let within = |one: &&SegmentIndex| one.end > from && one.start < to;
            return Ok(IndexSlice {
                segments: kept.iter().filter(within).cloned().collect(),
                missing: Vec::new(),
            });
        }
        let slice = reader
            .wal_index(path, IndexSettings::default(), from, to)
            .await?;
        let whole = (from, to) == (start, end) && range.end > end && slice.missing.is_empty();
        if let Some(key) = key.filter(|_| whole) {
            let segments = Arc::new(slice.segments.clone());
            self.groups().put(key, segments);
        }
        Ok(slice)
    }

    fn turn(&self, reader: &BranchReader) -> Arc<tokio::sync::Mutex<()>> {
        let branch = (reader.instance().clone(), reader.branch().clone());
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(branch).or_default())
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the branch was made; nothing is kept of one that does not tell.
async fn made_at(reader: &BranchReader) -> Result<Option<Timestamp>, RepositoryError> {
    match reader.record().await {
        Ok(record) => Ok(Some(record.created_at)),
        Err(error) if matches!(error.class(), ErrorClass::Absent | ErrorClass::Corrupt) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether WAL that is not indexed is only the beginning of a record.
async fn is_sound(
    reader: &BranchReader,
    path: &WalPath,
    range: &Range<Lsn>,
) -> Result<bool, RepositoryError> {
    match reader
        .records_between(path, range.start, range.end, |_| {})
        .await
    {
        Ok(reached) => Ok(reached == range.start),
        Err(error) if matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Absent) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

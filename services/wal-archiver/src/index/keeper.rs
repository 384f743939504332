//! Keeps the index of a branch complete up to what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pg_format::wal::{WalError, WalReaderConfigError};
use pg_format::{Lsn, SegmentName, SegmentNumber, TimelineId};
use repository::{BranchWriter, ErrorClass, RepositoryError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wal_index::{OpenTransaction, SegmentIndex};

use super::progress::{Indexing, Loaded, Source};
use super::reading::{Cluster, PIECE_BYTES, Reading};
use super::{ArchiveTurn, IndexPath, PathState, lock};
use crate::error::ArchiveError;
use crate::session::BranchContext;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After a segment of the archive, rest as long as it took: there is no hurry with old WAL.
const REST: u32 = 1;

/// Why a segment was not indexed.
#[derive(Debug, thiserror::Error)]
enum IndexError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("the spool cannot be read")]
    Spool(#[source] ArchiveError),
    #[error("the archived wal cannot be read")]
    Wal(#[from] WalError),
    #[error(transparent)]
    Reader(#[from] WalReaderConfigError),
}

impl IndexError {
    /// Whether the same may succeed later: not with a segment that is damaged or was expired.
    fn is_transient(&self) -> bool {
        match self {
            IndexError::Repository(error) => {
                !matches!(error.class(), ErrorClass::Absent | ErrorClass::Corrupt)
            }
            IndexError::Spool(_) | IndexError::Wal(_) | IndexError::Reader(_) => false,
        }
    }
}

/// Indexes what the branch's desk tells of, until it is cancelled.
pub(crate) async fn keep(branch: BranchContext, cancel: CancellationToken) {
    let desk = branch.index.clone();
    let mut keeper = Keeper::new(&branch);
    let keeping = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match keeper.work().await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    desk.0.wake.notified().await;
                }
                Err(error) => {
                    tracing::warn!(
                        error = service::run::chain(&error),
                        ?pause,
                        "the index of the archived wal is behind"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = keeping => {}
    }
    branch.index.clear();
}

struct Keeper {
    desk: super::IndexDesk,
    writer: BranchWriter,
    cluster: Cluster,
    turn: ArchiveTurn,
    path: Option<Indexing>,
    /// What the segment indexed last left open.
    last: Option<(TimelineId, SegmentNumber, Vec<OpenTransaction>)>,
}

impl Keeper {
    fn new(branch: &BranchContext) -> Self {
        Keeper {
            desk: branch.index.clone(),
            writer: branch.uploader.writer().clone(),
            cluster: Cluster {
                system_identifier: branch.branch.system_identifier,
                size: branch.branch.wal_segment_size,
                settings: branch.config.index_settings(),
            },
            turn: Arc::clone(&branch.archive_turn),
            path: None,
            last: None,
        }
    }

    /// Indexes everything that can be indexed now.
    async fn work(&mut self) -> Result<(), IndexError> {
        while let Some(state) = self.desk.work() {
            let number = lock(&state).number;
            let mut indexing = match self.path.take() {
                Some(indexing) if indexing.number == number => indexing,
                _ => Indexing::new(&state),
            };
            let outcome = self.index(&mut indexing, &state).await;
            if outcome.is_err() {
                // Reading goes on at a segment that is not indexed.
                (indexing.reading, indexing.loaded) = (None, None);
            }
            self.path = Some(indexing);
            outcome?;
            if !lock(&state).ended {
                return Ok(());
            }
            self.desk.done(number);
            if self
                .desk
                .work()
                .is_some_and(|next| Arc::ptr_eq(&next, &state))
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Indexes what is missing and stored along one path.
    async fn index(
        &mut self,
        indexing: &mut Indexing,
        state: &Mutex<PathState>,
    ) -> Result<(), IndexError> {
        if indexing.missing.is_none() {
            indexing.missing = Some(self.missing(&indexing.path).await?);
        }
        while let Some(number) = indexing.first_missing(state) {
            match self.index_segment(indexing, state, number).await {
                Ok(Some(index)) => {
                    self.store(&indexing.path, index).await?;
                    indexing.indexed(number);
                    let _ = lock(state).spools.remove(&number);
                }
                Ok(None) => break,
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        segment = number,
                        error = service::run::chain(&error),
                        "a segment of the archive stays without an index"
                    );
                    (indexing.reading, indexing.loaded) = (None, None);
                    indexing.indexed(number);
                }
            }
        }
        indexing.loaded = None;
        match self.index_last(indexing, state).await {
            Ok(None) => {}
            Ok(Some(index)) => {
                self.store(&indexing.path, index).await?;
                indexing.last_is_indexed = true;
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::warn!(
                    error = service::run::chain(&error),
                    "what an ended timeline left of a segment stays without an index"
                );
                indexing.last_is_indexed = true;
            }
        }
        Ok(())
    }

    /// The index of a stored segment; `None` while its last record is not stored.
    async fn index_segment(
        &self,
        indexing: &mut Indexing,
        state: &Mutex<PathState>,
        number: SegmentNumber,
    ) -> Result<Option<SegmentIndex>, IndexError> {
        if indexing
            .reading
            .as_ref()
            .is_none_or(|(_, at)| *at != number)
        {
            let carry = self.carry(&indexing.path, number).await?;
            let reading = Reading::begin(self.cluster, &indexing.path, number, carry)?;
            indexing.reading = Some((reading, number));
        }
        loop {
            let Some((reading, at)) = &mut indexing.reading else {
                return Ok(None);
            };
            if let Some(index) = reading.take() {
                *at = number + 1;
                return Ok(Some(index));
            }
            let position = reading.position();
            let Some(bytes) = self.bytes_at(indexing, state, position).await? else {
                return Ok(None);
            };
            if let Some((reading, _)) = &mut indexing.reading {
                reading.feed(&bytes).await?;
            }
        }
    }

    /// The index of the part of a segment that an ended timeline leaves, once everything before has one.
    async fn index_last(
        &self,
        indexing: &mut Indexing,
        state: &Mutex<PathState>,
    ) -> Result<Option<SegmentIndex>, IndexError> {
        let last = {
            let state = lock(state);
            state.last.clone().filter(|_| state.ended)
        };
        let Some(last) = last.filter(|_| !indexing.last_is_indexed) else {
            return Ok(None);
        };
        let number = last.name().number(self.cluster.size);
        let carry = self.carry(&indexing.path, number).await?;
        let mut reading = Reading::begin(self.cluster, &indexing.path, number, carry)?;
        let bytes = last.read(last.written()).await.map_err(IndexError::Spool)?;
        reading.feed(&bytes).await?;
        Ok(Some(reading.unfinished()))
    }

    /// The next bytes from `position` on; `None` if they are not stored yet.
    async fn bytes_at(
        &self,
        indexing: &mut Indexing,
        state: &Mutex<PathState>,
        position: Lsn,
    ) -> Result<Option<Bytes>, IndexError> {
        let size = self.cluster.size;
        let number = size.segment_of(position);
        let offset = size.offset_in_segment(position);
        match indexing.source(state, number, offset, size) {
            Source::NotYet => Ok(None),
            Source::Spool(spool) => {
                let length = PIECE_BYTES.min(spool.written() - offset);
                let bytes = spool.read_at(offset, length).await;
                Ok(Some(bytes.map_err(IndexError::Spool)?))
            }
            Source::Archive(name) => {
                let bytes = self.load(indexing, name).await?;
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(Some(bytes.slice(offset.min(bytes.len())..)))
            }
        }
    }

    /// A segment of the archive; one is in memory at a time.
    async fn load(&self, indexing: &mut Indexing, name: SegmentName) -> Result<Bytes, IndexError> {
        let number = name.number(self.cluster.size);
        if let Some(loaded) = &indexing.loaded
            && loaded.number == number
        {
            return Ok(loaded.bytes.clone());
        }
        if let Some(loaded) = indexing.loaded.take() {
            let took = loaded.since.elapsed();
            drop(loaded);
            tokio::time::sleep(took * REST).await;
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await.ok();
        let since = Instant::now();
        let bytes = self.writer.get_segment(name).await?;
        indexing.loaded = Some(Loaded {
            number,
            bytes: bytes.clone(),
            since,
            _turn: turn,
        });
        Ok(bytes)
    }

    /// What the segment before `number` left open; nothing if it is not known.
    async fn carry(
        &self,
        path: &IndexPath,
        number: SegmentNumber,
    ) -> Result<Vec<OpenTransaction>, IndexError> {
        let Some(before) = number.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let timeline = path.timeline_of(before, self.cluster);
        if let Some((last_timeline, last, open)) = &self.last
            && (*last_timeline, *last) == (timeline, before)
        {
            return Ok(open.clone());
        }
        let stored = self.writer.stored_wal_index(timeline, before).await?;
        Ok(stored.map_or_else(Vec::new, |index| index.open))
    }

    /// The archived segments of a path that have no index.
    async fn missing(&self, path: &IndexPath) -> Result<BTreeSet<SegmentNumber>, IndexError> {
        let mut archived: BTreeMap<TimelineId, BTreeSet<SegmentNumber>> = BTreeMap::new();
        for name in &path.archived {
            let number = name.number(self.cluster.size);
            if number < path.start && name.timeline == path.timeline_of(number, self.cluster) {
                let _ = archived.entry(name.timeline).or_default().insert(number);
            }
        }
        let mut missing = BTreeSet::new();
        for (timeline, numbers) in archived {
            missing.extend(self.writer.without_wal_index(timeline, numbers).await?);
        }
        if !missing.is_empty() {
            tracing::info!(
                segments = missing.len(),
                "archived segments have no index; they get one now"
            );
        }
        Ok(missing)
    }

    async fn store(&mut self, path: &IndexPath, index: SegmentIndex) -> Result<(), IndexError> {
        let timeline = path.timeline_of(index.segment, self.cluster);
        let last = (timeline, index.segment, index.open.clone());
        self.writer.put_wal_index(timeline, &[index]).await?;
        self.last = Some(last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pg_format::{SystemIdentifier, TimelineHistory, WalSegmentSize};
    use repository::{Repository, RetryPolicy};
    use tokio::sync::Semaphore;
    use wal_index::IndexSettings;

    use super::*;
    use crate::segment_spool::SegmentSpool;

    #[tokio::test]
    async fn a_damaged_end_of_a_timeline_does_not_hold_up_the_next_one() {
        let place = tempfile::tempdir().unwrap();
        let url = format!("file://{}", place.path().display());
        let repository = Repository::open(&url, RetryPolicy::default()).unwrap();
        let instance = events::InstanceName::new("shop").unwrap();
        let size = WalSegmentSize::new(1 << 20).unwrap();
        let desk = super::super::IndexDesk::default();
        let mut keeper = Keeper {
            desk: desk.clone(),
            writer: repository.writer(&instance, &events::BranchName::main()),
            cluster: Cluster {
                system_identifier: SystemIdentifier(7),
                size,
                settings: IndexSettings::default(),
            },
            turn: Arc::new(Semaphore::new(1)),
            path: None,
            last: None,
        };
        let path = IndexPath {
            history: TimelineHistory::root(TimelineId(1)),
            server_major: 18,
            archived: BTreeSet::new(),
            start: 3,
        };
        desk.begin(path.clone());
        let name = SegmentName::new(TimelineId(1), 3, size);
        let spool = SegmentSpool::create(place.path(), name, size).await;
        let mut spool = spool.unwrap();
        spool.append(Bytes::from(vec![7; 9000])).await.unwrap();
        desk.ended(Some(spool));
        desk.begin(path);
        keeper.work().await.unwrap();
        let next = desk.work().unwrap();
        assert!(!lock(&next).ended, "the ended one is still in front");
    }
}

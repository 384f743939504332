//! From the spool into the repository, for ever: a store that is down is waited for.
//!
//! What must stay true: bytes of segments in memory stay within one budget for the whole process, and
//! a segment's `.partial` is never written after the segment itself is stored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use pg_format::{SegmentName, TimelineId, WalSegmentSize};
use repository::{BranchWriter, ErrorClass, RepositoryError, WalGap};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::error::ArchiveError;
use crate::segment_spool::SegmentSpool;
use crate::status::BranchStatus;

const MIB: u64 = 1 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Memory for segments on their way to the store, shared by all branches.
#[derive(Clone, Debug)]
pub(crate) struct UploadMemory {
    permits: Arc<Semaphore>,
    mib: u32,
}

impl UploadMemory {
    /// A budget; a segment that is larger takes all of it.
    #[must_use]
    pub(crate) fn new(mib: u32) -> Self {
        let mib = mib.max(1);
        UploadMemory {
            permits: Arc::new(Semaphore::new(mib as usize)),
            mib,
        }
    }

    async fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        // The raw bytes and, while they are compressed, at most as much again.
        let wanted = u32::try_from((2 * bytes).div_ceil(MIB)).unwrap_or(u32::MAX);
        let permits = wanted.clamp(1, self.mib);
        // Fails only when closed, which nobody does.
        Arc::clone(&self.permits)
            .acquire_many_owned(permits)
            .await
            .ok()
    }
}

/// Stores WAL of one branch.
#[derive(Clone, Debug)]
pub(crate) struct Uploader {
    writer: BranchWriter,
    memory: UploadMemory,
    status: Arc<BranchStatus>,
}

/// An archived segment, read back into the budget.
#[derive(Debug)]
pub(crate) struct ReadBack {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Whether a segment's own object has taken the place of its `.partial`.
pub(crate) type Superseded = Arc<Mutex<bool>>;

impl Uploader {
    /// An uploader of a branch.
    #[must_use]
    pub(crate) fn new(
        writer: BranchWriter,
        memory: UploadMemory,
        status: Arc<BranchStatus>,
    ) -> Self {
        Uploader {
            writer,
            memory,
            status,
        }
    }

    /// Stores a complete segment and removes its `.partial`; gives back the stored size in bytes.
    ///
    /// # Errors
    /// What waiting cannot cure: another segment of this name, a damaged one, a spool that fails.
    pub(crate) async fn segment(
        &self,
        spool: &SegmentSpool,
        superseded: &Superseded,
        has_partial: bool,
    ) -> Result<u64, ArchiveError> {
        let name = spool.name();
        let memory = self.memory.reserve(spool.written()).await;
        let raw = spool.read(spool.written()).await?;
        let outcome = self.patiently(|| self.writer.put_segment(name, raw.clone()));
        let stored_bytes = outcome.await?.stored_bytes();
        drop((raw, memory));
        let mut superseded = superseded.lock().await;
        *superseded = true;
        if has_partial {
            self.delete_partial(name).await;
        }
        Ok(stored_bytes)
    }

    /// Stores the open segment so far; `false` when the segment itself was stored meanwhile.
    ///
    /// # Errors
    /// As [`Self::segment`].
    pub(crate) async fn partial(
        &self,
        spool: &SegmentSpool,
        superseded: &Superseded,
    ) -> Result<bool, ArchiveError> {
        let superseded = superseded.lock().await;
        if *superseded {
            return Ok(false);
        }
        let _memory = self.memory.reserve(spool.written()).await;
        let raw = spool.read(spool.written()).await?;
        let put = self.patiently(|| self.writer.put_partial(spool.name(), raw.clone()));
        let _ = put.await?;
        Ok(true)
    }

    /// Stores a timeline's history file.
    ///
    /// # Errors
    /// Another history is stored for this timeline.
    pub(crate) async fn history(
        &self,
        timeline: TimelineId,
        text: Bytes,
    ) -> Result<(), ArchiveError> {
        let put = self.patiently(|| self.writer.put_history(timeline, text.clone()));
        let _ = put.await?;
        Ok(())
    }

    /// Reads a segment of `size` back; `None` if it was expired meanwhile.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) async fn read_back(
        &self,
        name: SegmentName,
        size: WalSegmentSize,
    ) -> Result<Option<ReadBack>, RepositoryError> {
        let memory = self.memory.reserve(size.bytes()).await;
        let segment = self.patiently(|| self.writer.get_segment(name)).await;
        let bytes = RepositoryError::absent_as_none(segment)?;
        Ok(bytes.map(|bytes| ReadBack {
            bytes,
            _memory: memory,
        }))
    }

    /// Reads back what is stored of an open segment; `None` if nothing is. Errors as [`Self::read_back`].
    pub(crate) async fn read_back_partial(
        &self,
        name: SegmentName,
        size: WalSegmentSize,
    ) -> Result<Option<ReadBack>, RepositoryError> {
        let memory = self.memory.reserve(size.bytes()).await;
        let partial = self.patiently(|| self.writer.get_partial(name)).await;
        let bytes = RepositoryError::absent_as_none(partial)?;
        Ok(bytes.map(|bytes| ReadBack {
            bytes,
            _memory: memory,
        }))
    }

    /// Records a gap as found after all that are recorded: they are told in that order, and whoever found the last one
    /// may have had a clock that was ahead.
    ///
    /// # Errors
    /// What waiting cannot cure.
    pub(crate) async fn record_gap(&self, mut gap: WalGap) -> Result<(), RepositoryError> {
        let recorded = self.patiently(|| self.writer.reader().wal_gaps()).await?;
        let others = recorded
            .iter()
            .filter(|other| (other.timeline, other.from_lsn) != (gap.timeline, gap.from_lsn));
        if let Some(last) = others.map(|other| other.detected_at).max() {
            gap.detected_at = gap.detected_at.max(last + TimeDelta::microseconds(1));
        }
        self.patiently(|| self.writer.put_wal_gap(&gap)).await
    }

    /// Removes the `.partial` of a segment that is stored. Left behind by a failure it costs a few bytes,
    /// and the next start removes it.
    pub(crate) async fn delete_partial(&self, name: SegmentName) {
        if let Err(error) = self.writer.delete_partial(name).await {
            tracing::warn!(segment = %name, %error, "the partial of a stored segment stays for now");
        }
    }

    /// The branch's place in the repository.
    #[must_use]
    pub(crate) fn writer(&self) -> &BranchWriter {
        &self.writer
    }

    /// Calls again for ever while the store is down or refuses us: the slot holds the WAL meanwhile.
    ///
    /// # Errors
    /// What waiting cannot cure.
    pub(crate) async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, RepositoryError>
    where
        F: Future<Output = Result<T, RepositoryError>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match call().await {
                Ok(value) => {
                    if pause > FIRST_PAUSE {
                        tracing::info!("the repository takes wal again");
                        self.status.update(|seen| seen.error = None);
                    }
                    return Ok(value);
                }
                Err(error) => error,
            };
            if !matches!(error.class(), ErrorClass::Transient | ErrorClass::Denied) {
                return Err(error);
            }
            tracing::warn!(
                error = service::run::chain(&error),
                ?pause,
                "the repository takes no wal"
            );
            self.status
                .update(|seen| seen.error = Some(service::run::chain(&error)));
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..=1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

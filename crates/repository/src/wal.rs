//! WAL objects: segments, the open segment's `.partial`, timeline history files, and how far the
//! archive is proven complete.
//!
//! A segment and a history file are written once. A second put of the same bytes changes nothing; a
//! put of other bytes is refused, because one of the two is not this branch's WAL. The `.partial`
//! is replaced every few seconds, and is worth nothing once its segment is there.

mod coverage;
mod gap;
mod listing;
mod open;
mod path;
mod position;
mod records;

use bytes::Bytes;
use pg_format::{SegmentName, TimelineId, WalSegmentSize};

pub use coverage::{WalCoverage, wal_coverage};
pub use gap::{GapProof, WalGap};
pub(crate) use listing::parse;
pub use listing::{WalObject, WalObjectKind};
pub use open::OpenSegment;
pub(crate) use path::Place;
pub use path::{WalFormat, WalPath, wal_stretches};
pub use position::WalPosition;
pub(crate) use records::Feed;

use crate::frame::{self, FrameKind};
use crate::{BranchReader, BranchWriter, RepositoryError, Result};

/// On WAL, level 3 stores a tenth less than level 1; a segment is written once and kept.
const SEGMENT_LEVEL: i32 = 3;
/// The open segment is written again every few seconds.
const PARTIAL_LEVEL: i32 = 1;

/// What became of a write-once put. In both cases the object is in the store, and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// This call stored it.
    Stored {
        /// Size in the repository.
        stored_bytes: u64,
    },
    /// The same bytes were there already.
    AlreadyStored {
        /// Size in the repository.
        stored_bytes: u64,
    },
}

impl PutOutcome {
    /// Size of the object in the repository.
    #[must_use]
    pub fn stored_bytes(self) -> u64 {
        match self {
            Self::Stored { stored_bytes } | Self::AlreadyStored { stored_bytes } => stored_bytes,
        }
    }
}

impl BranchReader {
    /// The bytes of a complete segment.
    ///
    /// # Errors
    /// It is not in the repository (and only then [`RepositoryError::Absent`]), it is damaged, or
    /// the store failed.
    pub async fn get_segment(&self, name: SegmentName) -> Result<Bytes> {
        self.get_wal(self.layout.segment(name)).await
    }

    /// The text of a timeline's history file. Errors as [`Self::get_segment`].
    pub async fn get_history(&self, timeline: TimelineId) -> Result<Bytes> {
        self.get_wal(self.layout.history(timeline)).await
    }

    async fn get_wal(&self, key: String) -> Result<Bytes> {
        let stored = self.store.get(&key).await?;
        decode(key, stored).await
    }
}

impl BranchWriter {
    /// Stores a complete segment, once.
    ///
    /// # Errors
    /// [`RepositoryError::Conflict`] when other bytes are there under this name; `raw` is not a
    /// whole segment; or the store failed, and the segment may or may not be there.
    pub async fn put_segment(&self, name: SegmentName, raw: Bytes) -> Result<PutOutcome> {
        let _ = WalSegmentSize::new(raw.len() as u64)
            .map_err(|error| RepositoryError::refused(format!("segment {name}: {error}")))?;
        self.put_once(self.layout.segment(name), raw).await
    }

    /// Stores a timeline's history file, once. Errors as [`Self::put_segment`].
    pub async fn put_history(&self, timeline: TimelineId, text: Bytes) -> Result<PutOutcome> {
        self.put_once(self.layout.history(timeline), text).await
    }

    async fn put_once(&self, key: String, raw: Bytes) -> Result<PutOutcome> {
        let frame = encode(&key, raw.clone(), SEGMENT_LEVEL).await?;
        let stored_bytes = frame.len() as u64;
        let Some(existing) = self.store.create_or_get(&key, frame).await? else {
            return Ok(PutOutcome::Stored { stored_bytes });
        };
        let stored_bytes = existing.len() as u64;
        // Read back whole: what is confirmed to PostgreSQL must be there, not only be named there.
        if decode(key.clone(), existing).await? == raw {
            return Ok(PutOutcome::AlreadyStored { stored_bytes });
        }
        let reason = "both cannot be this branch's WAL; is another cluster archived here?".into();
        Err(RepositoryError::Conflict { key, reason })
    }
}

async fn encode(key: &str, raw: Bytes, level: i32) -> Result<Bytes> {
    let name = key.rsplit('/').next().unwrap_or(key).to_owned();
    let task =
        tokio::task::spawn_blocking(move || frame::encode(FrameKind::Wal, &name, &raw, level));
    task.await
        .map_err(|error| RepositoryError::task("compress", key, error))?
}

async fn decode(key: String, stored: Bytes) -> Result<Bytes> {
    let name = key.clone();
    let task = tokio::task::spawn_blocking(move || frame::decode(FrameKind::Wal, &key, &stored));
    task.await
        .map_err(|error| RepositoryError::task("decompress", name, error))?
}

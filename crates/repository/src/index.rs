//! `wal-index/`: the commit-time index as it is stored, and how it is read.
//!
//! What must stay true: nobody relies on it being there. One object holds the index of 64 consecutive segments of a
//! timeline and is written again whenever a segment is added; an entry that a crash or a race of two writers loses, or
//! that is damaged, is built again from the WAL by whoever reads, with the same result.

mod relations;
mod stored;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use relations::parse as parse_relation_map;

use std::ops::Range;

use bytes::Bytes;
use pg_format::{Lsn, SegmentNumber, TimelineId};
use wal_index::SegmentIndex;

use crate::frame::{self, FrameKind};
use crate::{BranchReader, BranchWriter, ErrorClass, RepositoryError, Result};

/// Segments in one object.
const GROUP_SEGMENTS: u64 = 64;
/// Written again with each of its segments.
const LEVEL: i32 = 3;

/// The index of a stretch of WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexSlice {
    /// Of every segment that has something of the stretch, along the history, in order. The first and the last may go
    /// beyond it.
    pub segments: Vec<SegmentIndex>,
    /// What of the stretch they do not cover, in order: WAL that is not archived, or is damaged, and a last record that
    /// is archived only in part.
    pub missing: Vec<Range<Lsn>>,
}

impl BranchReader {
    /// The stored index of a group; nothing if there is none, or it cannot be used.
    ///
    /// # Errors
    /// The store failed.
    async fn index_group(&self, timeline: TimelineId, group: u64) -> Result<Vec<SegmentIndex>> {
        match self.stored_group(timeline, group).await {
            Err(error) if is_lost(&error) => {
                if !error.is_absent() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "stored index is passed over, and built from the WAL");
                }
                Ok(Vec::new())
            }
            other => other,
        }
    }

    async fn stored_group(&self, timeline: TimelineId, group: u64) -> Result<Vec<SegmentIndex>> {
        let key = self.layout.wal_index_group(timeline, group);
        let stored = self.store.get(&key).await?;
        unpack(FrameKind::WalIndex, key, stored, wal_index::decode).await
    }
}

impl BranchWriter {
    /// Stores the index of segments of `timeline`, beside what is stored already. Of two for the same segment the one
    /// that covers more is kept, of equals the new one.
    ///
    /// # Errors
    /// A newer Zektor has written there, or the store failed; some of it may be stored nevertheless.
    pub async fn put_wal_index(
        &self,
        timeline: TimelineId,
        segments: &[SegmentIndex],
    ) -> Result<()> {
        let same_group = |a: &SegmentIndex, b: &SegmentIndex| {
            a.segment / GROUP_SEGMENTS == b.segment / GROUP_SEGMENTS
        };
        for added in segments.chunk_by(same_group) {
            let Some(first) = added.first() else { continue };
            let group = first.segment / GROUP_SEGMENTS;
            let stored = match self.stored_group(timeline, group).await {
                Err(error)
                    if is_lost(&error) && !matches!(error, RepositoryError::Newer { .. }) =>
                {
                    Vec::new()
                }
                other => other?,
            };
            let merged = merge(stored, added);
            let key = self.layout.wal_index_group(timeline, group);
            let frame = pack(FrameKind::WalIndex, &key, move || {
                wal_index::encode(&merged)
            });
            self.store.put(&key, frame.await?).await?;
        }
        Ok(())
    }
}

/// Whether the object is as good as not there; otherwise the store could not be asked.
fn is_lost(error: &RepositoryError) -> bool {
    matches!(error.class(), ErrorClass::Absent | ErrorClass::Corrupt)
        || matches!(error, RepositoryError::Newer { .. })
}

fn merge(mut stored: Vec<SegmentIndex>, added: &[SegmentIndex]) -> Vec<SegmentIndex> {
    let bytes = |segment: &SegmentIndex| segment.end.bytes_since(segment.start);
    stored.sort_by_key(|segment| segment.segment);
    for added in added {
        match stored.binary_search_by_key(&added.segment, |segment| segment.segment) {
            Ok(at) if bytes(added) >= bytes(&stored[at]) => stored[at] = added.clone(),
            Ok(_) => {}
            Err(at) => stored.insert(at, added.clone()),
        }
    }
    stored
}

/// The segments of a group.
pub(crate) fn group_range(group: u64) -> Range<SegmentNumber> {
    let first = group.saturating_mul(GROUP_SEGMENTS);
    first..first.saturating_add(GROUP_SEGMENTS)
}

/// `.../<timeline>/<group>`
pub(crate) fn parse_group(key: &str) -> Option<(TimelineId, u64)> {
    let (directory, group) = key.rsplit_once('/')?;
    let timeline = TimelineId::from_hex(directory.rsplit('/').next()?).ok()?;
    let group = (group.len() == 16).then(|| u64::from_str_radix(group, 16).ok())??;
    Some((timeline, group))
}

fn group_of(number: SegmentNumber) -> u64 {
    number / GROUP_SEGMENTS
}

/// Encodes and compresses, away from those who wait.
async fn pack(
    kind: FrameKind,
    key: &str,
    encode: impl FnOnce() -> Vec<u8> + Send + 'static,
) -> Result<Bytes> {
    let name = key.rsplit('/').next().unwrap_or(key).to_owned();
    let task = tokio::task::spawn_blocking(move || frame::encode(kind, &name, &encode(), LEVEL));
    task.await
        .map_err(|error| RepositoryError::task("compress", key, error))?
}

async fn unpack<T: Send + 'static>(
    kind: FrameKind,
    key: String,
    stored: Bytes,
    decode: fn(&[u8]) -> Result<T, wal_index::FormatError>,
) -> Result<T> {
    let name = key.clone();
    let task = tokio::task::spawn_blocking(move || {
        let raw = frame::decode(kind, &key, &stored)?;
        decode(&raw).map_err(|error| match error {
            wal_index::FormatError::Version { found } => RepositoryError::Newer {
                key,
                format: kind.text().to_owned(),
                version: found.into(),
            },
            other => RepositoryError::corrupt(key, other),
        })
    });
    task.await
        .map_err(|error| RepositoryError::task("decompress", name, error))?
}

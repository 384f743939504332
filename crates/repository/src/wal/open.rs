//! `.partial`: the beginning of the segment that is open, put again every few seconds.
//!
//! What must stay true: what was stored of an open segment once stays stored until its segment is. An archiver that was
//! paused and goes on beside its successor has less of the segment; its put changes nothing.

use bytes::Bytes;
use pg_format::SegmentName;

use super::{PARTIAL_LEVEL, decode, encode};
use crate::frame::{self, FrameKind};
use crate::store::{Created, Replaced};
use crate::{BranchReader, BranchWriter, Digest, RepositoryError, Result};

/// Others may put the same object meanwhile; so often it is looked at anew.
const MOST_ATTEMPTS: u32 = 16;

/// How much of the open segment is in its `.partial`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSegment {
    /// The segment.
    pub name: SegmentName,
    /// Bytes of it, from its beginning.
    pub raw_bytes: u64,
}

impl BranchReader {
    /// The bytes of the open segment so far, from its beginning. Errors as [`Self::get_segment`].
    pub async fn get_partial(&self, name: SegmentName) -> Result<Bytes> {
        self.get_wal(self.layout.partial(name)).await
    }

    /// How much of the open segment is stored, without reading it. Errors as [`Self::get_segment`].
    pub async fn open_segment(&self, name: SegmentName) -> Result<OpenSegment> {
        let key = self.layout.partial(name);
        let start = self
            .store
            .get_start(&key, frame::HEADER_BYTES as u64)
            .await?;
        let header = frame::decode_header(FrameKind::Wal, &key, &start)?;
        Ok(OpenSegment {
            name,
            raw_bytes: header.raw_bytes,
        })
    }
}

impl BranchWriter {
    /// Stores the open segment so far, from its beginning, over what was there, unless that is longer: then it is left,
    /// if it begins with `raw`. Afterwards `raw` is in the store, whoever put it there.
    ///
    /// Gives back the object's size in bytes. What the store must be able to do, so that this is true with several
    /// writers too, says `store::conditional`.
    ///
    /// # Errors
    /// [`RepositoryError::Conflict`] when more of the segment is there and begins differently; or the store failed, and
    /// the object is either the old one or the new one.
    pub async fn put_partial(&self, name: SegmentName, raw: Bytes) -> Result<u64> {
        let key = self.layout.partial(name);
        let digest = Digest::of(&raw);
        let frame = encode(&key, raw.clone(), PARTIAL_LEVEL).await?;
        for _ in 0..MOST_ATTEMPTS {
            let found = self
                .store
                .get_version(&key, frame::HEADER_BYTES as u64)
                .await;
            let Some((start, version, stored_bytes)) = RepositoryError::absent_as_none(found)?
            else {
                match self.store.create(&key, frame.clone()).await? {
                    Created::New => return Ok(frame.len() as u64),
                    Created::Exists => continue,
                }
            };
            // What cannot be read is worth nothing.
            if let Ok(header) = frame::decode_header(FrameKind::Wal, &key, &start) {
                if header.raw_digest == digest {
                    return Ok(stored_bytes);
                }
                if header.raw_bytes > raw.len() as u64 && self.begins_with(&key, &raw).await? {
                    return Ok(stored_bytes);
                }
            }
            if self.store.replace(&key, frame.clone(), &version).await? == Replaced::Done {
                return Ok(frame.len() as u64);
            }
        }
        Err(RepositoryError::Transient {
            operation: "write",
            key,
            source: "somebody else writes it all the time".into(),
        })
    }

    /// Deletes the `.partial` of a segment that is complete now. Succeeds when there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn delete_partial(&self, name: SegmentName) -> Result<()> {
        self.store.delete(&self.layout.partial(name)).await
    }

    /// Whether a longer object is there that begins with these bytes; `false` if it is damaged or gone.
    async fn begins_with(&self, key: &str, raw: &Bytes) -> Result<bool> {
        let stored = self.store.get(key).await;
        let Some(stored) = RepositoryError::absent_as_none(stored)? else {
            return Ok(false);
        };
        match decode(key.to_owned(), stored).await {
            Ok(stored) if stored.starts_with(raw) => Ok(true),
            Ok(stored) if stored.len() > raw.len() => Err(RepositoryError::Conflict {
                key: key.to_owned(),
                reason: "more of the segment is there and it begins differently; is another cluster archived here?"
                    .to_owned(),
            }),
            Ok(_) | Err(RepositoryError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

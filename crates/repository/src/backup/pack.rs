//! Packs: many compressed chunks in one object, uploaded while the next is filled.
//!
//! A pack begins with `ZKPK`, the version and three zero bytes; chunks follow without anything
//! between them. What is where is known from the index alone.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::manifest::Pack;
use super::{BackupOptions, StoredChunk};
use crate::layout::BranchLayout;
use crate::store::Store;
use crate::{Digest, RepositoryError, Result};

const MAGIC: &[u8; 4] = b"ZKPK";
const VERSION: u8 = 1;
/// Length of a pack's header in bytes.
pub(crate) const HEADER_BYTES: usize = 8;

/// Refuses a pack that is not one, or of an unknown version.
pub(crate) fn check_header(key: &str, pack: &[u8]) -> Result<()> {
    match pack.first_chunk::<HEADER_BYTES>() {
        Some([b'Z', b'K', b'P', b'K', VERSION, 0, 0, 0]) => Ok(()),
        Some([b'Z', b'K', b'P', b'K', version, ..]) if *version > VERSION => {
            let (format, version) = ("pack".to_owned(), u64::from(*version));
            Err(RepositoryError::Newer {
                key: key.to_owned(),
                format,
                version,
            })
        }
        _ => Err(RepositoryError::corrupt(key, "it is not a pack")),
    }
}

/// A chunk, digested and compressed.
pub(super) enum EncodedChunk {
    Zeros {
        raw_bytes: u32,
    },
    Stored {
        raw_bytes: u32,
        digest: Digest,
        stored: Vec<u8>,
    },
}

/// zstd contexts that are used again: making one costs as much as compressing a chunk.
pub(super) struct Compressors {
    level: i32,
    idle: Mutex<Vec<zstd::bulk::Compressor<'static>>>,
}

impl Compressors {
    pub(super) fn new(level: i32) -> Self {
        Compressors {
            level,
            idle: Mutex::default(),
        }
    }

    pub(super) fn encode(&self, raw: &[u8]) -> std::io::Result<EncodedChunk> {
        // A chunk is at most MAX_CHUNK_BYTES long.
        let raw_bytes = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        if is_zero(raw) {
            return Ok(EncodedChunk::Zeros { raw_bytes });
        }
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut compressor = match idle {
            Some(compressor) => compressor,
            None => zstd::bulk::Compressor::new(self.level)?,
        };
        let mut stored = compressor.compress(raw)?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(compressor);
        if stored.len() >= raw.len() {
            stored = raw.to_vec();
        }
        Ok(EncodedChunk::Stored {
            raw_bytes,
            digest: Digest::of(raw),
            stored,
        })
    }
}

/// The raw bytes of a chunk, with their digest checked. `key` names the pack for the error.
pub(crate) fn decode_chunk(key: &str, chunk: &StoredChunk, stored: Bytes) -> Result<Bytes> {
    let damaged = |why: &str| {
        RepositoryError::corrupt(key, format!("the chunk at byte {} {why}", chunk.offset))
    };
    let raw = if chunk.stored_bytes == chunk.raw_bytes {
        stored
    } else {
        zstd::bulk::decompress(&stored, chunk.raw_bytes as usize)
            .map_err(|error| damaged(&format!("cannot be decompressed: {error}")))?
            .into()
    };
    if raw.len() != chunk.raw_bytes as usize || Digest::of(&raw) != chunk.digest {
        return Err(damaged("has another digest"));
    }
    Ok(raw)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

/// Fills packs and uploads them, at most [`BackupOptions::uploads`] at once.
pub(super) struct PackWriter {
    store: Store,
    layout: Arc<BranchLayout>,
    owner: (events::BackupId, String),
    pack_bytes: usize,
    uploads_at_once: usize,
    open: BytesMut,
    sealed: Vec<Pack>,
    uploads: JoinSet<Result<()>>,
}

impl PackWriter {
    pub(super) fn new(
        store: Store,
        layout: Arc<BranchLayout>,
        owner: (events::BackupId, String),
        options: &BackupOptions,
    ) -> Self {
        PackWriter {
            store,
            layout,
            owner,
            pack_bytes: options.pack_bytes,
            uploads_at_once: options.uploads.max(1),
            open: BytesMut::new(),
            sealed: Vec::new(),
            uploads: JoinSet::new(),
        }
    }

    /// Appends a chunk and says where it is. Fails also when an earlier upload has failed.
    pub(super) async fn add(
        &mut self,
        raw_bytes: u32,
        digest: Digest,
        stored: &[u8],
    ) -> Result<StoredChunk> {
        if self.open.len() > HEADER_BYTES && self.open.len() + stored.len() > self.pack_bytes {
            self.seal().await?;
        }
        if self.open.is_empty() {
            self.open
                .reserve(self.pack_bytes.max(HEADER_BYTES + stored.len()));
            self.open.extend_from_slice(MAGIC);
            self.open.extend_from_slice(&[VERSION, 0, 0, 0]);
        }
        let number = |value: usize| {
            let too_large = || RepositoryError::refused("a backup of more than 2^32 packs");
            u32::try_from(value).map_err(|_| too_large())
        };
        let chunk = StoredChunk {
            pack: number(self.sealed.len())?,
            offset: number(self.open.len())?,
            stored_bytes: number(stored.len())?,
            raw_bytes,
            digest,
        };
        self.open.extend_from_slice(stored);
        Ok(chunk)
    }

    /// Bytes that were put into packs so far.
    pub(super) fn bytes(&self) -> u64 {
        self.sealed.iter().map(|pack| pack.bytes).sum::<u64>() + self.open.len() as u64
    }

    async fn seal(&mut self) -> Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.open).freeze();
        let (backup, attempt) = self.owner.clone();
        let number = u32::try_from(self.sealed.len())
            .map_err(|_| RepositoryError::refused("a backup of more than 2^32 packs"))?;
        let key = self.layout.pack(backup, &attempt, number);
        let digest = Digest::of(&bytes);
        self.sealed.push(Pack {
            backup,
            attempt,
            number,
            bytes: bytes.len() as u64,
            digest,
        });
        while self.uploads.len() >= self.uploads_at_once {
            self.join_one().await?;
        }
        let store = self.store.clone();
        let span = tracing::info_span!("repository.put_pack", key, bytes = bytes.len());
        let _ = self
            .uploads
            .spawn(async move { store.put(&key, bytes).await }.instrument(span));
        Ok(())
    }

    async fn join_one(&mut self) -> Result<()> {
        match self.uploads.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(RepositoryError::task("write", "a pack", error)),
            None => Ok(()),
        }
    }

    /// Uploads the last pack and waits until all are in the store.
    pub(super) async fn finish(mut self) -> Result<Vec<Pack>> {
        self.seal().await?;
        while !self.uploads.is_empty() {
            self.join_one().await?;
        }
        Ok(self.sealed)
    }
}

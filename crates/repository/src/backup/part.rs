//! Reads the file index part by part and proves that it accounts for every byte.

use super::{Chunk, Content, Entry, EntryPath, Manifest, Totals};
use crate::frame::{self, FrameKind};
use crate::layout::BranchLayout;
use crate::store::Store;
use crate::{BranchReader, Digest, RepositoryError, Result};

/// Larger chunks were never written.
pub(crate) const MAX_CHUNK_BYTES: u32 = 16 << 20;

/// Reads the parts of one backup's index in order.
pub(crate) struct PartReader<'a> {
    store: &'a Store,
    layout: &'a BranchLayout,
    manifest: &'a Manifest,
    next: usize,
    audit: Audit,
}

/// The sums that the index must come to.
#[derive(Default)]
struct Audit {
    /// The file whose last chunk is still to come, and how much of it came.
    open: Option<(EntryPath, u64)>,
    totals: Totals,
}

impl<'a> PartReader<'a> {
    pub(crate) fn new(branch: &'a BranchReader, manifest: &'a Manifest) -> Self {
        let (store, layout) = (&branch.store, &branch.layout);
        PartReader {
            store,
            layout,
            manifest,
            next: 0,
            audit: Audit::default(),
        }
    }

    /// The key of pack number `place` of the manifest's list.
    pub(crate) fn pack_key(&self, place: u32) -> String {
        match self.manifest.packs.get(place as usize) {
            Some(pack) => self.layout.pack(pack.backup, &pack.attempt, pack.number),
            None => self.layout.packs(self.manifest.summary.backup_id),
        }
    }

    /// The next part's entries; `None` after the last one, when all sums came out right.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Entry>>> {
        let summary = &self.manifest.summary;
        let Some(part) = self.manifest.index.get(self.next) else {
            let key = self.layout.manifest(summary.backup_id);
            self.audit.finish(&key, self.manifest)?;
            return Ok(None);
        };
        self.next += 1;
        let key = self
            .layout
            .index(summary.backup_id, &summary.attempt, part.number);
        let stored = self.store.get(&key).await?;
        let (digest, entries, name) = (part.digest, part.entries, key.clone());
        let task = tokio::task::spawn_blocking(move || decode(&name, &stored, digest, entries));
        let entries = task
            .await
            .map_err(|error| RepositoryError::task("decompress", &key, error))??;
        for entry in &entries {
            self.audit.add(&key, self.manifest, entry)?;
        }
        Ok(Some(entries))
    }
}

fn decode(key: &str, stored: &[u8], digest: Digest, entries: u64) -> Result<Vec<Entry>> {
    if Digest::of(stored) != digest {
        return Err(RepositoryError::corrupt(
            key,
            "its digest is not the one in the manifest",
        ));
    }
    let lines = frame::decode(FrameKind::Index, key, stored)?;
    let parse = |line: &[u8]| {
        serde_json::from_slice::<Entry>(line)
            .map_err(|error| RepositoryError::corrupt(key, format!("a line is wrong: {error}")))
    };
    let lines = lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let parsed = lines.map(parse).collect::<Result<Vec<Entry>>>()?;
    if parsed.len() as u64 != entries {
        return Err(RepositoryError::corrupt(key, "lines are missing"));
    }
    Ok(parsed)
}

impl Audit {
    fn add(&mut self, key: &str, manifest: &Manifest, entry: &Entry) -> Result<()> {
        let wrong = |why: &str| {
            Err(RepositoryError::corrupt(
                key,
                format!("{}: {why}", entry.path),
            ))
        };
        if !entry.path.is_confined() {
            return wrong("it lies outside of the cluster");
        }
        let continued = self.open.take();
        let Content::File {
            size,
            offset,
            chunks,
        } = &entry.content
        else {
            match entry.content {
                Content::Directory => self.totals.directories += 1,
                _ => self.totals.symlinks += 1,
            }
            return if continued.is_some() {
                wrong("the file before it ends early")
            } else {
                Ok(())
            };
        };
        match continued {
            Some((path, covered)) if path == entry.path && covered == *offset => {}
            None if *offset == 0 => {
                self.totals.files += 1;
                self.totals.logical_bytes += size;
            }
            _ => return wrong("the lines of a file are not in order"),
        }
        let mut covered = *offset;
        for chunk in chunks {
            let full = u64::from(chunk.raw_bytes()) == manifest.chunk_bytes;
            let end = covered + u64::from(chunk.raw_bytes());
            if !is_possible(manifest, chunk) || end > *size || !(full || end == *size) {
                return wrong("a chunk is not where it can be");
            }
            covered = end;
        }
        self.totals.chunks += chunks.len() as u64;
        if covered < *size {
            self.open = Some((entry.path.clone(), covered));
        }
        Ok(())
    }

    fn finish(&mut self, key: &str, manifest: &Manifest) -> Result<()> {
        self.totals.stored_bytes = manifest.totals.stored_bytes;
        if self.open.is_some() || self.totals != manifest.totals {
            return Err(RepositoryError::corrupt(
                key,
                "the index does not add up to its totals",
            ));
        }
        Ok(())
    }
}

fn is_possible(manifest: &Manifest, chunk: &Chunk) -> bool {
    let in_pack = match chunk {
        Chunk::Zeros(_) => true,
        Chunk::Stored(chunk) => manifest.packs.get(chunk.pack as usize).is_some_and(|pack| {
            u64::from(chunk.offset) + u64::from(chunk.stored_bytes) <= pack.bytes
                && chunk.stored_bytes <= chunk.raw_bytes
        }),
    };
    in_pack && (1..=MAX_CHUNK_BYTES).contains(&chunk.raw_bytes())
}

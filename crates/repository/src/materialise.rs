//! Brings a backup's files back, side by side from its packs.
//!
//! The index is read twice, part by part. The first time makes directories, links and empty files of
//! the right size, then fills them from ranged reads of packs, every chunk checked against its
//! digest. The second time sets modes and proves that each entry is there with its size. At the end
//! everything is synced. Memory: `parallelism` reads of at most 8 MiB, and one part of the index.

mod plan;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use self::plan::{Read, plan};
pub(crate) use self::plan::{Wanted, wanted};
use self::tree::Tree;
use crate::backup::{Chunk, Content, Entry, PartReader, check_header, decode_chunk};
use crate::{BranchReader, Manifest, RepositoryError, Result};

/// Where a backup is restored to. The directories must be empty or missing.
#[derive(Clone, Debug)]
pub struct Target {
    /// The new PGDATA.
    pub data_directory: PathBuf,
    /// For each tablespace's oid, the directory that takes its place.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Where each tablespace that is not named gets a directory, called by its oid.
    pub other_tablespaces: Option<PathBuf>,
    /// Who shall own the files; `None` for the user of this process.
    pub owner: Option<Owner>,
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How far a restore or a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files that are done.
    pub bytes: u64,
    /// Bytes of files in all.
    pub total_bytes: u64,
}

/// What was restored. Every number was checked against the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Regular files.
    pub files: u64,
    /// Sum of their sizes.
    pub logical_bytes: u64,
    /// Bytes read from packs.
    pub read_bytes: u64,
}

impl BranchReader {
    /// Writes the files of a backup under `target`, with at most `parallelism` reads at once.
    ///
    /// `pg_tblspc/<oid>` leads to the target's directory for that tablespace. After an error the
    /// directories hold an unfinished copy and must be removed.
    ///
    /// # Errors
    /// A directory is not empty or a tablespace has none, something in the repository is absent or
    /// damaged, the store failed, or a file could not be written.
    #[tracing::instrument(name = "repository.materialise", skip_all, fields(backup = %manifest.summary.backup_id))]
    pub async fn materialise(
        &self,
        manifest: &Manifest,
        target: &Target,
        parallelism: usize,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Restored> {
        let tree = Arc::new(Tree::new(target.clone()));
        run(&tree, Tree::prepare_roots).await?;
        let done = Done {
            bytes: AtomicU64::new(0),
            read: AtomicU64::new(0),
        };
        let total_bytes = manifest.totals.logical_bytes;

        let mut parts = PartReader::new(self, manifest);
        while let Some(entries) = parts.next().await? {
            let entries = Arc::new(entries);
            let part = Arc::clone(&entries);
            run(&tree, move |tree| tree.create(&part)).await?;
            let zeros = zero_bytes(&entries);
            let _ = done.bytes.fetch_add(zeros, Ordering::Relaxed);
            let reads = plan(&entries).into_iter().map(|read| {
                let pack_bytes = manifest.packs[read.pack as usize].bytes;
                let key = parts.pack_key(read.pack);
                self.fill(&tree, Arc::clone(&entries), read, key, pack_bytes, &done)
            });
            let mut filled = futures::stream::iter(reads).buffer_unordered(parallelism.max(1));
            while let Some(()) = filled.try_next().await? {
                progress(Progress {
                    bytes: done.bytes.load(Ordering::Relaxed),
                    total_bytes,
                });
            }
        }

        let mut parts = PartReader::new(self, manifest);
        while let Some(entries) = parts.next().await? {
            run(&tree, move |tree| tree.finish(&entries)).await?;
        }
        run(&tree, Tree::sync).await?;
        let bytes = done.bytes.load(Ordering::Relaxed);
        if bytes != total_bytes {
            return Err(RepositoryError::corrupt(
                self.layout.manifest(manifest.summary.backup_id),
                format!("{bytes} bytes were restored where {total_bytes} are listed"),
            ));
        }
        progress(Progress { bytes, total_bytes });
        let read_bytes = done.read.load(Ordering::Relaxed);
        Ok(Restored {
            files: manifest.totals.files,
            logical_bytes: bytes,
            read_bytes,
        })
    }

    async fn fill(
        &self,
        tree: &Arc<Tree>,
        entries: Arc<Vec<Entry>>,
        read: Read,
        key: String,
        pack_bytes: u64,
        done: &Done,
    ) -> Result<()> {
        let stored = self
            .store
            .get_range(&key, read.range.clone(), pack_bytes)
            .await?;
        let _ = done.read.fetch_add(stored.len() as u64, Ordering::Relaxed);
        let bytes = run(tree, move |tree| {
            write(tree, &entries, &read, &key, &stored)
        })
        .await?;
        let _ = done.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

struct Done {
    bytes: AtomicU64,
    read: AtomicU64,
}

async fn run<T, F>(tree: &Arc<Tree>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Tree) -> Result<T> + Send + 'static,
{
    let tree = Arc::clone(tree);
    tokio::task::spawn_blocking(move || work(&tree))
        .await
        .map_err(|error| RepositoryError::task("restore", "files", error))?
}

/// Checks and writes the chunks of one read; gives back how many raw bytes they were.
fn write(tree: &Tree, entries: &[Entry], read: &Read, key: &str, stored: &Bytes) -> Result<u64> {
    if read.range.start == 0 {
        check_header(key, stored)?;
    }
    let mut open = None;
    let mut bytes = 0;
    for wanted in &read.chunks {
        // Both ends lie inside: the read was planned around its chunks and came back whole.
        let begin = (u64::from(wanted.chunk.offset) - read.range.start) as usize;
        let slice = stored.slice(begin..begin + wanted.chunk.stored_bytes as usize);
        let raw = decode_chunk(key, &wanted.chunk, slice)?;
        let file = match open.take() {
            Some((entry, file)) if entry == wanted.entry => file,
            _ => tree.open(&entries[wanted.entry])?,
        };
        tree.write_at(&file, &entries[wanted.entry], &raw, wanted.file_offset)?;
        bytes += raw.len() as u64;
        open = Some((wanted.entry, file));
    }
    Ok(bytes)
}

fn zero_bytes(entries: &[Entry]) -> u64 {
    let chunks = entries.iter().flat_map(|entry| match &entry.content {
        Content::File { chunks, .. } => chunks.as_slice(),
        _ => &[],
    });
    let zeros = chunks.map(|chunk| match chunk {
        Chunk::Zeros(bytes) => u64::from(*bytes),
        Chunk::Stored(_) => 0,
    });
    zeros.sum()
}

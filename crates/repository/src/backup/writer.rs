//! The pipeline of one attempt at a backup: cut, digest and compress, pack, upload.
//!
//! Chunks are compressed side by side but packed in the order in which they were written, so the
//! index can be written while the files stream by. Every stage is bounded: see [`BackupOptions`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use events::BackupId;
use tokio::task::JoinHandle;

use super::index::IndexWriter;
use super::pack::{Compressors, EncodedChunk, PackWriter};
use super::part::MAX_CHUNK_BYTES;
use super::{BackupOptions, Chunk, Content, Entry, EntryKind, FileHeader, StoredBackup, Totals};
use crate::{BranchWriter, RepositoryError, Result, layout};

/// A long file's line in the index ends after this many chunks, so that no line is long.
const CHUNKS_PER_LINE: usize = 1024;

/// Writes the files of one attempt at a backup.
///
/// After an error the attempt is lost: drop the writer. What it stored belongs to no backup.
pub struct BackupWriter {
    branch: BranchWriter,
    backup: BackupId,
    attempt: String,
    options: BackupOptions,
    compressors: Arc<Compressors>,
    /// The file that is being written: its header and how much of it came.
    open: Option<(FileHeader, u64)>,
    /// The beginning of its next chunk.
    buffer: BytesMut,
    steps: VecDeque<Step>,
    chunks_under_way: usize,
    line: Option<Entry>,
    index: IndexWriter,
    packs: PackWriter,
    totals: Totals,
}

/// What goes into the index next, in the order of the files.
enum Step {
    Begin(FileHeader),
    Chunk(JoinHandle<std::io::Result<EncodedChunk>>),
    End,
}

impl BranchWriter {
    /// Begins an attempt at backup `backup`. `attempt` must be new: it names the prefix that only
    /// this attempt writes to.
    ///
    /// # Errors
    /// `attempt` is not 1 to 64 letters, digits, `-` or `_`, or an option is out of range.
    pub fn begin_backup(
        &self,
        backup: BackupId,
        attempt: &str,
        options: BackupOptions,
    ) -> Result<BackupWriter> {
        if !layout::is_attempt_name(attempt) {
            return Err(RepositoryError::refused(format!(
                "{attempt:?} cannot name an attempt; use 1 to 64 letters, digits, '-' or '_'"
            )));
        }
        if !(1..=MAX_CHUNK_BYTES as usize).contains(&options.chunk_bytes)
            || options.pack_bytes > 1 << 30
        {
            let what = "a chunk has 1 byte to 16 MiB, and a pack at most 1 GiB";
            return Err(RepositoryError::refused(what));
        }
        let (store, layout) = (&self.store, Arc::new(self.layout.clone()));
        let owner = (backup, attempt.to_owned());
        let part_bytes = options.index_part_bytes;
        Ok(BackupWriter {
            branch: self.clone(),
            backup,
            attempt: attempt.to_owned(),
            compressors: Arc::new(Compressors::new(options.compression_level)),
            open: None,
            buffer: BytesMut::new(),
            steps: VecDeque::new(),
            chunks_under_way: 0,
            line: None,
            index: IndexWriter::new(
                store.clone(),
                Arc::clone(&layout),
                owner.clone(),
                part_bytes,
            ),
            packs: PackWriter::new(store.clone(), layout, owner, &options),
            totals: Totals::default(),
            options,
        })
    }
}

impl BackupWriter {
    /// Begins a file, or adds a directory or link, which need no [`Self::end_file`].
    ///
    /// # Errors
    /// The last file was not ended, or the header cannot be part of a cluster.
    pub async fn begin_file(&mut self, header: FileHeader) -> Result<()> {
        header.check()?;
        if let Some((open, _)) = &self.open {
            return Err(RepositoryError::refused(format!(
                "{} was not ended",
                open.path
            )));
        }
        let is_file = header.kind == EntryKind::File;
        match header.kind {
            EntryKind::File => self.totals.files += 1,
            EntryKind::Directory => self.totals.directories += 1,
            EntryKind::Symlink { .. } => self.totals.symlinks += 1,
        }
        if is_file {
            self.open = Some((header.clone(), 0));
        }
        self.steps.push_back(Step::Begin(header));
        if !is_file {
            self.steps.push_back(Step::End);
        }
        self.settle(self.options.compressors).await
    }

    /// Adds the next bytes of the file. Waits while the stages behind are full.
    ///
    /// # Errors
    /// There is no open file, more bytes than its size, or an upload failed.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        let Some((header, written)) = &mut self.open else {
            return Err(RepositoryError::refused("bytes without a file"));
        };
        *written += bytes.len() as u64;
        if *written > header.size {
            let (path, size) = (&header.path, header.size);
            return Err(RepositoryError::refused(format!(
                "{path} has more than its {size} bytes"
            )));
        }
        while !bytes.is_empty() {
            let wanted = self.options.chunk_bytes - self.buffer.len();
            let part = bytes.split_to(wanted.min(bytes.len()));
            if part.len() == self.options.chunk_bytes {
                self.submit(part).await?;
                continue;
            }
            if self.buffer.is_empty() {
                self.buffer.reserve(self.options.chunk_bytes);
            }
            self.buffer.extend_from_slice(&part);
            if self.buffer.len() == self.options.chunk_bytes {
                let chunk = self.buffer.split().freeze();
                self.submit(chunk).await?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// There is no open file, it got fewer bytes than its size, or an upload failed.
    pub async fn end_file(&mut self) -> Result<()> {
        let Some((header, written)) = self.open.take() else {
            return Err(RepositoryError::refused("no file to end"));
        };
        if written != header.size {
            let (path, size) = (&header.path, header.size);
            return Err(RepositoryError::refused(format!(
                "{path} has {written} bytes, not {size}"
            )));
        }
        if !self.buffer.is_empty() {
            let chunk = self.buffer.split().freeze();
            self.submit(chunk).await?;
        }
        self.totals.logical_bytes += written;
        self.steps.push_back(Step::End);
        Ok(())
    }

    /// Bytes of files taken so far: for progress.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        self.totals.logical_bytes + self.open.as_ref().map_or(0, |(_, written)| *written)
    }

    /// Bytes of packs made so far: for limits.
    #[must_use]
    pub fn packed_bytes(&self) -> u64 {
        self.packs.bytes()
    }

    /// Stores what is left and waits until everything is in the store.
    ///
    /// # Errors
    /// A file is still open, or an upload failed.
    pub async fn finish(mut self) -> Result<StoredBackup> {
        if let Some((open, _)) = &self.open {
            return Err(RepositoryError::refused(format!(
                "{} was not ended",
                open.path
            )));
        }
        self.settle(0).await?;
        let packs = self.packs.finish().await?;
        let index = self.index.finish().await?;
        let mut totals = self.totals;
        let pack_bytes: u64 = packs.iter().map(|pack| pack.bytes).sum();
        totals.stored_bytes = pack_bytes + index.iter().map(|part| part.stored_bytes).sum::<u64>();
        Ok(StoredBackup {
            branch: self.branch,
            backup: self.backup,
            attempt: self.attempt,
            chunk_bytes: self.options.chunk_bytes as u64,
            totals,
            index,
            packs,
        })
    }

    async fn submit(&mut self, raw: Bytes) -> Result<()> {
        self.settle(self.options.compressors.max(1) - 1).await?;
        let compressors = Arc::clone(&self.compressors);
        let task = tokio::task::spawn_blocking(move || compressors.encode(&raw));
        self.steps.push_back(Step::Chunk(task));
        self.chunks_under_way += 1;
        self.totals.chunks += 1;
        Ok(())
    }

    /// Takes finished steps in order until at most `limit` chunks are under way.
    async fn settle(&mut self, limit: usize) -> Result<()> {
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Begin(header) => self.line = Some(Entry::new(header)),
                Step::End => {
                    if let Some(line) = self.line.take() {
                        self.index.add(&line).await?;
                    }
                }
                Step::Chunk(task) if self.chunks_under_way > limit || task.is_finished() => {
                    let encoded = task
                        .await
                        .map_err(|error| RepositoryError::task("compress", "a chunk", error))?
                        .map_err(|error| {
                            RepositoryError::refused(format!("cannot compress a chunk: {error}"))
                        })?;
                    self.chunks_under_way -= 1;
                    self.place(encoded).await?;
                }
                waiting @ Step::Chunk(_) => {
                    self.steps.push_front(waiting);
                    break;
                }
            }
        }
        Ok(())
    }

    async fn place(&mut self, encoded: EncodedChunk) -> Result<()> {
        let chunk = match encoded {
            EncodedChunk::Zeros { raw_bytes } => Chunk::Zeros(raw_bytes),
            EncodedChunk::Stored {
                raw_bytes,
                digest,
                stored,
            } => Chunk::Stored(self.packs.add(raw_bytes, digest, &stored).await?),
        };
        let Some(Entry {
            content: Content::File { offset, chunks, .. },
            ..
        }) = &mut self.line
        else {
            return Err(RepositoryError::refused("a chunk without a file"));
        };
        if chunks.len() == CHUNKS_PER_LINE {
            let covered: u64 = chunks
                .iter()
                .map(|chunk| u64::from(chunk.raw_bytes()))
                .sum();
            let next = *offset + covered;
            if let Some(line) = &self.line {
                self.index.add(line).await?;
            }
            if let Some(Entry {
                content: Content::File { offset, chunks, .. },
                ..
            }) = &mut self.line
            {
                *offset = next;
                chunks.clear();
                chunks.push(chunk);
            }
            return Ok(());
        }
        chunks.push(chunk);
        Ok(())
    }
}

impl std::fmt::Debug for BackupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupWriter")
            .field("backup", &self.backup)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

//! Writes the file index: JSON lines, in parts of bounded size, while the files stream by.

use std::sync::Arc;

use events::BackupId;

use super::Entry;
use super::manifest::IndexPart;
use crate::frame::{self, FrameKind};
use crate::layout::BranchLayout;
use crate::store::Store;
use crate::{Digest, RepositoryError, Result};

/// Index lines repeat themselves, and each is read once in a restore.
const LEVEL: i32 = 3;

pub(super) struct IndexWriter {
    store: Store,
    layout: Arc<BranchLayout>,
    backup: BackupId,
    attempt: String,
    part_bytes: usize,
    lines: Vec<u8>,
    entries: u64,
    parts: Vec<IndexPart>,
}

impl IndexWriter {
    pub(super) fn new(
        store: Store,
        layout: Arc<BranchLayout>,
        (backup, attempt): (BackupId, String),
        part_bytes: usize,
    ) -> Self {
        let (lines, parts) = (Vec::new(), Vec::new());
        IndexWriter {
            store,
            layout,
            backup,
            attempt,
            part_bytes,
            lines,
            entries: 0,
            parts,
        }
    }

    pub(super) async fn add(&mut self, entry: &Entry) -> Result<()> {
        let refuse = |error| RepositoryError::refused(format!("{}: {error}", entry.path));
        let mut line = serde_json::to_vec(entry).map_err(refuse)?;
        line.push(b'\n');
        if !self.lines.is_empty() && self.lines.len() + line.len() > self.part_bytes {
            self.seal().await?;
        }
        self.lines.extend_from_slice(&line);
        self.entries += 1;
        Ok(())
    }

    async fn seal(&mut self) -> Result<()> {
        let number = u32::try_from(self.parts.len())
            .map_err(|_| RepositoryError::refused("an index of more than 2^32 parts"))?;
        let key = self.layout.index(self.backup, &self.attempt, number);
        let name = key.rsplit('/').next().unwrap_or(&key).to_owned();
        let lines = std::mem::take(&mut self.lines);
        let raw_bytes = lines.len() as u64;
        let task = move || frame::encode(FrameKind::Index, &name, &lines, LEVEL);
        let stored = tokio::task::spawn_blocking(task)
            .await
            .map_err(|error| RepositoryError::task("compress", &key, error))??;
        let (stored_bytes, digest) = (stored.len() as u64, Digest::of(&stored));
        let entries = std::mem::take(&mut self.entries);
        self.parts.push(IndexPart {
            number,
            stored_bytes,
            raw_bytes,
            entries,
            digest,
        });
        self.store.put(&key, stored).await
    }

    pub(super) async fn finish(mut self) -> Result<Vec<IndexPart>> {
        if !self.lines.is_empty() {
            self.seal().await?;
        }
        Ok(self.parts)
    }
}

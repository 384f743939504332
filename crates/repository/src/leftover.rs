//! What backups left over that have no manifest.
//!
//! What must stay true: nothing goes that a manifest names. A manifest may be written at any moment by a worker that is
//! slower than anybody thinks; so whoever deletes looks for it before and behind, and only what was not written to for
//! long is deleted at all, by the store's own clock.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use events::BackupId;
use object_store::ObjectMeta;

use crate::expire::{Advanced, Deleted, NamedPacks};
use crate::{BranchReader, BranchWriter, RepositoryError, Result, layout};

/// So often the store is asked for its time while others ask too.
const MOST_LOOKS: u32 = 8;

/// What is stored under a backup's packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPacks {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
    /// When the last of them was written, by the store's clock.
    pub last_written: DateTime<Utc>,
}

impl BranchReader {
    /// The backups that have something stored under their packs, with or without a manifest. One listing of names.
    ///
    /// Read the manifests after it: a backup that is committed in between is then known to be one.
    ///
    /// # Errors
    /// The store failed.
    pub async fn backups_with_packs(&self) -> Result<Vec<BackupId>> {
        let names = self.store.list_names(&self.layout.all_packs()).await?;
        let mut backups: Vec<BackupId> =
            names.iter().filter_map(|name| name.parse().ok()).collect();
        backups.sort();
        Ok(backups)
    }

    /// What is stored under a backup's packs; `None` when nothing is.
    ///
    /// # Errors
    /// The store failed.
    pub async fn stored_packs(&self, backup: BackupId) -> Result<Option<StoredPacks>> {
        let listed = self.store.list(&self.layout.packs(backup)).await?;
        let last = listed.iter().map(|(_, meta)| meta.last_modified).max();
        Ok(last.map(|last_written| StoredPacks {
            objects: listed.len() as u64,
            bytes: listed.iter().map(|(_, meta)| meta.size).sum(),
            last_written,
        }))
    }

    /// Whether a manifest of the backup is there, damaged or not.
    ///
    /// # Errors
    /// The store failed.
    pub async fn has_manifest(&self, backup: BackupId) -> Result<bool> {
        // A listing may lag behind.
        let found = self.store.head(&self.layout.manifest(backup)).await;
        if RepositoryError::absent_as_none(found)?.is_some() {
            return Ok(true);
        }
        let beside = self.store.list(&self.layout.backup(backup)).await?;
        Ok(beside
            .iter()
            .any(|(key, _)| layout::committed(key) == Some(backup)))
    }
}

impl BranchWriter {
    /// What time it is for the store: an object is written, looked at, and deleted.
    ///
    /// # Errors
    /// The store failed.
    pub async fn store_clock(&self) -> Result<DateTime<Utc>> {
        let key = self.layout.clock();
        for _ in 0..MOST_LOOKS {
            self.store.put(&key, Bytes::from_static(b"now\n")).await?;
            let now = self.store.modified(&key).await;
            self.store.delete(&key).await?;
            // Another one who asked may have deleted it.
            if let Some(now) = RepositoryError::absent_as_none(now)? {
                return Ok(now);
            }
        }
        Err(RepositoryError::Transient {
            operation: "read",
            key,
            source: "what was just written is not there".into(),
        })
    }

    /// Deletes what is stored under the packs of a backup that has no manifest, but for what others name; then its mark.
    ///
    /// `None`: nothing was deleted, because it has a manifest after all, something was written to it in the last `quiet`
    /// time, or not all manifests can be read.
    ///
    /// # Errors
    /// The store failed; another call deletes the rest.
    pub async fn delete_leftovers(
        &self,
        backup: BackupId,
        named: &NamedPacks,
        quiet: TimeDelta,
        advanced: Advanced<'_>,
    ) -> Result<Option<Deleted>> {
        if self.has_manifest(backup).await? {
            return Ok(None);
        }
        let now = self.store_clock().await?;
        let packs = self.store.list(&self.layout.packs(backup)).await?;
        // Another attempt may have begun since anybody decided this: nothing goes but what is itself that old.
        let is_old = |meta: &ObjectMeta| now - meta.last_modified >= quiet;
        let are_old = packs.iter().all(|(_, meta)| is_old(meta));
        if !packs.is_empty() && (named.unreadable || !are_old) {
            return Ok(None);
        }
        // Last of all: what is committed from now on was not written to for that long.
        if self.has_manifest(backup).await? {
            return Ok(None);
        }
        let packs = packs.into_iter();
        let packs: Vec<_> = packs.filter(|(key, _)| !named.keys.contains(key)).collect();
        let keys: BTreeSet<String> = packs.iter().map(|(key, _)| key.clone()).collect();
        let deleted = self.delete_all(packs, advanced).await?;
        if self.has_manifest(backup).await? && !self.take_back(backup, &keys).await? {
            // Of another attempt, and its mark is its own.
            return Ok(Some(deleted));
        }
        self.delete_mark(backup).await?;
        self.store.sweep(&self.layout.packs(backup), "").await;
        self.store.sweep(&self.layout.backup(backup), "").await;
        Ok(Some(deleted))
    }

    /// Deletes the manifest if it names what was deleted: its worker stood still since the last pack. What cannot be
    /// restored must not look as if it could.
    async fn take_back(&self, backup: BackupId, deleted: &BTreeSet<String>) -> Result<bool> {
        let manifest = match RepositoryError::absent_as_none(self.manifest(backup).await) {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(true),
            Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let attempt = &manifest.summary.attempt;
        let parts = manifest.index.iter();
        let parts = parts.map(|part| self.layout.index(backup, attempt, part.number));
        let packs = manifest.packs.iter();
        let packs = packs.map(|pack| self.layout.pack(pack.backup, &pack.attempt, pack.number));
        if !parts.chain(packs).any(|key| deleted.contains(&key)) {
            return Ok(false);
        }
        tracing::error!(%backup, "a backup was committed when what it had stored was deleted; its manifest goes too");
        self.store.delete(&self.layout.manifest(backup)).await?;
        Ok(true)
    }
}

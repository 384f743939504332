//! What backups left over that have no manifest, and branches of which nothing is left.
//!
//! What must stay true: nothing goes that a manifest names. A manifest may be written at any moment by a worker that is
//! slower than anybody thinks; so whoever deletes looks for it before and behind, and only what was not written to for
//! long is deleted at all, by the store's own clock.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use events::{BackupId, BranchName};

use crate::expire::{Advanced, Deleted, NamedPacks};
use crate::{BranchReader, BranchWriter, Repository, RepositoryError, Result, layout};

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
    async fn has_manifest(&self, backup: BackupId) -> Result<bool> {
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
        let Some(stored) = self.stored_packs(backup).await? else {
            return Ok(Some(Deleted::default()));
        };
        let now = self.store_clock().await?;
        if named.unreadable || now - stored.last_written < quiet {
            return Ok(None);
        }
        // Last of all: what is committed from now on was not written to for that long.
        if self.has_manifest(backup).await? {
            return Ok(None);
        }
        let packs = self
            .store
            .list(&self.layout.packs(backup))
            .await?
            .into_iter();
        let packs = packs.filter(|(key, _)| !named.keys.contains(key)).collect();
        let deleted = self.delete_all(packs, advanced).await?;
        if self.has_manifest(backup).await? {
            // Its worker stood still since the last pack. What cannot be restored must not look as if it could.
            tracing::error!(%backup, "a backup was committed when what it had stored was deleted; its manifest goes too");
            self.store.delete(&self.layout.manifest(backup)).await?;
        }
        self.delete_mark(backup).await?;
        self.store.sweep(&self.layout.packs(backup), "").await;
        self.store.sweep(&self.layout.backup(backup), "").await;
        Ok(Some(deleted))
    }
}

/// What is left of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hollow {
    /// Something that a restore could use, or that is decided about by itself.
    No,
    /// Its record and nothing else: nobody has ever written to it.
    Record,
    /// Nothing but what tells of backups and WAL that are gone.
    Remains {
        /// When the last of it was written, by the store's clock.
        last_written: DateTime<Utc>,
    },
}

impl BranchReader {
    /// What is left of the branch. Lists all of it: to be asked where little is.
    ///
    /// # Errors
    /// The store failed.
    pub async fn hollow(&self) -> Result<Hollow> {
        let listed = self.store.list(&self.layout.root()).await?;
        let (backups, index) = (self.layout.backups() + "/", self.layout.wal_index() + "/");
        let (gaps, record) = (self.layout.wal_gaps() + "/", self.layout.record());
        let position = self.layout.wal_position();
        let is_nothing = |key: &str| {
            key == record
                || key == position
                || key == self.layout.clock()
                || key.starts_with(&index)
                || key.starts_with(&gaps)
                || (key.starts_with(&backups) && layout::marked(key).is_some())
        };
        if !listed.iter().all(|(key, _)| is_nothing(key)) {
            return Ok(Hollow::No);
        }
        let clock = self.layout.clock();
        let others = listed.iter();
        let others = others.filter(|(key, _)| *key != record && *key != clock);
        let last = others.map(|(_, meta)| meta.last_modified).max();
        Ok(last.map_or(Hollow::Record, |last_written| Hollow::Remains {
            last_written,
        }))
    }
}

impl Repository {
    /// Deletes what is left of a branch of which nothing is left; gives back `None`, and deletes nothing, when something
    /// is. Nobody may write to the branch any more, and nobody claim its name meanwhile.
    ///
    /// # Errors
    /// The branch is `main`, or the store failed.
    pub async fn delete_hollow(
        &self,
        branch: &BranchReader,
        advanced: Advanced<'_>,
    ) -> Result<Option<Deleted>> {
        if *branch.branch() == BranchName::main() {
            return Err(RepositoryError::refused(
                "branch main is never deleted".to_owned(),
            ));
        }
        if branch.hollow().await? == Hollow::No {
            return Ok(None);
        }
        let objects = self
            .delete_branch_telling(branch.instance(), branch.branch(), advanced)
            .await?;
        Ok(Some(Deleted {
            objects,
            ..Deleted::default()
        }))
    }
}

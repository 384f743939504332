//! Deletes what retention lets go of: backups, WAL, history files. Who may, and what, is decided elsewhere
//! (`docs/decisions/0014`); here it is only done.
//!
//! What must stay true: every call may be repeated, after any failure and by anybody, and what is gone already is no
//! error. At no moment is there a backup that cannot be restored: its manifest goes before anything it names. WAL goes
//! the oldest first, so that what is left of a stretch stays connected with what is kept. A backup's keys are never
//! another's; what has keys that the next branch of the name may use goes only as it was listed ([`listed`]).

mod listed;
mod wal;

pub use wal::Pruning;
pub(crate) use wal::holds;

use std::collections::BTreeSet;

use events::BackupId;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectMeta;

use crate::{BranchWriter, Manifest, RepositoryError, Result, layout};

/// Manifests that are read, and objects that are deleted, at the same time.
const AT_ONCE: usize = 16;

/// Hears of each object that is gone, because there may be many.
pub type Advanced<'a> = &'a (dyn Fn() + Send + Sync);

/// What a call deleted. What an earlier one had deleted is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Objects.
    pub objects: u64,
    /// Complete WAL segments among them.
    pub segments: u64,
    /// What they stored.
    pub bytes: u64,
}

impl Deleted {
    /// Both.
    #[must_use]
    pub fn and(self, other: Deleted) -> Deleted {
        Deleted {
            objects: self.objects + other.objects,
            segments: self.segments + other.segments,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// What names packs.
enum Named {
    By(Box<Manifest>),
    Unknown,
    Gone,
}

/// The packs that backups which stay have from others.
#[derive(Clone, Debug, Default)]
pub struct NamedPacks {
    pub(crate) keys: BTreeSet<String>,
    /// A manifest is damaged, and what it names is not among them.
    pub(crate) unreadable: bool,
}

impl BranchWriter {
    /// The packs of other backups that the manifests of all but the `going` name. To be read before the first of them
    /// is deleted.
    ///
    /// A damaged manifest names nothing: what it is of cannot be restored.
    ///
    /// # Errors
    /// A manifest was made by a newer Zektor: what it names is not known; or the store failed.
    pub async fn packs_named_by_others(&self, going: &[BackupId]) -> Result<NamedPacks> {
        let mut others = self.list_backups().await?;
        others.retain(|backup| !going.contains(backup));
        let manifests = others.into_iter().map(|backup| async move {
            match self.manifest(backup).await {
                Ok(manifest) => Ok(Named::By(Box::new(manifest))),
                Err(error @ RepositoryError::Corrupt { .. }) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "what a damaged manifest names is not kept for it");
                    Ok(Named::Unknown)
                }
                Err(error) if error.is_absent() => Ok(Named::Gone),
                Err(error) => Err(error),
            }
        });
        let mut manifests = futures::stream::iter(manifests).buffer_unordered(AT_ONCE);
        let (mut keys, mut unreadable) = (BTreeSet::new(), false);
        while let Some(read) = manifests.try_next().await? {
            let manifest = match read {
                Named::By(manifest) => manifest,
                Named::Unknown => {
                    unreadable = true;
                    continue;
                }
                Named::Gone => continue,
            };
            let own = manifest.summary.backup_id;
            let borrowed = manifest.packs.iter().filter(|pack| pack.backup != own);
            keys.extend(
                borrowed.map(|pack| self.layout.pack(pack.backup, &pack.attempt, pack.number)),
            );
        }
        Ok(NamedPacks { keys, unreadable })
    }

    /// Deletes a backup: its manifest, then what all attempts at it stored, but for what others name, then its mark.
    ///
    /// # Errors
    /// The store failed; without the manifest the backup is gone all the same, and another call deletes the rest.
    pub async fn delete_backup(
        &self,
        backup: BackupId,
        named: &NamedPacks,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let directory = self.layout.backup(backup);
        let beside = self.store.list(&directory).await?;
        let (manifest, beside): (Vec<_>, Vec<_>) = beside
            .into_iter()
            .partition(|(key, _)| layout::committed(key).is_some());
        let mut deleted = self.delete_all(manifest, advanced).await?;
        let packs = self.store.list(&self.layout.packs(backup)).await?;
        let packs = packs.into_iter();
        let packs = packs.filter(|(key, _)| !named.keys.contains(key));
        deleted = deleted.and(self.delete_all(packs.collect(), advanced).await?);
        deleted = deleted.and(self.delete_all(beside, advanced).await?);
        // A listing may lag behind.
        self.store.delete(&self.layout.manifest(backup)).await?;
        self.delete_mark(backup).await?;
        self.store.sweep(&self.layout.packs(backup), "").await;
        self.store.sweep(&directory, "").await;
        Ok(deleted)
    }

    pub(crate) async fn delete_all(
        &self,
        objects: Vec<(String, ObjectMeta)>,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let deletions = objects.into_iter().map(|(key, meta)| async move {
            self.store.delete(&key).await?;
            Ok::<_, RepositoryError>(Deleted {
                objects: 1,
                segments: 0,
                bytes: meta.size,
            })
        });
        let deletions = futures::stream::iter(deletions).buffer_unordered(AT_ONCE);
        add_up(deletions, advanced).await
    }
}

async fn add_up(
    deletions: impl futures::Stream<Item = Result<Deleted>>,
    advanced: Advanced<'_>,
) -> Result<Deleted> {
    let add = |sum: Deleted, one| {
        advanced();
        std::future::ready(Ok(sum.and(one)))
    };
    deletions.try_fold(Deleted::default(), add).await
}

//! `backups/<id>/mark`: what is wanted of a backup since it was made, beside its manifest, which never changes.
//!
//! What must stay true: a mark replaces only the one that was read. So of two who decide at the same time one is told,
//! reads again and decides again; a hold is never overwritten by a deletion that did not see it. (`store::conditional`
//! says which stores cannot do this.) A mark without a manifest is of no backup, and means nothing.

use std::collections::{BTreeMap, BTreeSet};

use events::BackupId;
use events::event::BackupSummary;
use events::mark::BackupMark;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::UpdateVersion;

use crate::archive::Version;
use crate::store::{Created, Replaced};
use crate::{BranchReader, BranchWriter, Digest, RepositoryError, Result, document, layout};

const FORMAT: &str = "zektor-backup-mark";
/// Names, reasons and dates; anything longer is no mark.
const MOST_BYTES: u64 = 1 << 20;
/// Objects that are read at the same time.
const AT_ONCE: usize = 16;

/// A mark as it was read, to be given back when it is replaced.
#[derive(Clone, Debug, Default)]
pub struct ReadMark {
    /// What it says; nothing when there is none.
    pub mark: BackupMark,
    version: Option<UpdateVersion>,
}

/// Whether [`BranchWriter::put_mark`] did.
#[derive(Clone, Debug)]
pub enum PutMark {
    /// It says this now; also when it did already.
    Written(ReadMark),
    /// Somebody else wrote it meanwhile; this is what it says now. Decide again.
    Changed(ReadMark),
}

/// The marks of a branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Those that can be read.
    pub known: BTreeMap<BackupId, BackupMark>,
    /// The backups whose mark is there and cannot be understood: nobody knows whether they are held, so none of them
    /// may be deleted.
    pub unreadable: BTreeSet<BackupId>,
}

impl Marks {
    /// What is wanted of a backup; nothing but its manifest when there is no mark.
    #[must_use]
    pub fn of(&self, backup: BackupId) -> BackupMark {
        self.known.get(&backup).cloned().unwrap_or_default()
    }
}

/// The backup as it is wanted now: its name and its end as the mark has them. WAL is never kept longer for it than it
/// is itself, and never longer than was promised when it was made: who keeps one backup of a daily schedule for ever
/// does not keep all WAL since then.
#[must_use]
pub fn effective(mut summary: BackupSummary, mark: &BackupMark) -> BackupSummary {
    let promised = summary.wal_until.or(summary.expires_at);
    if let Some(name) = &mark.name {
        summary.name.clone_from(name);
    }
    if let Some(expiry) = mark.expiry {
        summary.expires_at = expiry.expires_at;
    }
    summary.wal_until = promised.filter(|until| summary.expires_at.is_none_or(|end| end > *until));
    summary
}

impl BranchReader {
    /// What is wanted of a backup; the empty mark when nothing was ever changed.
    ///
    /// # Errors
    /// The mark is damaged, or the store failed.
    pub async fn mark(&self, backup: BackupId) -> Result<ReadMark> {
        let key = self.layout.mark(backup);
        let found = self.store.get_version(&key, MOST_BYTES).await;
        let Some((text, version, _)) = RepositoryError::absent_as_none(found)? else {
            return Ok(ReadMark::default());
        };
        Ok(ReadMark {
            mark: document::decode(FORMAT, &key, &text)?,
            version: Some(version),
        })
    }

    /// The marks of the branch, also those of backups that are gone. Costs a listing, and a request for each.
    ///
    /// # Errors
    /// The store failed.
    pub async fn marks(&self) -> Result<Marks> {
        let (_, marked) = self.list_backups_and_marks().await?;
        self.marks_in(marked).await
    }

    /// The branch's backups with which manifest each has, and those with a mark, by one listing.
    pub(crate) async fn list_backups_and_marks(
        &self,
    ) -> Result<(BTreeMap<BackupId, Version>, Vec<BackupId>)> {
        let (mut backups, mut marked) = (BTreeMap::new(), Vec::new());
        for (key, meta) in self.store.list(&self.layout.backups()).await? {
            marked.extend(layout::marked(&key));
            if let Some(backup) = layout::committed(&key) {
                let _ = backups.insert(backup, Version::of(meta));
            }
        }
        Ok((backups, marked))
    }

    /// A digest of the backups, marks and their versions, by one listing: as long as it is the same, so is what is
    /// stored and wanted of the branch's backups.
    ///
    /// # Errors
    /// The store failed.
    pub async fn backups_digest(&self) -> Result<Digest> {
        let mut text = String::new();
        for (key, meta) in self.store.list(&self.layout.backups()).await? {
            let (tag, changed) = (meta.e_tag.unwrap_or_default(), meta.last_modified);
            text.push_str(&format!("{key} {} {tag} {changed}\n", meta.size));
        }
        Ok(Digest::of(text.as_bytes()))
    }

    /// The marks of these backups.
    pub(crate) async fn marks_in(
        &self,
        backups: impl IntoIterator<Item = BackupId>,
    ) -> Result<Marks> {
        let read = |backup| async move {
            match self.mark(backup).await {
                Ok(read) => Ok((backup, Some(read.mark))),
                Err(error @ (RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. })) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "what is wanted of a backup cannot be read");
                    Ok((backup, None))
                }
                Err(error) => Err(error),
            }
        };
        let backups: Vec<BackupId> = backups.into_iter().collect();
        let read = futures::stream::iter(backups).map(read).buffered(AT_ONCE);
        let read: Vec<(BackupId, Option<BackupMark>)> = read.try_collect().await?;
        let mut marks = Marks::default();
        for (backup, mark) in read {
            match mark {
                Some(mark) => drop(marks.known.insert(backup, mark)),
                None => drop(marks.unreadable.insert(backup)),
            }
        }
        Ok(marks)
    }
}

impl BranchWriter {
    /// Writes what is wanted of a backup over the mark that was read.
    ///
    /// # Errors
    /// Another mark is there that is damaged; or the store failed, and the mark may or may not be written.
    pub async fn put_mark(
        &self,
        backup: BackupId,
        mark: &BackupMark,
        expected: &ReadMark,
    ) -> Result<PutMark> {
        let key = self.layout.mark(backup);
        let text = document::encode(FORMAT, mark)?;
        let written = match &expected.version {
            None => self.store.create(&key, text).await? == Created::New,
            Some(version) => self.store.replace(&key, text, version).await? == Replaced::Done,
        };
        let found = self.mark(backup).await?;
        // An answer may have been lost, and what we were told is not there is ours.
        match written || found.mark == *mark {
            true => Ok(PutMark::Written(found)),
            false => Ok(PutMark::Changed(found)),
        }
    }

    /// Forgets what was wanted of a backup that is gone. Succeeds when there is no mark.
    pub(crate) async fn delete_mark(&self, backup: BackupId) -> Result<()> {
        self.store.delete(&self.layout.mark(backup)).await
    }
}

#[cfg(test)]
mod tests;

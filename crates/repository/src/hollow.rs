//! Branches of which nothing is left, and those of which nothing is to be left.
//!
//! What must stay true: nothing is deleted but what was there when that was found, or decided. Whoever deletes may stand still at
//! any moment, and wake when the name is another branch's; so it lists once, asks whether it is still wanted behind that,
//! and deletes exactly what it has listed, as it was then. The record goes last: until then nobody can take the name.

use chrono::{DateTime, Utc};
use events::BranchName;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectMeta;

use crate::expire::{Advanced, Deleted};
use crate::{BranchReader, BranchWriter, RepositoryError, Result, layout};

/// Objects that are deleted at the same time.
const AT_ONCE: usize = 16;

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

/// What is left of a branch, as it was listed.
#[derive(Debug)]
pub struct HollowBranch {
    /// All but the record.
    remains: Vec<(String, ObjectMeta)>,
    record: Option<(String, ObjectMeta)>,
}

impl HollowBranch {
    /// Whether there is nothing but its record, or not even that.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.remains.is_empty()
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.is_bare() && self.record.is_none()
    }
}

impl BranchReader {
    /// What is left of the branch. Lists all of it: to be asked where little is.
    ///
    /// # Errors
    /// The store failed.
    pub async fn hollow(&self) -> Result<Hollow> {
        let Some(found) = self.find_hollow().await? else {
            return Ok(Hollow::No);
        };
        let clock = self.layout.clock();
        let others = found.remains.iter().filter(|(key, _)| *key != clock);
        let last = others.map(|(_, meta)| meta.last_modified).max();
        Ok(last.map_or(Hollow::Record, |last_written| Hollow::Remains {
            last_written,
        }))
    }

    /// The branch, if nothing is left of it. Lists all of it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_hollow(&self) -> Result<Option<HollowBranch>> {
        let found = self.find_all().await?;
        let (backups, index) = (self.layout.backups() + "/", self.layout.wal_index() + "/");
        let (gaps, position) = (self.layout.wal_gaps() + "/", self.layout.wal_position());
        let is_nothing = |key: &str| {
            key == position
                || key == self.layout.clock()
                || key.starts_with(&index)
                || key.starts_with(&gaps)
                || (key.starts_with(&backups) && layout::marked(key).is_some())
        };
        let nothing = found.remains.iter().all(|(key, _)| is_nothing(key));
        Ok(nothing.then_some(found))
    }

    /// All that is stored of the branch, whatever it is.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_all(&self) -> Result<HollowBranch> {
        let (listed, record) = (
            self.store.list(&self.layout.root()).await?,
            self.layout.record(),
        );
        let (mut record_of, remains): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|(key, _)| *key == record);
        Ok(HollowBranch {
            remains,
            record: record_of.pop(),
        })
    }
}

impl BranchWriter {
    /// Deletes what was found of a branch, but for its record. `None` when something of it was written anew since; some
    /// of the rest may be gone then. Where there are manifests, delete those first: in which order the rest goes is open.
    ///
    /// Ask between [`BranchReader::find_hollow`], or [`BranchReader::find_all`], and this whether it is still wanted.
    ///
    /// # Errors
    /// The branch is `main`, or the store failed.
    pub async fn delete_hollow_remains(
        &self,
        found: &HollowBranch,
        advanced: Advanced<'_>,
    ) -> Result<Option<Deleted>> {
        self.refuse_main()?;
        let deletions = found.remains.clone().into_iter();
        let deletions =
            deletions.map(|(key, meta)| async move { self.delete_listed(&key, &meta).await });
        let mut deletions = futures::stream::iter(deletions).buffer_unordered(AT_ONCE);
        let (mut deleted, mut all) = (Deleted::default(), true);
        while let Some(gone) = deletions.try_next().await? {
            advanced();
            all &= gone.is_some();
            deleted = deleted.and(gone.unwrap_or_default());
        }
        Ok(all.then_some(deleted))
    }

    /// Deletes the record of a branch when the rest is gone: then the name is free. `None` when it is another record by
    /// now.
    ///
    /// Ask right before whether it is still wanted.
    ///
    /// # Errors
    /// The branch is `main`, or the store failed.
    pub async fn delete_hollow_record(&self, found: HollowBranch) -> Result<Option<Deleted>> {
        self.refuse_main()?;
        let deleted = match &found.record {
            Some((key, meta)) => self.delete_listed(key, meta).await?,
            None => Some(Deleted::default()),
        };
        if deleted.is_some() {
            self.store.sweep(&self.layout.root(), "").await;
        }
        Ok(deleted)
    }

    fn refuse_main(&self) -> Result<()> {
        match *self.branch() == BranchName::main() {
            true => Err(RepositoryError::refused(
                "branch main is never deleted".to_owned(),
            )),
            false => Ok(()),
        }
    }
}

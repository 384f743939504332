//! Deletes what was listed, and nothing that was written under its key since.
//!
//! Whoever deletes may stand still at any moment, and wake when the branch was purged and its name is another branch's,
//! whose WAL has the same keys. So what is to go is compared with the store once more right before, by a listing of the
//! same range (a request for each thousand, where a question for each object would be a thousand), and no deletion is
//! begun by what the store said longer ago than [`FRESH`].
//!
//! What is left of that: a deletion that is under way, or being repeated, when the process stands still; and one that is
//! begun within [`FRESH`] of a look, if the name is purged, claimed and written to within that time. No store deletes on
//! condition.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectMeta;
use pg_format::SegmentName;
use tokio::time::Instant;

use super::{Advanced, Deleted};
use crate::archive::Version;
use crate::{BranchWriter, RepositoryError, Result};

/// For how long after it was asked for something is deleted by what the store said.
const FRESH: Duration = Duration::from_secs(30);
/// Deletions that are under way at the same time.
const AT_ONCE: usize = 16;
/// So often a store that answers slowly is asked again about one object.
const MOST_LOOKS: u32 = 5;

/// An object that is to go, as it was listed.
#[derive(Clone, Debug)]
pub(super) struct Going {
    pub(super) key: String,
    pub(super) version: Version,
    /// The segment of WAL that it is of.
    pub(super) segment: Option<SegmentName>,
    /// It is all of it.
    pub(super) complete: bool,
}

impl Going {
    pub(super) fn of((key, meta): (String, ObjectMeta)) -> Self {
        Going {
            key,
            version: Version::of(meta),
            segment: None,
            complete: false,
        }
    }
}

impl BranchWriter {
    /// Deletes what is still as it was listed, about in its order, as long as what the store says of it is fresh: what is
    /// not looked at by then stays in `going`. All of it is directly under `directory`.
    pub(super) async fn delete_some(
        &self,
        directory: &str,
        going: &mut VecDeque<Going>,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let asked = Instant::now();
        let keys = going.iter().map(|one| one.key.clone()).collect();
        let found: BTreeMap<String, Version> = self.store.look(directory, keys).await?;
        advanced();
        let all = std::mem::take(going);
        let as_listed = all.into_iter().filter(|one| match found.get(&one.key) {
            None => false,
            Some(now) if now.is_same(&one.version) => true,
            Some(_) => {
                tracing::warn!(
                    key = one.key,
                    "it was written anew since it was listed; it stays"
                );
                false
            }
        });
        let deletions = as_listed.map(|one| async move {
            if asked.elapsed() >= FRESH {
                return Ok((Deleted::default(), Some(one)));
            }
            self.store.delete(&one.key).await?;
            let deleted = Deleted {
                objects: 1,
                segments: u64::from(one.complete),
                bytes: one.version.bytes,
            };
            Ok::<_, RepositoryError>((deleted, None))
        });
        // In their order, but for the few that are under way.
        let mut deletions = futures::stream::iter(deletions).buffered(AT_ONCE);
        let mut deleted = Deleted::default();
        while let Some((gone, stale)) = deletions.try_next().await? {
            advanced();
            deleted = deleted.and(gone);
            going.extend(stale);
        }
        Ok(deleted)
    }

    /// The same, until nothing is left.
    pub(super) async fn delete_each(
        &self,
        directory: &str,
        going: Vec<Going>,
        advanced: Advanced<'_>,
    ) -> Result<Deleted> {
        let (mut going, mut deleted) = (VecDeque::from(going), Deleted::default());
        while !going.is_empty() {
            deleted = deleted.and(self.delete_some(directory, &mut going, advanced).await?);
        }
        Ok(deleted)
    }

    /// Deletes one object, unless it is another one by now: then `None`.
    pub(crate) async fn delete_listed(
        &self,
        key: &str,
        listed: &ObjectMeta,
    ) -> Result<Option<Deleted>> {
        let listed = Version::of(listed.clone());
        for _ in 0..MOST_LOOKS {
            let asked = Instant::now();
            let found = RepositoryError::absent_as_none(self.store.head(key).await)?;
            let Some(found) = found.map(Version::of) else {
                return Ok(Some(Deleted::default()));
            };
            if !found.is_same(&listed) {
                tracing::warn!(key, "it was written anew since it was listed; it stays");
                return Ok(None);
            }
            if asked.elapsed() < FRESH {
                self.store.delete(key).await?;
                return Ok(Some(Deleted {
                    objects: 1,
                    segments: 0,
                    bytes: found.bytes,
                }));
            }
        }
        Err(RepositoryError::Transient {
            operation: "delete",
            key: key.to_owned(),
            source: "the store answers too slowly to be sure what would be deleted".into(),
        })
    }
}

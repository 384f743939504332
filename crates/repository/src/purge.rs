//! Deletes all of a branch, when it is purged.
//!
//! What must stay true: at no moment is there a backup that cannot be restored any more. So the manifests go first, and
//! the record that says whose the prefix is goes last: until then no other cluster can take the name.

use events::{BranchName, InstanceName};
use futures::{StreamExt, TryStreamExt};

use crate::layout::BranchLayout;
use crate::{Repository, RepositoryError, Result};

/// Objects that are deleted at the same time.
const AT_ONCE: usize = 16;

impl Repository {
    /// Deletes everything of a branch. Gives back how many objects there were. A second call, also after one that failed
    /// in the middle, deletes what is left.
    ///
    /// Some stores (SeaweedFS) list a prefix that is empty now for a while, so [`Repository::list_branches`] may name the
    /// branch; it has no record then.
    ///
    /// Nobody may write to the branch any more: what is put during the call may stay.
    ///
    /// # Errors
    /// The branch is `main` ([`RepositoryError::Refused`]), or the store failed.
    pub async fn delete_branch(&self, instance: &InstanceName, branch: &BranchName) -> Result<u64> {
        self.delete_branch_telling(instance, branch, &|| {}).await
    }

    /// The same; `advanced` hears of each object that is gone, because there may be many.
    ///
    /// # Errors
    /// As there.
    pub async fn delete_branch_telling(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        advanced: &(dyn Fn() + Send + Sync),
    ) -> Result<u64> {
        if *branch == BranchName::main() {
            return Err(RepositoryError::refused(format!(
                "branch main of instance {instance} is not deleted; its backups and WAL are those of the source"
            )));
        }
        let layout = BranchLayout::new(instance, branch);
        let mut deleted = 0;
        // The data without its manifest is nothing to anybody; WAL without a backup neither.
        for prefix in [
            layout.backups(),
            layout.all_packs(),
            layout.wal(),
            layout.root(),
        ] {
            let keep = layout.record();
            deleted += self.delete_under(&prefix, &keep, advanced).await?;
        }
        if RepositoryError::absent_as_none(self.store.get(&layout.record()).await)?.is_some() {
            self.store.delete(&layout.record()).await?;
            deleted += 1;
        }
        self.store.sweep(&layout.root(), "").await;
        Ok(deleted)
    }

    async fn delete_under(
        &self,
        prefix: &str,
        keep: &str,
        advanced: &(dyn Fn() + Send + Sync),
    ) -> Result<u64> {
        let listed = self.store.list(prefix).await?;
        let keys = listed
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| key != keep);
        let deletions = keys.map(|key| async move { self.store.delete(&key).await });
        futures::stream::iter(deletions)
            .buffer_unordered(AT_ONCE)
            .try_fold(0, |deleted, ()| {
                advanced();
                std::future::ready(Ok(deleted + 1))
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use events::{BranchName, InstanceName};
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt as _};

    use crate::faulty::{Fault, FaultyStore, Operation};
    use crate::{Repository, RetryPolicy};

    #[tokio::test]
    async fn the_manifests_go_first_and_the_record_last() {
        let store = Arc::new(InMemory::new());
        let keys = [
            "branch.json",
            "backups/b/manifest",
            "packs/b/a/000000",
            "packs/b/a/index-000000",
            "wal/position",
            "wal/00000001/000000010000000000000003",
            "wal-index/00000001/0000000000000000",
            "something/of/later",
        ];
        for key in keys {
            let path = Path::from(format!("v1/orders/purged/{key}"));
            let _ = store.put(&path, "x".into()).await.unwrap();
        }
        let deleted = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&deleted);
        let faulty = FaultyStore::new(
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            move |operation, path| {
                if operation != Operation::Delete {
                    return Fault::Pass;
                }
                let mut seen = seen.lock().unwrap();
                let key = path
                    .as_ref()
                    .trim_start_matches("v1/orders/purged/")
                    .to_owned();
                // Every key fails once.
                let first = !seen.contains(&key);
                seen.push(key);
                if first { Fault::Fail } else { Fault::Pass }
            },
        );
        let retry = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        let repository = Repository::with_store(Arc::new(faulty), "", retry);
        let instance = InstanceName::new("orders").unwrap();
        let branch = BranchName::new("purged").unwrap();
        let mut failures = 0;
        let last = loop {
            match repository.delete_branch(&instance, &branch).await {
                Ok(last) => break last,
                Err(_) => failures += 1,
            }
            assert!(failures <= keys.len());
        };
        assert!(failures > 0 && last > 0);
        let order = deleted.lock().unwrap().clone();
        assert!(order[0].starts_with("backups/"));
        assert_eq!(order[order.len() - 2..], ["branch.json", "branch.json"]);
        assert!(
            store
                .head(&Path::from("v1/orders/purged/branch.json"))
                .await
                .is_err()
        );
        assert_eq!(
            repository.delete_branch(&instance, &branch).await.unwrap(),
            0
        );
    }
}

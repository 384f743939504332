//! Whether everything that a manifest names is there: asked before the manifest is written, and behind.
//!
//! What must stay true: a manifest stands only over what can be restored. A worker may stand still for days between its
//! last pack and its manifest, while retention deletes what nobody seems to need any more; and a bucket may have rules of
//! its own.

use std::collections::BTreeMap;

use super::StoredBackup;
use crate::{RepositoryError, Result};

impl StoredBackup {
    /// The first object of this backup that is not there as it was stored. Costs one listing of the attempt; what that
    /// leaves out is asked for by itself, because a listing may be late.
    pub(super) async fn first_lost(&self) -> Result<Option<String>> {
        let (store, layout) = (&self.branch.store, &self.branch.layout);
        let mut wanted: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        let mut want = |(backup, attempt): (_, &str), key, bytes| {
            let attempt = wanted.entry(layout.attempt(backup, attempt)).or_default();
            let _ = attempt.insert(key, bytes);
        };
        for part in &self.index {
            let key = layout.index(self.backup, &self.attempt, part.number);
            want((self.backup, &self.attempt), key, part.stored_bytes);
        }
        for pack in &self.packs {
            let key = layout.pack(pack.backup, &pack.attempt, pack.number);
            want((pack.backup, &pack.attempt), key, pack.bytes);
        }
        for (attempt, mut objects) in wanted {
            for (key, meta) in store.list(&attempt).await? {
                if objects.get(&key) == Some(&meta.size) {
                    let _ = objects.remove(&key);
                }
            }
            for (key, bytes) in objects {
                let found = RepositoryError::absent_as_none(store.head(&key).await)?;
                if found.is_none_or(|found| found.size != bytes) {
                    return Ok(Some(key));
                }
            }
        }
        Ok(None)
    }
}

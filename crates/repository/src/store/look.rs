//! What the store has of some objects, asked at once.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use super::{Store, too_slow};
use crate::archive::Version;
use crate::{RepositoryError, Result};

/// Objects of a local directory that are looked at at the same time.
const AT_ONCE: usize = 16;

impl Store {
    /// What these objects are now; those that are gone are not in it. All are under `prefix`, and few of it lies between
    /// them: what does is listed, a request for each thousand. A directory tells of each for itself, which costs little,
    /// and lists in no order.
    pub(crate) async fn look(
        &self,
        prefix: &str,
        keys: Vec<String>,
    ) -> Result<BTreeMap<String, Version>> {
        if self.directory.is_some() {
            let looks = keys.into_iter().map(|key| async move {
                let found = RepositoryError::absent_as_none(self.head(&key).await)?;
                Ok::<_, RepositoryError>(found.map(|meta| (key, Version::of(meta))))
            });
            let looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
            let found = looks.try_filter_map(|found| std::future::ready(Ok(found)));
            return found.try_collect().await;
        }
        let (Some(first), Some(last)) = (keys.iter().min(), keys.iter().max()) else {
            return Ok(BTreeMap::new());
        };
        // A listing begins behind a key: this one is before the first, and nearly nothing is between them.
        let mut before = first.clone();
        let _ = before.pop();
        let (path, before) = (self.path(prefix), self.path(&before));
        let limit = self.retry.call_timeout;
        let call = || async {
            let mut objects = self.inner.list_with_offset(Some(&path), &before);
            let mut found = BTreeMap::new();
            while let Some(object) = timeout(limit, objects.next()).await.map_err(too_slow)? {
                let object = object?;
                let Some(key) = self.key(&object.location) else {
                    continue;
                };
                if key > *last {
                    break;
                }
                let _ = found.insert(key, Version::of(object));
            }
            Ok(found)
        };
        self.call_within(std::time::Duration::MAX, "list", prefix, call)
            .await
    }
}

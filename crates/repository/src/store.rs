//! The object store behind a deadline, a retry policy and one classification of errors.
//!
//! Every call of this crate goes through here. Puts may happen twice: a put whose answer was lost
//! is sent again, so [`Store::create`] can find its own object there; its callers compare.

mod classify;
mod conditional;
pub(crate) mod durable;
mod look;

pub(crate) use conditional::Replaced;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::{ErrorClass, RepositoryError, Result};

/// How often and how long a store is asked before a call fails as transient.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Calls in all, the first one included.
    pub attempts: u32,
    /// Pause after the first failure; doubled after each further one, with jitter.
    pub first_pause: Duration,
    /// Upper limit of the pause.
    pub longest_pause: Duration,
    /// Deadline of one call. A pack of 32 MiB must fit through the network in this time.
    pub call_timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 5,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            call_timeout: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    fn pause(&self, failures: u32) -> Duration {
        let doubled = self
            .first_pause
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled
            .min(self.longest_pause)
            .mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Whether [`Store::create`] made the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    New,
    Exists,
}

/// A prefix of an object store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    retry: RetryPolicy,
    /// Where the objects are files: only there a killed writer leaves something behind.
    directory: Option<Arc<std::path::Path>>,
}

impl Store {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, prefix: Path, retry: RetryPolicy) -> Self {
        Store {
            inner,
            prefix,
            retry,
            directory: None,
        }
    }

    pub(crate) fn in_directory(self, directory: Option<std::path::PathBuf>) -> Self {
        Store {
            directory: directory.map(Arc::from),
            ..self
        }
    }

    /// Removes what killed writers left under `prefix` of a local directory, outside of `keep`:
    /// unfinished files, which no listing shows, and empty directories. What cannot be removed stays.
    pub(crate) async fn sweep(&self, prefix: &str, keep: &str) {
        let Some(root) = &self.directory else { return };
        let (prefix, keep) = (root.join(prefix), root.join(keep));
        let swept = tokio::task::spawn_blocking(move || durable::sweep(&prefix, &keep)).await;
        if !matches!(swept, Ok(Ok(()))) {
            tracing::debug!(?swept, "could not sweep unfinished files");
        }
    }

    fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Bytes> {
        let path = self.path(key);
        self.call("read", key, || async {
            self.inner.get(&path).await?.bytes().await
        })
        .await
    }

    /// Reads `range` of an object that must be `object_bytes` long.
    pub(crate) async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
        object_bytes: u64,
    ) -> Result<Bytes> {
        let path = self.path(key);
        let call = || async {
            let options = GetOptions::new().with_range(Some(range.clone()));
            let result = self.inner.get_opts(&path, options).await?;
            let found = result.meta.size;
            Ok((found, result.bytes().await?))
        };
        let (found, bytes) = self.call("read", key, call).await?;
        if found != object_bytes || bytes.len() as u64 != range.end - range.start {
            let reason = format!("it has {found} bytes where {object_bytes} were stored");
            return Err(RepositoryError::corrupt(key, reason));
        }
        Ok(bytes)
    }

    /// Reads the first bytes of an object, at most `limit`; less if it is shorter.
    pub(crate) async fn get_start(&self, key: &str, limit: u64) -> Result<Bytes> {
        let path = self.path(key);
        let options = || GetOptions::new().with_range(Some(0..limit));
        let call = || async { self.inner.get_opts(&path, options()).await?.bytes().await };
        self.call("read", key, call).await
    }

    /// What the store says of the object.
    pub(crate) async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let path = self.path(key);
        let call = || async { self.inner.head(&path).await };
        self.call("read", key, call).await
    }

    /// When the object was written, by the store's clock.
    pub(crate) async fn modified(&self, key: &str) -> Result<DateTime<Utc>> {
        Ok(self.head(key).await?.last_modified)
    }

    /// Writes the object, over whatever is there.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let path = self.path(key);
        let call = || self.inner.put(&path, PutPayload::from_bytes(bytes.clone()));
        self.call("write", key, call).await.map(drop)
    }

    /// Writes the object unless there is one. `Exists` may also mean an earlier call of ours whose
    /// answer was lost: compare before judging.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        let path = self.path(key);
        let options = || PutOptions::from(PutMode::Create);
        let call = || async {
            let payload = PutPayload::from_bytes(bytes.clone());
            match self.inner.put_opts(&path, payload, options()).await {
                Ok(_) => Ok(Created::New),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Exists),
                Err(error) => Err(error),
            }
        };
        self.call("create", key, call).await
    }

    /// Creates the object, or gives back what is there.
    ///
    /// S3 also answers "conflict" while another upload of the key is under way that may still
    /// fail; then nothing is there to be read, and the object is created again.
    pub(crate) async fn create_or_get(&self, key: &str, bytes: Bytes) -> Result<Option<Bytes>> {
        for failures in 1..=self.retry.attempts {
            if self.create(key, bytes.clone()).await? == Created::New {
                return Ok(None);
            }
            if let Some(existing) = RepositoryError::absent_as_none(self.get(key).await)? {
                return Ok(Some(existing));
            }
            tokio::time::sleep(self.retry.pause(failures)).await;
        }
        let source = "the store says both that it exists and that it does not".into();
        Err(RepositoryError::Transient {
            operation: "create",
            key: key.into(),
            source,
        })
    }

    /// Deletes the object; also succeeds when there is none.
    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key);
        let call = || async {
            match self.inner.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        self.call("delete", key, call).await
    }

    /// Every object under `prefix`, in the order of its key; keys are relative to the repository.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<(String, ObjectMeta)>> {
        self.list_from(prefix, None).await
    }

    /// Everything under `prefix` whose key comes after `key`.
    pub(crate) async fn list_after(
        &self,
        prefix: &str,
        key: &str,
    ) -> Result<Vec<(String, ObjectMeta)>> {
        self.list_from(prefix, Some(self.path(key))).await
    }

    async fn list_from(
        &self,
        prefix: &str,
        after: Option<Path>,
    ) -> Result<Vec<(String, ObjectMeta)>> {
        let path = self.path(prefix);
        let limit = self.retry.call_timeout;
        let call = || async {
            let mut objects = match &after {
                Some(after) => self.inner.list_with_offset(Some(&path), after),
                None => self.inner.list(Some(&path)),
            };
            let mut all = Vec::new();
            while let Some(object) = timeout(limit, objects.next()).await.map_err(too_slow)? {
                all.push(object?);
            }
            Ok(all)
        };
        // The deadline is one of progress: a long listing is many requests.
        let objects = self
            .call_within(Duration::MAX, "list", prefix, call)
            .await?;
        let mut listed: Vec<_> = objects
            .into_iter()
            .filter_map(|meta| Some((self.key(&meta.location)?, meta)))
            .collect();
        listed.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(listed)
    }

    /// The names directly under `prefix` that have something under them.
    pub(crate) async fn list_names(&self, prefix: &str) -> Result<Vec<String>> {
        let path = self.path(prefix);
        let call = || self.inner.list_with_delimiter(Some(&path));
        let listed = self.call("list", prefix, call).await?;
        let names = listed.common_prefixes.iter();
        Ok(names
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect())
    }

    fn key(&self, location: &Path) -> Option<String> {
        let parts: Vec<_> = location.prefix_match(&self.prefix)?.collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        Some(parts.join("/"))
    }

    async fn call<T, F>(
        &self,
        operation: &'static str,
        key: &str,
        call: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.call_within(self.retry.call_timeout, operation, key, call)
            .await
    }

    async fn call_within<T, F>(
        &self,
        limit: Duration,
        operation: &'static str,
        key: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut failures = 0;
        loop {
            let result = timeout(limit, call()).await.map_err(too_slow).flatten();
            let error = match result {
                Ok(value) => return Ok(value),
                Err(error) => classify::classify(operation, key, error),
            };
            failures += 1;
            if error.class() != ErrorClass::Transient || failures >= self.retry.attempts {
                return Err(error);
            }
            let pause = self.retry.pause(failures);
            tracing::debug!(
                operation,
                key,
                failures,
                ?pause,
                ?error,
                "object store call failed"
            );
            tokio::time::sleep(pause).await;
        }
    }
}

fn too_slow(elapsed: Elapsed) -> object_store::Error {
    object_store::Error::Generic {
        store: "repository",
        source: elapsed.into(),
    }
}

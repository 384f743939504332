//! A store that fails on purpose, for tests: errors, delays, answers that get lost.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Write an object.
    Put,
    /// Write an object unless there is one.
    Create,
    /// Read an object or a part of it.
    Get,
    /// List objects.
    List,
    /// Delete an object.
    Delete,
}

/// What shall happen to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// It fails, and nothing was done.
    Fail,
    /// It is done, and the caller is told that it failed.
    LoseResponse,
    /// It is done after a pause.
    Delay(Duration),
    /// It never returns.
    Hang,
}

type Plan = dyn Fn(Operation, &Path) -> Fault + Send + Sync;

/// Asks a plan before each call what shall happen to it.
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Plan>,
}

impl FaultyStore {
    /// Wraps a store. `plan` sees every call and decides.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        plan: impl Fn(Operation, &Path) -> Fault + Send + Sync + 'static,
    ) -> Self {
        FaultyStore {
            inner,
            plan: Arc::new(plan),
        }
    }

    async fn before(&self, operation: Operation, path: &Path) -> Result<bool> {
        before(&*self.plan, operation, path).await
    }
}

/// Waits or fails before the call; true when its answer is to be lost.
async fn before(plan: &Plan, operation: Operation, path: &Path) -> Result<bool> {
    match plan(operation, path) {
        Fault::Pass => Ok(false),
        Fault::Fail => Err(broken()),
        Fault::LoseResponse => Ok(true),
        Fault::Delay(pause) => {
            tokio::time::sleep(pause).await;
            Ok(false)
        }
        Fault::Hang => std::future::pending().await,
    }
}

fn broken() -> Error {
    Error::Generic {
        store: "faulty",
        source: "connection reset on purpose".into(),
    }
}

fn answer<T>(result: Result<T>, lost: bool) -> Result<T> {
    if lost { Err(broken()) } else { result }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = options.mode == PutMode::Create;
        let operation = if create {
            Operation::Create
        } else {
            Operation::Put
        };
        let lost = self.before(operation, location).await?;
        answer(self.inner.put_opts(location, payload, options).await, lost)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let lost = self.before(Operation::Put, location).await?;
        answer(self.inner.put_multipart_opts(location, options).await, lost)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let lost = self.before(Operation::Get, location).await?;
        answer(self.inner.get_opts(location, options).await, lost)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let lost = self.before(Operation::Get, location).await?;
        answer(self.inner.get_ranges(location, ranges).await, lost)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (plan, inner) = (Arc::clone(&self.plan), Arc::clone(&self.inner));
        let delete = move |location: Result<Path>| {
            let (plan, inner) = (Arc::clone(&plan), Arc::clone(&inner));
            async move {
                let path = location?;
                let lost = before(&*plan, Operation::Delete, &path).await?;
                answer(inner.delete(&path).await, lost)?;
                Ok(path)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match (self.plan)(Operation::List, &prefix.cloned().unwrap_or_default()) {
            Fault::Pass => self.inner.list(prefix),
            Fault::Delay(pause) => {
                let (inner, prefix) = (Arc::clone(&self.inner), prefix.cloned());
                let listed = async move {
                    tokio::time::sleep(pause).await;
                    inner.list(prefix.as_ref())
                };
                stream::once(listed).flatten().boxed()
            }
            // Cut off in the middle: the worst kind of half an answer.
            Fault::LoseResponse => {
                let broken = stream::once(async { Err(broken()) });
                self.inner.list(prefix).take(1).chain(broken).boxed()
            }
            Fault::Fail => stream::once(async { Err(broken()) }).boxed(),
            Fault::Hang => stream::pending().boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let location = prefix.cloned().unwrap_or_default();
        let lost = self.before(Operation::List, &location).await?;
        answer(self.inner.list_with_delimiter(prefix).await, lost)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let lost = self.before(Operation::Put, to).await?;
        answer(self.inner.copy_opts(from, to, options).await, lost)
    }
}

//! A store that does not show everything it has.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

type Hidden = dyn Fn(&str) -> bool + Send + Sync;

/// Lists nothing of what is hidden; answers reads of it with 404 while that is told too.
pub(super) struct LaggingStore {
    inner: Arc<dyn ObjectStore>,
    hidden: Arc<Hidden>,
    absent: Arc<AtomicBool>,
}

impl LaggingStore {
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        absent: &Arc<AtomicBool>,
        hidden: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        LaggingStore {
            inner,
            hidden: Arc::new(hidden),
            absent: Arc::clone(absent),
        }
    }
}

impl fmt::Display for LaggingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lagging {}", self.inner)
    }
}

impl fmt::Debug for LaggingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for LaggingStore {
    async fn put_opts(
        &self,
        to: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(to, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        if self.absent.load(Ordering::SeqCst) && (self.hidden)(from.as_ref()) {
            return Err(Error::NotFound {
                path: from.to_string(),
                source: "hidden on purpose".into(),
            });
        }
        self.inner.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let hidden = Arc::clone(&self.hidden);
        let shown = move |found: &Result<ObjectMeta>| {
            let hide = found
                .as_ref()
                .is_ok_and(|meta| hidden(meta.location.as_ref()));
            std::future::ready(!hide)
        };
        self.inner.list(prefix).filter(shown).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed
            .objects
            .retain(|meta| !(self.hidden)(meta.location.as_ref()));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

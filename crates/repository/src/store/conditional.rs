//! Puts that replace only what was read.
//!
//! What each store guarantees when two write at the same time:
//!
//! - S3 (`If-Match`), Google Cloud Storage (generation) and Azure (`If-Match`): one of them wins, the other is told.
//!   So does the store in memory.
//! - A local directory: the same, among writers that lock (`super::durable`); on a network file system as far as that
//!   passes `flock` on.
//! - A store that says it cannot do this, and one that ignores the condition: the last one wins.

use bytes::Bytes;
use object_store::{
    Error, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::Store;
use crate::Result;

/// Whether [`Store::replace`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    Done,
    /// The object is not what was read any more; also after an earlier call of ours whose answer was lost.
    Changed,
}

impl Store {
    /// Reads the first bytes of an object, at most `limit`; tells its version and size too.
    pub(crate) async fn get_version(
        &self,
        key: &str,
        limit: u64,
    ) -> Result<(Bytes, UpdateVersion, u64)> {
        let path = self.path(key);
        let call = || async {
            let options = GetOptions::new().with_range(Some(0..limit));
            let found = self.inner.get_opts(&path, options).await?;
            let version = UpdateVersion {
                e_tag: found.meta.e_tag.clone(),
                version: found.meta.version.clone(),
            };
            let size = found.meta.size;
            Ok((found.bytes().await?, version, size))
        };
        self.call("read", key, call).await
    }

    /// Writes the object over the version that was read, if the store can tell.
    pub(crate) async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        read: &UpdateVersion,
    ) -> Result<Replaced> {
        let path = self.path(key);
        let call = || async {
            let options = PutOptions::from(PutMode::Update(read.clone()));
            let payload = PutPayload::from_bytes(bytes.clone());
            match self.inner.put_opts(&path, payload, options).await {
                Ok(_) => Ok(Some(Replaced::Done)),
                Err(
                    Error::Precondition { .. }
                    | Error::NotFound { .. }
                    | Error::AlreadyExists { .. },
                ) => Ok(Some(Replaced::Changed)),
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match self.call("write", key, call).await? {
            Some(replaced) => Ok(replaced),
            None => self.put(key, bytes).await.map(|()| Replaced::Done),
        }
    }
}

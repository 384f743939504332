//! The repository and the two scopes of a branch: one that reads, one that writes.

use std::ops::Deref;
use std::sync::Arc;

use events::{BranchName, InstanceName};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::layout::{self, BranchLayout};
use crate::store::Store;
use crate::{Result, RetryPolicy, open};

/// A repository: a prefix of an object store, or a local directory.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) store: Store,
}

impl Repository {
    /// Opens `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or
    /// `memory://` in tests.
    ///
    /// Credentials and endpoint come from the store's usual variables (`AWS_ENDPOINT_URL`,
    /// `AWS_ALLOW_HTTP`, ...). A local directory is created when missing. No request is sent.
    /// Unless rustls has a crypto provider already, `ring` is made the one of this process.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn open(url: &str, retry: RetryPolicy) -> Result<Self> {
        Self::open_with(url, retry, &[])
    }

    /// Opens like [`Self::open`], with variables that count before those of the environment.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn open_with(
        url: &str,
        retry: RetryPolicy,
        variables: &[(String, String)],
    ) -> Result<Self> {
        let opened = open::open(url, &retry, variables)?;
        Ok(Repository {
            store: Store::new(opened.store, opened.prefix, retry).in_directory(opened.directory),
        })
    }

    /// A repository under `prefix` of a store that the caller made: for tests and faulty stores.
    pub fn with_store(store: Arc<dyn ObjectStore>, prefix: &str, retry: RetryPolicy) -> Self {
        Repository {
            store: Store::new(store, Path::from(prefix), retry),
        }
    }

    /// A branch, to be read only.
    #[must_use]
    pub fn reader(&self, instance: &InstanceName, branch: &BranchName) -> BranchReader {
        BranchReader {
            store: self.store.clone(),
            layout: BranchLayout::new(instance, branch),
            instance: instance.clone(),
            branch: branch.clone(),
        }
    }

    /// A branch, to be read and written.
    #[must_use]
    pub fn writer(&self, instance: &InstanceName, branch: &BranchName) -> BranchWriter {
        BranchWriter {
            reader: self.reader(instance, branch),
        }
    }

    /// Every branch that has something in the repository, in order.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_branches(&self) -> Result<Vec<(InstanceName, BranchName)>> {
        let mut branches = Vec::new();
        for instance in self.store.list_names(layout::ROOT).await? {
            let Ok(instance) = InstanceName::new(instance) else {
                continue;
            };
            let names = self.list_branches_of(&instance).await?.into_iter();
            branches.extend(names.map(|branch| (instance.clone(), branch)));
        }
        branches.sort();
        Ok(branches)
    }

    /// Every branch of an instance that has something in the repository, in order.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_branches_of(&self, instance: &InstanceName) -> Result<Vec<BranchName>> {
        let prefix = format!("{}/{instance}", layout::ROOT);
        let names = self.store.list_names(&prefix).await?.into_iter();
        let mut branches: Vec<_> = names
            .filter_map(|name| BranchName::new(name).ok())
            .collect();
        branches.sort();
        Ok(branches)
    }
}

/// Reads one branch of the repository. Has no way to change anything.
#[derive(Clone, Debug)]
pub struct BranchReader {
    pub(crate) store: Store,
    pub(crate) layout: BranchLayout,
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
}

impl BranchReader {
    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// The branch.
    #[must_use]
    pub fn branch(&self) -> &BranchName {
        &self.branch
    }
}

/// Reads and writes one branch of the repository.
#[derive(Clone, Debug)]
pub struct BranchWriter {
    reader: BranchReader,
}

impl BranchWriter {
    /// The same branch, read only.
    #[must_use]
    pub fn reader(&self) -> &BranchReader {
        &self.reader
    }
}

impl Deref for BranchWriter {
    type Target = BranchReader;

    fn deref(&self) -> &BranchReader {
        &self.reader
    }
}

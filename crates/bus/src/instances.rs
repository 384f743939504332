//! The instance documents, typed.

use std::collections::BTreeSet;

use events::{InstanceDocument, InstanceName, topology};
use futures::{Stream, StreamExt as _};

use crate::error::CasError;
use crate::{Bucket, Bus, BusError, Change, Revision};

/// Conflicts in a row after which an update is given up: so many writers there are not.
const CONFLICT_LIMIT: usize = 32;

/// The documents of all instances.
#[derive(Clone, Debug)]
pub struct Instances {
    bucket: Bucket,
}

/// All documents, and those that are there but cannot be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// By name of their instances.
    pub documents: Vec<InstanceDocument>,
    /// Instances whose document is there, and of another version, or damaged. They are not gone: nothing of them may be
    /// let go, and what was known of them stays true.
    pub unreadable: BTreeSet<InstanceName>,
}

/// What happened to an instance's document.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceChange {
    /// The instance.
    pub instance: InstanceName,
    /// Its document now; `None` when it was removed.
    pub document: Option<InstanceDocument>,
    /// The revision of the change.
    pub revision: Revision,
}

/// What an update makes of a document, and what it tells its caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<T> {
    /// Write this.
    Put(Box<InstanceDocument>, T),
    /// Remove it.
    Remove(T),
    /// Leave it as it is.
    Keep(T),
}

/// An update that was not made.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Others changed the document every time.
    #[error(
        "the document of {instance} changed {CONFLICT_LIMIT} times in a row while it was updated"
    )]
    Contended {
        /// The instance.
        instance: InstanceName,
    },
    /// The bus failed.
    #[error("the bus failed while the document of an instance was updated")]
    Bus(#[from] BusError),
}

impl Bus {
    /// The instance documents.
    #[must_use]
    pub fn instances(&self) -> Instances {
        Instances {
            bucket: self.bucket(topology::INSTANCES),
        }
    }
}

impl Instances {
    /// One instance's document.
    ///
    /// # Errors
    /// [`BusError::Unreadable`] if this build cannot read it.
    pub async fn get(
        &self,
        instance: &InstanceName,
    ) -> Result<Option<(InstanceDocument, Revision)>, BusError> {
        match self.bucket.get(&instance.to_string()).await? {
            None => Ok(None),
            Some((bytes, revision)) => Ok(Some((read(instance, &bytes)?, revision))),
        }
    }

    /// One instance's document, if there is one, and the revision of the last change to it or of its removal; 0 if there
    /// never was one.
    ///
    /// # Errors
    /// [`BusError::Unreadable`] if this build cannot read it.
    pub async fn standing(
        &self,
        instance: &InstanceName,
    ) -> Result<(Option<InstanceDocument>, Revision), BusError> {
        let (bytes, revision) = self.bucket.standing(&instance.to_string()).await?;
        let document = bytes.map(|bytes| read(instance, &bytes)).transpose()?;
        Ok((document, revision))
    }

    /// Writes a document if nothing has happened to it since it [stood](Self::standing) at `revision`.
    ///
    /// # Errors
    /// [`CasError::Conflict`] if something has.
    pub async fn replace(
        &self,
        document: &InstanceDocument,
        revision: Revision,
    ) -> Result<Revision, CasError> {
        let bytes = write(&document.instance, document)?;
        let key = document.instance.to_string();
        self.bucket.update(&key, bytes, revision).await
    }

    /// Every document that can be read, by name of its instance. For those who only look: who would take an instance that
    /// is not in it for gone asks for [`Self::listing`].
    ///
    /// # Errors
    /// The bus failed.
    pub async fn list(&self) -> Result<Vec<InstanceDocument>, BusError> {
        Ok(self.listing().await?.documents)
    }

    /// Every document. One that this build cannot read is logged, and holds up none of the others.
    ///
    /// # Errors
    /// The bus failed.
    pub async fn listing(&self) -> Result<Listing, BusError> {
        let mut listing = Listing::default();
        for change in self.bucket.present().await? {
            let (Ok(name), Some(bytes)) = (InstanceName::new(change.key), change.value) else {
                continue;
            };
            match read(&name, &bytes) {
                Ok(document) => listing.documents.push(document),
                Err(error) => {
                    left_out(&name, &error);
                    let _new = listing.unreadable.insert(name);
                }
            }
        }
        Ok(listing)
    }

    /// All documents, then every change, for ever. One that this build cannot read is logged and left out:
    /// what was known of that instance stays true for the watcher.
    pub fn watch(&self) -> impl Stream<Item = InstanceChange> + Send + Unpin + use<> {
        Box::pin(
            self.bucket
                .watch()
                .filter_map(|change| std::future::ready(typed(change))),
        )
    }

    /// Changes one document by compare-and-set: `decide` sees what is there (nothing, at first) and is
    /// called again whenever somebody else was faster.
    ///
    /// # Errors
    /// [`UpdateError::Contended`] when that does not end.
    pub async fn update<T>(
        &self,
        instance: &InstanceName,
        mut decide: impl FnMut(Option<&InstanceDocument>) -> Decision<T>,
    ) -> Result<T, UpdateError> {
        let key = instance.to_string();
        for _ in 0..CONFLICT_LIMIT {
            let current = self.get(instance).await?;
            let revision = current.as_ref().map(|(_, revision)| *revision);
            let (written, told) = match decide(current.as_ref().map(|(document, _)| document)) {
                Decision::Keep(told) => return Ok(told),
                Decision::Put(document, told) => {
                    let bytes = write(instance, &document)?;
                    let written = match revision {
                        Some(revision) => self.bucket.update(&key, bytes, revision).await,
                        None => self.bucket.create(&key, bytes).await,
                    };
                    (written.map(drop), told)
                }
                Decision::Remove(told) => match revision {
                    Some(revision) => (self.bucket.delete(&key, revision).await, told),
                    None => return Ok(told),
                },
            };
            match written {
                Ok(()) => return Ok(told),
                Err(CasError::Conflict { .. }) => {}
                Err(CasError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(UpdateError::Contended {
            instance: instance.clone(),
        })
    }
}

fn typed(change: Change) -> Option<InstanceChange> {
    let instance = InstanceName::new(change.key.clone()).ok()?;
    let document = change
        .value
        .map(|bytes| read(&instance, &bytes))
        .transpose();
    match document {
        Ok(document) => Some(InstanceChange {
            instance,
            document,
            revision: change.revision,
        }),
        Err(error) => {
            left_out(&instance, &error);
            None
        }
    }
}

fn left_out(instance: &InstanceName, error: &BusError) {
    tracing::error!(
        %instance,
        error = error as &dyn std::error::Error,
        "an instance document cannot be read by this version of zektor and is left out"
    );
}

fn read(instance: &InstanceName, bytes: &[u8]) -> Result<InstanceDocument, BusError> {
    serde_json::from_slice(bytes).map_err(|source| BusError::Unreadable {
        what: format!("the document of instance {instance}"),
        source,
    })
}

fn write(instance: &InstanceName, document: &InstanceDocument) -> Result<Vec<u8>, BusError> {
    serde_json::to_vec(document).map_err(|source| BusError::Encode {
        what: format!("the document of instance {instance}"),
        source,
    })
}

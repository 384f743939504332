//! A branch's lease: which archiver streams it.
//!
//! A lease spares two archivers the quarrel over a slot; it does not protect anything. The slot has one
//! user at a time, and objects are written once. So a bus that cannot be reached is no reason to stop.

use std::time::Duration;

use bus::{Bucket, Bus, CasError, Revision};
use events::topology;

use crate::status::BranchKey;

/// Who holds a branch, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// We do.
    Ours(Revision),
    /// Another archiver does.
    Theirs,
    /// The bus cannot be asked.
    Unknown,
}

/// The lease of one branch.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    bucket: Bucket,
    key: String,
    holder: String,
    ttl: Duration,
}

impl Lease {
    /// The lease of a branch, to be held under the name `holder`.
    #[must_use]
    pub(crate) fn new(bus: &Bus, branch: &BranchKey, holder: &str, ttl: Duration) -> Self {
        Lease {
            bucket: bus.bucket(topology::LEASES),
            key: format!("wal-archiver.{}.{}", branch.instance, branch.branch),
            holder: holder.to_owned(),
            ttl,
        }
    }

    /// Takes the lease, or renews it.
    pub(crate) async fn hold(&self, before: Holding) -> Holding {
        let holder = self.holder.clone();
        let outcome = match before {
            Holding::Ours(revision) => {
                self.bucket
                    .renew(&self.key, holder, revision, self.ttl)
                    .await
            }
            Holding::Theirs | Holding::Unknown => {
                self.bucket
                    .create_with_ttl(&self.key, holder, self.ttl)
                    .await
            }
        };
        match outcome {
            Ok(revision) => Holding::Ours(revision),
            Err(CasError::Conflict { .. }) => self.look().await,
            Err(CasError::Bus(_)) => Holding::Unknown,
        }
    }

    /// Somebody changed the key: it expired, is ours from before, or is another's.
    async fn look(&self) -> Holding {
        let found = match self.bucket.get(&self.key).await {
            Ok(found) => found,
            Err(_) => return Holding::Unknown,
        };
        let outcome = match found {
            Some((holder, _)) if holder != self.holder.as_bytes() => return Holding::Theirs,
            Some((_, revision)) => {
                self.bucket
                    .renew(&self.key, self.holder.clone(), revision, self.ttl)
                    .await
            }
            None => {
                self.bucket
                    .create_with_ttl(&self.key, self.holder.clone(), self.ttl)
                    .await
            }
        };
        match outcome {
            Ok(revision) => Holding::Ours(revision),
            Err(CasError::Conflict { .. }) => Holding::Theirs,
            Err(CasError::Bus(_)) => Holding::Unknown,
        }
    }

    /// Gives it back, so that another need not wait for its end.
    pub(crate) async fn release(&self, holding: Holding) {
        if let Holding::Ours(revision) = holding
            && let Err(error) = self.bucket.release(&self.key, revision).await
        {
            tracing::debug!(lease = self.key, %error, "the lease ends by itself");
        }
    }
}

//! Deletes what is stored of a branch whose server is gone.
//!
//! Two may still be writing: the archiver, which gives its lease back when it has seen the document, and a worker
//! with a backup, which ends when the server does not answer. Both are given a moment; and what they put meanwhile is
//! deleted in another round.

use std::time::Duration;

use bus::Progress;
use events::document::Branch;
use events::{BranchName, InstanceName, RestoreId, topology};
use tokio::time::Instant;

use crate::error::RestoreError;
use crate::restorer::Restorer;

/// Longer than a lease lives without its holder.
const LEASE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// Stores may list for a while what is gone, so the rounds are counted.
const ROUNDS: u32 = 5;
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);

/// Whether an order to delete a branch is to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doomed {
    /// The document says so, of the branch that this restore made; or knows of no such branch any more.
    Yes(Option<RestoreId>),
    /// The name was given anew since, or the deletion was never decided.
    No,
}

impl Restorer {
    /// What the document says of an order to delete a branch. One that is old is not followed.
    pub(super) async fn doomed(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Doomed, RestoreError> {
        let document = self.bus.instances().get(instance).await?;
        let held = document.and_then(|(mut document, _)| document.branches.remove(branch));
        Ok(match held {
            Some(Branch::Active(_) | Branch::Restoring { .. }) => {
                tracing::warn!(%instance, %branch, "an old order to delete a branch is not followed");
                Doomed::No
            }
            Some(Branch::Deleting(active)) => {
                Doomed::Yes(active.origin.map(|origin| origin.restore_id))
            }
            None => Doomed::Yes(None),
        })
    }

    /// Whether it is still the same branch, or gone from the document already.
    pub(super) async fn still_doomed(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        life: Option<RestoreId>,
    ) -> Result<bool, RestoreError> {
        let now = self.doomed(instance, branch).await?;
        Ok(now == Doomed::Yes(life) || now == Doomed::Yes(None))
    }

    /// Deletes everything that is stored of a branch. May be done again. False if the name is another branch's by now:
    /// that one's is left alone.
    ///
    /// # Errors
    /// The store or the bus failed.
    pub(super) async fn purge(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        life: Option<RestoreId>,
        progress: &Progress,
    ) -> Result<bool, RestoreError> {
        self.await_archiver(instance, branch).await?;
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            if !self.still_doomed(instance, branch, life).await? {
                return Ok(false);
            }
            let advanced = || progress.advance();
            let round = self
                .repository
                .delete_branch_telling(instance, branch, &advanced);
            match round.await? {
                0 => break,
                more => deleted += more,
            }
            tokio::time::sleep(BETWEEN_ROUNDS).await;
        }
        tracing::info!(%instance, %branch, deleted, "what was stored of the branch is deleted");
        Ok(true)
    }

    async fn await_archiver(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), RestoreError> {
        // The archivers' name for it (`wal-archiver`, `lease.rs`).
        let lease = format!("wal-archiver.{instance}.{branch}");
        let bucket = self.bus.bucket(topology::LEASES);
        let deadline = Instant::now() + LEASE;
        while bucket.get(&lease).await?.is_some() {
            if Instant::now() >= deadline {
                tracing::warn!(%instance, %branch, "an archiver holds the branch still; deleting all the same");
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

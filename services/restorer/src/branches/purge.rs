//! Deletes what is stored of a branch whose server is gone.
//!
//! Two may still be writing: the archiver, which gives its lease back when it has seen the document, and a worker
//! with a backup, which ends when the server does not answer. Both are given a moment; and what they put meanwhile is
//! deleted in another round.

use std::time::Duration;

use events::{BranchName, InstanceName, topology};
use tokio::time::Instant;

use crate::error::RestoreError;
use crate::restorer::Restorer;

/// Longer than a lease lives without its holder.
const LEASE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// Stores may list for a while what is gone, so the rounds are counted.
const ROUNDS: u32 = 5;
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);

impl Restorer {
    /// Deletes everything that is stored of a branch. May be done again.
    ///
    /// # Errors
    /// The store or the bus failed.
    pub(super) async fn purge(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), RestoreError> {
        self.await_archiver(instance, branch).await?;
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            match self.repository.delete_branch(instance, branch).await? {
                0 => break,
                more => deleted += more,
            }
            tokio::time::sleep(BETWEEN_ROUNDS).await;
        }
        tracing::info!(%instance, %branch, deleted, "what was stored of the branch is deleted");
        Ok(())
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

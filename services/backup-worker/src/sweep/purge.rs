//! What is left of a branch that was deleted before, deleted at once after all.
//!
//! The sweep has named its backups and its WAL, which are gone by now and were told of one by one; the rest goes here.
//! What must stay true: the record goes last, when a listing has shown nothing else, so that the name is free only when
//! nothing is stored under it; and nothing is deleted but what was listed while the sweep stood.

use std::time::Duration;

use bus::BusError;
use events::event::{BranchDeleted, BranchSweepRequested};
use events::{Event, topology};
use repository::{BranchWriter, Deleted};
use tokio::time::Instant;

use super::{SweepError, Sweeps};
use crate::pulse::Pulse;

/// Longer than a lease lives without its holder.
const LEASE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// Who writes still ends soon; what the store lists for a while after it is gone does, too.
const ROUNDS: u32 = 5;
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);

impl Sweeps {
    /// Waits until nobody archives the branch: its archiver has seen that it is gone, or has died.
    pub(super) async fn await_archiver(
        &self,
        request: &BranchSweepRequested,
        pulse: &Pulse,
    ) -> Result<(), BusError> {
        // The archivers' name for it (`wal-archiver`, `lease.rs`).
        let lease = format!("wal-archiver.{}.{}", request.instance, request.branch);
        let bucket = self.bus.bucket(topology::LEASES);
        let deadline = Instant::now() + LEASE;
        while bucket.get(&lease).await?.is_some() {
            if Instant::now() >= deadline {
                tracing::warn!("an archiver holds the branch still; deleting all the same");
                break;
            }
            pulse.advance();
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Deletes all that is stored of the branch. `None` when it is no longer wanted in the middle.
    pub(super) async fn purge(
        &self,
        request: &BranchSweepRequested,
        branch: &BranchWriter,
        pulse: &Pulse,
    ) -> Result<Option<Deleted>, SweepError> {
        let mut deleted = Deleted::default();
        let advanced = || pulse.advance();
        for round in 0..ROUNDS {
            if round > 1 {
                tokio::time::sleep(BETWEEN_ROUNDS).await;
            }
            let found = branch.find_all().await?;
            if !self.is_listed(request).await? {
                return Ok(None);
            }
            if found.is_bare() {
                if let Some(record) = branch.delete_hollow_record(found).await? {
                    return Ok(Some(deleted.and(record)));
                }
                return Err(SweepError::Written);
            }
            let remains = branch.delete_hollow_remains(&found, &advanced).await?;
            deleted = deleted.and(remains.unwrap_or_default());
        }
        Err(SweepError::Written)
    }

    /// Says what the removal of a branch with all that is stored of it says.
    pub(super) async fn branch_deleted(
        &self,
        request: &BranchSweepRequested,
    ) -> Result<(), BusError> {
        let event = Event::BranchDeleted(BranchDeleted {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            restore_id: None,
        });
        let id = format!("branch.deleted:{}", request.sweep_id);
        let outgoing = self.outgoing(request, event, id);
        let outgoing = outgoing.correlated(request.sweep_id);
        self.bus.publish(outgoing).await.map(drop)
    }
}

//! What a drill left that was killed: removed at start and now and then. Whoever does a drill holds its lock, and every
//! attempt begins with nothing, so what nobody holds is of use to nobody.

use std::time::Duration;

use events::{BranchName, InstanceName};
use tokio_util::sync::CancellationToken;

use crate::compute::ComputeError;
use crate::drill::Drills;

const EVERY: Duration = Duration::from_secs(600);
/// A lock that is not had within this time is held by somebody who means it.
const HELD: Duration = Duration::from_secs(1);

impl Drills {
    /// Removes leftovers until `shutdown`.
    pub async fn remove_leftovers_until(&self, shutdown: &CancellationToken) {
        loop {
            if let Err(error) = self.remove_leftovers().await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "leftovers of drills cannot be removed; it is tried again later"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Removes the sandboxes that nobody holds, with their servers.
    ///
    /// # Errors
    /// As the file system's.
    pub async fn remove_leftovers(&self) -> Result<(), ComputeError> {
        let compute = &*self.restorer.compute;
        // Its places follow from the drill alone.
        let Ok(unknown) = InstanceName::new("unknown") else {
            return Ok(());
        };
        for id in compute.drills().await? {
            let site = compute.drill_site(&unknown, &BranchName::main(), id);
            let Ok(lock) = tokio::time::timeout(HELD, compute.lock(&site)).await else {
                continue;
            };
            let lock = lock?;
            tracing::info!(drill = %id, "removing what a drill has left");
            compute.remove(&site).await?;
            compute.unlock_for_good(&site, lock).await?;
        }
        Ok(())
    }
}

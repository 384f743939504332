//! The workers' pools: each has a consumer of its own, and a limit of backups in hand at once.
//!
//! The limit is the schedulers' setting. All other services leave it as they find it; a consumer that was lost and is
//! made anew by somebody else has none until the next round here.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bus::BusError;
use events::{PoolName, topology};
use tokio_util::sync::CancellationToken;

use crate::commands::World;
use crate::refusal::Unfinished;

/// How long the limit of a pool may be forgotten.
const APPLIED_EVERY: Duration = Duration::from_secs(60);

/// Applies the limit of every pool, again and again, until shutdown.
pub(crate) async fn keep_limits(world: World, shutdown: CancellationToken) {
    let mut rounds = tokio::time::interval(APPLIED_EVERY);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        if let Err(error) = world.apply_limits().await {
            tracing::warn!(%error, "the limit of backups at once is not applied; trying again");
        }
    }
}

impl World {
    /// Makes the consumer of a pool, before the first request for it is published.
    pub(crate) async fn make_pool(&self, pool: Option<&PoolName>) -> Result<(), Unfinished> {
        let Some(pool) = pool else { return Ok(()) };
        if self.known_pools().contains(pool) {
            return Ok(());
        }
        self.apply_limit(topology::backup_jobs_of(pool)).await?;
        let _new = self.known_pools().insert(pool.clone());
        Ok(())
    }

    /// Applies the limit of every pool that is known.
    pub(crate) async fn apply_limits(&self) -> Result<(), Unfinished> {
        self.apply_limit(topology::backup_jobs()).await?;
        let pools = self.known_pools().clone();
        for pool in pools {
            self.apply_limit(topology::backup_jobs_of(&pool)).await?;
        }
        Ok(())
    }

    async fn apply_limit(&self, jobs: topology::ConsumerSpec) -> Result<(), BusError> {
        let limit = self.config.backups_at_once;
        let jobs = topology::limited(jobs, (limit > 0).then_some(limit));
        self.bus.apply_consumer(&jobs).await
    }

    fn known_pools(&self) -> MutexGuard<'_, BTreeSet<PoolName>> {
        let pools = self.slots.pools.lock();
        pools.unwrap_or_else(PoisonError::into_inner)
    }
}

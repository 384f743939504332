//! Whether the workers of a pool have places free.
//!
//! A begun backup of which nothing is heard may wait for a worker: the one that had it died or gave it back, and all
//! places are taken. What is delivered again comes before anything new, so where a place stays free nothing waits.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bus::BusError;
use events::{PoolName, topology};
use tokio::time::Instant;

use crate::commands::World;

/// Longer than the ack wait and any pause before a delivery is made again.
const FREE_FOR: Duration = Duration::from_secs(60);

/// Since when each look at a pool found a free place.
#[derive(Default)]
pub(super) struct Places {
    free_since: HashMap<Option<PoolName>, Instant>,
}

impl Places {
    /// Looks at these pools, and forgets the others.
    pub(super) async fn look(
        &mut self,
        world: &World,
        pools: HashSet<Option<PoolName>>,
    ) -> Result<(), BusError> {
        self.free_since.retain(|pool, _| pools.contains(pool));
        for pool in pools {
            let jobs = pool.as_ref();
            let jobs = jobs.map_or_else(topology::backup_jobs, topology::backup_jobs_of);
            let free = match world.bus.free_places(&jobs).await {
                Err(BusError::NotFound { .. }) => 0,
                looked => looked?,
            };
            if free == 0 {
                let _since = self.free_since.remove(&pool);
            } else {
                let _since = self.free_since.entry(pool).or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Whether there was a free place for so long that nothing of the pool can have waited for one.
    pub(super) fn are_free(&self, pool: &Option<PoolName>) -> bool {
        let since = self.free_since.get(pool);
        since.is_some_and(|since| since.elapsed() >= FREE_FOR)
    }
}

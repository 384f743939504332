//! Whether the workers of a pool have places free.
//!
//! A begun backup of which nothing is heard may wait for a worker: the one that had it died or gave it back, and all
//! places are taken. What is delivered again comes before anything new, and past the limit of backups at once, so where a
//! place stays free nothing begun waits. What is new waits for that limit, too.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bus::BusError;
use events::{PoolName, topology};
use tokio::time::Instant;

use crate::commands::World;
use crate::watchdog::judge::Stage;

/// Longer than the ack wait and any pause before a delivery is made again.
const FREE_FOR: Duration = Duration::from_secs(60);

/// Since when each look at a pool found a free place.
#[derive(Default)]
pub(super) struct Places {
    /// For what is delivered again.
    free_since: HashMap<Option<PoolName>, Instant>,
    /// For what is new, too: the limit of backups at once lets it through.
    open_since: HashMap<Option<PoolName>, Instant>,
}

impl Places {
    /// Looks at these pools, and forgets the others.
    pub(super) async fn look(
        &mut self,
        world: &World,
        pools: HashSet<Option<PoolName>>,
    ) -> Result<(), BusError> {
        self.free_since.retain(|pool, _| pools.contains(pool));
        self.open_since.retain(|pool, _| pools.contains(pool));
        for pool in pools {
            let jobs = pool.as_ref();
            let jobs = jobs.map_or_else(topology::backup_jobs, topology::backup_jobs_of);
            let places = world.bus.places(&jobs).await?;
            let free = places.free > 0;
            let open = free && !places.at_limit;
            note(&mut self.free_since, &pool, free);
            note(&mut self.open_since, &pool, open);
        }
        Ok(())
    }

    /// Whether places were free for so long that nothing of the pool that is at this stage can have waited for one.
    pub(super) fn are_free(&self, pool: &Option<PoolName>, stage: Stage) -> bool {
        let since = match stage {
            Stage::Waiting => self.open_since.get(pool),
            Stage::Working => self.free_since.get(pool),
        };
        since.is_some_and(|since| since.elapsed() >= FREE_FOR)
    }
}

fn note(since: &mut HashMap<Option<PoolName>, Instant>, pool: &Option<PoolName>, is_so: bool) {
    if is_so {
        let _since = since.entry(pool.clone()).or_insert_with(Instant::now);
    } else {
        let _since = since.remove(pool);
    }
}

//! A branch that is gone and of which nothing is left: its record keeps its name, and every round would carry it.
//!
//! What must stay true: the name is free again only when everything under it is deleted, so that the WAL of two clusters
//! never rests under one name. So it goes by a sweep: while that stands in the document nobody can claim the name. And
//! where somebody has written, that must be long ago: a late archiver may still put a segment there.

use events::document::Sweep;
use events::{BranchName, InstanceName, SweepId};
use repository::Hollow;
use retention::LEFTOVER_AGE;
use uuid::Uuid;

use super::Rounds;
use super::stored::{self, Life, life, readers};
use crate::commands::World;
use crate::refusal::Unfinished;

impl Rounds {
    /// Lets go of a branch of which nothing is left. Gives back whether it is one.
    pub(crate) async fn clear_hollow(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<bool, Unfinished> {
        if !is_hollow(&self.world, instance, branch).await? {
            return Ok(false);
        }
        let sweep = Sweep {
            sweep_id: SweepId(Uuid::now_v7()),
            asked_at: self.world.clock.now(),
            backups: Vec::new(),
            wal: Vec::new(),
            histories: Vec::new(),
            leftovers: Vec::new(),
            hollow: true,
            purge: false,
            withdrawn_at: None,
        };
        self.begin_sweep(instance, branch, false, sweep).await?;
        Ok(true)
    }
}

/// Whether a branch is gone, and nothing is left of it, and nobody is going to write to it.
pub(super) async fn is_hollow(
    world: &World,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<bool, Unfinished> {
    if *branch == BranchName::main() {
        return Ok(false);
    }
    let writer = world.repository.writer(instance, branch);
    let settled = match writer.hollow().await? {
        Hollow::No => false,
        Hollow::Record => true,
        Hollow::Remains { last_written } => {
            writer.store_clock().await? - last_written >= LEFTOVER_AGE
        }
    };
    let running = stored::slot(world, instance, branch).await?;
    // Read last: whoever claims the name or the branch from now on finds the sweep.
    let Some((document, _)) = world.bus.instances().get(instance).await? else {
        return Ok(false);
    };
    let free = life(&document, branch) == Life::Gone && readers(&document, branch).is_empty();
    Ok(settled && free && running.is_none() && !document.removing)
}

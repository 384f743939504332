//! A second witness of what time it is: the object store.
//!
//! What must stay true: no single clock that is wrong takes anything. What is due must be so by the scheduler's clock and
//! by the store's, and the time of grace begins by the later of them.

use chrono::TimeDelta;
use events::{BranchName, InstanceName, Timestamp};
use repository::RepositoryError;

use crate::commands::World;

/// Clocks that are right differ by less.
const MOST_BETWEEN_CLOCKS: TimeDelta = TimeDelta::minutes(1);

/// How long something is marked before it is deleted.
pub(crate) fn grace(world: &World) -> TimeDelta {
    TimeDelta::from_std(world.config.retention_grace).unwrap_or(TimeDelta::MAX)
}

/// What time it is for the store; `None` when that is not to be asked. Costs three requests.
pub(crate) async fn of_store(
    world: &World,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<Option<Timestamp>, RepositoryError> {
    if !world.config.retention_store_clock {
        return Ok(None);
    }
    let store_now = world
        .repository
        .writer(instance, branch)
        .store_clock()
        .await?;
    let ahead = world.clock.now() - store_now;
    if ahead.abs() > MOST_BETWEEN_CLOCKS {
        tracing::warn!(
            %instance, %branch, ahead_seconds = ahead.num_seconds(),
            "this scheduler's clock and the object store's differ; what is due by one of them only stays"
        );
    }
    Ok(Some(store_now))
}

/// The end of a time of grace that begins now.
pub(crate) async fn end_of_grace(
    world: &World,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<Timestamp, RepositoryError> {
    let now = world.clock.now();
    let store_now = of_store(world, instance, branch).await?;
    let from = store_now.map_or(now, |store_now| store_now.max(now));
    Ok(from
        .checked_add_signed(grace(world))
        .unwrap_or(Timestamp::MAX_UTC))
}

//! NATS was lost, the repository was not: the instance documents come back from their mirror.
//!
//! A document is recalled only where the bus has none, by create-if-absent, so that any number of schedulers
//! may do it and a living document always wins. What was being removed stays removed. A restore or a drill that
//! was under way died with its events: its name is freed. A sweep stays: it may be half done, so nobody restores what
//! it lists, and the next round finishes it, if all that is left of it may still go, or ends it.
//!
//! What fires have led to is lost with the events. Those of the last day are asked for again (a backup that is there is
//! only announced), older ones are let be ([`has_forgotten`]).

use bus::{BusError, Decision, UpdateError};
use chrono::TimeDelta;
use events::document::Branch;
use events::topology::EVENTS;
use events::{InstanceDocument, InstanceName, Timestamp};
use repository::RepositoryError;

use crate::commands::World;
use crate::refusal::Unfinished;

/// What was due longer ago is not asked for anew after a loss: all instances would do so at once.
const REMEMBERED: TimeDelta = TimeDelta::days(1);

/// Whether it is no longer known what a fire has led to, because the stream of events is younger, and it is too long ago
/// to count as missed.
pub(crate) async fn has_forgotten(world: &World, fire: Timestamp) -> Result<bool, BusError> {
    let now = world.clock.now();
    if now - fire <= REMEMBERED {
        return Ok(false);
    }
    let born = world.bus.stream_state(EVENTS).await?.created;
    // One that is not born yet is a clock that differs.
    Ok(fire < born && born <= now)
}

/// Puts the mirrored documents back that the bus does not have. What is wrong with one holds up none of the others: one
/// that cannot be read, there or here, is left as it is.
///
/// # Errors
/// The first that could not be looked at now, and may be later; the others were.
pub(crate) async fn recall_documents(world: &World) -> Result<(), Unfinished> {
    let mut later = None;
    for instance in world.repository.instance_names().await? {
        let Err(error) = recall_document(world, &instance).await else {
            continue;
        };
        if is_unreadable(&error) {
            tracing::error!(%instance, error = &error as &dyn std::error::Error, "the document of an instance cannot be read, and the instance cannot be recalled");
        } else {
            tracing::warn!(%instance, error = &error as &dyn std::error::Error, "an instance cannot be recalled now; trying again");
            later = later.or(Some(error));
        }
    }
    later.map_or(Ok(()), Err)
}

/// Whether asking again cannot help.
fn is_unreadable(error: &Unfinished) -> bool {
    match error {
        Unfinished::Repository(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => {
            true
        }
        Unfinished::Bus(error) | Unfinished::Contended(UpdateError::Bus(error)) => {
            matches!(error, BusError::Unreadable { .. })
        }
        _ => false,
    }
}

/// Puts one instance's document back, if the mirror has it and the bus does not.
pub(crate) async fn recall_document(
    world: &World,
    instance: &InstanceName,
) -> Result<(), Unfinished> {
    let mirrored = world.repository.instance(instance).await;
    match RepositoryError::absent_as_none(mirrored)? {
        Some(mirrored) => recall(world, mirrored).await,
        None => Ok(()),
    }
}

async fn recall(world: &World, mirrored: InstanceDocument) -> Result<(), Unfinished> {
    if !mirrored.removing {
        let recalled = without_readers(mirrored);
        let instance = recalled.instance.clone();
        let put = world
            .bus
            .instances()
            .update(&instance, |there| match there {
                Some(_) => Decision::Keep(false),
                None => Decision::Put(Box::new(recalled.clone()), true),
            })
            .await?;
        if put {
            tracing::warn!(%instance, "the bus had lost this instance; it is recalled from the repository");
        }
    }
    Ok(())
}

fn without_readers(mut document: InstanceDocument) -> InstanceDocument {
    document
        .branches
        .retain(|_, branch| !matches!(branch, Branch::Restoring { .. }));
    document.running_drill = None;
    document
}

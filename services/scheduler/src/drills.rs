//! Drills: when they are due, and that one which is asked for also ends.
//!
//! What must stay true: a fire has one effect, however many replicas see it (its id comes from instance and fire time,
//! and whatever is said of it first expects nothing on its fence); the past of the branch is claimed in the instance
//! document before a drill is requested, so that nothing it reads is deleted meanwhile; and every claim comes to an end
//! ([`claims`]), so that retention is never blocked for good.

mod claims;
mod firing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bus::{BusError, Outgoing, Sequence};
use events::event::{DrillRequested, DrillSkipped};
use events::{BranchName, DrillId, Event, InstanceName, MessageId, Timestamp, Trigger, subject};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use self::claims::Claim;
use self::firing::Firing;
use crate::commands::World;
use crate::refusal::{Unfinished, published_once};

/// How often due fires and claims are looked at.
const TICK: Duration = Duration::from_secs(10);
/// All documents are read anew so often, should a change have been missed.
const RELOAD: Duration = Duration::from_secs(300);

/// Asks for due drills, and ends what does not end by itself, until `shutdown`.
///
/// # Errors
/// Never at present; what fails is tried again.
pub(crate) async fn run(world: &World, shutdown: CancellationToken) -> Result<(), BusError> {
    let mut firing = Firing::default();
    let mut changes = world.bus.instances().watch();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reloads = tokio::time::interval(RELOAD);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(change) = changes.next() => firing.learn(change.instance, change.document),
            _ = ticks.tick() => firing.round(world).await,
            _ = reloads.tick() => match world.bus.instances().listing().await {
                Ok(listing) => firing.relearn(listing),
                Err(error) => tracing::warn!(%error, "the instance documents cannot be read"),
            },
        }
    }
}

/// What became of the wish for a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was asked for, now or before.
    Yes,
    /// Another one is running.
    Busy { running: DrillId, since: Timestamp },
    /// There is nothing to restore it from.
    NoBranch,
}

impl World {
    /// Claims the past of the branch and requests the drill. Doing it again is no change.
    pub(crate) async fn ask_for_drill(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        (drill_id, trigger): (DrillId, Trigger),
    ) -> Result<Asked, Unfinished> {
        let fence = subject::drill_fence(instance, branch, drill_id);
        // Whatever has become of it since is not to be done again.
        if self.bus.last_on(&fence).await?.is_some() {
            return Ok(Asked::Yes);
        }
        let mut claim = self.claim_for_drill(instance, branch, drill_id).await?;
        if let Claim::Busy(running) = &claim {
            // One that is over may only not have been heard of yet.
            self.tend_drill(instance, running).await?;
            claim = self.claim_for_drill(instance, branch, drill_id).await?;
        }
        let checks = match claim {
            Claim::Held { checks } => checks,
            Claim::Busy(running) => {
                return Ok(Asked::Busy {
                    running: running.drill_id,
                    since: running.since,
                });
            }
            Claim::NoBranch => return Ok(Asked::NoBranch),
        };
        let requested = Event::DrillRequested(DrillRequested {
            drill_id,
            instance: instance.clone(),
            branch: branch.clone(),
            trigger,
            checks,
            requested_at: self.clock.now(),
        });
        self.say_first(&fence, drill_id, requested).await?;
        Ok(Asked::Yes)
    }

    /// Says that a due drill is left out.
    async fn skip_drill(&self, skipped: DrillSkipped) -> Result<(), BusError> {
        let fence = subject::drill_fence(&skipped.instance, &skipped.branch, skipped.drill_id);
        let drill_id = skipped.drill_id;
        self.say_first(&fence, drill_id, Event::DrillSkipped(skipped))
            .await
    }

    /// Says it if nothing was said of the drill before.
    async fn say_first(&self, fence: &str, id: DrillId, event: Event) -> Result<(), BusError> {
        let message = MessageId::new(format!("{}:{id}", event.type_name()));
        let outgoing = Outgoing::new(event, message, self.clock.now())
            .correlated(id)
            .caused_by(id);
        let said = self.bus.publish_expecting(outgoing, fence, Sequence::NONE);
        published_once(said.await)
    }
}

//! No claim of a restore stands for ever: while one does, its name is taken and nothing of the branch it reads is
//! deleted.
//!
//! A claim goes when its restore has failed or was refused, which is heard ([`crate::outcomes`]) or, where that was
//! lost, seen here; and when its restore was never asked for, because a scheduler died between the two or the stream
//! was lost. How long that has been so is measured by this process's monotonic clock.
//!
//! What a restore that succeeded leaves to be done is its branch's first backup ([`first_backups`]).

mod first_backups;

use std::collections::HashMap;
use std::time::Duration;

use events::document::Branch;
use events::{BranchName, Event, InstanceDocument, InstanceName, RestoreId, subject};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commands::World;
use crate::refusal::Unfinished;
pub(crate) use crate::restoring::first_backups::FirstBackups;

/// How often every claim, and every restored branch, is looked at.
const ROUND: Duration = Duration::from_secs(60);
/// A claim whose restore nobody has asked for goes after so long.
const UNUSED: Duration = Duration::from_secs(3600);

/// Looks at all claims, until shutdown.
pub(crate) async fn run(world: World, shutdown: CancellationToken) {
    let (mut claims, mut firsts) = (Claims::default(), FirstBackups::default());
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let documents = match world.bus.instances().list().await {
            Ok(documents) => documents,
            Err(error) => {
                tracing::warn!(%error, "the instance documents cannot be read; trying again");
                continue;
            }
        };
        if let Err(error) = claims.round(&world, &documents).await {
            tracing::warn!(%error, "the claims of restores cannot be looked at; trying again");
        }
        if let Err(error) = firsts.round(&world, &documents).await {
            tracing::warn!(%error, "the first backups of branches cannot be looked at; trying again");
        }
    }
}

/// Since when this process has seen claims of which the stream knows nothing.
#[derive(Default)]
pub(crate) struct Claims {
    unasked: HashMap<RestoreId, Instant>,
}

impl Claims {
    async fn round(
        &mut self,
        world: &World,
        documents: &[InstanceDocument],
    ) -> Result<(), Unfinished> {
        let mut unasked = HashMap::new();
        for document in documents {
            for (branch, state) in &document.branches {
                let Branch::Restoring { restore_id, .. } = state else {
                    continue;
                };
                let (instance, restore_id) = (&document.instance, *restore_id);
                let over = match over(world, instance, branch, restore_id).await {
                    Ok(Some(over)) => over,
                    Ok(None) => {
                        let now = Instant::now();
                        let since = *self.unasked.get(&restore_id).unwrap_or(&now);
                        let _before = unasked.insert(restore_id, since);
                        now.duration_since(since) >= UNUSED
                    }
                    // What is wrong with one says nothing of the others.
                    Err(error) => {
                        tracing::warn!(%instance, %branch, %error, "the claim of a restore cannot be looked at");
                        continue;
                    }
                };
                if over {
                    tracing::warn!(%instance, %branch, restore = %restore_id, "the claim of a restore that is over is given back");
                    let of_this = |held: &Branch| matches!(held, Branch::Restoring { restore_id: held, .. } if *held == restore_id);
                    world.forget_branch(instance, branch, of_this).await?;
                }
            }
        }
        self.unasked = unasked;
        Ok(())
    }
}

/// Whether the restore has come to nothing; `None` when the stream knows nothing of it.
async fn over(
    world: &World,
    instance: &InstanceName,
    branch: &BranchName,
    restore_id: RestoreId,
) -> Result<Option<bool>, Unfinished> {
    let fence = subject::restore_fence(instance, branch, restore_id);
    let last = world.bus.last_on(&fence).await?;
    // It is said to be completed when the branch is registered: a claim that is there after that is a late delivery's.
    Ok(last.map(|last| {
        matches!(
            last.envelope.message,
            Event::RestoreFailed(_) | Event::RestoreRefused(_) | Event::RestoreCompleted(_)
        )
    }))
}

#[cfg(test)]
mod tests {
    use bus::Outgoing;
    use events::event::{FailureCause, RestoreFailed};
    use events::{MessageId, example};

    use super::*;
    use crate::tests::Place;
    use crate::tests::firing::registered;

    fn claimed(restore_id: RestoreId) -> InstanceDocument {
        let mut document = InstanceDocument::new(
            example::instance(),
            events::CommandId(uuid::Uuid::nil()),
            example::at(0),
        );
        let claim = Branch::Restoring {
            restore_id,
            source: Some(BranchName::main()),
        };
        let _before = document.branches.insert(example::restored(), claim);
        document
    }

    async fn look(claims: &mut Claims, place: &Place) {
        let documents = place.world.bus.instances().list().await.unwrap();
        claims.round(&place.world, &documents).await.unwrap();
    }

    async fn stands(place: &Place) -> bool {
        let document = place.world.bus.instances().get(&example::instance()).await;
        let (document, _) = document.unwrap().unwrap();
        document.branches.contains_key(&example::restored())
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_restore_was_never_asked_for_goes_after_a_while() {
        let place = Place::new("2026-01-01T00:00:00Z");
        registered(&place, &claimed(RestoreId(uuid::Uuid::from_u128(1)))).await;
        let mut claims = Claims::default();
        look(&mut claims, &place).await;
        tokio::time::advance(UNUSED / 2).await;
        look(&mut claims, &place).await;
        assert!(stands(&place).await);
        tokio::time::advance(UNUSED / 2).await;
        look(&mut claims, &place).await;
        assert!(!stands(&place).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_of_a_restore_goes_when_that_failed_and_not_before() {
        let place = Place::new("2026-01-01T00:00:00Z");
        let restore_id = RestoreId(uuid::Uuid::from_u128(1));
        registered(&place, &claimed(restore_id)).await;
        let publish = async |event: Event| {
            let id = MessageId::new(event.type_name());
            let outgoing = Outgoing::new(event, id, example::at(0)).correlated(restore_id);
            let _sequence = place.world.bus.publish(outgoing).await.unwrap();
        };
        let requested = example::events().into_iter().find_map(|event| match event {
            Event::RestoreRequested(request) => Some(request),
            _ => None,
        });
        let mut requested = requested.unwrap();
        requested.restore_id = restore_id;
        publish(Event::RestoreRequested(requested)).await;
        let mut claims = Claims::default();
        look(&mut claims, &place).await;
        tokio::time::advance(UNUSED * 30).await;
        look(&mut claims, &place).await;
        assert!(stands(&place).await, "a long restore is a restore");
        publish(Event::RestoreFailed(RestoreFailed {
            restore_id,
            instance: example::instance(),
            branch: example::restored(),
            cause: FailureCause::Compute,
            message: "it failed".to_owned(),
            hint: String::new(),
            failed_at: example::at(1),
        }))
        .await;
        look(&mut claims, &place).await;
        assert!(!stands(&place).await);
    }
}

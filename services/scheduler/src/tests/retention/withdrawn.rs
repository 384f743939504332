//! A sweep that a worker was asked for, and of which something is to stay after all.

use chrono::TimeDelta;
use events::document::{Branch, Sweep};
use events::retention_plan::Fate;
use events::{Event, MessageId, RestoreId, subject};
use uuid::Uuid;

use super::super::{Place, instance};
use super::place::{day, main};
use super::second_look::verified;
use super::{due, held};
use crate::retention::Rounds;

impl Place {
    /// The first of three backups, and its WAL, were given to a worker.
    async fn asked_for() -> (Self, Rounds) {
        let (place, rounds) = Place::retained().await;
        place.days(1, 3, Some(30), Some(7)).await;
        place.at(9);
        place.mark_as(1, due(day(8))).await;
        rounds.round(&instance()).await;
        assert_eq!(place.count("branch.sweep_requested").await, 1);
        assert!(place.standing().await.unwrap().withdrawn_at.is_none());
        (place, rounds)
    }

    async fn standing(&self) -> Option<Sweep> {
        self.document().await.sweeps.remove(&main())
    }

    /// The sweep was withdrawn just now, and is over when a worker can be at it no more.
    async fn check_withdrawn(&self, rounds: &Rounds) {
        let withdrawn = self.standing().await.expect("it stands for a while");
        assert_eq!(withdrawn.withdrawn_at, Some(self.world.clock.now()));
        assert_eq!(self.count("branch.swept").await, 0);
        assert_eq!(self.work().await, 0);
        // It is not what is being deleted, and nothing else is yet.
        let told = self.explain(None).await;
        assert!(told.backups.iter().all(|one| one.fate != Fate::Delete));
        rounds.round(&instance()).await;
        assert_eq!(self.standing().await, Some(withdrawn));
        self.clock
            .set(self.world.clock.now() + TimeDelta::minutes(5));
        rounds.round(&instance()).await;
        assert_eq!(self.standing().await, None);
        assert_eq!(self.count("branch.swept").await, 1);
        assert_eq!(self.count("branch.sweep_requested").await, 1);
        assert_eq!(self.backups().await, [1, 2, 3]);
        assert_eq!(self.segments().await, (10..40).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_sound_backup_before_one_that_is_found_damaged_is_not_deleted_though_a_worker_was_asked()
 {
    let (place, rounds) = Place::asked_for().await;
    // The first stands in for it now.
    place.hear_outcome(verified(2, false, 9)).await;
    place.check_withdrawn(&rounds).await;
}

#[tokio::test]
async fn each_round_judges_a_sweep_again() {
    let (place, rounds) = Place::asked_for().await;
    rounds.round(&instance()).await;
    assert_eq!(place.count("branch.sweep_requested").await, 1);
    assert!(place.standing().await.unwrap().withdrawn_at.is_none());
    place.mark_as(1, held()).await;
    rounds.round(&instance()).await;
    place.check_withdrawn(&rounds).await;
}

#[tokio::test]
async fn what_is_found_damaged_and_changes_nothing_withdraws_nothing() {
    let (place, _) = Place::asked_for().await;
    // Nobody needs an older one for what is standalone, or goes itself.
    place.hear_outcome(verified(1, false, 9)).await;
    place.hear_outcome(verified(2, true, 9)).await;
    assert!(place.standing().await.unwrap().withdrawn_at.is_none());
    assert_eq!(place.work().await, 1);
    assert_eq!(place.backups().await, [2, 3]);
}

#[tokio::test]
async fn who_restores_after_the_request_is_in_the_way_of_no_more_than_the_rest() {
    let (place, rounds) = Place::asked_for().await;
    let restoring = Branch::Restoring {
        restore_id: RestoreId(Uuid::from_u128(5)),
        source: Some(main()),
    };
    let name = events::BranchName::new("copy").unwrap();
    place
        .want(|document| drop(document.branches.insert(name.clone(), restoring.clone())))
        .await;
    rounds.round(&instance()).await;
    place.check_withdrawn(&rounds).await;
}

#[tokio::test]
async fn a_request_by_a_clock_that_was_ahead_is_made_again() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(30), None).await;
    place.at(9);
    place.mark_as(1, due(day(8))).await;
    place.at(9 + 365);
    let sweep = super::sweep_of(&[1]);
    place
        .want(|document| drop(document.sweeps.insert(main(), sweep.clone())))
        .await;
    let event = Event::BranchSweepRequested(events::event::BranchSweepRequested {
        instance: instance(),
        branch: main(),
        sweep_id: sweep.sweep_id,
        sweep: sweep.clone(),
    });
    let outgoing = bus::Outgoing::new(event, MessageId::new("ahead"), place.world.clock.now());
    let _sequence = place.world.bus.publish(outgoing).await.unwrap();
    let fence = subject::sweep_fence(&instance(), &main(), sweep.sweep_id);
    assert!(place.world.bus.last_on(&fence).await.unwrap().is_some());
    place.at(9);
    for _ in 0..3 {
        rounds.round(&instance()).await;
    }
    assert_eq!(place.count("branch.sweep_requested").await, 2);
    // The worker that is played here does each.
    assert_eq!(place.work().await, 2);
    assert_eq!(place.backups().await, [2, 3]);
}

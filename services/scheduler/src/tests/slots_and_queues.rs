//! One backup of a branch at a time: whatever dies between two steps, is delivered twice, is lost, or happens at once.

use chrono::TimeDelta;
use events::event::BackupRequested;
use events::slot::{self, BackupSlot};
use events::topology::SLOTS;
use events::{BackupId, BackupType, BranchName, Event, ScheduleId, Trigger, WalKeep};
use uuid::Uuid;

use super::firing::{document, registered};
use super::{Place, instance};
use crate::commands::World;
use crate::slots::{Asked, Claim, Life, WhenBusy};

async fn place() -> Place {
    let place = Place::new("2026-01-01T00:00:00Z");
    registered(&place, &document(place.world.clock.now())).await;
    place
}

fn id(number: u128) -> BackupId {
    BackupId(Uuid::from_u128(number))
}

impl Place {
    /// The `number`th wish; later ones have larger numbers.
    fn wish(&self, number: u128) -> BackupRequested {
        BackupRequested {
            backup_id: id(number),
            instance: instance(),
            branch: BranchName::main(),
            name: format!("wish {number}"),
            backup_type: BackupType::Auto,
            trigger: Trigger::Manual,
            schedule_id: Some(ScheduleId(Uuid::from_u128(7))),
            retention: None,
            wal: WalKeep::AsLongAsBackup,
            pool: None,
            requested_at: self.world.clock.now(),
        }
    }

    async fn ask(&self, number: u128) -> Asked {
        ask(&self.world, self.wish(number)).await
    }

    /// What was said so far, in short.
    async fn said(&self) -> Vec<String> {
        let short = |event: &Event| {
            let (what, id) = match event {
                Event::BackupRequested(requested) => ("requested", requested.backup_id),
                Event::BackupQueued(queued) => ("queued", queued.backup_id),
                Event::BackupSkipped(skipped) => ("skipped", skipped.backup_id),
                Event::BackupFailed(failed) => ("failed", failed.backup_id),
                other => panic!("{other:?}"),
            };
            format!("{what} {}", id.0.as_u128())
        };
        self.events().await.iter().map(short).collect()
    }

    /// Another replica, which remembers nothing.
    fn replica(&self) -> World {
        World {
            slots: std::sync::Arc::default(),
            ..self.world.clone()
        }
    }

    async fn lose_slots(&self) {
        let bucket = self.world.bus.bucket(SLOTS);
        for key in bucket.keys().await.unwrap() {
            let (_, revision) = bucket.get(&key).await.unwrap().unwrap();
            bucket.delete(&key, revision).await.unwrap();
        }
    }

    async fn slot(&self) -> Option<BackupId> {
        let key = slot::backup_slot(&instance(), &BranchName::main());
        let found = self.world.bus.bucket(SLOTS).get(&key).await.unwrap()?;
        let slot: BackupSlot = serde_json::from_slice(&found.0).unwrap();
        Some(slot.backup_id)
    }
}

async fn ask(world: &World, wish: BackupRequested) -> Asked {
    world
        .ask_for_backup(wish, None, WhenBusy::Queue)
        .await
        .unwrap()
}

#[tokio::test]
async fn wishes_wait_for_their_turn_and_come_in_order() {
    let place = place().await;
    assert_eq!(place.ask(1).await, Asked::Requested);
    for number in [2, 3] {
        place.clock.advance(std::time::Duration::from_secs(1));
        assert_eq!(place.ask(number).await, Asked::Busy(id(1)));
        // The command is delivered again.
        assert_eq!(place.ask(number).await, Asked::Busy(id(1)));
    }
    for number in [1, 2, 3] {
        place.fail_backup(&place.wish(number)).await;
        // The ending is delivered again.
        place.fail_backup(&place.wish(number)).await;
    }
    let expected = [
        "requested 1",
        "queued 2",
        "queued 3",
        "failed 1",
        "requested 2",
        "failed 2",
        "requested 3",
        "failed 3",
    ];
    assert_eq!(place.said().await, expected);
    assert_eq!(place.slot().await, None);
    // One that has ended is not begun again, and holds no slot.
    assert_eq!(place.ask(2).await, Asked::Settled);
    assert_eq!(place.slot().await, None);
    assert_eq!(place.said().await, expected);
}

#[tokio::test]
async fn a_fire_finds_the_slot_taken_and_is_skipped_once() {
    let place = place().await;
    assert_eq!(place.ask(1).await, Asked::Requested);
    let due_at = place.world.clock.now();
    for replica in [place.replica(), place.replica()] {
        let skip = WhenBusy::Skip { due_at };
        let asked = replica.ask_for_backup(place.wish(2), None, skip).await;
        assert_eq!(asked.unwrap(), Asked::Busy(id(1)));
    }
    place.fail_backup(&place.wish(1)).await;
    // A replica that was away asks when the slot is free: the fire has had its effect.
    assert_eq!(ask(&place.replica(), place.wish(2)).await, Asked::Settled);
    assert_eq!(place.said().await, ["requested 1", "skipped 2", "failed 1"]);
    assert_eq!(place.slot().await, None);
}

#[tokio::test]
async fn one_who_dies_after_claiming_holds_nobody_up_for_long() {
    let place = place().await;
    assert!(matches!(
        place.world.claim(&place.wish(1)).await.unwrap(),
        Claim::Ours(_)
    ));
    assert_eq!(place.ask(2).await, Asked::Busy(id(1)));
    // The wish itself comes again: it goes on.
    assert_eq!(ask(&place.replica(), place.wish(1)).await, Asked::Requested);
    place.fail_backup(&place.wish(1)).await;
    assert_eq!(place.slot().await, Some(id(2)));
    place.fail_backup(&place.wish(2)).await;

    // It never comes again: after a minute the slot is anybody's.
    assert!(matches!(
        place.world.claim(&place.wish(3)).await.unwrap(),
        Claim::Ours(_)
    ));
    assert_eq!(place.ask(4).await, Asked::Busy(id(3)));
    place.clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(ask(&place.replica(), place.wish(4)).await, Asked::Requested);
    assert_eq!(place.slot().await, Some(id(4)));
    let said = place.said().await;
    let of_four: Vec<_> = said.iter().filter(|said| said.ends_with(" 4")).collect();
    assert_eq!(of_four, ["queued 4", "requested 4"]);
}

#[tokio::test]
async fn one_who_dies_between_an_ending_and_the_next_request_is_made_up_for() {
    let place = place().await;
    let mut watchdog = crate::watchdog::Watchdog::default();
    assert_eq!(place.ask(1).await, Asked::Requested);
    assert_eq!(place.ask(2).await, Asked::Busy(id(1)));
    // The ending is there, and nobody has heard it.
    let fence = crate::slots::fence_of(&place.wish(1));
    let last = place.world.bus.last_on(&fence).await.unwrap().unwrap();
    assert_eq!(Life::of(Some(&last)), Life::Running);
    place.publish_failed(&place.wish(1)).await;
    watchdog.round(&place.world).await.unwrap();
    watchdog.round(&place.replica()).await.unwrap();
    assert_eq!(place.slot().await, Some(id(2)));
    // The slot was freed, and nobody asked for the next.
    place.publish_failed(&place.wish(2)).await;
    assert_eq!(place.ask(3).await, Asked::Requested);
    assert_eq!(place.ask(4).await, Asked::Busy(id(3)));
    place.publish_failed(&place.wish(3)).await;
    let key = slot::backup_slot(&instance(), &BranchName::main());
    let bucket = place.world.bus.bucket(SLOTS);
    let (_, revision) = bucket.get(&key).await.unwrap().unwrap();
    bucket.delete(&key, revision).await.unwrap();
    watchdog.round(&place.world).await.unwrap();
    assert_eq!(place.slot().await, Some(id(4)));
    let requested = |said: &String| said.starts_with("requested");
    assert_eq!(place.said().await.into_iter().filter(requested).count(), 4);
}

#[tokio::test]
async fn a_lost_bucket_makes_no_second_backup_and_forgets_no_wish() {
    for recovered_first in [false, true] {
        let place = place().await;
        place.world.recover_slots().await.unwrap();
        assert_eq!(place.ask(1).await, Asked::Requested);
        assert_eq!(place.ask(2).await, Asked::Busy(id(1)));
        place.lose_slots().await;
        let replica = place.replica();
        if recovered_first {
            replica.recover_slots().await.unwrap();
        }
        assert_eq!(ask(&replica, place.wish(3)).await, Asked::Busy(id(1)));
        replica.recover_slots().await.unwrap();
        for number in [1, 2, 3] {
            place.fail_backup(&place.wish(number)).await;
        }
        let requested = |said: &String| said.starts_with("requested");
        let said = place.said().await;
        let requested: Vec<_> = said.iter().filter(|said| requested(said)).collect();
        assert_eq!(
            requested,
            ["requested 1", "requested 2", "requested 3"],
            "{said:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_wishes_of_three_replicas_at_once_run_one_after_another() {
    let place = place().await;
    place.world.recover_slots().await.unwrap();
    let replicas = [place.replica(), place.replica(), place.replica()];
    let wishes: Vec<_> = (1..=20_u128).map(|number| place.wish(number)).collect();
    let asking = replicas.iter().flat_map(|replica| {
        wishes.iter().map(move |wish| {
            let (replica, wish) = (replica.clone(), wish.clone());
            tokio::spawn(async move {
                // Lost races are told; the command would be delivered again.
                while replica
                    .ask_for_backup(wish.clone(), None, WhenBusy::Queue)
                    .await
                    .is_err()
                {}
            })
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    let mut ended = Vec::new();
    while let Some(running) = place.slot().await {
        assert!(!ended.contains(&running));
        let wish = wishes.iter().find(|wish| wish.backup_id == running);
        place.fail_backup(wish.unwrap()).await;
        ended.push(running);
    }
    assert_eq!(ended.len(), 20);
    let mut running = None;
    for event in place.events().await {
        match event {
            Event::BackupRequested(requested) => {
                assert_eq!(running.replace(requested.backup_id), None, "two at once");
            }
            Event::BackupFailed(failed) => assert_eq!(running.take(), Some(failed.backup_id)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_frees_no_slot() {
    let place = place().await;
    assert_eq!(place.ask(1).await, Asked::Requested);
    place
        .clock
        .set(place.world.clock.now() - TimeDelta::days(400));
    assert_eq!(place.ask(2).await, Asked::Busy(id(1)));
}

//! What no worker begins, because none serves its pool: it is cancelled, or follows its instance to another pool. On a
//! real NATS.

use bus::{Bus, BusConfig, Handler as _, Outcome};
use events::command::{BackupCreate, BackupDelete, InstanceUpdate};
use events::event::{BackupPhase, RefusalCode, Refused};
use events::slot;
use events::{BackupType, BranchName, Command};
use testkit::nats::NatsServer;

use super::*;
use crate::outcomes::Outcomes;
use crate::slots::Life;
use crate::tests::command_id;

const START: &str = "2026-01-01T00:00:00Z";

fn id(number: u128) -> BackupId {
    BackupId(command_id(number).0)
}

fn create() -> Command {
    Command::BackupCreate(BackupCreate {
        instance: instance(),
        branch: BranchName::main(),
        name: None,
        backup_type: BackupType::Auto,
        retention: None,
        wal: None,
    })
}

fn delete(backup_id: BackupId) -> Command {
    Command::BackupDelete(BackupDelete {
        instance: instance(),
        branch: BranchName::main(),
        backup_id,
    })
}

fn to_pool(pool: &str) -> Command {
    let update = serde_json::json!({ "instance": instance(), "pool": pool });
    Command::InstanceUpdate(serde_json::from_value::<InstanceUpdate>(update).unwrap())
}

fn pool(name: &str) -> Option<PoolName> {
    PoolName::new(name).ok()
}

/// An instance in the pool `eu`.
async fn place() -> (Place, NatsServer) {
    let server = NatsServer::start().await.unwrap();
    let config = BusConfig::new(server.url(), "test");
    let mut place = Place::new(START);
    place.world.bus = Bus::connect(config).await.unwrap();
    place.world.bus.apply_topology().await.unwrap();
    let document = InstanceDocument {
        pool: pool("eu"),
        ..document(place.world.clock.now())
    };
    registered(&place, &document).await;
    (place, server)
}

impl Place {
    async fn twice(&self, number: u128, command: Command) {
        for attempt in 1..=2 {
            let outcome = self
                .deliver(command_id(number), attempt, command.clone())
                .await;
            assert_eq!(outcome, Outcome::Done);
        }
    }

    async fn refuses(&self, number: u128, command: Command) -> Refused {
        self.twice(number, command).await;
        match self.events().await.pop() {
            Some(Event::BackupRefused(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }

    /// What was asked of the workers so far.
    async fn asked_of_workers(&self) -> Vec<BackupRequested> {
        let events = self.events().await.into_iter();
        let requests = events.filter_map(|event| match event {
            Event::BackupRequested(requested) => Some(requested),
            _ => None,
        });
        requests.collect()
    }

    /// The scheduler hears all that was said of endings so far, twice.
    async fn hear_endings(&self) {
        let outcomes = Outcomes {
            world: self.world.clone(),
        };
        for event in self.events().await {
            if matches!(event, Event::BackupFailed(_)) {
                for _ in 0..2 {
                    let delivery = self.delivery(MessageId::new("ending"), event.clone());
                    assert_eq!(outcomes.handle(&delivery).await, Outcome::Done);
                }
            }
        }
    }

    async fn life(&self, number: u128) -> Life {
        let fence = events::subject::backup_fence(&instance(), &BranchName::main(), id(number));
        Life::of(self.world.bus.last_on(&fence).await.unwrap().as_ref())
    }

    async fn manual_places(&self) -> usize {
        let document = self.world.bus.instances().get(&instance()).await.unwrap();
        document.unwrap().0.manual_backups.len()
    }

    async fn in_phase(&self, request: &BackupRequested, phase: BackupPhase) {
        let progressed = BackupProgressed {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            phase,
            done_bytes: 1,
            total_bytes: 1,
            start: None,
            problem: None,
        };
        self.say_on_fence(request, Event::BackupProgressed(progressed))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_cancelled_once_and_what_waits_behind_it_comes() {
    let (place, _server) = place().await;
    for number in [1, 2, 3] {
        place.twice(number, create()).await;
        place.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(place.life(1).await, Life::Running);
    assert_eq!(place.life(2).await, Life::Queued);
    // One that waits in the queue, and one that waits for a worker.
    place.twice(10, delete(id(2))).await;
    place.twice(11, delete(id(1))).await;
    let failures = place.failures().await;
    let cancelled: Vec<_> = failures.iter().map(|failed| failed.backup_id).collect();
    assert_eq!(cancelled, [id(2), id(1)]);
    for failed in &failures {
        assert_eq!(failed.cause, FailureCause::Cancelled, "{failed:?}");
        assert_eq!(failed.transient, Some(false), "{failed:?}");
    }
    place.hear_endings().await;
    assert_eq!(place.manual_places().await, 1);
    let requested: Vec<_> = place.asked_of_workers().await.into_iter().collect();
    let requested: Vec<_> = requested.iter().map(|request| request.backup_id).collect();
    assert_eq!(requested, [id(1), id(3)]);
    // Neither the commands, delivered once more, nor a round makes anything of it.
    let before = place.events().await.len();
    for number in [1, 2] {
        place.twice(number, create()).await;
    }
    let mut watchdog = Watchdog::default();
    watchdog.round(&place.world).await.unwrap();
    assert_eq!(place.events().await.len(), before);
    // Once more by another command: it has failed.
    let refused = place.refuses(12, delete(id(1))).await;
    assert!(refused.message.contains("has failed"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_is_cancelled_until_it_may_be_committed() {
    let (place, _server) = place().await;
    place.twice(1, create()).await;
    let request = place.last_request().await;
    place.begin(&request).await;
    place.in_phase(&request, BackupPhase::WaitingForWal).await;
    let refused = place.refuses(10, delete(id(1))).await;
    assert_eq!(refused.code, RefusalCode::Invalid);
    assert!(
        refused.message.contains("about to be completed"),
        "{refused:?}"
    );
    // Another attempt, which began anew.
    place.begin(&request).await;
    place.in_phase(&request, BackupPhase::Copying).await;
    let fence = fence_of(&request);
    let token = place.world.bus.last_on(&fence).await.unwrap().unwrap();
    place.twice(11, delete(id(1))).await;
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].message, "cancelled while it was being taken");
    // Its next word is refused, and with it the right to commit.
    let late = Event::BackupFailed(place.failure(&request, FailureCause::Source));
    let outgoing = Outgoing::new(late, MessageId::new("late"), place.world.clock.now());
    let said = place
        .world
        .bus
        .publish_expecting(outgoing, &fence, token.sequence);
    assert!(said.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_one_that_is_cancelled_is_not_tried_again() {
    let (place, _server) = place().await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    place.clock.set("2026-01-01T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    let request = place.last_request().await;
    place.twice(10, delete(request.backup_id)).await;
    place.hear_endings().await;
    assert_eq!(place.failures().await.len(), 1);
    let retries = place.world.slots_bucket().under("retry").await.unwrap();
    assert_eq!(retries, []);
    let key = slot::backup_slot(&instance(), &BranchName::main());
    assert_eq!(place.world.slots_bucket().get(&key).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_follows_its_instance_to_another_pool_once() {
    let (place, _server) = place().await;
    place.twice(1, create()).await;
    place.twice(2, create()).await;
    let default = topology::backup_jobs();
    // Two replicas are given the command, and there is another one besides; whoever loses a race is given it again.
    let updates = [(10, 1), (10, 2), (11, 1)].map(|(number, first)| {
        let place = &place;
        async move {
            for attempt in first..first + 20 {
                let command = to_pool("default");
                if place.deliver(command_id(number), attempt, command).await == Outcome::Done {
                    return;
                }
            }
            panic!("the command is never done");
        }
    });
    let _done = futures::future::join_all(updates).await;
    let pools = |requests: Vec<BackupRequested>| {
        let asked = requests.into_iter();
        let asked = asked.map(|request| (request.backup_id, request.pool));
        asked.collect::<Vec<_>>()
    };
    let expected = [(id(1), pool("eu")), (id(1), None)];
    assert_eq!(pools(place.asked_of_workers().await), expected);
    let places = place.world.bus.places(&default).await.unwrap();
    assert_eq!((places.free, places.in_hand), (0, 0));

    // There and back again.
    place.twice(12, to_pool("us")).await;
    place.twice(13, to_pool("eu")).await;
    let mut expected = expected.to_vec();
    expected.extend([(id(1), pool("us")), (id(1), pool("eu"))]);
    assert_eq!(pools(place.asked_of_workers().await), expected);

    // A worker has it: it stays where it is, and what waits behind it goes to the pool of that day.
    let request = place.last_request().await;
    place.begin(&request).await;
    place.twice(14, to_pool("us")).await;
    assert_eq!(pools(place.asked_of_workers().await), expected);
    place.publish_failed(&request).await;
    place.hear_endings().await;
    expected.push((id(2), pool("us")));
    assert_eq!(pools(place.asked_of_workers().await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_asked_for_while_the_pool_changed_follows_too() {
    let (place, _server) = place().await;
    place.twice(1, create()).await;
    let asked = place.last_request().await;
    // Whoever asked had read the document before.
    let document = InstanceDocument {
        pool: pool("us"),
        ..document(place.world.clock.now())
    };
    registered(&place, &document).await;
    let mut replicas = [Watchdog::default(), Watchdog::default()];
    for watchdog in &mut replicas {
        for _ in 0..2 {
            watchdog.round(&place.world).await.unwrap();
        }
    }
    let moved = BackupRequested {
        pool: pool("us"),
        ..asked.clone()
    };
    assert_eq!(place.asked_of_workers().await, [asked, moved]);
    assert_eq!(place.failures().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_is_told_that_nobody_has_begun_what_it_waits_for() {
    let (place, _server) = place().await;
    place.twice(1, create()).await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    place.clock.set("2026-01-01T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    match place.events().await.pop() {
        Some(Event::BackupSkipped(skipped)) => {
            let waits = "was still waiting for a worker of pool eu";
            assert!(skipped.reason.ends_with(waits), "{skipped:?}");
        }
        other => panic!("{other:?}"),
    }
}

//! The limit of active manual backups: exact, also for replicas that decide at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bus::{Bus, BusConfig, Outcome, Outgoing};
use chrono::TimeDelta;
use events::command::{BackupCreate, BackupDelete, BackupRetry};
use events::event::{RefusalCode, Refused};
use events::{
    BackupId, BackupType, BranchName, Command, CommandId, Event, InstanceDocument, MessageId,
    PoolName, Trigger, WalKeep, topology,
};
use object_store::memory::InMemory;
use repository::faulty::{Fault, FaultyStore};
use repository::{Repository, RetryPolicy};
use testkit::nats::NatsServer;
use tokio_util::sync::CancellationToken;

use super::firing::{document, registered};
use super::{Place, command_id, instance};
use crate::commands::Commands;
use crate::outcomes::Outcomes;

const START: &str = "2026-01-01T00:00:00Z";

fn create() -> BackupCreate {
    BackupCreate {
        instance: instance(),
        branch: BranchName::main(),
        name: None,
        backup_type: BackupType::Auto,
        retention: None,
        wal: None,
    }
}

fn delete(id: BackupId) -> Command {
    Command::BackupDelete(BackupDelete {
        instance: instance(),
        branch: BranchName::main(),
        backup_id: id,
    })
}

fn retry(id: BackupId) -> Command {
    Command::BackupRetry(BackupRetry {
        instance: instance(),
        branch: BranchName::main(),
        backup_id: id,
    })
}

fn id(number: u128) -> BackupId {
    BackupId(command_id(number).0)
}

impl Place {
    async fn registered() -> Place {
        let place = Place::new(START);
        registered(&place, &document(START.parse().unwrap())).await;
        place
    }

    /// Places that are taken.
    async fn places(&self) -> Vec<BackupId> {
        let document = self.world.bus.instances().get(&instance()).await.unwrap();
        document.unwrap().0.manual_backups.into_keys().collect()
    }

    async fn give(&self, number: u128, command: Command) {
        let outcome = self.deliver(command_id(number), 1, command).await;
        assert_eq!(outcome, Outcome::Done);
    }

    async fn backup_refused(&self) -> Refused {
        match self.events().await.pop() {
            Some(Event::BackupRefused(refused)) => refused,
            other => panic!("{other:?} is no refusal"),
        }
    }

    /// Lets the consumer of endings hear of an event.
    async fn hear_of(&self, event: Event) {
        use bus::Handler as _;
        let outcomes = Outcomes {
            world: self.world.clone(),
        };
        let outcome = outcomes.handle(&super::delivered(event)).await;
        assert_eq!(outcome, Outcome::Done);
    }

    /// What waits or is being taken of the commands, by the events.
    async fn accepted(&self) -> usize {
        let asked = |event: &Event| match event {
            Event::BackupQueued(queued) => Some(queued.backup_id),
            Event::BackupRequested(requested) => Some(requested.backup_id),
            _ => None,
        };
        let events = self.events().await;
        let accepted: std::collections::BTreeSet<_> = events.iter().filter_map(asked).collect();
        accepted.len()
    }
}

#[tokio::test]
async fn ten_are_enough_and_one_that_ends_badly_or_is_deleted_makes_room() {
    let place = Place::registered().await;
    for number in 1..=10 {
        for attempt in 1..=2 {
            let command = Command::BackupCreate(create());
            let _ = place.deliver(command_id(number), attempt, command).await;
        }
    }
    assert_eq!(
        (place.accepted().await, place.places().await.len()),
        (10, 10)
    );
    place.give(11, Command::BackupCreate(create())).await;
    let refused = place.backup_refused().await;
    assert_eq!(refused.code, RefusalCode::Limit);
    assert!(refused.hint.contains("backup list orders"), "{refused:?}");
    assert!(refused.hint.contains("backup delete orders"), "{refused:?}");

    let failed = place.give_up(id(3)).await;
    place.hear_of(failed.clone()).await;
    place.hear_of(failed).await;
    assert_eq!(place.places().await.len(), 9);
    let _summary = place.complete(id(4), Trigger::Manual).await;
    place.give(12, delete(id(4))).await;
    assert_eq!(place.places().await.len(), 8);
    for number in 13..=15 {
        place.give(number, Command::BackupCreate(create())).await;
    }
    assert_eq!(place.backup_refused().await.code, RefusalCode::Limit);
    assert_eq!(place.places().await.len(), 10);
    // The one that failed is tried again when there is room, and counts then.
    place.give(16, retry(id(3))).await;
    assert_eq!(place.backup_refused().await.code, RefusalCode::Limit);
    let _summary = place.complete(id(5), Trigger::Manual).await;
    place.give(17, delete(id(5))).await;
    place.give(18, retry(id(3))).await;
    assert!(place.places().await.contains(&id(18)));
    let mirrored = place.world.repository.instance(&instance()).await.unwrap();
    assert_eq!(mirrored.manual_backups.len(), 10);
}

#[tokio::test]
async fn a_retry_asks_for_the_same_once_more_and_only_of_what_failed() {
    let place = Place::registered().await;
    let asked = BackupCreate {
        name: Some(" before the release ".to_owned()),
        retention: "30d".parse().ok(),
        wal: Some(WalKeep::Standalone),
        ..create()
    };
    place.give(1, Command::BackupCreate(asked)).await;
    place.give(2, retry(id(1))).await;
    let refused = place.backup_refused().await;
    assert!(refused.message.contains("has not failed"), "{refused:?}");
    let failed = place.give_up(id(1)).await;
    place.hear_of(failed).await;
    place.clock.set("2026-01-02T00:00:00Z".parse().unwrap());
    let eu = PoolName::new("eu").unwrap();
    let moved = |there: Option<&InstanceDocument>| {
        let mut moved = there.unwrap().clone();
        moved.pool = Some(eu.clone());
        bus::Decision::Put(Box::new(moved), ())
    };
    let instances = place.world.bus.instances();
    instances.update(&instance(), moved).await.unwrap();
    for attempt in 1..=2 {
        let _ = place.deliver(command_id(3), attempt, retry(id(1))).await;
    }
    let requests: Vec<_> = place
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::BackupRequested(requested) => Some(requested),
            Event::BackupQueued(queued) => Some(queued.request),
            _ => None,
        })
        .collect();
    let [first, again] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(again.backup_id, id(3));
    assert_eq!(again.name, "before the release");
    assert_eq!((&first.pool, &again.pool), (&None, &Some(eu)));
    assert_eq!(
        (again.retention, again.wal, again.trigger, again.schedule_id),
        (first.retention, first.wal, first.trigger, first.schedule_id)
    );
    assert_eq!(place.places().await, [id(3)]);

    let _summary = place.complete(id(3), Trigger::Manual).await;
    place.give(4, retry(id(3))).await;
    assert!(
        place
            .backup_refused()
            .await
            .message
            .contains("only a failed one")
    );
    place.give(5, retry(id(99))).await;
    assert_eq!(place.backup_refused().await.code, RefusalCode::NotFound);
}

#[tokio::test]
async fn wal_is_kept_by_the_rule_unless_somebody_says_otherwise() {
    let place = Place::registered().await;
    let mut number = 0;
    let mut check = async |retention: Option<&str>, wal: Option<WalKeep>, expected: WalKeep| {
        number += 1;
        let command = BackupCreate {
            retention: retention.map(|text| text.parse().unwrap()),
            wal,
            ..create()
        };
        place.give(number, Command::BackupCreate(command)).await;
        let asked = place.events().await.into_iter().rev();
        let mut asked = asked.filter_map(|event| match event {
            Event::BackupRequested(requested) => Some(requested),
            Event::BackupQueued(queued) => Some(queued.request),
            _ => None,
        });
        assert_eq!(asked.next().unwrap().wal, expected);
    };
    // The schedule of the example keeps seven days.
    let week = || WalKeep::For("7d".parse().unwrap());
    check(None, None, week()).await;
    check(Some("1y"), None, week()).await;
    check(Some("7d"), None, WalKeep::AsLongAsBackup).await;
    check(
        Some("1y"),
        Some(WalKeep::AsLongAsBackup),
        WalKeep::AsLongAsBackup,
    )
    .await;
    check(None, Some(WalKeep::Standalone), WalKeep::Standalone).await;
    let longer = BackupCreate {
        retention: "7d".parse().ok(),
        wal: Some(WalKeep::For("2w".parse().unwrap())),
        ..create()
    };
    place.give(50, Command::BackupCreate(longer)).await;
    assert_eq!(place.backup_refused().await.code, RefusalCode::Invalid);
}

#[tokio::test]
async fn places_are_set_right_by_what_is_stored_and_under_way() {
    let place = Place::registered().await;
    for number in 1..=10 {
        place.give(number, Command::BackupCreate(create())).await;
    }
    // Completed, failed unheard, gone without a trace; a scheduled one never counts.
    for number in 1..=4 {
        let _summary = place.complete(id(number), Trigger::Manual).await;
    }
    for number in 5..=8 {
        let _failed = place.give_up(id(number)).await;
    }
    let _summary = place.complete(id(70), Trigger::Schedule).await;
    let world = &place.world;
    world.reconcile_manual_backups(&instance()).await.unwrap();
    assert_eq!(place.places().await.len(), 10, "all are young");
    let later = world.clock.now() + TimeDelta::hours(2);
    place.clock.set(later);
    // Who asks now finds the places that are taken for nothing.
    place.give(11, Command::BackupCreate(create())).await;
    let left: Vec<_> = [1, 2, 3, 4, 9, 10, 11].map(id).to_vec();
    assert_eq!(place.places().await, left);
    // A place that was lost is found again; one that has expired is none.
    let lost = |_: Option<&events::InstanceDocument>| {
        bus::Decision::Put(Box::new(document(START.parse().unwrap())), ())
    };
    world
        .bus
        .instances()
        .update(&instance(), lost)
        .await
        .unwrap();
    world.reconcile_manual_backups(&instance()).await.unwrap();
    assert_eq!(place.places().await, [1, 2, 3, 4].map(id));
    place.clock.set(later + TimeDelta::days(8));
    world.reconcile_manual_backups(&instance()).await.unwrap();
    assert!(place.places().await.is_empty());
}

/// Fifty at once to three replicas: ten are accepted, forty refused, each once.
async fn fifty_at_once(bus: Bus) {
    bus.apply_topology().await.unwrap();
    let place = Place {
        world: crate::commands::World {
            bus: bus.clone(),
            ..Place::new(START).world
        },
        clock: Arc::new(service::ManualClock::new(START.parse().unwrap())),
    };
    registered(&place, &document(START.parse().unwrap())).await;
    let shutdown = CancellationToken::new();
    let replicas: Vec<_> = (0..3)
        .map(|_| {
            let (bus, shutdown) = (bus.clone(), shutdown.clone());
            let world = place.world.clone();
            tokio::spawn(async move {
                let commands = Arc::new(Commands { world });
                let spec = topology::scheduler_commands();
                bus.consume(&spec, 16, commands, shutdown).await.unwrap();
            })
        })
        .collect();
    let sent = (1..=50).map(|number| {
        let (bus, now) = (bus.clone(), place.world.clock.now());
        async move {
            let id = CommandId(uuid::Uuid::from_u128(number));
            let command = Command::BackupCreate(create());
            let message_id = MessageId::new(id.to_string());
            let _sequence = bus
                .send(Outgoing::new(command, message_id, now))
                .await
                .unwrap();
        }
    });
    let _sent: Vec<()> = futures::future::join_all(sent).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let events = place.events().await;
        let refused = |event: &&Event| matches!(event, Event::BackupRefused(_));
        let refusals: Vec<_> = events.iter().filter(refused).collect();
        let accepted = place.accepted().await;
        if accepted + refusals.len() >= 50 {
            assert_eq!((accepted, refusals.len()), (10, 40));
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{accepted} accepted"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(place.places().await.len(), 10);
    shutdown.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_to_three_replicas() {
    fifty_at_once(Bus::in_memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_to_three_replicas_on_nats() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test")).await;
    fifty_at_once(bus.unwrap()).await;
}

/// All ten places are taken since yesterday, and somebody asks again and again.
#[tokio::test(start_paused = true)]
async fn who_is_refused_makes_nobody_read_everything_each_time() {
    let mut place = Place::registered().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let store = FaultyStore::new(Arc::new(InMemory::new()), move |_, _| {
        let _ = counted.fetch_add(1, Ordering::SeqCst);
        Fault::Pass
    });
    place.world.repository = Repository::with_store(Arc::new(store), "", RetryPolicy::default());
    for number in 1..=10 {
        place.give(number, Command::BackupCreate(create())).await;
        let _summary = place.complete(id(number), Trigger::Manual).await;
    }
    place.clock.advance(Duration::from_secs(24 * 3600));
    let asked = async |first: u128, commands: u128| {
        let before = calls.load(Ordering::SeqCst);
        for number in first..first + commands {
            place.give(number, Command::BackupCreate(create())).await;
            assert_eq!(place.backup_refused().await.code, RefusalCode::Limit);
        }
        calls.load(Ordering::SeqCst) - before
    };
    let one = asked(100, 1).await;
    assert!((10..=20).contains(&one), "{one} requests");
    assert_eq!(asked(200, 49).await, 0);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(asked(300, 50).await, one);
    // A place that is given back is there at once.
    place.give(400, delete(id(4))).await;
    place.give(401, Command::BackupCreate(create())).await;
    assert!(place.places().await.contains(&id(401)));
}

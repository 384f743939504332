//! The limits of an instance hold against what goes around them, and against many who come at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusConfig, Outcome, Outgoing};
use chrono::TimeDelta;
use events::command::{
    BackupCreate, BackupDelete, BackupHold, BackupRelease, BackupUpdate, ScheduleCreate,
};
use events::event::{BackupVerified, RefusalCode};
use events::{
    BackupId, BackupType, BranchName, Command, Event, InstanceDocument, MessageId, Trigger,
    topology,
};
use testkit::nats::NatsServer;
use tokio_util::sync::CancellationToken;

use super::firing::{document, registered};
use super::{Place, command_id, instance};
use crate::commands::{Commands, World};

const START: &str = "2026-01-01T00:00:00Z";

fn id(number: u128) -> BackupId {
    BackupId(command_id(number).0)
}

fn keep(retention: Option<&str>) -> Command {
    Command::BackupUpdate(BackupUpdate {
        instance: instance(),
        branch: BranchName::main(),
        backup_id: id(1),
        name: None,
        retention: retention.map(|text| text.parse().unwrap()),
        forever: retention.is_none(),
    })
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

/// Delivers a command; why it was refused, if it was.
async fn given(place: &Place, number: u128, command: Command) -> Option<RefusalCode> {
    let outcome = place.deliver(command_id(number), 1, command).await;
    assert_eq!(outcome, Outcome::Done);
    match place.events().await.pop() {
        Some(Event::BackupRefused(refused)) => Some(refused.code),
        _ => None,
    }
}

async fn wanted(place: &Place) -> InstanceDocument {
    let document = place.world.bus.instances().get(&instance()).await.unwrap();
    document.unwrap().0
}

#[tokio::test]
async fn a_manual_backup_that_had_ended_is_kept_on_only_where_there_is_a_place() {
    let place = Place::new(START);
    registered(&place, &document(START.parse().unwrap())).await;
    let _summary = place.complete(id(1), Trigger::Manual).await;
    let (instance, branch) = (instance(), BranchName::main());
    // It has expired, and makes room for others.
    place
        .clock
        .set(place.world.clock.now() + TimeDelta::days(8));
    place
        .world
        .reconcile_manual_backups(&instance)
        .await
        .unwrap();
    for number in 2..=11 {
        assert_eq!(given(&place, number, create()).await, None);
    }
    assert_eq!(wanted(&place).await.manual_backups.len(), 10);
    let limit = Some(RefusalCode::Limit);
    assert_eq!(given(&place, 20, keep(None)).await, limit);
    let hold = Command::BackupHold(BackupHold {
        instance: instance.clone(),
        branch: branch.clone(),
        backup_id: id(1),
        reason: None,
    });
    assert_eq!(given(&place, 21, hold).await, None);
    assert_eq!(given(&place, 22, keep(None)).await, limit);
    assert_eq!(given(&place, 23, keep(Some("1y"))).await, limit);
    // What keeps it no longer than it was kept needs no place.
    assert_eq!(given(&place, 24, keep(Some("1d"))).await, None);
    let release = Command::BackupRelease(BackupRelease {
        instance: instance.clone(),
        branch: branch.clone(),
        backup_id: id(1),
    });
    assert_eq!(given(&place, 25, release).await, None);
    assert_eq!(given(&place, 26, keep(Some("1y"))).await, limit);
    assert!(!wanted(&place).await.manual_backups.contains_key(&id(1)));

    let _summary = place.complete(id(2), Trigger::Manual).await;
    let delete = Command::BackupDelete(BackupDelete {
        instance,
        branch,
        backup_id: id(2),
    });
    assert_eq!(given(&place, 27, delete).await, None);
    assert_eq!(given(&place, 28, keep(Some("1y"))).await, None);
    assert!(wanted(&place).await.manual_backups.contains_key(&id(1)));
    // Kept for another time, it keeps its place and needs no second one.
    assert_eq!(given(&place, 29, keep(None)).await, None);
    assert_eq!(wanted(&place).await.manual_backups.len(), 10);
    assert_eq!(given(&place, 30, create()).await, limit);
}

#[tokio::test]
async fn a_damaged_backup_does_not_stand_in_the_way_of_the_next_one() {
    let place = Place::new(START);
    registered(&place, &document(START.parse().unwrap())).await;
    for number in 1..=10 {
        assert_eq!(given(&place, number, create()).await, None);
    }
    let limit = Some(RefusalCode::Limit);
    let summary = place.complete(id(1), Trigger::Manual).await;
    assert_eq!(given(&place, 11, create()).await, limit);
    let verified = |sound: bool, minute: i64| BackupVerified {
        backup_id: id(1),
        instance: instance(),
        branch: BranchName::main(),
        command_id: command_id(1),
        sound,
        files: summary.files,
        bytes: summary.logical_bytes,
        problems: Vec::new(),
        verified_at: place.world.clock.now() + TimeDelta::minutes(minute),
        duration_ms: 1,
    };
    let is_counted = async || wanted(&place).await.manual_backups.contains_key(&id(1));
    place
        .world
        .keep_verification(&verified(false, 1))
        .await
        .unwrap();
    assert!(!is_counted().await, "it protects nothing");
    // A round finds it no other way.
    let world = &place.world;
    world.reconcile_manual_backups(&instance()).await.unwrap();
    assert!(!is_counted().await);
    assert_eq!(given(&place, 12, create()).await, None);
    assert_eq!(given(&place, 13, create()).await, limit);
    // It was mended in the store: what is stored counts, and nothing is taken away for it.
    place
        .world
        .keep_verification(&verified(true, 2))
        .await
        .unwrap();
    assert!(is_counted().await);
    assert_eq!(wanted(&place).await.manual_backups.len(), 11);
    assert_eq!(given(&place, 14, create()).await, limit);
}

/// Fifty who want a schedule at once, of three replicas: five get one, each with a name of its own.
async fn fifty_schedules_at_once(bus: Bus) {
    bus.apply_topology().await.unwrap();
    let mut place = Place::new(START);
    place.world.bus = bus.clone();
    let bare = InstanceDocument {
        schedules: Vec::new(),
        ..document(START.parse().unwrap())
    };
    registered(&place, &bare).await;
    let shutdown = CancellationToken::new();
    let replicas = [(); 3].map(|()| {
        let (bus, shutdown) = (bus.clone(), shutdown.clone());
        let world = World {
            slots: Arc::default(),
            ..place.world.clone()
        };
        tokio::spawn(async move {
            let commands = Arc::new(Commands { world });
            let spec = topology::scheduler_commands();
            bus.consume(&spec, 16, commands, shutdown).await.unwrap();
        })
    });
    let sent = (1..=50).map(|number| {
        let (bus, now) = (bus.clone(), place.world.clock.now());
        async move {
            let command = Command::ScheduleCreate(ScheduleCreate {
                instance: instance(),
                branch: BranchName::main(),
                name: None,
                cron: "30 2 * * *".to_owned(),
                timezone: "UTC".to_owned(),
                retention: "7d".parse().unwrap(),
                wal: None,
            });
            let message_id = MessageId::new(command_id(number).to_string());
            let outgoing = Outgoing::new(command, message_id, now);
            let _sequence = bus.send(outgoing).await.unwrap();
        }
    });
    let _sent: Vec<()> = futures::future::join_all(sent).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    let (created, refused) = loop {
        let (mut created, mut refused) = (Vec::new(), 0);
        for event in place.events().await {
            match event {
                Event::ScheduleCreated(event) => created.push(event.schedule),
                Event::ScheduleRefused(event) => {
                    assert_eq!(event.code, RefusalCode::Limit);
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        if created.len() + refused >= 50 {
            break (created, refused);
        }
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "{} made, {refused} refused", created.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((created.len(), refused), (5, 45));
    let names: BTreeSet<_> = created.iter().map(|schedule| &*schedule.name).collect();
    let expected = ["daily", "daily 2", "daily 3", "daily 4", "daily 5"];
    assert_eq!(names, BTreeSet::from(expected));
    let ids = |schedules: &[events::document::Schedule]| -> BTreeSet<_> {
        schedules.iter().map(|schedule| schedule.id).collect()
    };
    assert_eq!(ids(&wanted(&place).await.schedules), ids(&created));
    shutdown.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_schedules_at_once_to_three_replicas() {
    fifty_schedules_at_once(Bus::in_memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_schedules_at_once_to_three_replicas_on_nats() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test")).await;
    fifty_schedules_at_once(bus.unwrap()).await;
}

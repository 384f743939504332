//! Workers that die with every delivery, on an in-memory bus.

use std::time::Duration;

use bus::{Bus, BusConfig};
use events::topology::ConsumerSpec;
use events::{BackupSummary, MessageId, PoolName, example};
use repository::{BackupOptions, Repository, RetryPolicy};
use service::{ManualClock, MasterKey};
use testkit::nats::NatsServer;

use super::*;

/// A worker that gives every delivery back.
struct Dies;

#[async_trait]
impl Handler<Event> for Dies {
    async fn handle(&self, _delivery: &Delivery<Event>) -> Outcome {
        Outcome::Retry {
            after: Duration::ZERO,
            reason: "a test".to_owned(),
        }
    }
}

fn world() -> World {
    World {
        bus: Bus::in_memory(),
        repository: Repository::open("memory://", RetryPolicy::default()).unwrap(),
        master_key: Arc::new(MasterKey::from_bytes(&[7; 32])),
        clock: Arc::new(ManualClock::new(example::at(0))),
        config: Arc::default(),
        slots: Arc::default(),
        looks: Arc::default(),
    }
}

fn example_of(type_name: &str) -> Event {
    let mut events = example::events().into_iter();
    events.find(|event| event.type_name() == type_name).unwrap()
}

async fn publish(world: &World, event: Event) {
    let id = MessageId::new(format!("test:{}", event.type_name()));
    let outgoing = Outgoing::new(event, id, world.clock.now());
    let _ = world.bus.publish(outgoing).await.unwrap();
}

/// What is said last on `fence` once the advisory was handled.
async fn end_of(world: &World, spec: &ConsumerSpec, fence: &str) -> (Event, Option<String>) {
    let shutdown = CancellationToken::new();
    let ending = async {
        loop {
            let last = world.bus.last_on(fence).await.unwrap().unwrap();
            if is_ending(&last.envelope.message) {
                shutdown.cancel();
                return (last.envelope.message, last.envelope.correlation);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ending = tokio::time::timeout(Duration::from_secs(3600), ending);
    let dying = world.bus.consume(spec, 1, Arc::new(Dies), shutdown.clone());
    let (died, ran, ended) = tokio::join!(dying, run(world, shutdown.clone()), ending);
    died.unwrap();
    ran.unwrap();
    ended.expect("an end")
}

fn fence_of_backup() -> (BackupRequested, String) {
    let Event::BackupRequested(backup) = example_of("backup.requested") else {
        panic!("not a request");
    };
    let fence = subject::backup_fence(&backup.instance, &backup.branch, backup.backup_id);
    (backup, fence)
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_was_given_up_has_failed() {
    let world = world();
    let (backup, fence) = fence_of_backup();
    publish(&world, Event::BackupRequested(backup.clone())).await;
    publish(&world, example_of("backup.started")).await;
    let (end, correlation) = end_of(&world, &topology::backup_jobs(), &fence).await;
    let Event::BackupFailed(failed) = end else {
        panic!("{end:?}");
    };
    assert_eq!(failed.cause, FailureCause::Internal);
    assert!(
        failed.message.contains("after 5 attempts"),
        "{}",
        failed.message
    );
    assert_eq!(correlation, Some(backup.backup_id.to_string()));
}

#[tokio::test]
async fn a_pools_backup_that_was_given_up_on_nats_has_failed() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test")).await;
    let bus = bus.unwrap();
    bus.apply_topology().await.unwrap();
    let world = World { bus, ..world() };
    // As another consumer's name goes on: the advisory must be of this one.
    let pool = PoolName::new("sweeps").unwrap();
    let (backup, fence) = fence_of_backup();
    let backup = BackupRequested {
        pool: Some(pool.clone()),
        ..backup
    };
    world.make_pool(Some(&pool)).await.unwrap();
    publish(&world, Event::BackupRequested(backup)).await;
    let jobs = topology::backup_jobs_of(&pool);
    let ended = end_of(&world, &jobs, &fence);
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    let (end, _) = ended.expect("an end");
    let Event::BackupFailed(failed) = end else {
        panic!("{end:?}");
    };
    let said = &failed.message;
    assert!(said.contains("after 5 attempts"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_backup_whose_manifest_stands_is_completed() {
    let world = world();
    let (backup, fence) = fence_of_backup();
    publish(&world, Event::BackupRequested(backup.clone())).await;
    let writer = world.repository.writer(&backup.instance, &backup.branch);
    let pieces = writer
        .begin_backup(backup.backup_id, "one", BackupOptions::default())
        .unwrap();
    let stored = pieces.finish().await.unwrap();
    let summary = BackupSummary {
        attempt: "one".to_owned(),
        files: 0,
        logical_bytes: 0,
        stored_bytes: stored.totals.stored_bytes,
        ..example::backup_summary()
    };
    let _committed = stored.commit(summary.clone()).await.unwrap();
    let (end, _) = end_of(&world, &topology::backup_jobs(), &fence).await;
    let Event::BackupCompleted(completed) = end else {
        panic!("{end:?}");
    };
    assert_eq!(completed.summary, summary);
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_was_given_up_has_failed() {
    let world = world();
    let request = example_of("restore.requested");
    let Event::RestoreRequested(restore) = &request else {
        panic!("not a request");
    };
    let fence = subject::restore_fence(&restore.instance, &restore.branch, restore.restore_id);
    let id = restore.restore_id.to_string();
    publish(&world, request.clone()).await;
    let (end, correlation) = end_of(&world, &topology::restore_jobs(), &fence).await;
    assert_eq!(end.type_name(), "restore.failed");
    assert_eq!(correlation, Some(id), "so that its name is freed");
}

/// It ended, and only its acknowledgement was lost five times.
#[tokio::test(start_paused = true)]
async fn what_has_ended_is_left_as_it_is() {
    let world = world();
    let (backup, fence) = fence_of_backup();
    publish(&world, Event::BackupRequested(backup)).await;
    publish(&world, example_of("backup.completed")).await;
    let sequence = Sequence(1);
    let delivery = Delivery {
        envelope: events::Envelope {
            id: MessageId::new("advisory"),
            source: "nats".to_owned(),
            time: world.bus.last_on(&fence).await.unwrap().unwrap().time,
            correlation: None,
            causation: None,
            traceparent: None,
            tracestate: None,
            message: Exhausted {
                stream: EVENTS.to_owned(),
                consumer: "backup-worker".to_owned(),
                sequence,
                deliveries: 5,
            },
        },
        sequence,
        stored_at: events::example::at(0),
        attempt: 1,
        last_attempt: false,
        progress: bus::Progress::default(),
    };
    let given_up = GivenUp {
        world: world.clone(),
    };
    assert_eq!(given_up.handle(&delivery).await, Outcome::Done);
    let last = world.bus.last_on(&fence).await.unwrap().unwrap();
    assert_eq!(last.envelope.message.type_name(), "backup.completed");
}

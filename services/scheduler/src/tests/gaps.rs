//! Gaps: one backup behind each, whoever hears of it and how often.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bus::{Bus, BusConfig, Delivery, Handler, Outcome, Outgoing, Progress, Sequence};
use chrono::TimeDelta;
use events::event::{BackupRequested, GapCause, WalGapDetected};
use events::{
    BackupId, BackupSummary, BranchName, Envelope, Event, InstanceDocument, MessageId, Timestamp,
    Trigger, example, topology,
};
use pg_format::{Lsn, TimelineId};
use repository::BackupOptions;
use testkit::nats::NatsServer;
use tokio_util::sync::CancellationToken;

use super::firing::{document, registered};
use super::{Place, instance};
use crate::gaps::Gaps;

const FOUND: &str = "2026-01-01T12:00:00Z";

fn found_at() -> Timestamp {
    FOUND.parse().unwrap()
}

fn gap() -> WalGapDetected {
    let Event::WalGapDetected(gap) = example_of("wal.gap.detected") else {
        unreachable!("the type was asked for");
    };
    WalGapDetected {
        instance: instance(),
        branch: BranchName::main(),
        timeline: TimelineId(2),
        from_lsn: Lsn(0x0300_0000),
        to_lsn: Lsn(0x0500_0000),
        detected_at: found_at(),
        ..gap
    }
}

fn example_of(type_name: &str) -> Event {
    let mut events = example::events().into_iter();
    events.find(|event| event.type_name() == type_name).unwrap()
}

fn delivery(gap: WalGapDetected, attempt: u64) -> Delivery<Event> {
    Delivery {
        envelope: Envelope {
            id: MessageId::new("wal.gap.detected:orders:main:2:0/3000000"),
            source: "test".to_owned(),
            time: gap.detected_at,
            correlation: None,
            causation: None,
            traceparent: None,
            tracestate: None,
            message: Event::WalGapDetected(gap),
        },
        sequence: Sequence(1),
        stored_at: events::example::at(0),
        attempt,
        last_attempt: false,
        progress: Progress::default(),
    }
}

/// A place with an instance whose backups are kept for a week and for a year.
async fn place() -> Place {
    let place = Place::new(FOUND);
    registered(&place, &protected()).await;
    place
}

fn protected() -> InstanceDocument {
    let mut document = document("2026-01-01T00:00:00Z".parse().unwrap());
    let mut yearly = document.schedules[0].clone();
    yearly.retention = "1y".parse().unwrap();
    let mut elsewhere = yearly.clone();
    elsewhere.retention = "5y".parse().unwrap();
    elsewhere.branch = BranchName::new("fix").unwrap();
    document.schedules.extend([yearly, elsewhere]);
    document
}

impl Place {
    async fn hear(&self, attempt: u64) -> Outcome {
        let gaps = Gaps {
            world: self.world.clone(),
        };
        gaps.handle(&delivery(gap(), attempt)).await
    }

    /// What was asked for, also behind another backup.
    async fn requests(&self) -> Vec<BackupRequested> {
        let mut requests = Vec::<BackupRequested>::new();
        for event in self.events().await {
            let request = match event {
                Event::BackupRequested(requested) => requested,
                Event::BackupQueued(queued) => queued.request,
                _ => continue,
            };
            if !requests.iter().any(|r| r.backup_id == request.backup_id) {
                requests.push(request);
            }
        }
        requests
    }

    async fn publish(&self, event: Event) {
        let id = MessageId::new(uuid::Uuid::now_v7().to_string());
        let outgoing = Outgoing::new(event, id, self.world.clock.now());
        let _sequence = self.world.bus.publish(outgoing).await.unwrap();
    }

    async fn fail(&self, id: BackupId) {
        let Event::BackupFailed(mut failed) = example_of("backup.failed") else {
            unreachable!("the type was asked for");
        };
        (failed.instance, failed.branch) = (instance(), BranchName::main());
        failed.backup_id = id;
        self.publish(Event::BackupFailed(failed)).await;
    }

    async fn start(&self, id: BackupId) {
        let Event::BackupStarted(mut started) = example_of("backup.started") else {
            unreachable!("the type was asked for");
        };
        (started.instance, started.branch) = (instance(), BranchName::main());
        started.backup_id = id;
        self.publish(Event::BackupStarted(started)).await;
    }

    async fn request(&self, id: BackupId) {
        let requested = BackupRequested {
            backup_id: id,
            instance: instance(),
            branch: BranchName::main(),
            name: "another".to_owned(),
            backup_type: events::BackupType::Auto,
            trigger: Trigger::Manual,
            schedule_id: None,
            retention: None,
            wal: events::WalKeep::AsLongAsBackup,
            pool: None,
            requested_at: self.world.clock.now(),
        };
        self.world.request_backup(requested, None).await.unwrap();
    }

    /// A completed backup in the repository.
    async fn store_begun_at(&self, id: BackupId, start_lsn: Lsn, timeline: TimelineId) {
        let repository = &self.world.repository;
        let writer = repository.writer(&instance(), &BranchName::main());
        let pieces = writer.begin_backup(id, "one", BackupOptions::default());
        let stored = pieces.unwrap().finish().await.unwrap();
        let summary = BackupSummary {
            attempt: "one".to_owned(),
            files: 0,
            logical_bytes: 0,
            stored_bytes: stored.totals.stored_bytes,
            ..summary(id, start_lsn, timeline)
        };
        let _committed = stored.commit(summary).await.unwrap();
    }

    fn pass(&self, time: TimeDelta) {
        self.clock.set(self.world.clock.now() + time);
    }
}

fn summary(backup_id: BackupId, start_lsn: Lsn, timeline: TimelineId) -> BackupSummary {
    BackupSummary {
        backup_id,
        instance: instance(),
        branch: BranchName::main(),
        start_lsn,
        stop_lsn: Lsn(start_lsn.0 + 0x100),
        timeline,
        ..example::backup_summary()
    }
}

fn completed(backup_id: BackupId, start_lsn: Lsn) -> Event {
    let Event::BackupCompleted(mut completed) = example_of("backup.completed") else {
        unreachable!("the type was asked for");
    };
    completed.summary = summary(backup_id, start_lsn, gap().timeline);
    (completed.instance, completed.branch) = (instance(), BranchName::main());
    completed.backup_id = backup_id;
    Event::BackupCompleted(completed)
}

fn other(number: u128) -> BackupId {
    BackupId(uuid::Uuid::from_u128(number))
}

fn is_held(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { .. })
}

#[tokio::test]
async fn a_gap_is_answered_once_and_held_until_the_backup_is_complete() {
    let place = place().await;
    for attempt in 1..=4 {
        assert!(is_held(&place.hear(attempt).await));
    }
    let requests = place.requests().await;
    let [requested] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert_eq!(requested.name, "after a WAL gap at 0/3000000");
    assert_eq!(requested.trigger, Trigger::Schedule);
    assert_eq!(requested.schedule_id, None);
    // The yearly archive is not what it is for.
    assert_eq!(requested.retention, Some("7d".parse().unwrap()));
    assert_eq!(requested.wal, events::WalKeep::AsLongAsBackup);

    place.start(requested.backup_id).await;
    assert!(is_held(&place.hear(5).await));
    place
        .publish(completed(requested.backup_id, gap().to_lsn))
        .await;
    assert_eq!(place.hear(6).await, Outcome::Done);
    assert_eq!(place.requests().await.len(), 1);
}

#[tokio::test]
async fn a_failed_backup_is_followed_by_others_after_growing_pauses_and_not_for_ever() {
    let place = place().await;
    let begun = place.world.clock.now();
    let mut pauses = Vec::new();
    let mut asked = 0;
    loop {
        match place.hear(1).await {
            Outcome::Done => break,
            Outcome::Retry { after, .. } => {
                let requests = place.requests().await;
                if requests.len() > asked {
                    asked = requests.len();
                    place.fail(requests[asked - 1].backup_id).await;
                } else {
                    pauses.push(after.as_secs() / 60);
                    place.pass(TimeDelta::from_std(after).unwrap());
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses, [1, 4, 16, 60, 60, 60, 60]);
    let requests = place.requests().await;
    let ids: std::collections::BTreeSet<_> = requests.iter().map(|one| one.backup_id).collect();
    assert_eq!((requests.len(), ids.len()), (8, 8));
    assert!(place.world.clock.now() - begun < TimeDelta::hours(5));
}

/// A standby's backup begins at its last restart point.
#[tokio::test]
async fn a_backup_that_turns_out_to_begin_before_the_gaps_end_does_not_count() {
    let place = place().await;
    assert!(is_held(&place.hear(1).await));
    let first = place.requests().await[0].backup_id;
    place.publish(completed(first, Lsn(0x04FF_FFFF))).await;
    place
        .store_begun_at(first, Lsn(0x04FF_FFFF), TimelineId(2))
        .await;
    assert!(is_held(&place.hear(2).await));
    place.pass(TimeDelta::minutes(1));
    assert!(is_held(&place.hear(3).await));
    assert_eq!(place.requests().await.len(), 2);
}

#[tokio::test]
async fn a_backup_behind_the_gap_that_is_stored_already_is_enough() {
    for (start_lsn, timeline, requested) in [
        (0x0500_0000, 2, 0),
        (0x0500_0000, 3, 0),
        (0x04FF_FFFF, 2, 1),
        // Of the history before.
        (0x0600_0000, 1, 1),
    ] {
        let place = place().await;
        place
            .store_begun_at(other(1), Lsn(start_lsn), TimelineId(timeline))
            .await;
        let outcome = place.hear(1).await;
        assert_eq!(
            is_held(&outcome),
            requested == 1,
            "{start_lsn:X} {timeline}"
        );
        assert_eq!(place.requests().await.len(), requested);
    }
}

#[tokio::test]
async fn what_has_not_begun_when_the_gap_is_found_is_waited_for_and_what_runs_is_not() {
    let waiting = place().await;
    waiting.request(other(1)).await;
    assert!(is_held(&waiting.hear(1).await));
    assert_eq!(waiting.requests().await.len(), 1, "the other one will do");
    // It begins now, behind the gap.
    waiting.pass(TimeDelta::seconds(10));
    waiting.start(other(1)).await;
    assert!(is_held(&waiting.hear(2).await));
    assert_eq!(waiting.requests().await.len(), 1);
    // It fails: nobody else is coming.
    waiting.fail(other(1)).await;
    assert!(is_held(&waiting.hear(3).await));
    assert_eq!(waiting.requests().await.len(), 2);

    let running = place().await;
    running.request(other(1)).await;
    running.start(other(1)).await;
    assert!(is_held(&running.hear(1).await));
    assert_eq!(
        running.requests().await.len(),
        2,
        "it may have begun before"
    );

    // Nobody has taken it for two days.
    let forgotten = place().await;
    forgotten.request(other(1)).await;
    forgotten.pass(TimeDelta::days(2));
    assert!(is_held(&forgotten.hear(1).await));
    assert_eq!(forgotten.requests().await.len(), 2);
}

#[tokio::test]
async fn a_branch_that_is_gone_needs_none() {
    let nobody = Place::new(FOUND);
    assert_eq!(nobody.hear(1).await, Outcome::Done);
    let removing = Place::new(FOUND);
    let document = InstanceDocument {
        removing: true,
        ..protected()
    };
    registered(&removing, &document).await;
    assert_eq!(removing.hear(1).await, Outcome::Done);
    for place in [nobody, removing] {
        assert!(place.requests().await.is_empty());
    }
    // The bus was lost, and the gap is told anew before the document is recalled.
    let recalled = Place::new(FOUND);
    let repository = &recalled.world.repository;
    repository.put_instance(&protected()).await.unwrap();
    assert!(is_held(&recalled.hear(1).await));
    assert_eq!(recalled.requests().await.len(), 1);
}

#[tokio::test]
async fn without_a_schedule_it_is_kept_for_seven_days() {
    let place = Place::new(FOUND);
    let schedules = Vec::new();
    let document = InstanceDocument {
        schedules,
        ..protected()
    };
    registered(&place, &document).await;
    assert!(is_held(&place.hear(1).await));
    let retention = place.requests().await[0].retention;
    assert_eq!(retention, Some(events::Retention::SEVEN_DAYS));
}

/// Says when a gap needs nothing more.
struct Watched {
    gaps: Gaps,
    done: tokio::sync::mpsc::Sender<()>,
}

#[async_trait]
impl Handler<Event> for Watched {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let outcome = self.gaps.handle(delivery).await;
        if outcome == Outcome::Done {
            let _ = self.done.send(()).await;
        }
        outcome
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_on_a_real_bus_answer_a_gap_that_is_told_twice_once() {
    let nats = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(nats.url(), "test"))
        .await
        .unwrap();
    bus.apply_topology().await.unwrap();
    let mut place = Place::new(FOUND);
    place.world.bus = bus.clone();
    registered(&place, &protected()).await;
    let shutdown = CancellationToken::new();
    let (done, mut closed) = tokio::sync::mpsc::channel(8);
    let replicas: Vec<_> = (0..3)
        .map(|_| {
            let handler = Arc::new(Watched {
                gaps: Gaps {
                    world: place.world.clone(),
                },
                done: done.clone(),
            });
            let (bus, shutdown) = (bus.clone(), shutdown.clone());
            tokio::spawn(async move {
                let spec = topology::scheduler_gaps();
                bus.consume(&spec, 4, handler, shutdown).await
            })
        })
        .collect();
    // Two messages of one gap, as when its archiver lost the answer to the first and the window had passed.
    for _ in 0..2 {
        place.publish(Event::WalGapDetected(gap())).await;
    }
    testkit::wait_until(
        "a backup is requested",
        Duration::from_secs(30),
        async || !place.requests().await.is_empty(),
    )
    .await
    .unwrap();
    let requests = place.requests().await;
    place
        .publish(completed(requests[0].backup_id, gap().to_lsn))
        .await;
    for _ in 0..2 {
        let told = tokio::time::timeout(Duration::from_secs(60), closed.recv()).await;
        assert_eq!(told, Ok(Some(())));
    }
    assert_eq!(place.requests().await.len(), 1);
    shutdown.cancel();
    for replica in replicas {
        replica.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn wal_that_was_found_damaged_is_recorded_and_what_the_archiver_misses_it_records_itself() {
    let place = place().await;
    let reader = place
        .world
        .repository
        .reader(&instance(), &BranchName::main());
    let gaps = Gaps {
        world: place.world.clone(),
    };
    let _ = gaps.handle(&delivery(gap(), 1)).await;
    assert_eq!(reader.wal_gaps().await.unwrap(), []);
    let damaged = WalGapDetected {
        cause: GapCause::Damaged,
        ..gap()
    };
    for attempt in 1..=2 {
        let _ = gaps.handle(&delivery(damaged.clone(), attempt)).await;
        let recorded = reader.wal_gaps().await.unwrap();
        assert_eq!(recorded.len(), 1);
        assert_eq!(
            (recorded[0].from_lsn, recorded[0].cause),
            (damaged.from_lsn, GapCause::Damaged)
        );
    }
}

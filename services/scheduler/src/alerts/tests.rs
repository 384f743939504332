//! Several schedulers, one bus in memory, a manual clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::alerts::{BranchState, Fact};
use bus::{Decision, Progress, Sequence};
use events::document::{ActiveBranch, Branch, Schedule};
use events::event::{AlertRule, BackupFailed, FailureCause, WalGapDetected};
use events::position::{ArchiverPosition, PositionQuestion};
use events::{
    ArchiveMode, BranchName, Envelope, InstanceDocument, InstanceName, MessageId, SealedSecret,
    Timestamp, example, subject,
};
use futures::StreamExt as _;
use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use repository::RetryPolicy;
use service::ManualClock;

use super::*;

mod lives;
mod scale;
mod wrong;

struct Place {
    watch: Watch,
    clock: Arc<ManualClock>,
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap()
}

pub(super) fn instance() -> InstanceName {
    InstanceName::new("orders").unwrap()
}

pub(super) fn document(instance: &InstanceName) -> InstanceDocument {
    let main = ActiveBranch {
        dsn: SealedSecret::from_base64(String::new()),
        system_identifier: SystemIdentifier(1),
        timeline: TimelineId(1),
        server_version: 180_000,
        wal_segment_size: WalSegmentSize::DEFAULT,
        origin: None,
        size: None,
        created_at: at(0),
        // There is no archiver.
        archive_mode: ArchiveMode::Command,
        disk_risk: events::DiskRiskPolicy::default(),
    };
    let daily = Schedule {
        cron: "0 2 * * *".to_owned(),
        timezone: "UTC".to_owned(),
        branch: BranchName::main(),
        created_at: at(0),
        paused: false,
        ..example::schedule()
    };
    InstanceDocument {
        branches: [(BranchName::main(), Branch::Active(main))].into(),
        schedules: vec![daily],
        ..InstanceDocument::new(
            instance.clone(),
            events::CommandId(uuid::Uuid::nil()),
            at(0),
        )
    }
}

fn streamed(instance: &InstanceName) -> InstanceDocument {
    let mut document = document(instance);
    if let Some(Branch::Active(main)) = document.branches.get_mut(&BranchName::main()) {
        main.archive_mode = ArchiveMode::Stream;
    }
    document
}

impl Place {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(at(0)));
        let watch = Watch {
            bus: Bus::in_memory(),
            repository: Repository::open("memory://", RetryPolicy::default()).unwrap(),
            clock: Arc::<ManualClock>::clone(&clock),
            settings: Settings::default(),
            lag_looks: 1000,
            intervals: Intervals::default(),
        };
        Place { watch, clock }
    }

    async fn registered() -> Self {
        let place = Place::new();
        place.put(&document(&instance())).await;
        place
    }

    async fn put(&self, document: &InstanceDocument) {
        let put = |_: Option<&InstanceDocument>| Decision::Put(Box::new(document.clone()), ());
        self.watch
            .bus
            .instances()
            .update(&document.instance, put)
            .await
            .unwrap();
    }

    async fn remove(&self) {
        self.watch
            .bus
            .instances()
            .update(&instance(), |_| Decision::Remove(()))
            .await
            .unwrap();
    }

    /// Three replicas hear the same delivery at the same time.
    async fn hear(&self, event: Event) {
        self.hear_from(event, self.watch.clock.now()).await;
    }

    /// The same, of somebody whose clock shows `time`.
    async fn hear_from(&self, event: Event, time: Timestamp) {
        let delivery = Delivery {
            envelope: Envelope {
                id: MessageId::new("heard"),
                source: "test".to_owned(),
                time,
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: event,
            },
            sequence: Sequence(1),
            stored_at: self.watch.clock.now(),
            attempt: 1,
            last_attempt: false,
            progress: Progress::default(),
        };
        let ears = Ears {
            watch: self.watch.clone(),
        };
        let heard = futures::future::join_all((0..3).map(|_| ears.handle(&delivery))).await;
        assert!(
            heard.iter().all(|outcome| *outcome == Outcome::Done),
            "{heard:?}"
        );
    }

    async fn at(&self, minutes: i64) {
        self.clock.set(at(minutes));
        let rounds = futures::future::join_all((0..3).map(|_| self.watch.round())).await;
        assert!(rounds.into_iter().all(|round| round.is_ok()));
    }

    /// `+wal_gap`, `1xwal_gap` for its first reminder, `-wal_gap`.
    async fn said(&self) -> Vec<String> {
        let filters = vec!["zektor.alert.>".to_owned()];
        let history = self
            .watch
            .bus
            .history(filters, Sequence::NONE, topology::EVENTS)
            .await
            .unwrap();
        let words = history.map(|stored| match stored.unwrap().envelope.message {
            Event::AlertRaised(alert) if alert.reminder > 0 => {
                format!("{}x{}", alert.reminder, alert.rule)
            }
            Event::AlertRaised(alert) => format!("+{}", alert.rule),
            Event::AlertResolved(alert) => format!("-{}", alert.rule),
            other => panic!("{other:?}"),
        });
        words.collect().await
    }

    async fn keys(&self) -> Vec<String> {
        self.watch.bucket().keys().await.unwrap()
    }
}

fn failed(number: u128) -> Event {
    Event::BackupFailed(BackupFailed {
        backup_id: events::BackupId(uuid::Uuid::from_u128(number)),
        instance: instance(),
        branch: BranchName::main(),
        cause: FailureCause::Connection,
        transient: None,
        message: "the server did not answer".to_owned(),
        hint: String::new(),
        failed_at: at(0),
    })
}

fn completed(number: u128) -> Event {
    let of_backup = |event: &Event| matches!(event, Event::BackupCompleted(_));
    let Some(Event::BackupCompleted(mut completed)) = example::events().into_iter().find(of_backup)
    else {
        unreachable!("there is one of each");
    };
    (completed.instance, completed.branch) = (instance(), BranchName::main());
    completed.summary.backup_id = events::BackupId(uuid::Uuid::from_u128(number));
    completed.summary.start_lsn = Lsn(1 << 40);
    completed.summary.damaged_pages.clear();
    Event::BackupCompleted(completed)
}

fn gap() -> Event {
    Event::WalGapDetected(WalGapDetected {
        instance: instance(),
        branch: BranchName::main(),
        timeline: TimelineId(1),
        from_lsn: Lsn(1),
        to_lsn: Lsn(2),
        cause: events::event::GapCause::SlotLost,
        detected_at: at(1),
    })
}

#[tokio::test]
async fn three_replicas_raise_and_resolve_once() {
    let place = Place::registered().await;
    place.clock.set(at(1));
    place.hear(failed(1)).await;
    assert!(place.said().await.is_empty());
    place.clock.set(at(2));
    place.hear(failed(2)).await;
    place.hear(failed(2)).await;
    place.at(3).await;
    assert_eq!(place.said().await, ["+backup_failing"]);
    place.clock.set(at(4));
    place.hear(completed(3)).await;
    place.at(5).await;
    for number in 4..6 {
        place.clock.set(at(i64::try_from(number).unwrap() + 5));
        place.hear(failed(number)).await;
    }
    assert_eq!(
        place.said().await,
        ["+backup_failing", "-backup_failing", "+backup_failing"]
    );
}

#[tokio::test]
async fn what_a_dead_replica_left_to_be_said_is_said_once() {
    let place = Place::registered().await;
    // It wrote the state and died.
    let mut state = BranchState::new(at(0));
    let Event::WalGapDetected(detected) = gap() else {
        unreachable!("it is one");
    };
    let fact = Fact::GapDetected(::alerts::Gap {
        timeline: detected.timeline,
        from_lsn: detected.from_lsn,
        to_lsn: detected.to_lsn,
        cause: detected.cause,
    });
    assert_eq!(
        state
            .observe(at(1), fact, at(1), &place.watch.settings)
            .len(),
        1
    );
    let (key, bytes) = ("facts.orders.main", serde_json::to_vec(&state).unwrap());
    let revision = place
        .watch
        .bucket()
        .create(key, bytes.clone())
        .await
        .unwrap();
    place.at(2).await;
    assert_eq!(place.said().await, ["+wal_gap"]);
    // It published, and died before it forgot that: long after the window of duplicate ids too.
    let (_, now) = place.watch.bucket().get(key).await.unwrap().unwrap();
    assert!(now > revision);
    let _ = place.watch.bucket().update(key, bytes, now).await.unwrap();
    place.at(600).await;
    assert_eq!(place.said().await, ["+wal_gap"]);
    let (bytes, _) = place.watch.bucket().get(key).await.unwrap().unwrap();
    assert!(
        serde_json::from_slice::<BranchState>(&bytes)
            .unwrap()
            .outbox()
            .is_empty()
    );
}

#[tokio::test]
async fn a_branch_that_is_not_protected_has_no_state() {
    let place = Place::new();
    place.hear(failed(1)).await;
    place.at(1).await;
    assert!(place.keys().await.is_empty());
}

#[tokio::test]
async fn what_is_gone_is_resolved_and_forgotten_and_may_come_back() {
    for by_event in [true, false] {
        let place = Place::registered().await;
        place.clock.set(at(1));
        place.hear(gap()).await;
        place.remove().await;
        if by_event {
            place
                .hear(Event::InstanceRemoved(events::event::InstanceRemoved {
                    instance: instance(),
                    branch: BranchName::main(),
                    slot_left: None,
                }))
                .await;
        } else {
            place.at(2).await;
        }
        assert_eq!(place.said().await, ["+wal_gap", "-wal_gap"]);
        assert!(place.keys().await.is_empty());
        // Registered again under the same name; what is said of it is said.
        place.clock.set(at(9));
        place.put(&document(&instance())).await;
        place.hear(gap()).await;
        assert_eq!(place.said().await, ["+wal_gap", "-wal_gap", "+wal_gap"]);
    }
}

#[tokio::test]
async fn no_backup_for_too_long_is_told_by_the_clock() {
    let place = Place::registered().await;
    place.at(1).await;
    place.at(36 * 60).await;
    assert!(place.said().await.is_empty());
    place.at(36 * 60 + 1).await;
    place.at(36 * 60 + 2).await;
    assert_eq!(place.said().await, ["+backup_overdue"]);
    place.hear(completed(1)).await;
    assert_eq!(place.said().await, ["+backup_overdue", "-backup_overdue"]);
    // Paused: never.
    let mut paused = document(&instance());
    paused.schedules[0].paused = true;
    place.put(&paused).await;
    place.at(10_000 * 60).await;
    assert_eq!(place.said().await.len(), 2);
}

#[tokio::test]
async fn archives_are_asked_in_turns_and_a_lag_is_told_when_it_was_seen_twice() {
    let place = Place::new();
    let mut watch = place.watch.clone();
    watch.lag_looks = 3;
    let names: Vec<_> = (0..9)
        .map(|n| InstanceName::new(format!("db{n}")).unwrap())
        .collect();
    for name in &names {
        place.put(&streamed(name)).await;
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let shutdown = CancellationToken::new();
    let all = subject::archiver_position(&names[0], &BranchName::main()).replace(".db0.", ".*.");
    let (bus, stop) = (watch.bus.clone(), shutdown.clone());
    let archiver = tokio::spawn(async move {
        let answer = move |subject: String, _: PositionQuestion| {
            let _ = counted.fetch_add(1, Ordering::Relaxed);
            let lag_seconds = Some(if subject.contains(".db0.") {
                400.0
            } else {
                1.0
            });
            async move {
                Ok(ArchiverPosition {
                    lag_seconds,
                    streaming: true,
                    ..ArchiverPosition::default()
                })
            }
        };
        bus.serve(&all, "archiver", answer, stop).await.unwrap();
    });
    let subject = subject::archiver_position(&names[0], &BranchName::main());
    testkit::wait_until(
        "the archiver answers",
        Duration::from_secs(10),
        async || {
            let (question, patience) = (PositionQuestion::default(), Duration::from_secs(1));
            let answer = watch
                .bus
                .request::<_, ArchiverPosition>(&subject, &question, patience);
            answer.await.is_ok()
        },
    )
    .await
    .unwrap();
    // The first round makes the states; from then on each has its turn.
    watch.round().await.unwrap();
    asked.store(0, Ordering::Relaxed);
    let mut raised_in = 0;
    for minute in 1..=8 {
        place.clock.set(at(minute));
        let before = asked.load(Ordering::Relaxed);
        watch.round().await.unwrap();
        assert!(asked.load(Ordering::Relaxed) - before <= 3);
        if raised_in == 0 && !place.said().await.is_empty() {
            raised_in = minute;
        }
    }
    assert_eq!(place.said().await, ["+archive_lag"]);
    assert!((2..=5).contains(&raised_in), "{raised_in}");
    assert!(asked.load(Ordering::Relaxed) >= 8);
    shutdown.cancel();
    archiver.await.unwrap();
}

#[test]
fn rules_have_the_names_of_their_subjects() {
    let fence = alert_fence(&instance(), &BranchName::main(), AlertRule::WalGap);
    assert_eq!(fence, "zektor.alert.*.orders.main.wal_gap");
}

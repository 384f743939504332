//! Sweeps on an in-memory bus, with a store that fails wherever it can.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use bus::{Decision, Progress};
use bytes::Bytes;
use chrono::DateTime;
use events::document::Sweep;
use events::{
    BackupSummary, BranchName, CommandId, Envelope, InstanceDocument, InstanceName, SweepId,
    example, topology,
};
use futures::StreamExt as _;
use object_store::memory::InMemory;
use object_store::{ObjectStore, PutOptions};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineId};
use repository::faulty::{Fault, FaultyStore, Operation};
use repository::{BackupOptions, BranchRecord, RetryPolicy, archive};
use service::ManualClock;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;

mod hollow;
mod leftovers;
mod purge;
mod reborn;

const MIB: u64 = 1 << 20;

struct Place {
    sweeps: Sweeps,
    store: Arc<InMemory>,
    request: BranchSweepRequested,
}

fn id(number: u128) -> BackupId {
    BackupId(Uuid::from_u128(number))
}

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn instance() -> InstanceName {
    InstanceName::new("orders").unwrap()
}

fn repository(store: Arc<dyn ObjectStore>) -> Repository {
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    Repository::with_store(store, "", retry)
}

async fn back_up(branch: &BranchWriter, number: u128) {
    let stored = branch.begin_backup(id(number), "a", BackupOptions::default());
    let stored = stored.unwrap().finish().await.unwrap();
    let summary = example::events().into_iter().find_map(|event| match event {
        Event::BackupCompleted(completed) => Some(completed.summary),
        _ => None,
    });
    let summary = BackupSummary {
        backup_id: id(number),
        instance: instance(),
        branch: branch.branch().clone(),
        timeline: TimelineId(1),
        wal_segment_size: size(),
        logical_bytes: stored.totals.logical_bytes,
        stored_bytes: stored.totals.stored_bytes,
        files: stored.totals.files,
        attempt: "a".to_owned(),
        ..summary.unwrap()
    };
    let _ = stored.commit(summary).await.unwrap();
}

impl Place {
    /// Three backups and segments 3 to 12; the first two backups are swept, and the WAL up to 9.
    async fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let plain = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
        let branch = plain.writer(&instance(), &BranchName::main());
        let record = BranchRecord {
            instance: instance(),
            branch: BranchName::main(),
            system_identifier: SystemIdentifier(7),
            server_version: 180_000,
            wal_segment_size: size(),
            parent: None,
            created_at: DateTime::UNIX_EPOCH,
        };
        let _ = branch.claim_branch(&record).await.unwrap();
        for number in [1, 2, 3] {
            back_up(&branch, number).await;
        }
        for number in 3..=12 {
            let name = SegmentName::new(TimelineId(1), number, size());
            let raw = Bytes::from(vec![0; MIB as usize]);
            let _ = branch.put_segment(name, raw).await.unwrap();
        }
        let sweep = Sweep {
            sweep_id: SweepId(Uuid::from_u128(9)),
            asked_at: DateTime::UNIX_EPOCH,
            backups: vec![id(2), id(1)],
            wal: vec![WalStretch {
                timeline: TimelineId(1),
                from_lsn: Lsn(3 * MIB),
                to_lsn: Lsn(10 * MIB),
            }],
            histories: vec![TimelineId(4)],
            leftovers: Vec::new(),
            hollow: false,
            purge: false,
            withdrawn_at: None,
        };
        let request = BranchSweepRequested {
            instance: instance(),
            branch: BranchName::main(),
            sweep_id: sweep.sweep_id,
            sweep: sweep.clone(),
        };
        let place = Place {
            sweeps: Sweeps {
                bus: Bus::in_memory(),
                repository: plain,
                clock: Arc::new(ManualClock::new(example::at(0))),
            },
            store,
            request,
        };
        place.list(Some(sweep)).await;
        let event = Event::BranchSweepRequested(place.request.clone());
        let outgoing = place
            .sweeps
            .outgoing(&place.request, event, "request".to_owned());
        let _ = place.sweeps.bus.publish(outgoing).await.unwrap();
        place
    }

    /// Puts the sweep into the document, or takes it out.
    async fn list(&self, sweep: Option<Sweep>) {
        self.list_of(&BranchName::main(), sweep).await;
    }

    async fn list_of(&self, branch: &BranchName, sweep: Option<Sweep>) {
        let instances = self.sweeps.bus.instances();
        let instance = instance();
        let changed = instances.update(&instance, |_| {
            let registration = CommandId(Uuid::nil());
            let mut document =
                InstanceDocument::new(instance.clone(), registration, example::at(0));
            let sweep = sweep.clone().map(|sweep| (branch.clone(), sweep));
            document.sweeps.extend(sweep);
            Decision::Put(Box::new(document), ())
        });
        changed.await.unwrap();
    }

    /// The same place, with a store that fails once, at its `number`th call that changes something or lists.
    fn failing_at(&self, number: u64, lost: bool) -> (Sweeps, Arc<AtomicU64>) {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let plan = move |operation, _: &object_store::path::Path| {
            if operation == Operation::Get {
                return Fault::Pass;
            }
            let call = counted.fetch_add(1, Ordering::SeqCst);
            match (call == number, lost) {
                (true, true) => Fault::LoseResponse,
                (true, false) => Fault::Fail,
                _ => Fault::Pass,
            }
        };
        let store = FaultyStore::new(Arc::clone(&self.store) as Arc<dyn ObjectStore>, plan);
        let sweeps = Sweeps {
            bus: self.sweeps.bus.clone(),
            repository: repository(Arc::new(store)),
            clock: Arc::clone(&self.sweeps.clock),
        };
        (sweeps, calls)
    }

    fn delivery(&self) -> Delivery<Event> {
        Delivery {
            envelope: Envelope {
                id: MessageId::new("request"),
                source: "test".to_owned(),
                time: example::at(0),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: Event::BranchSweepRequested(self.request.clone()),
            },
            sequence: Sequence(1),
            stored_at: example::at(0),
            attempt: 1,
            last_attempt: false,
            progress: Progress::default(),
        }
    }

    async fn said(&self) -> Vec<Event> {
        let mut said = Vec::new();
        for stream in [topology::EVENTS, topology::WAL] {
            let filters = vec!["zektor.>".to_owned()];
            let bus = &self.sweeps.bus;
            let history = bus.history(filters, Sequence::NONE, stream).await;
            let stored: Vec<_> = history.unwrap().collect().await;
            let messages = stored.into_iter().map(|one| one.unwrap().envelope.message);
            said.extend(messages);
        }
        said
    }

    async fn types(&self) -> Vec<&'static str> {
        let said = self.said().await;
        let mut types: Vec<_> = said.iter().map(Event::type_name).collect();
        types.sort_unstable();
        types
    }

    async fn check_swept(&self) {
        let branch = self
            .sweeps
            .repository
            .reader(&instance(), &BranchName::main());
        let archive = archive::read(&branch).await.unwrap();
        assert_eq!(archive.backups.len(), 1);
        assert_eq!(archive.backups[0].backup_id, id(3));
        assert_eq!(archive.objects.len(), 3);
        let keys: Vec<_> = self.store.list(None).collect().await;
        let keys: BTreeSet<_> = keys
            .into_iter()
            .map(|meta| meta.unwrap().location.to_string())
            .collect();
        let of_swept = keys
            .iter()
            .any(|key| key.contains(&id(1).to_string()) || key.contains(&id(2).to_string()));
        assert!(!of_swept, "{keys:?}");
        let expected = [
            "backup.expired",
            "backup.expired",
            "branch.sweep_requested",
            "branch.swept",
            "wal.pruned",
        ];
        assert_eq!(self.types().await, expected);
    }
}

#[tokio::test]
async fn deletes_exactly_the_list_and_says_so_once() {
    let place = Place::new().await;
    assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
    place.check_swept().await;
    assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
    place.check_swept().await;
}

#[tokio::test]
async fn two_workers_at_once_do_it_together() {
    let place = Place::new().await;
    let delivery = place.delivery();
    let (one, other) = tokio::join!(
        place.sweeps.handle(&delivery),
        place.sweeps.handle(&delivery)
    );
    assert_eq!((one, other), (Outcome::Done, Outcome::Done));
    place.check_swept().await;
}

#[tokio::test]
async fn whatever_call_fails_the_next_delivery_does_the_rest() {
    for lost in [false, true] {
        let mut number = 0;
        loop {
            let place = Place::new().await;
            let (failing, calls) = place.failing_at(number, lost);
            let first = failing.handle(&place.delivery()).await;
            if calls.load(Ordering::SeqCst) <= number {
                assert_eq!(first, Outcome::Done);
                break;
            }
            assert!(
                matches!(first, Outcome::Retry { .. }),
                "{number}: {first:?}"
            );
            assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
            place.check_swept().await;
            number += 1;
        }
        assert!(number > 15, "{number}");
    }
}

#[tokio::test]
async fn a_worker_that_is_killed_in_the_middle_is_followed_by_another() {
    for number in (0..30).step_by(3) {
        let place = Place::new().await;
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let stuck = Arc::new(tokio::sync::Notify::new());
        let hangs = Arc::clone(&stuck);
        let plan = move |_, _: &object_store::path::Path| match counted
            .fetch_add(1, Ordering::SeqCst)
            >= number
        {
            true => {
                hangs.notify_one();
                Fault::Hang
            }
            false => Fault::Pass,
        };
        let store = FaultyStore::new(Arc::clone(&place.store) as Arc<dyn ObjectStore>, plan);
        let killed = Sweeps {
            bus: place.sweeps.bus.clone(),
            repository: repository(Arc::new(store)),
            clock: Arc::clone(&place.sweeps.clock),
        };
        let delivery = place.delivery();
        tokio::select! {
            _ = killed.handle(&delivery) => {}
            () = stuck.notified() => {}
        }
        assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
        place.check_swept().await;
    }
}

#[tokio::test]
async fn a_sweep_that_is_not_listed_deletes_nothing() {
    let place = Place::new().await;
    let other = Sweep {
        sweep_id: SweepId(Uuid::from_u128(10)),
        ..place.request.sweep.clone()
    };
    let withdrawn = Sweep {
        withdrawn_at: Some(example::at(0)),
        ..place.request.sweep.clone()
    };
    for listed in [None, Some(other), Some(withdrawn)] {
        place.list(listed).await;
        let before: Vec<_> = place.store.list(None).collect().await;
        assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
        let after: Vec<_> = place.store.list(None).collect().await;
        assert_eq!(before.len(), after.len());
        assert_eq!(place.types().await, ["branch.sweep_requested"]);
    }
}

/// Longer than a delivery of which nothing is heard is left to its worker.
const SLOW: Duration = Duration::from_secs(400);

#[tokio::test(start_paused = true)]
async fn a_sweep_that_reads_for_long_is_delivered_once() {
    let place = Place::new().await;
    let plan = |operation, _: &object_store::path::Path| match operation {
        Operation::Get => Fault::Delay(SLOW),
        _ => Fault::Pass,
    };
    let store = FaultyStore::new(Arc::clone(&place.store) as Arc<dyn ObjectStore>, plan);
    let retry = RetryPolicy {
        attempts: 1,
        call_timeout: SLOW * 2,
        ..RetryPolicy::default()
    };
    let slow = Counted {
        sweeps: Sweeps {
            bus: place.sweeps.bus.clone(),
            repository: Repository::with_store(Arc::new(store), "", retry),
            clock: Arc::clone(&place.sweeps.clock),
        },
        deliveries: AtomicU64::new(0),
    };
    let (slow, shutdown) = (Arc::new(slow), CancellationToken::new());
    let (spec, bus) = (topology::sweep_jobs(), place.sweeps.bus.clone());
    let swept = async {
        while !place.types().await.contains(&"branch.swept") {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    let handler = Arc::clone(&slow);
    tokio::select! {
        _ = bus.consume(&spec, 1, handler, shutdown) => panic!("nobody told it to stop"),
        ended = tokio::time::timeout(SLOW * 100, swept) => ended.unwrap(),
    }
    place.check_swept().await;
    assert_eq!(slow.deliveries.load(Ordering::SeqCst), 1);
}

struct Counted {
    sweeps: Sweeps,
    deliveries: AtomicU64,
}

#[async_trait]
impl Handler<Event> for Counted {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let _before = self.deliveries.fetch_add(1, Ordering::SeqCst);
        self.sweeps.handle(delivery).await
    }
}

#[tokio::test]
async fn a_sweep_that_is_withdrawn_among_its_wal_stops_soon() {
    let mut place = Place::new().await;
    let branch = place
        .sweeps
        .repository
        .writer(&instance(), &BranchName::main());
    let raw = Bytes::from(vec![0; 100]);
    // Listed as segments, whatever is in them.
    for number in 20..2300 {
        let name = SegmentName::new(TimelineId(1), number, size());
        let key = format!("v1/orders/main/wal/00000001/{name}");
        let path = object_store::path::Path::from(key);
        let put = place
            .store
            .put_opts(&path, raw.clone().into(), PutOptions::default());
        let _ = put.await.unwrap();
    }
    place.request.sweep.backups.clear();
    place.request.sweep.wal[0] = WalStretch {
        timeline: TimelineId(1),
        from_lsn: Lsn(20 * MIB),
        to_lsn: Lsn(2300 * MIB),
    };
    place.list(Some(place.request.sweep.clone())).await;
    let deleting = Arc::new(tokio::sync::Notify::new());
    let (begun, deletions) = (Arc::clone(&deleting), AtomicU64::new(0));
    let plan = move |operation, _: &object_store::path::Path| {
        if operation == Operation::Delete && deletions.fetch_add(1, Ordering::SeqCst) == 500 {
            begun.notify_one();
            return Fault::Delay(Duration::from_secs(1));
        }
        Fault::Pass
    };
    let store = FaultyStore::new(Arc::clone(&place.store) as Arc<dyn ObjectStore>, plan);
    let slow = Sweeps {
        bus: place.sweeps.bus.clone(),
        repository: repository(Arc::new(store)),
        clock: Arc::clone(&place.sweeps.clock),
    };
    let withdraw = async {
        deleting.notified().await;
        place.list(None).await;
    };
    let delivery = place.delivery();
    let (outcome, ()) = tokio::join!(slow.handle(&delivery), withdraw);
    assert_eq!(outcome, Outcome::Done);
    let left = branch.list_wal(size()).await.unwrap();
    assert_eq!(left.len(), 10 + 2280 - 1000);
    // Nobody else says what went.
    let pruned = place
        .said()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::WalPruned(pruned) => Some((pruned.from_lsn, pruned.to_lsn, pruned.segments)),
            _ => None,
        });
    assert_eq!(
        pruned.collect::<Vec<_>>(),
        [(Lsn(20 * MIB), Lsn(1020 * MIB), 1000)]
    );
    assert_eq!(
        place.types().await,
        ["branch.sweep_requested", "wal.pruned"]
    );
}

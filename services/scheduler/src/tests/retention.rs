//! Rounds of retention on an in-memory bus and repository, with a manual clock; a worker is played by the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bus::{Decision, Delivery, Handler, Outgoing, Progress, Sequence};
use bytes::Bytes;
use chrono::TimeDelta;
use events::document::{Branch, Sweep};
use events::event::{BranchSweepRequested, BranchSwept};
use events::mark::{BackupMark, DeletedBy, Deletion, Hold};
use events::retention_plan::{BranchRetention, Fate, RetentionQuestion};
use events::{
    BackupId, BackupSummary, BranchName, Envelope, Event, InstanceDocument, MessageId, RestoreId,
    SweepId, Timestamp, example,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize};
use repository::faulty::{Fault, FaultyStore, Operation};
use repository::{
    BackupOptions, BranchRecord, BranchWriter, PutMark, Repository, RetryPolicy, WalPosition,
};
use uuid::Uuid;

use super::{Place, instance};
use crate::outcomes::Outcomes;
use crate::retention::Rounds;

const BEGIN: &str = "2026-01-01T00:00:00Z";
const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn id(number: u64) -> BackupId {
    BackupId(Uuid::from_u128(u128::from(number)))
}

fn main() -> BranchName {
    BranchName::main()
}

fn day(number: i64) -> Timestamp {
    BEGIN.parse::<Timestamp>().unwrap() + TimeDelta::days(number)
}

fn protected() -> InstanceDocument {
    InstanceDocument {
        schedules: Vec::new(),
        ..super::firing::document(day(0))
    }
}

impl Place {
    async fn retained() -> (Self, Rounds) {
        let place = Place::new(BEGIN);
        place.want(|document| *document = protected()).await;
        let rounds = place.rounds();
        let record = BranchRecord {
            instance: instance(),
            branch: main(),
            system_identifier: SystemIdentifier(7),
            server_version: 180_000,
            wal_segment_size: size(),
            parent: None,
            created_at: day(0),
        };
        let _ = place.branch().claim_branch(&record).await.unwrap();
        (place, rounds)
    }

    fn rounds(&self) -> Rounds {
        Rounds {
            world: self.world.clone(),
            memory: Arc::default(),
        }
    }

    fn branch(&self) -> BranchWriter {
        self.world.repository.writer(&instance(), &main())
    }

    async fn want(&self, change: impl Fn(&mut InstanceDocument)) {
        let (instances, instance) = (self.world.bus.instances(), instance());
        let changed = instances.update(&instance, |document| {
            let mut document = document.cloned().unwrap_or_else(protected);
            change(&mut document);
            Decision::Put(Box::new(document), ())
        });
        changed.await.unwrap();
    }

    async fn document(&self) -> InstanceDocument {
        let found = self.world.bus.instances().get(&instance()).await.unwrap();
        found.unwrap().0
    }

    /// On each day, from `first` to `last`, a backup in the middle of segment 10 times the day, and ten segments.
    async fn days(&self, first: u64, last: u64, kept: Option<i64>, wal: Option<i64>) {
        let branch = self.branch();
        for number in first..=last {
            let at = day(i64::try_from(number).unwrap());
            for segment in number * 10..number * 10 + 10 {
                let name = SegmentName::new(TimelineId(1), segment, size());
                let raw = Bytes::from(vec![0; usize::try_from(MIB).unwrap()]);
                let _ = branch.put_segment(name, raw).await.unwrap();
            }
            let stored = branch.begin_backup(id(number), "a", BackupOptions::default());
            let stored = stored.unwrap().finish().await.unwrap();
            let start = Lsn(number * 10 * MIB + MIB / 2);
            let summary = BackupSummary {
                backup_id: id(number),
                instance: instance(),
                branch: main(),
                backed_up_at: at,
                expires_at: kept.map(|days| at + TimeDelta::days(days)),
                wal_until: wal.map(|days| at + TimeDelta::days(days)),
                start_lsn: start,
                stop_lsn: Lsn(start.0 + 1000),
                timeline: TimelineId(1),
                wal_segment_size: size(),
                logical_bytes: 0,
                stored_bytes: stored.totals.stored_bytes,
                files: 0,
                attempt: "a".to_owned(),
                damaged_pages: Vec::new(),
                ..example::backup_summary()
            };
            let _ = stored.commit(summary).await.unwrap();
            let end = (number * 10 + 10) * MIB;
            let position = WalPosition {
                timeline: TimelineId(1),
                lsn: Lsn(end),
                proven_at: at,
                first_segment: SegmentName::new(TimelineId(1), first * 10, size()).to_string(),
                updated: at,
            };
            branch.put_wal_position(&position).await.unwrap();
        }
    }

    fn at(&self, number: i64) {
        self.clock.set(day(number));
    }

    /// The worker: does all that was asked for and is not done, and the scheduler hears of it. Gives back how much.
    async fn work(&self) -> usize {
        let mut done = 0;
        let document = self.document().await;
        let events = self.events().await;
        let swept = |sweep: SweepId| {
            events
                .iter()
                .any(|event| matches!(event, Event::BranchSwept(swept) if swept.sweep_id == sweep))
        };
        for event in &events {
            let Event::BranchSweepRequested(request) = event else {
                continue;
            };
            let listed = document
                .sweeps
                .values()
                .any(|one| one.sweep_id == request.sweep_id);
            if swept(request.sweep_id) || !listed {
                continue;
            }
            self.sweep(request).await;
            done += 1;
        }
        done
    }

    async fn sweep(&self, request: &BranchSweepRequested) {
        let branch = self
            .world
            .repository
            .writer(&request.instance, &request.branch);
        let sweep = &request.sweep;
        let named = branch.packs_named_by_others(&sweep.backups).await.unwrap();
        for backup in &sweep.backups {
            let _ = branch.delete_backup(*backup, &named, &|| {}).await.unwrap();
        }
        let _ = branch.prune_wal(&sweep.wal, size(), &|| {}).await.unwrap();
        for timeline in &sweep.histories {
            branch.delete_history(*timeline).await.unwrap();
        }
        let event = Event::BranchSwept(BranchSwept {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            sweep_id: request.sweep_id,
            objects: 1,
            bytes: 1,
            swept_at: self.world.clock.now(),
        });
        self.tell(event.clone()).await;
        self.hear_outcome(event).await;
    }

    async fn tell(&self, event: Event) {
        let message = MessageId::new(Uuid::now_v7().to_string());
        let outgoing = Outgoing::new(event, message, self.world.clock.now());
        let _sequence = self.world.bus.publish(outgoing).await.unwrap();
    }

    async fn hear_outcome(&self, event: Event) {
        let outcomes = Outcomes {
            world: self.world.clone(),
        };
        let delivery = Delivery {
            envelope: Envelope {
                id: MessageId::new("x"),
                source: "test".to_owned(),
                time: self.world.clock.now(),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: event,
            },
            sequence: Sequence(1),
            attempt: 1,
            last_attempt: false,
            progress: Progress::default(),
        };
        assert_eq!(outcomes.handle(&delivery).await, bus::Outcome::Done);
    }

    async fn backups(&self) -> Vec<u64> {
        let backups = self.branch().list_backups().await.unwrap();
        let numbers = backups
            .iter()
            .map(|id| u64::try_from(id.0.as_u128()).unwrap());
        numbers.collect()
    }

    async fn segments(&self) -> Vec<u64> {
        let listed = self.branch().list_wal(size()).await.unwrap();
        let numbers = listed.iter().filter_map(|object| match object.kind {
            repository::WalObjectKind::Segment(name) => Some(name.number(size())),
            _ => None,
        });
        numbers.collect()
    }

    async fn mark_as(&self, number: u64, mark: BackupMark) {
        let branch = self.branch();
        let read = branch.mark(id(number)).await.unwrap();
        let put = branch.put_mark(id(number), &mark, &read).await.unwrap();
        assert!(matches!(put, PutMark::Written(_)));
    }

    async fn explain(&self, at: Option<Timestamp>) -> BranchRetention {
        let question = RetentionQuestion {
            instance: instance(),
            at,
        };
        let answer = crate::retention::answer(&self.world, question)
            .await
            .unwrap();
        answer
            .branches
            .into_iter()
            .find(|one| one.branch == main())
            .unwrap()
    }

    async fn count(&self, type_name: &str) -> usize {
        let types = self.types().await;
        types.into_iter().filter(|one| *one == type_name).count()
    }
}

fn due(at: Timestamp) -> BackupMark {
    BackupMark {
        deletion: Some(Deletion {
            by: DeletedBy::User,
            asked_at: at,
            delete_after: at,
        }),
        ..BackupMark::default()
    }
}

fn held() -> BackupMark {
    BackupMark {
        hold: Some(Hold {
            reason: None,
            since: day(0),
        }),
        ..BackupMark::default()
    }
}

#[tokio::test]
async fn what_expires_is_marked_and_goes_after_the_grace() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(7), None).await;
    place.at(5);
    rounds.round(&instance()).await;
    assert_eq!(place.types().await, Vec::<&str>::new());
    // The first has expired.
    place.at(8);
    let foretold = place.explain(None).await;
    rounds.round(&instance()).await;
    rounds.round(&instance()).await;
    place.rounds().round(&instance()).await;
    assert_eq!(place.types().await, ["backup.updated"]);
    assert_eq!(place.backups().await, [1, 2, 3, 4]);
    assert_eq!(foretold.backups.last().unwrap().until, Some(day(9)));
    let later = place.explain(Some(day(9))).await;
    assert_eq!(later.backups.last().unwrap().fate, Fate::Gone);
    // Its time of grace is over, and the second has expired.
    place.at(9);
    rounds.round(&instance()).await;
    rounds.round(&instance()).await;
    let (updated, requested) = ("backup.updated", "branch.sweep_requested");
    assert_eq!(place.types().await, [updated, updated, requested]);
    assert_eq!(place.document().await.sweeps.len(), 1);
    assert_eq!(place.work().await, 1);
    assert!(place.document().await.sweeps.is_empty());
    assert_eq!(place.backups().await, [2, 3, 4]);
    assert_eq!(place.segments().await, (20..50).collect::<Vec<_>>());
    let gone = later.wal.iter().filter(|one| one.fate == Fate::Gone);
    assert_eq!(gone.map(|one| one.segments).sum::<u64>(), 10);
    // The newest stays, however old it is.
    for number in 10..400 {
        place.at(number);
        rounds.round(&instance()).await;
        let _ = place.work().await;
    }
    assert_eq!(place.backups().await, [4]);
    assert_eq!(place.segments().await, (40..50).collect::<Vec<_>>());
    let now = place.explain(None).await;
    assert_eq!((now.backups[0].fate, now.going_bytes), (Fate::Keep, 0));
}

#[tokio::test]
async fn a_yearly_archive_does_not_pin_a_year_of_wal() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 1, Some(365), Some(7)).await;
    place.days(2, 30, Some(7), None).await;
    for number in 2..=31 {
        place.at(number);
        rounds.round(&instance()).await;
        let _ = place.work().await;
    }
    assert_eq!(place.backups().await, [1, 24, 25, 26, 27, 28, 29, 30]);
    let expected: Vec<u64> = std::iter::once(10).chain(240..310).collect();
    assert_eq!(place.segments().await, expected);
}

#[tokio::test]
async fn a_sweep_that_was_claimed_and_not_asked_for_goes_on() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(7), None).await;
    place.at(8);
    rounds.round(&instance()).await;
    place.at(9);
    let sweep = sweep_of(&[1]);
    place
        .want(|document| drop(document.sweeps.insert(main(), sweep.clone())))
        .await;
    // Three replicas, one of them late.
    let others = [place.rounds(), place.rounds(), rounds];
    let name = instance();
    let all = others.iter().map(|rounds| rounds.round(&name));
    let _ = futures::future::join_all(all).await;
    assert_eq!(place.count("branch.sweep_requested").await, 1);
    assert_eq!(place.work().await, 1);
    assert_eq!(place.backups().await, [2, 3]);
    // The end was heard by nobody.
    place
        .want(|document| drop(document.sweeps.insert(main(), sweep.clone())))
        .await;
    place.rounds().round(&instance()).await;
    assert!(place.document().await.sweeps.is_empty());
}

fn sweep_of(numbers: &[u64]) -> Sweep {
    Sweep {
        sweep_id: SweepId(Uuid::from_u128(77)),
        asked_at: day(9),
        backups: numbers.iter().map(|number| id(*number)).collect(),
        wal: Vec::new(),
        histories: Vec::new(),
    }
}

#[tokio::test]
async fn a_hold_or_an_undo_before_the_request_withdraws_the_sweep() {
    for mark in [held(), BackupMark::default()] {
        let (place, rounds) = Place::retained().await;
        place.days(1, 3, Some(30), None).await;
        place.at(9);
        for number in [1, 2] {
            place.mark_as(number, due(day(8))).await;
        }
        let sweep = sweep_of(&[1, 2]);
        place
            .want(|document| drop(document.sweeps.insert(main(), sweep.clone())))
            .await;
        place.mark_as(2, mark).await;
        rounds.branch(&instance(), &main()).await.unwrap();
        assert_eq!(place.count("branch.sweep_requested").await, 0);
        assert_eq!(place.count("branch.swept").await, 1);
        assert!(place.document().await.sweeps.is_empty());
        // The other one goes without it.
        rounds.branch(&instance(), &main()).await.unwrap();
        assert_eq!(place.work().await, 1);
        assert_eq!(place.backups().await, [2, 3]);
    }
}

#[tokio::test]
async fn a_sweep_that_was_asked_for_is_not_withdrawn() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(30), None).await;
    place.at(9);
    place.mark_as(1, due(day(8))).await;
    rounds.round(&instance()).await;
    assert_eq!(place.count("branch.sweep_requested").await, 1);
    // Whoever writes this takes it back when the document lists the backup.
    place.mark_as(1, held()).await;
    rounds.round(&instance()).await;
    assert_eq!(place.count("branch.swept").await, 0);
    assert_eq!(place.document().await.sweeps.len(), 1);
}

#[tokio::test]
async fn nothing_goes_while_a_restore_reads_the_branch() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(7), None).await;
    place.at(8);
    rounds.round(&instance()).await;
    place.at(9);
    let restoring = BranchName::new("yesterday").unwrap();
    for source in [Some(main()), None] {
        let claim = Branch::Restoring {
            restore_id: RestoreId(Uuid::from_u128(5)),
            source,
        };
        place
            .want(|document| drop(document.branches.insert(restoring.clone(), claim.clone())))
            .await;
        rounds.round(&instance()).await;
        assert!(place.document().await.sweeps.is_empty());
        let told = place.explain(None).await;
        assert!(told.postponed.unwrap().contains("restore"));
    }
    // A claim between the plan and the sweep's entry is seen by the compare-and-set.
    let planned = sweep_of(&[1]);
    rounds
        .begin_sweep(&instance(), &main(), true, planned)
        .await
        .unwrap();
    assert!(place.document().await.sweeps.is_empty());
    place
        .want(|document| drop(document.branches.remove(&restoring)))
        .await;
    rounds.round(&instance()).await;
    assert_eq!(place.work().await, 1);
}

#[tokio::test]
async fn a_branch_that_is_gone_goes_whole() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(7), None).await;
    place.at(4);
    place
        .want(|document| drop(document.branches.remove(&main())))
        .await;
    for number in 4..14 {
        place.at(number);
        rounds.round(&instance()).await;
        let _ = place.work().await;
    }
    assert_eq!(place.backups().await, Vec::<u64>::new());
    assert_eq!(place.segments().await, Vec::<u64>::new());
}

#[tokio::test]
async fn of_an_instance_that_is_removed_nothing_goes() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(7), None).await;
    place.at(100);
    place.want(|document| document.removing = true).await;
    rounds.round(&instance()).await;
    assert_eq!(place.types().await, Vec::<&str>::new());
}

#[tokio::test]
async fn a_mark_that_was_not_told_is_told_by_the_next_round() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(7), None).await;
    place.at(8);
    let mark = BackupMark {
        deletion: Some(Deletion {
            by: DeletedBy::Retention,
            asked_at: day(8),
            delete_after: day(9),
        }),
        ..BackupMark::default()
    };
    place.mark_as(1, mark.clone()).await;
    rounds.round(&instance()).await;
    place.rounds().round(&instance()).await;
    let events = place.events().await;
    let [Event::BackupUpdated(updated)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((updated.backup_id, &updated.mark), (id(1), &mark));
}

#[tokio::test]
async fn what_cannot_be_read_stays() {
    let store = Arc::new(InMemory::new());
    let (mut place, _) = Place::retained().await;
    place.world.repository = opened(Arc::clone(&store) as Arc<dyn ObjectStore>);
    place.days(1, 4, Some(7), None).await;
    place.at(9);
    for number in [1, 2] {
        place.mark_as(number, due(day(8))).await;
    }
    let damage = async |number: u64, what: &str| {
        use object_store::ObjectStoreExt as _;
        let key = format!("v1/orders/main/backups/{}/{what}", id(number));
        let _ = store
            .put(&key.as_str().into(), "garbage".into())
            .await
            .unwrap();
    };
    damage(2, "mark").await;
    place.rounds().round(&instance()).await;
    assert_eq!(place.work().await, 1);
    assert_eq!(place.backups().await, [2, 3, 4]);
    damage(3, "manifest").await;
    place.mark_as(4, due(day(8))).await;
    place.at(20);
    place.rounds().round(&instance()).await;
    assert_eq!(place.work().await, 0);
    let told = place.explain(None).await;
    assert!(told.postponed.unwrap().contains("damaged"));
}

fn opened(store: Arc<dyn ObjectStore>) -> Repository {
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    Repository::with_store(store, "", retry)
}

#[tokio::test]
async fn a_quiet_round_costs_one_listing_of_a_branch() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let store = FaultyStore::new(Arc::new(InMemory::new()), move |_, _| {
        let _ = counted.fetch_add(1, Ordering::SeqCst);
        Fault::Pass
    });
    let (mut place, _) = Place::retained().await;
    place.world.repository = opened(Arc::new(store));
    place.days(1, 4, Some(7), None).await;
    place.at(5);
    let rounds = place.rounds();
    rounds.round(&instance()).await;
    let before = calls.load(Ordering::SeqCst);
    for _ in 0..10 {
        rounds.round(&instance()).await;
    }
    // And one for the names of the instance's branches.
    assert_eq!(calls.load(Ordering::SeqCst) - before, 20);
    place.at(8);
    rounds.round(&instance()).await;
    assert_eq!(place.count("backup.updated").await, 1);
}

#[tokio::test]
async fn a_store_that_fails_anywhere_only_delays() {
    let store = Arc::new(InMemory::new());
    let calls = Arc::new(AtomicU64::new(0));
    let (failing, counted) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::clone(&calls));
    let fails = Arc::clone(&failing);
    let faulty = FaultyStore::new(
        Arc::clone(&store) as Arc<dyn ObjectStore>,
        move |operation, _| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            match call == fails.load(Ordering::SeqCst) {
                true if operation == Operation::Put && call.is_multiple_of(2) => {
                    Fault::LoseResponse
                }
                true => Fault::Fail,
                false => Fault::Pass,
            }
        },
    );
    let (mut place, _) = Place::retained().await;
    place.world.repository = opened(Arc::new(faulty));
    place.days(1, 3, Some(7), None).await;
    for (today, expected) in [(8, 1), (9, 2)] {
        place.at(today);
        for number in 0..60 {
            failing.store(calls.load(Ordering::SeqCst) + number, Ordering::SeqCst);
            place.rounds().round(&instance()).await;
        }
        failing.store(u64::MAX, Ordering::SeqCst);
        place.rounds().round(&instance()).await;
        assert_eq!(place.count("backup.updated").await, expected);
    }
    assert_eq!(place.count("branch.sweep_requested").await, 1);
    assert_eq!(place.work().await, 1);
    assert_eq!(place.backups().await, [2, 3]);
}

#[tokio::test]
async fn a_clock_that_is_ahead_takes_only_what_it_marked_and_never_the_newest() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(7), None).await;
    // By this replica it is a day later than it is; the other one has the time.
    let step = |ahead: bool, hour: i64| {
        let skew = TimeDelta::days(i64::from(ahead));
        place.clock.set(day(5) + TimeDelta::hours(hour) + skew);
    };
    let true_one = place.rounds();
    for hour in 0..24 * 30 {
        step(true, hour);
        rounds.round(&instance()).await;
        step(false, hour);
        true_one.round(&instance()).await;
        let _ = place.work().await;
        // Not before it was marked for the whole grace, which the one that is ahead did a day early.
        let early = day(5) + TimeDelta::hours(hour);
        let left = place.backups().await;
        assert!(left.contains(&4));
        for number in 1..=3 {
            let end = day(number + 7);
            assert!(left.contains(&u64::try_from(number).unwrap()) || early >= end);
        }
    }
    assert_eq!(place.backups().await, [4]);
}

#[tokio::test]
async fn one_of_the_replicas_does_a_round() {
    let (place, rounds) = Place::retained().await;
    let (other, now) = (place.rounds(), day(0));
    assert!(rounds.claim(&instance(), now).await);
    assert!(!other.claim(&instance(), now).await);
    let later = now + TimeDelta::minutes(10);
    let (one, two) = tokio::join!(async { rounds.claim(&instance(), later).await }, async {
        other.claim(&instance(), later).await
    });
    assert!(one ^ two);
    // A clock that was a day ahead holds up nobody.
    place.at(1);
    assert!(rounds.claim(&instance(), day(1)).await);
    place.at(0);
    let next = later + TimeDelta::hours(1);
    place.clock.set(next);
    assert!(other.claim(&instance(), next).await);
}

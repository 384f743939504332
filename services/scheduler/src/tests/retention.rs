//! Rounds of retention on an in-memory bus and repository, with a manual clock; a worker is played by the test.

mod clocks;
mod kept;
mod leftovers;
mod place;
mod purge;
mod requests;
mod second_look;
mod withdrawn;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::TimeDelta;
use events::document::{Branch, Sweep};
use events::mark::{BackupMark, DeletedBy, Deletion, Hold};
use events::retention_plan::Fate;
use events::{BranchName, Event, RestoreId, SweepId, Timestamp};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use repository::faulty::{Fault, FaultyStore, Operation};
use repository::{Repository, RetryPolicy};
use uuid::Uuid;

use self::place::{day, id, main};
use super::{Place, instance};

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
async fn a_manual_backup_counts_until_it_is_marked_or_has_expired() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(7), None).await;
    let counted = async || {
        let places = place.document().await.manual_backups.into_keys();
        places.collect::<Vec<_>>()
    };
    place.at(5);
    rounds.round(&instance()).await;
    assert_eq!(counted().await, [1, 2, 3].map(id), "places that were lost");
    place.at(8);
    rounds.round(&instance()).await;
    assert_eq!(counted().await, [2, 3].map(id), "the first is marked");
    // Swept, and nobody heard of it.
    place.sweep_away(id(2)).await;
    rounds.round(&instance()).await;
    assert_eq!(counted().await, [id(3)]);
    // The newest stays, and counts as long as it was to.
    place.at(10);
    rounds.round(&instance()).await;
    assert_eq!(counted().await, []);
    assert_eq!(place.backups().await, [1, 3]);
    let mirrored = place.world.repository.instance(&instance()).await.unwrap();
    assert!(mirrored.manual_backups.is_empty());
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
        leftovers: Vec::new(),
        hollow: false,
        purge: false,
        withdrawn_at: None,
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
async fn a_sweep_that_nobody_ends_is_asked_for_again_after_a_while() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 3, Some(30), None).await;
    place.at(9);
    place.mark_as(1, due(day(8))).await;
    rounds.round(&instance()).await;
    let asked = async || place.count("branch.sweep_requested").await;
    assert_eq!(asked().await, 1);
    // The request was lost. Two replicas see it, once in each six hours.
    for (hours, expected) in [(5, 1), (6, 2), (11, 2), (12, 3)] {
        place.clock.set(day(9) + TimeDelta::hours(hours));
        let (one, two, name) = (place.rounds(), place.rounds(), instance());
        tokio::join!(one.round(&name), two.round(&name));
        assert_eq!(asked().await, expected, "after {hours} hours");
    }
    let requests = place
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::BranchSweepRequested(request) => Some(request),
            _ => None,
        });
    let requests: Vec<_> = requests.collect();
    assert!(requests.iter().all(|request| *request == requests[0]));
    place.sweep(&requests[2]).await;
    assert!(place.document().await.sweeps.is_empty());
    assert_eq!(place.backups().await, [2, 3]);
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

//! What is found, begun or lost between a plan and its sweep.

use chrono::TimeDelta;
use events::document::{Branch, RunningDrill, Sweep, WalStretch};
use events::event::{
    BackupPhase, BackupProgressed, BackupStarted, BackupVerified, BranchDeleted, WalPoint,
};
use events::retention_plan::Fate;
use events::slot::{BackupSlot, backup_slot};
use events::{DrillId, Event, topology};
use pg_format::{Lsn, TimelineId};
use uuid::Uuid;

use super::super::{Place, command_id, instance};
use super::place::{day, id, main};
use super::sweep_of;

const MIB: u64 = 1 << 20;

pub(super) fn verified(number: u64, sound: bool, at: i64) -> Event {
    Event::BackupVerified(BackupVerified {
        backup_id: id(number),
        instance: instance(),
        branch: main(),
        command_id: command_id(1),
        sound,
        problems: Vec::new(),
        files: 1,
        bytes: 1,
        verified_at: day(at),
        duration_ms: 1,
    })
}

fn wal_of(first: u64, after: u64) -> Sweep {
    Sweep {
        wal: vec![WalStretch {
            timeline: TimelineId(1),
            from_lsn: Lsn(first * MIB),
            to_lsn: Lsn(after * MIB),
        }],
        ..sweep_of(&[])
    }
}

impl Place {
    /// Another backup is asked for and begun.
    async fn take_slot(&self, number: u64) {
        let slot = BackupSlot {
            backup_id: id(number),
            claimed_at: day(0),
        };
        let slots = self.world.bus.bucket(topology::SLOTS);
        let value = serde_json::to_vec(&slot).unwrap();
        let key = backup_slot(&instance(), &main());
        let _revision = slots.create(&key, value).await.unwrap();
        self.tell(Event::BackupStarted(BackupStarted {
            backup_id: id(number),
            instance: instance(),
            branch: main(),
            worker: "w".to_owned(),
            attempt: "a".to_owned(),
            started_at: day(0),
        }))
        .await;
    }

    async fn begins_at(&self, number: u64, segment: u64) {
        self.tell(Event::BackupProgressed(BackupProgressed {
            backup_id: id(number),
            instance: instance(),
            branch: main(),
            phase: BackupPhase::Copying,
            done_bytes: 0,
            total_bytes: 1,
            start: Some(WalPoint {
                timeline: TimelineId(1),
                lsn: Lsn(segment * MIB + 40),
            }),
            problem: None,
        }))
        .await;
    }

    async fn stands(&self, sweep: &Sweep) {
        self.want(|document| drop(document.sweeps.insert(main(), sweep.clone())))
            .await;
    }
}

#[tokio::test]
async fn a_live_branch_does_not_rely_on_what_was_found_damaged() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(7), None).await;
    place.hear_outcome(verified(4, false, 5)).await;
    // Older news, heard late.
    place.hear_outcome(verified(4, true, 4)).await;
    // Of a backup that is not there nothing is kept.
    place.hear_outcome(verified(9, false, 5)).await;
    assert!(!place.branch().mark(id(9)).await.unwrap().mark.is_damaged());
    for number in 5..40 {
        place.at(number);
        rounds.round(&instance()).await;
        let _ = place.work().await;
    }
    assert_eq!(place.backups().await, [3]);
    assert_eq!(place.segments().await, (30..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_sound_backup_before_a_damaged_one_stays_while_that_promises_moments() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(7), None).await;
    place.hear_outcome(verified(2, false, 5)).await;
    let kept: [(i64, &[u64]); 5] = [
        (8, &[1, 2, 3, 4]),
        (9, &[1, 2, 3, 4]),
        // What the damaged one promised is over, and so is its time of grace; now the other's begins.
        (10, &[1, 3, 4]),
        (11, &[4]),
        (40, &[4]),
    ];
    for (today, expected) in kept {
        place.at(today);
        let told = place.explain(None).await;
        if today < 10 {
            let why = told.backups.last().unwrap().reasons.join(" ");
            assert!(why.contains("was found damaged"), "{why}");
            assert!(why.contains(&id(2).to_string()), "{why}");
            assert_eq!(told.earliest, Some(day(1)));
        }
        rounds.round(&instance()).await;
        let _ = place.work().await;
        assert_eq!(place.backups().await, expected, "day {today}");
        if expected.contains(&1) {
            assert_eq!(place.segments().await, (10..50).collect::<Vec<_>>());
        }
    }
    assert_eq!(place.segments().await, (40..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_found_damaged_and_then_sound_is_relied_on() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(7), None).await;
    place.hear_outcome(verified(4, false, 5)).await;
    let told = place.explain(None).await;
    let why = told.backups[0].reasons.join(" ");
    assert!(why.contains("damaged"), "{why}");
    place.hear_outcome(verified(4, true, 6)).await;
    for number in 5..40 {
        place.at(number);
        rounds.round(&instance()).await;
        let _ = place.work().await;
    }
    assert_eq!(place.backups().await, [4]);
}

#[tokio::test]
async fn wal_goes_a_time_of_grace_after_what_was_promised() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(30), Some(7)).await;
    let told = place.explain(None).await;
    assert_eq!(told.backups.last().unwrap().wal_until, Some(day(9)));
    // A clock that is half a day ahead.
    place.clock.set(day(8) + TimeDelta::hours(12));
    rounds.round(&instance()).await;
    assert!(place.document().await.sweeps.is_empty());
    place.at(9);
    rounds.round(&instance()).await;
    assert_eq!(place.work().await, 1);
    let expected: Vec<u64> = std::iter::once(10).chain(20..50).collect();
    assert_eq!(place.segments().await, expected);
}

#[tokio::test]
async fn a_backup_that_began_meanwhile_withdraws_the_sweep_of_wal() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(30), Some(7)).await;
    place.at(9);
    place.stands(&wal_of(11, 20)).await;
    place.take_slot(9).await;
    rounds.branch(&instance(), &main()).await.unwrap();
    assert_eq!(place.count("branch.sweep_requested").await, 0);
    assert!(place.document().await.sweeps.is_empty());
    // It began in the middle, on a standby that lags.
    place.begins_at(9, 15).await;
    rounds.branch(&instance(), &main()).await.unwrap();
    assert_eq!(place.work().await, 1);
    let expected: Vec<u64> = std::iter::once(10).chain(15..50).collect();
    assert_eq!(place.segments().await, expected);
}

#[tokio::test]
async fn a_slot_that_cannot_be_read_is_a_backup_of_which_nothing_is_known() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(30), Some(7)).await;
    let slots = place.world.bus.bucket(topology::SLOTS);
    let key = backup_slot(&instance(), &main());
    let _revision = slots.create(&key, b"?".to_vec()).await.unwrap();
    place.at(9);
    rounds.branch(&instance(), &main()).await.unwrap();
    assert!(place.document().await.sweeps.is_empty());
    let told = place.explain(None).await;
    assert!(told.wal.iter().any(|one| one.fate == Fate::Postponed));
}

/// Without the bucket nobody knows which backup of a lagging standby begins in old WAL.
#[tokio::test]
async fn while_the_slots_are_lost_every_branch_may_have_a_backup_under_way() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(30), Some(7)).await;
    place.at(9);
    let slots = place.world.bus.bucket(topology::SLOTS);
    let (_, revision) = slots.get("whole").await.unwrap().unwrap();
    slots.delete("whole", revision).await.unwrap();
    rounds.branch(&instance(), &main()).await.unwrap();
    assert!(place.document().await.sweeps.is_empty());
    let told = place.explain(None).await;
    assert!(told.wal.iter().any(|one| one.fate == Fate::Postponed));
    // What runs is known again.
    place.world.recover_slots().await.unwrap();
    rounds.branch(&instance(), &main()).await.unwrap();
    assert_eq!(place.work().await, 1);
}

#[tokio::test]
async fn a_recalled_sweep_is_finished_if_all_that_is_left_of_it_may_go() {
    let recalled = async |sweep: Sweep| {
        let (place, rounds) = Place::retained().await;
        place.days(1, 4, Some(30), Some(7)).await;
        place.at(9);
        let mut mirrored = place.document().await;
        let _ = mirrored.sweeps.insert(main(), sweep);
        mirrored.running_drill = Some(RunningDrill {
            drill_id: DrillId(Uuid::from_u128(5)),
            branch: main(),
            since: day(8),
        });
        let repository = &place.world.repository;
        repository.put_instance(&mirrored).await.unwrap();
        let (instances, name) = (place.world.bus.instances(), instance());
        let gone = instances.update(&name, |_| bus::Decision::Remove(()));
        gone.await.unwrap();
        crate::recall::recall_documents(&place.world).await.unwrap();
        let document = place.document().await;
        assert_eq!((document.sweeps.len(), document.running_drill), (1, None));
        rounds.branch(&instance(), &main()).await.unwrap();
        (place.work().await, place)
    };
    // The first backup's own segment is in it.
    let (done, place) = recalled(wal_of(5, 15)).await;
    assert_eq!(
        (done, place.segments().await.len()),
        (0, 40),
        "10 is needed"
    );
    assert!(place.document().await.sweeps.is_empty());
    // Nobody needs what is left.
    let (done, place) = recalled(wal_of(11, 20)).await;
    assert_eq!((done, place.segments().await.len()), (1, 31));
}

#[tokio::test]
async fn a_branch_that_is_forgotten_takes_its_sweep_along() {
    let (place, rounds) = Place::retained().await;
    place.days(1, 4, Some(30), Some(7)).await;
    place.at(9);
    rounds.branch(&instance(), &main()).await.unwrap();
    assert_eq!(place.document().await.sweeps.len(), 1);
    place
        .want(|document| {
            let branch = document.branches.remove(&main()).unwrap();
            let Branch::Active(active) = branch else {
                panic!("{branch:?}");
            };
            let _ = document.branches.insert(main(), Branch::Deleting(active));
        })
        .await;
    let deleted = Event::BranchDeleted(BranchDeleted {
        instance: instance(),
        branch: main(),
        restore_id: None,
    });
    place.hear_outcome(deleted).await;
    let document = place.document().await;
    assert!(document.branches.is_empty() && document.sweeps.is_empty());
    // The request is still there, and the worker finds it listed nowhere.
    assert_eq!(place.work().await, 0);
}

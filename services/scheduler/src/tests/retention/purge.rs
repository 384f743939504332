//! A branch that was deleted before, purged by a command; and what is said of its name before that.

use bus::{Outcome, Revision};
use bytes::Bytes;
use chrono::TimeDelta;
use events::command::{BranchDelete, RestoreCreate};
use events::document::{Branch, RunningDrill};
use events::event::{RefusalCode, Refused};
use events::mark::BackupMark;
use events::slot::{BackupSlot, backup_slot};
use events::{
    BackupSummary, BranchName, ClusterSize, Command, DrillId, Event, RestoreId, RestoreTarget,
    example, topology,
};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineId};
use repository::{BackupOptions, BranchRecord, BranchWriter};
use uuid::Uuid;

use super::super::{Place, command_id, instance};
use super::place::{day, id, main, size};
use crate::retention::Rounds;

const MIB: u64 = 1 << 20;

fn old() -> BranchName {
    BranchName::new("old").unwrap()
}

fn delete(purge: bool) -> Command {
    Command::BranchDelete(BranchDelete {
        instance: instance(),
        branch: old(),
        purge,
    })
}

fn restore() -> Command {
    Command::RestoreCreate(RestoreCreate {
        instance: instance(),
        source_branch: main(),
        branch: old(),
        target: RestoreTarget::Latest,
        size: ClusterSize::Small,
        keep_passwords: false,
    })
}

impl Place {
    fn old(&self) -> BranchWriter {
        self.world.repository.writer(&instance(), &old())
    }

    async fn claim_old(&self) {
        let record = BranchRecord {
            instance: instance(),
            branch: old(),
            system_identifier: SystemIdentifier(7),
            server_version: 180_000,
            wal_segment_size: size(),
            parent: None,
            created_at: day(0),
        };
        let _ = self.old().claim_branch(&record).await.unwrap();
    }

    /// A backup of the branch, kept for a week, and its WAL.
    async fn back_up_old(&self, number: u64) {
        let branch = self.old();
        let name = SegmentName::new(TimelineId(1), number, size());
        let raw = Bytes::from(vec![0; usize::try_from(MIB).unwrap()]);
        let _ = branch.put_segment(name, raw).await.unwrap();
        let stored = branch.begin_backup(id(number), "a", BackupOptions::default());
        let stored = stored.unwrap().finish().await.unwrap();
        let summary = BackupSummary {
            backup_id: id(number),
            instance: instance(),
            branch: old(),
            requested_at: day(1),
            backed_up_at: day(1),
            expires_at: Some(day(8)),
            wal_until: None,
            start_lsn: Lsn(number * MIB + 40),
            stop_lsn: Lsn(number * MIB + 1000),
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
    }

    /// The branch was deleted, and two backups of it are there.
    async fn with_old() -> (Self, Rounds) {
        let (place, rounds) = Place::retained().await;
        place.days(1, 1, Some(300), None).await;
        place.claim_old().await;
        place.back_up_old(61).await;
        place.back_up_old(62).await;
        place.at(2);
        (place, rounds)
    }

    async fn command(&self, number: u128, attempt: u64, command: Command) {
        let outcome = self.deliver(command_id(number), attempt, command).await;
        assert_eq!(outcome, Outcome::Done);
    }

    async fn refusal(&self) -> Refused {
        match self.events().await.pop() {
            Some(Event::RestoreRefused(refused) | Event::BranchRefused(refused)) => refused,
            other => panic!("{other:?} is not a refusal"),
        }
    }

    async fn is_stored(&self) -> bool {
        !self.old().find_all().await.unwrap().is_nothing()
    }

    async fn take_slot_of_old(&self) -> Revision {
        let slot = BackupSlot {
            backup_id: id(63),
            claimed_at: day(2),
        };
        let slots = self.world.bus.bucket(topology::SLOTS);
        let key = backup_slot(&instance(), &old());
        let value = serde_json::to_vec(&slot).unwrap();
        slots.create(&key, value).await.unwrap()
    }
}

#[tokio::test]
async fn a_branch_that_was_deleted_before_is_purged_once_however_often_it_is_said() {
    let (place, rounds) = Place::with_old().await;
    // Holds do not count, as for a branch that is purged with its server.
    let branch = place.old();
    let read = branch.mark(id(61)).await.unwrap();
    let mark = BackupMark {
        hold: super::held().hold,
        ..BackupMark::default()
    };
    let _ = branch.put_mark(id(61), &mark, &read).await.unwrap();
    for attempt in 1..=2 {
        place.command(1, attempt, delete(true)).await;
    }
    assert_eq!(place.count("branch.sweep_requested").await, 1);
    let sweep = place.document().await.sweeps[&old()].clone();
    assert!(sweep.purge && sweep.backups.len() == 2 && sweep.wal.len() == 1);
    // Nobody has the name meanwhile, and the rounds let it be.
    place.command(2, 1, restore()).await;
    let refused = place.refusal().await;
    assert_eq!(refused.code, RefusalCode::NameTaken);
    assert!(refused.message.contains("is being removed"), "{refused:?}");
    rounds.round(&instance()).await;
    place.command(3, 1, delete(true)).await;
    assert!(
        place
            .refusal()
            .await
            .message
            .contains("is being removed; that takes a moment")
    );
    assert_eq!(place.work().await, 1);
    assert!(!place.is_stored().await && place.document().await.sweeps.is_empty());

    // The name is another branch's, when the command comes once more.
    place.command(4, 1, restore()).await;
    assert!(place.document().await.branches.contains_key(&old()));
    place
        .want(|document| drop(document.branches.remove(&old())))
        .await;
    place.claim_old().await;
    place.back_up_old(71).await;
    place.command(1, 3, delete(true)).await;
    rounds.round(&instance()).await;
    assert_eq!(place.work().await, 0);
    assert_eq!(place.old().list_backups().await.unwrap(), [id(71)]);
}

#[tokio::test]
async fn a_scheduler_that_died_in_between_is_followed_by_the_next_delivery_or_round() {
    for by_round in [false, true] {
        let (place, rounds) = Place::with_old().await;
        place.command(1, 1, delete(true)).await;
        let sweep = place.document().await.sweeps[&old()].clone();
        let (other, rounds_of_other) = Place::with_old().await;
        other
            .want(|document| drop(document.sweeps.insert(old(), sweep.clone())))
            .await;
        match by_round {
            true => rounds_of_other.round(&instance()).await,
            false => other.command(1, 2, delete(true)).await,
        }
        assert_eq!(other.count("branch.sweep_requested").await, 1);
        assert_eq!(other.work().await, 1);
        assert!(!other.is_stored().await);
        drop(rounds);
    }
}

#[tokio::test]
async fn what_somebody_uses_or_nobody_has_is_not_purged() {
    let (place, _) = Place::with_old().await;
    let revision = place.take_slot_of_old().await;
    place.command(1, 1, delete(true)).await;
    let refused = place.refusal().await;
    assert!(refused.message.contains("has not ended"), "{refused:?}");
    let slots = place.world.bus.bucket(topology::SLOTS);
    let key = backup_slot(&instance(), &old());
    slots.release(&key, revision).await.unwrap();
    place
        .want(|document| {
            document.running_drill = Some(RunningDrill {
                drill_id: DrillId(Uuid::from_u128(5)),
                branch: old(),
                since: day(1),
            });
        })
        .await;
    place.command(2, 1, delete(true)).await;
    assert!(place.refusal().await.message.contains("reads branch old"));
    place.want(|document| document.running_drill = None).await;
    let nobody = Command::BranchDelete(BranchDelete {
        instance: instance(),
        branch: BranchName::new("nobody").unwrap(),
        purge: true,
    });
    place.command(3, 1, nobody).await;
    assert_eq!(place.refusal().await.code, RefusalCode::NotFound);
    let main = Command::BranchDelete(BranchDelete {
        instance: instance(),
        branch: main(),
        purge: true,
    });
    place.command(4, 1, main).await;
    assert!(place.refusal().await.message.contains("never deletes it"));
    assert!(place.document().await.sweeps.is_empty());
    assert_eq!(place.old().list_backups().await.unwrap().len(), 2);
}

#[tokio::test]
async fn wal_without_a_backup_goes_with_it() {
    let (place, _) = Place::retained().await;
    place.days(1, 1, Some(300), None).await;
    place.claim_old().await;
    let name = SegmentName::new(TimelineId(1), 5, size());
    let raw = Bytes::from(vec![0; usize::try_from(MIB).unwrap()]);
    let _ = place.old().put_segment(name, raw).await.unwrap();
    place.command(1, 1, restore()).await;
    let refused = place.refusal().await;
    assert_eq!(refused.code, RefusalCode::NameTaken);
    place.command(2, 1, delete(true)).await;
    assert_eq!(place.work().await, 1);
    assert!(!place.is_stored().await);
    place.command(3, 1, restore()).await;
    assert!(place.document().await.branches.contains_key(&old()));
}

#[tokio::test]
async fn who_wants_the_name_is_told_until_when_it_is_taken_and_how_it_is_free() {
    let (place, _) = Place::with_old().await;
    place.command(1, 1, restore()).await;
    let refused = place.refusal().await;
    assert_eq!(refused.code, RefusalCode::NameTaken);
    // A week after the backup's end, and a day of grace.
    for part in ["2 backups", "until 2026-01-10 00:00 UTC"] {
        assert!(refused.message.contains(part), "{refused:?}");
    }
    let purge = "`zektor branch delete orders old --purge`";
    assert!(refused.hint.contains(purge), "{refused:?}");
    // Deleted once more without its backups: it is gone already.
    place.command(2, 1, delete(false)).await;
    let refused = place.refusal().await;
    assert_eq!(refused.code, RefusalCode::NotFound);
    for part in ["is deleted already", "2026-01-10"] {
        assert!(refused.message.contains(part), "{refused:?}");
    }
    assert!(refused.hint.contains(purge), "{refused:?}");
    // While its server goes, it is being removed.
    let active = place.document().await.branches[&main()].clone();
    let Branch::Active(active) = active else {
        panic!("{active:?}");
    };
    place
        .want(|document| {
            drop(
                document
                    .branches
                    .insert(old(), Branch::Deleting(active.clone())),
            )
        })
        .await;
    place.command(3, 1, restore()).await;
    let refused = place.refusal().await;
    assert!(refused.message.contains("is being removed"), "{refused:?}");
    assert!(refused.hint.contains("in a moment"), "{refused:?}");
}

/// A deletion that comes again late must not meet the next branch of the name.
#[tokio::test]
async fn a_deletion_that_was_told_is_not_told_of_the_next_branch() {
    let (place, _) = Place::retained().await;
    let active = place.document().await.branches[&main()].clone();
    let restored = async || {
        place
            .want(|document| drop(document.branches.insert(old(), active.clone())))
            .await;
    };
    restored().await;
    place.command(1, 1, delete(true)).await;
    place
        .want(|document| drop(document.branches.remove(&old())))
        .await;
    restored().await;
    place.command(1, 2, delete(true)).await;
    let branch = place.document().await.branches[&old()].clone();
    assert!(matches!(branch, Branch::Active(_)), "{branch:?}");
}

#[tokio::test]
async fn of_branches_that_are_gone_is_told_after_those_that_are_there() {
    let (place, _) = Place::with_old().await;
    let question = events::retention_plan::RetentionQuestion {
        instance: instance(),
        at: None,
    };
    place
        .want(|document| {
            let restoring = Branch::Restoring {
                restore_id: RestoreId(Uuid::from_u128(5)),
                source: Some(main()),
            };
            drop(
                document
                    .branches
                    .insert(BranchName::new("later").unwrap(), restoring),
            );
        })
        .await;
    // By name it would stand before main.
    let archived = BranchName::new("archived").unwrap();
    let record = BranchRecord {
        instance: instance(),
        branch: archived.clone(),
        system_identifier: SystemIdentifier(7),
        server_version: 180_000,
        wal_segment_size: size(),
        parent: None,
        created_at: day(0),
    };
    let writer = place.world.repository.writer(&instance(), &archived);
    let _ = writer.claim_branch(&record).await.unwrap();
    let packs = writer.begin_backup(id(5), "a", BackupOptions::default());
    let _never_committed = packs.unwrap().finish().await.unwrap();
    let told = crate::retention::answer(&place.world, question)
        .await
        .unwrap();
    let names: Vec<_> = told
        .branches
        .iter()
        .map(|one| one.branch.as_str())
        .collect();
    assert_eq!(names, ["main", "archived", "old"]);
    let grace = TimeDelta::days(1);
    assert!(told.branches[2].backups[0].until.unwrap() + grace <= day(9));
}

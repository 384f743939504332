//! What is wanted of stored backups: renamed, kept, held, deleted, kept after all, beside sweeps.

mod untold;

use std::sync::Arc;
use std::time::Duration;

use bus::Outcome;
use chrono::TimeDelta;
use events::command::{
    BackupDelete, BackupHold, BackupRelease, BackupUndelete, BackupUpdate, ScheduleDelete,
};
use events::document::Sweep;
use events::event::{BackupRequested, BackupUpdated, RefusalCode, Refused};
use events::mark::{BackupMark, DeletedBy, Deletion, Expiry, Hold};
use events::{
    BackupId, BackupType, BranchName, Command, Event, InstanceDocument, SweepId, Trigger, WalKeep,
    example,
};

use super::firing::{document, registered};
use super::{Place, command_id, instance};
use crate::config::SchedulerConfig;

const START: &str = "2026-01-01T00:00:00Z";
const DAY: TimeDelta = TimeDelta::days(1);

fn id(number: u128) -> BackupId {
    BackupId(command_id(number).0)
}

fn hold(backup_id: BackupId, reason: Option<&str>) -> Command {
    Command::BackupHold(BackupHold {
        instance: instance(),
        branch: BranchName::main(),
        backup_id,
        reason: reason.map(str::to_owned),
    })
}

fn release(backup_id: BackupId) -> Command {
    Command::BackupRelease(BackupRelease {
        instance: instance(),
        branch: BranchName::main(),
        backup_id,
    })
}

fn delete(backup_id: BackupId) -> Command {
    Command::BackupDelete(BackupDelete {
        instance: instance(),
        branch: BranchName::main(),
        backup_id,
    })
}

fn undelete(backup_id: BackupId, retention: Option<&str>) -> Command {
    Command::BackupUndelete(BackupUndelete {
        instance: instance(),
        branch: BranchName::main(),
        backup_id,
        retention: retention.map(|text| text.parse().unwrap()),
    })
}

fn update(backup_id: BackupId) -> BackupUpdate {
    BackupUpdate {
        instance: instance(),
        branch: BranchName::main(),
        backup_id,
        name: None,
        retention: None,
        forever: false,
    }
}

impl Place {
    /// With one manual backup, which is completed and has its place.
    async fn with_backup() -> Place {
        let place = Place::new(START);
        let mut document = document(START.parse().unwrap());
        let summary = place.complete(id(100), Trigger::Manual).await;
        let counted = events::document::ManualBackup {
            branch: BranchName::main(),
            requested_at: summary.requested_at,
        };
        let _none = document.manual_backups.insert(id(100), counted);
        registered(&place, &document).await;
        place
    }

    async fn mark(&self) -> BackupMark {
        let repository = &self.world.repository;
        let reader = repository.reader(&instance(), &BranchName::main());
        reader.mark(id(100)).await.unwrap().mark
    }

    async fn done(&self, number: u128, command: Command) -> BackupUpdated {
        let outcome = self.deliver(command_id(number), 1, command).await;
        assert_eq!(outcome, Outcome::Done);
        match self.events().await.pop() {
            Some(Event::BackupUpdated(updated)) => {
                assert_eq!(updated.mark, self.mark().await, "all of it is told");
                updated
            }
            other => panic!("{other:?}"),
        }
    }

    async fn not_done(&self, number: u128, command: Command) -> Refused {
        let outcome = self.deliver(command_id(number), 1, command).await;
        assert_eq!(outcome, Outcome::Done);
        match self.events().await.pop() {
            Some(Event::BackupRefused(refused)) => {
                assert_eq!(refused.command_id, command_id(number));
                assert!(!refused.hint.is_empty());
                refused
            }
            other => panic!("{other:?}"),
        }
    }

    async fn has_place(&self) -> bool {
        let document = self.world.bus.instances().get(&instance()).await.unwrap();
        document.unwrap().0.manual_backups.contains_key(&id(100))
    }

    async fn set_sweep(&self, backups: Option<Vec<BackupId>>) {
        let change = |document: Option<&InstanceDocument>| {
            let mut document = document.unwrap().clone();
            let main = BranchName::main();
            match backups.clone() {
                None => drop(document.sweeps.remove(&main)),
                Some(backups) => {
                    let sweep = Sweep {
                        sweep_id: SweepId(uuid::Uuid::from_u128(1)),
                        asked_at: example::at(0),
                        backups,
                        wal: Vec::new(),
                        histories: Vec::new(),
                        leftovers: Vec::new(),
                        hollow: false,
                        purge: false,
                        withdrawn_at: None,
                    };
                    drop(document.sweeps.insert(main, sweep));
                }
            }
            bus::Decision::Put(Box::new(document), ())
        };
        let instances = self.world.bus.instances();
        instances.update(&instance(), change).await.unwrap();
    }
}

#[tokio::test]
async fn a_backup_is_renamed_and_kept_for_another_time() {
    let place = Place::with_backup().await;
    place.clock.set("2026-01-03T00:00:00Z".parse().unwrap());
    let name = BackupUpdate {
        name: Some(" \u{1F980}\"; -- ".to_owned()),
        ..update(id(100))
    };
    let told = place.done(1, Command::BackupUpdate(name)).await;
    assert_eq!(told.mark.name.as_deref(), Some("\u{1F980}\"; --"));
    // From the backup's end, not from now.
    let month = BackupUpdate {
        retention: "30d".parse().ok(),
        ..update(id(100))
    };
    let told = place.done(2, Command::BackupUpdate(month)).await;
    let expires_at = Some("2026-01-31T00:00:00Z".parse().unwrap());
    assert_eq!(told.mark.expiry, Some(Expiry { expires_at }));
    assert!(told.mark.name.is_some());
    let forever = BackupUpdate {
        forever: true,
        ..update(id(100))
    };
    let told = place.done(3, Command::BackupUpdate(forever.clone())).await;
    assert_eq!(told.mark.expiry, Some(Expiry { expires_at: None }));

    let both = BackupUpdate {
        retention: "1d".parse().ok(),
        ..forever
    };
    for (number, command) in [(4, both), (5, update(id(100)))] {
        let refused = place.not_done(number, Command::BackupUpdate(command)).await;
        assert_eq!(refused.code, RefusalCode::Invalid);
    }
    let line = BackupUpdate {
        name: Some("a\nb".to_owned()),
        ..update(id(100))
    };
    let _refused = place.not_done(6, Command::BackupUpdate(line)).await;
}

#[tokio::test]
async fn a_deleted_backup_can_be_had_back_until_the_grace_is_over() {
    let place = Place::with_backup().await;
    let told = place.done(1, delete(id(100))).await;
    let now = place.world.clock.now();
    let deletion = Deletion {
        by: DeletedBy::User,
        asked_at: now,
        delete_after: now + DAY,
    };
    assert_eq!(told.mark.deletion, Some(deletion));
    assert!(!place.has_place().await);
    // Deleted again, it goes no later.
    place.clock.set(now + TimeDelta::hours(1));
    assert_eq!(
        place.done(2, delete(id(100))).await.mark.deletion,
        Some(deletion)
    );
    // What is to go is neither kept longer nor held; it is first had back.
    let longer = BackupUpdate {
        forever: true,
        ..update(id(100))
    };
    for (number, command) in [(3, Command::BackupUpdate(longer)), (4, hold(id(100), None))] {
        let refused = place.not_done(number, command).await;
        assert!(
            refused.hint.contains("backup undelete orders"),
            "{refused:?}"
        );
    }
    let told = place.done(5, undelete(id(100), None)).await;
    assert_eq!((told.mark.deletion, told.mark.expiry), (None, None));
    assert!(place.has_place().await);
    let refused = place.not_done(6, undelete(id(100), None)).await;
    assert!(refused.message.contains("not marked"), "{refused:?}");
    // Old deliveries change nothing any more.
    let before = place.types().await;
    for (number, command) in [(1, delete(id(100))), (6, undelete(id(100), None))] {
        let _ = place.deliver(command_id(number), 2, command).await;
    }
    assert_eq!(place.types().await, before);
    assert_eq!(place.mark().await.deletion, None);

    // After its time it is kept until it is deleted again, or for a time from now on.
    let _told = place.done(7, delete(id(100))).await;
    place.clock.set(now + DAY * 10);
    let told = place.done(8, undelete(id(100), None)).await;
    assert_eq!(told.mark.expiry, Some(Expiry { expires_at: None }));
    let _told = place.done(9, delete(id(100))).await;
    let told = place.done(10, undelete(id(100), Some("2d"))).await;
    let expires_at = Some(now + DAY * 12);
    assert_eq!(told.mark.expiry, Some(Expiry { expires_at }));
}

#[tokio::test]
async fn a_held_backup_is_not_deleted() {
    let place = Place::with_backup().await;
    let told = place.done(1, hold(id(100), Some(" audit "))).await;
    let held = told.mark.hold.unwrap();
    assert_eq!(held.reason.as_deref(), Some("audit"));
    place.clock.set(held.since + DAY);
    let again = place.done(2, hold(id(100), None)).await.mark.hold.unwrap();
    assert_eq!((&again.reason, again.since), (&held.reason, held.since));
    let blank = place.done(7, hold(id(100), Some(" "))).await.mark.hold;
    assert_eq!(blank.unwrap().reason, None);
    let refused = place.not_done(3, delete(id(100))).await;
    assert!(
        refused.hint.contains("backup release orders"),
        "{refused:?}"
    );
    let _told = place.done(4, release(id(100))).await;
    let refused = place.not_done(5, release(id(100))).await;
    assert!(refused.message.contains("not held"), "{refused:?}");
    let _told = place.done(6, delete(id(100))).await;
    let _ = place.deliver(command_id(1), 2, hold(id(100), None)).await;
    assert_eq!(place.mark().await.hold, None, "an old delivery");
}

#[tokio::test]
async fn a_hold_takes_back_what_retention_marked() {
    let place = Place::with_backup().await;
    let repository = &place.world.repository;
    let writer = repository.writer(&instance(), &BranchName::main());
    let now = place.world.clock.now();
    let marked = BackupMark {
        deletion: Some(Deletion {
            by: DeletedBy::Retention,
            asked_at: now,
            delete_after: now,
        }),
        ..BackupMark::default()
    };
    let read = writer.mark(id(100)).await.unwrap();
    let _put = writer.put_mark(id(100), &marked, &read).await.unwrap();
    let told = place.done(1, hold(id(100), None)).await;
    assert!(told.mark.hold.is_some() && told.mark.deletion.is_none());
}

#[tokio::test]
async fn what_a_sweep_has_cannot_be_kept_any_more() {
    let place = Place::with_backup().await;
    let _told = place.done(1, delete(id(100))).await;
    let deleted = place.mark().await;
    place.clock.set(place.world.clock.now() + DAY * 2);
    place.set_sweep(Some(vec![id(100)])).await;
    let refused = place.not_done(2, undelete(id(100), None)).await;
    assert!(refused.message.contains("is being deleted"), "{refused:?}");
    let after = place.mark().await;
    assert_eq!(
        (after.deletion, after.hold),
        (deleted.deletion, deleted.hold)
    );
    assert!(!place.has_place().await);
    // A sweep of others is none of its business.
    place.set_sweep(Some(vec![id(7)])).await;
    let _told = place.done(3, undelete(id(100), None)).await;
    let kept = place.mark().await;
    place.set_sweep(Some(vec![id(100)])).await;
    let refused = place.not_done(4, hold(id(100), None)).await;
    assert!(refused.message.contains("is being deleted"), "{refused:?}");
    assert_eq!(place.mark().await.hold, kept.hold);
    // The sweep is over.
    place.sweep_away(id(100)).await;
    place.set_sweep(None).await;
    let refused = place.not_done(5, hold(id(100), None)).await;
    assert_eq!(refused.code, RefusalCode::NotFound);
    assert_eq!(place.mark().await, BackupMark::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_changes_at_once_none_is_lost_and_the_last_event_tells_the_mark() {
    for _ in 0..20 {
        let place = Place::with_backup().await;
        let rename = |name: &str| {
            Command::BackupUpdate(BackupUpdate {
                name: Some(name.to_owned()),
                ..update(id(100))
            })
        };
        let keep = Command::BackupUpdate(BackupUpdate {
            forever: true,
            ..update(id(100))
        });
        let outcomes = tokio::join!(
            place.deliver(command_id(1), 1, rename("a")),
            place.deliver(command_id(2), 1, keep),
            place.deliver(command_id(3), 1, hold(id(100), None)),
            place.deliver(command_id(4), 1, rename("b")),
        );
        let (a, b, c, d) = outcomes;
        assert!([a, b, c, d].iter().all(|outcome| *outcome == Outcome::Done));
        let mark = place.mark().await;
        assert!(mark.hold.is_some() && mark.expiry.is_some() && mark.name.is_some());
        let Some(Event::BackupUpdated(last)) = place.events().await.pop() else {
            panic!("the last event tells the mark");
        };
        assert_eq!(last.mark, mark);
        let updates = place.types().await;
        let updates = updates.iter().filter(|name| **name == "backup.updated");
        assert_eq!(updates.count(), 4, "each command has its outcome");
    }
}

/// A request for a backup, as a worker hears of it.
fn requested(backup_id: BackupId) -> Event {
    Event::BackupRequested(BackupRequested {
        backup_id,
        instance: instance(),
        branch: BranchName::main(),
        name: "n".to_owned(),
        backup_type: BackupType::Auto,
        trigger: Trigger::Manual,
        schedule_id: None,
        retention: None,
        wal: WalKeep::AsLongAsBackup,
        pool: None,
        requested_at: example::at(0),
    })
}

#[tokio::test]
async fn what_is_stored_but_not_announced_is_marked_when_it_is() {
    let place = Place::new(START);
    registered(&place, &document(START.parse().unwrap())).await;
    place.say(requested(id(100))).await;
    let stored = place.store(id(100), Trigger::Manual).await;
    let name = BackupUpdate {
        name: Some("a".to_owned()),
        ..update(id(100))
    };
    let commands = [
        Command::BackupUpdate(name),
        hold(id(100), None),
        release(id(100)),
        delete(id(100)),
        undelete(id(100), None),
    ];
    for (number, command) in (1..).zip(commands) {
        let outcome = place.deliver(command_id(number), 1, command).await;
        assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    }
    assert_eq!(place.types().await, ["backup.requested"]);
    assert_eq!(place.mark().await, BackupMark::default());
    place.announce(stored).await;
    let outcome = place.deliver(command_id(2), 2, hold(id(100), None)).await;
    assert_eq!(outcome, Outcome::Done);
    let expected = ["backup.requested", "backup.completed", "backup.updated"];
    assert_eq!(place.types().await, expected);
    assert!(place.mark().await.hold.is_some());
}

#[tokio::test]
async fn what_is_not_stored_is_refused_with_what_can_be_done() {
    let place = Place::with_backup().await;
    place.say(requested(id(1))).await;
    let refused = place.not_done(10, hold(id(1), None)).await;
    assert!(refused.message.contains("not completed yet"), "{refused:?}");
    let _failed = place.give_up(id(1)).await;
    let refused = place.not_done(11, delete(id(1))).await;
    assert!(refused.hint.contains("backup retry orders"), "{refused:?}");
    let refused = place.not_done(12, hold(id(2), None)).await;
    assert_eq!(refused.code, RefusalCode::NotFound);
}

#[tokio::test]
async fn without_grace_a_deletion_is_due_at_once_and_a_schedule_takes_nothing_with_it() {
    let mut place = Place::with_backup().await;
    place.world.config = Arc::new(SchedulerConfig {
        retention_grace: Duration::ZERO,
        ..SchedulerConfig::default()
    });
    // The schedule goes, its backups keep their own end.
    let schedule_id = example::schedule().id;
    let gone = Command::ScheduleDelete(ScheduleDelete {
        instance: instance(),
        schedule_id,
    });
    let _ = place.deliver(command_id(1), 1, gone).await;
    assert_eq!(place.mark().await, BackupMark::default());
    let reader = place
        .world
        .repository
        .reader(&instance(), &BranchName::main());
    let manifest = reader.manifest(id(100)).await.unwrap();
    let now = place.world.clock.now();
    assert_eq!(manifest.summary.expires_at, Some(now + DAY * 7));
    let told = place.done(2, delete(id(100))).await;
    assert_eq!(told.mark.deletion.unwrap().delete_after, now);
}

//! What is wanted and known of stored backups rests in their marks: a catalog that is made of the repository alone must
//! say of every stored backup what one says that followed the events.

use events::mark::{BackupMark, DeletedBy, Deletion, Expiry, Hold, Verification};
use events::query::RebuildSource;
use events::{BackupId, BranchName, CommandId, Event, InstanceName, Timestamp, example};
use repository::{BackupOptions, PutMark, Repository};
use serde_json::{Value, json};
use service::SystemClock;

use super::{Running, start};
use crate::rebuild::rebuild;

use crate::scenario::{AllRows, all_rows, backup_id, backup_life, lives, sqlite};

const DAY: i64 = 86_400;

/// What the scheduler does to backups, as it does it: a wish is written and told with all that the mark holds; a
/// finding is told by the worker, and only written.
struct Marking<'a> {
    repository: &'a Repository,
    told: Vec<Event>,
}

impl Marking<'_> {
    async fn change(
        &self,
        id: BackupId,
        change: impl FnOnce(BackupMark) -> BackupMark,
    ) -> BackupMark {
        let (orders, main) = (InstanceName::new("orders").unwrap(), BranchName::main());
        let writer = self.repository.writer(&orders, &main);
        let read = writer.mark(id).await.unwrap();
        let mark = change(read.mark.clone());
        let put = writer.put_mark(id, &mark, &read).await.unwrap();
        assert!(matches!(put, PutMark::Written(_)));
        mark
    }

    async fn wish(
        &mut self,
        number: u128,
        second: i64,
        change: impl FnOnce(BackupMark) -> BackupMark,
    ) {
        let command = CommandId(uuid::Uuid::from_u128(second.unsigned_abs().into()));
        let id = backup_id(number);
        let mark = self
            .change(id, |mark| change(mark).changed_by(command))
            .await;
        self.told.push(lives::marked("orders", id, mark, second));
    }

    async fn find(&mut self, number: u128, second: i64, sound: bool) {
        let (id, at) = (backup_id(number), example::at(second));
        self.told.push(lives::verified("orders", id, sound, second));
        let verified = Some(Verification { sound, at });
        let _ = self
            .change(id, |mark| BackupMark { verified, ..mark })
            .await;
    }
}

fn to_go(by: DeletedBy, second: i64) -> Option<Deletion> {
    lives::deletion(by, second).deletion
}

/// Nine stored backups, and every mark that there may be.
async fn story(repository: &Repository) -> Vec<Event> {
    let mut marking = Marking {
        repository,
        told: Vec::new(),
    };
    let named = |name: &str| Some(name.to_owned());
    let expiry = |expires_at: Option<Timestamp>| Some(Expiry { expires_at });
    let hold = Some(Hold {
        reason: named("the audit"),
        since: example::at(1002),
    });
    // 1 has another name, and then another one; 2 another end; 3 none any more; 4 is held.
    marking
        .wish(1, 1000, |mark| BackupMark {
            name: named("before the move"),
            ..mark
        })
        .await;
    marking
        .wish(1, 1001, |mark| BackupMark {
            name: named("Before THE move"),
            ..mark
        })
        .await;
    marking
        .wish(2, 1002, |mark| BackupMark {
            expiry: expiry(Some(example::at(9 * DAY))),
            ..mark
        })
        .await;
    marking
        .wish(3, 1003, |mark| BackupMark {
            expiry: expiry(None),
            ..mark
        })
        .await;
    marking
        .wish(4, 1004, |mark| BackupMark {
            hold: hold.clone(),
            ..mark
        })
        .await;
    // 5 is to go; 6 was, and is kept after all; 7 was held, and its retention has ended since.
    marking
        .wish(5, 1005, |mark| BackupMark {
            deletion: to_go(DeletedBy::User, 1005),
            ..mark
        })
        .await;
    marking
        .wish(6, 1006, |mark| BackupMark {
            deletion: to_go(DeletedBy::Retention, 1006),
            ..mark
        })
        .await;
    marking
        .wish(6, 1007, |mark| BackupMark {
            deletion: None,
            ..mark
        })
        .await;
    marking
        .wish(7, 1008, |mark| BackupMark {
            hold: hold.clone(),
            ..mark
        })
        .await;
    marking
        .wish(7, 1009, |mark| BackupMark { hold: None, ..mark })
        .await;
    marking
        .wish(7, 1010, |mark| BackupMark {
            deletion: to_go(DeletedBy::Retention, 1010),
            ..mark
        })
        .await;
    // 8 was found sound, then damaged; 9 damaged, then sound, then renamed; 4 sound while it is held; 1 sound.
    marking.find(8, 1011, true).await;
    marking.find(8, 1012, false).await;
    marking.find(9, 1013, false).await;
    marking.find(9, 1014, true).await;
    marking
        .wish(9, 1015, |mark| BackupMark {
            name: named("proven"),
            ..mark
        })
        .await;
    marking.find(4, 1016, true).await;
    marking.find(1, 1017, true).await;
    marking.told
}

/// The installation, with nine backups and their marks, followed.
async fn followed() -> (Running, AllRows) {
    let running = start().await;
    running.populate().await;
    let mut events = Vec::new();
    for number in [2, 4, 5, 6, 7, 8, 9] {
        let summary = stored(&running.repository, number).await;
        let mut life = backup_life("orders", summary.backup_id, true);
        if let Some(Event::BackupCompleted(completed)) = life.last_mut() {
            completed.summary = summary;
        }
        events.extend(life);
    }
    running.publish(events).await;
    running.publish(story(&running.repository).await).await;
    running.caught_up().await;
    let rows = all_rows(&running.store).await;
    assert_eq!(rows.backups.len(), 9);
    (running, rows)
}

async fn stored(repository: &Repository, number: u128) -> events::BackupSummary {
    let (orders, main) = (InstanceName::new("orders").unwrap(), BranchName::main());
    let Event::BackupCompleted(completed) = crate::scenario::completed("orders", backup_id(number))
    else {
        panic!("the type was asked for");
    };
    let mut summary = completed.summary;
    let writer = repository.writer(&orders, &main);
    let backup = writer.begin_backup(
        summary.backup_id,
        &summary.attempt,
        BackupOptions::default(),
    );
    let stored = backup.unwrap().finish().await.unwrap();
    summary.files = stored.totals.files;
    summary.logical_bytes = stored.totals.logical_bytes;
    summary.stored_bytes = stored.totals.stored_bytes;
    let _ = stored.commit(summary.clone()).await.unwrap();
    summary
}

async fn shown(running: &Running, number: u128) -> Value {
    let id = backup_id(number);
    running.ask("backup.show", json!({"id": id})).await
}

#[tokio::test]
async fn the_repository_alone_gives_every_stored_backup_as_events_do() {
    let (running, mut followed) = followed().await;
    let (store, _directory) = sqlite().await;
    let (empty, source) = (bus::Bus::in_memory(), RebuildSource::Repository);
    rebuild(&store, &running.repository, &empty, &SystemClock, source)
        .await
        .unwrap();
    let rebuilt = all_rows(&store).await;
    // A mark says what is wanted, not since when.
    followed
        .backups
        .iter_mut()
        .for_each(|row| row.marked_at = None);
    for (rebuilt, followed) in rebuilt.backups.iter().zip(&followed.backups) {
        assert_eq!(rebuilt, followed);
    }
    assert_eq!(rebuilt.backups.len(), followed.backups.len());
    assert_eq!(rebuilt.backup_totals, followed.backup_totals);
}

#[tokio::test]
async fn marks_are_shown_as_before_after_both_rebuilds() {
    let (running, followed) = followed().await;
    for source in ["stream", "repository"] {
        let _ = running.ask("rebuild", json!({"from": source})).await;
        running.caught_up().await;
        assert_eq!(all_rows(&running.store).await, followed, "from {source}");
        let one = shown(&running, 1).await;
        assert_eq!(
            (&one["name"], &one["sound"]),
            (&json!("Before THE move"), &json!(true))
        );
        assert_eq!(
            shown(&running, 2).await["expires_at"],
            json!(example::at(9 * DAY))
        );
        assert_eq!(shown(&running, 3).await["expires_at"], Value::Null);
        let held = shown(&running, 4).await;
        assert_eq!(held["hold"]["reason"], "the audit");
        assert_eq!(held["verified_at"], json!(example::at(1016)));
        let going = shown(&running, 5).await;
        assert_eq!(
            (&going["status"], &going["deletion"]["by"]),
            (&json!("expired"), &json!("user"))
        );
        let kept = shown(&running, 6).await;
        assert_eq!(
            (&kept["status"], &kept["deletion"]),
            (&json!("completed"), &Value::Null)
        );
        assert_eq!(shown(&running, 7).await["deletion"]["by"], "retention");
        let damaged = shown(&running, 8).await;
        assert_eq!(
            (&damaged["sound"], &damaged["verified_at"]),
            (&json!(false), &json!(example::at(1012)))
        );
        let proven = shown(&running, 9).await;
        assert_eq!(
            (&proven["sound"], &proven["name"]),
            (&json!(true), &json!("proven"))
        );
    }
}

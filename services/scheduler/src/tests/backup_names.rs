//! Names that people give to backups: no two that are there have the same.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::Outcome;
use events::command::{BackupCreate, BackupDelete, BackupRetry, BackupUpdate};
use events::event::{BackupRequested, RefusalCode};
use events::{BackupId, BackupType, BranchName, Command, Event, Trigger};

use super::firing::{document, registered};
use super::{Place, command_id, instance};

const START: &str = "2026-01-01T00:00:00Z";

fn id(number: u128) -> BackupId {
    BackupId(command_id(number).0)
}

fn create(name: &str) -> Command {
    Command::BackupCreate(BackupCreate {
        instance: instance(),
        branch: BranchName::main(),
        name: Some(name.to_owned()),
        backup_type: BackupType::Auto,
        retention: None,
        wal: None,
    })
}

fn rename(number: u128, name: &str) -> Command {
    Command::BackupUpdate(BackupUpdate {
        instance: instance(),
        branch: BranchName::main(),
        backup_id: id(number),
        name: Some(name.to_owned()),
        retention: None,
        forever: false,
    })
}

fn retry(number: u128) -> Command {
    Command::BackupRetry(BackupRetry {
        instance: instance(),
        branch: BranchName::main(),
        backup_id: id(number),
    })
}

/// With two backups, 100 and 101, that nobody has named.
async fn with_backups() -> Place {
    let place = Place::new(START);
    for number in [100, 101] {
        let _summary = place.complete(id(number), Trigger::Schedule).await;
    }
    registered(&place, &document(START.parse().unwrap())).await;
    place
}

impl Place {
    /// Why a command is refused, if it is.
    async fn name_refused(&self, number: u128, command: Command) -> Option<RefusalCode> {
        let outcome = self.deliver(command_id(number), 1, command).await;
        assert_eq!(outcome, Outcome::Done);
        match self.events().await.pop() {
            Some(Event::BackupRefused(refused)) => Some(refused.code),
            _ => None,
        }
    }

    /// How the backups are called that were asked for, by the number of the command.
    async fn asked(&self) -> BTreeMap<u128, String> {
        let requested = |event| match event {
            Event::BackupRequested(requested) => Some(requested),
            Event::BackupQueued(queued) => Some(queued.request),
            _ => None,
        };
        let named = |request: BackupRequested| (request.backup_id.0.as_u128(), request.name);
        let events = self.events().await.into_iter();
        events.filter_map(requested).map(named).collect()
    }

    async fn request_of(&self, number: u128) -> BackupRequested {
        let found = self
            .events()
            .await
            .into_iter()
            .find_map(|event| match event {
                Event::BackupRequested(requested) => Some(requested),
                _ => None,
            });
        found
            .filter(|request| request.backup_id == id(number))
            .unwrap()
    }
}

#[tokio::test]
async fn of_replicas_that_give_the_same_name_away_at_once_one_does() {
    let place = with_backups().await;
    let given = (1..=4).map(|number| place.deliver(command_id(number), 1, create("release")));
    let renamed = [(5, 100), (6, 101)]
        .map(|(number, backup)| place.deliver(command_id(number), 1, rename(backup, "release")));
    let outcomes = futures::future::join_all(given.chain(renamed)).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));
    let refused = |event: &Event| match event {
        Event::BackupRefused(refused) => Some(refused.code),
        _ => None,
    };
    let refused: Vec<_> = place.events().await.iter().filter_map(refused).collect();
    assert_eq!(refused, [RefusalCode::NameTaken; 5]);
    // Whoever was refused has no place of a manual backup either.
    let (document, _) = place
        .world
        .bus
        .instances()
        .get(&instance())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(document.backup_names.len(), 1);
    assert_eq!(document.manual_backups.len(), place.asked().await.len());
}

#[tokio::test]
async fn a_name_is_free_when_its_backup_failed_or_is_called_otherwise_or_is_gone() {
    let place = with_backups().await;
    assert_eq!(place.name_refused(1, create("a")).await, None);
    let again = place.deliver(command_id(1), 2, create("a")).await;
    assert_eq!(again, Outcome::Done);
    let taken = Some(RefusalCode::NameTaken);
    assert_eq!(place.name_refused(2, rename(100, "a")).await, taken);
    place.fail_backup(&place.request_of(1).await).await;
    assert_eq!(place.name_refused(3, rename(100, "a")).await, None);
    assert_eq!(place.name_refused(4, rename(101, "a")).await, taken);
    assert_eq!(
        place.name_refused(5, rename(100, "a")).await,
        None,
        "it is called so"
    );
    assert_eq!(place.name_refused(6, rename(100, "b")).await, None);
    assert_eq!(place.name_refused(7, rename(101, "a")).await, None);
    assert_eq!(place.name_refused(8, rename(100, "a")).await, taken);
    place.sweep_away(id(101)).await;
    assert_eq!(
        place.name_refused(9, rename(100, "a")).await,
        taken,
        "it may be on its way"
    );
    place.clock.advance(Duration::from_secs(660));
    assert_eq!(place.name_refused(10, rename(100, "a")).await, None);
    let invalid = Some(RefusalCode::Invalid);
    let generated = "daily 2026-01-01T00:00:00Z";
    assert_eq!(
        place.name_refused(11, rename(100, generated)).await,
        invalid
    );
    assert_eq!(place.name_refused(12, create(generated)).await, invalid);
}

#[tokio::test]
async fn who_wants_the_name_of_a_backup_that_is_marked_is_told_how_to_keep_that() {
    let place = with_backups().await;
    assert_eq!(place.name_refused(1, rename(100, "a")).await, None);
    let delete = Command::BackupDelete(BackupDelete {
        instance: instance(),
        branch: BranchName::main(),
        backup_id: id(100),
    });
    assert_eq!(place.name_refused(2, delete).await, None);
    let taken = Some(RefusalCode::NameTaken);
    assert_eq!(place.name_refused(3, rename(101, "a")).await, taken);
    let Some(Event::BackupRefused(refused)) = place.events().await.pop() else {
        panic!("it was refused");
    };
    let how = format!("`zektor backup undelete orders {}`", id(100));
    assert!(refused.hint.contains(&how), "{refused:?}");
    assert!(refused.message.contains("marked"), "{refused:?}");
}

#[tokio::test]
async fn a_backup_that_is_taken_once_more_has_the_name_if_it_is_free() {
    let place = with_backups().await;
    assert_eq!(place.name_refused(1, create("a")).await, None);
    place.fail_backup(&place.request_of(1).await).await;
    assert_eq!(place.name_refused(2, retry(1)).await, None);
    assert_eq!(place.name_refused(3, retry(1)).await, None);
    let asked = place.asked().await;
    assert_eq!(asked[&2], "a");
    assert!(asked[&3].starts_with("manual 2026-"), "{asked:?}");
}

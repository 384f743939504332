//! A restored branch: its first backup, and what goes with it.

use std::time::Duration;

use bus::Outcome;
use events::command::BranchRegister;
use events::document::{Branch, Schedule};
use events::event::{BackupFailed, BackupRequested, BranchDeleted, BranchStopped, FailureCause};
use events::{
    BackupId, BackupSummary, BranchName, Command, Event, InstanceDocument, MessageId, Retention,
    ScheduleId, WalKeep, example,
};
use repository::BackupOptions;

use super::super::firing::{document, registered};
use super::super::{Place, command_id, instance};
use crate::restoring::FirstBackups;
use crate::slots::fence_of;

const START: &str = "2026-01-01T00:00:00Z";

fn register() -> BranchRegister {
    let mut commands = example::commands().into_iter();
    let register = commands.find_map(|command| match command {
        Command::BranchRegister(register) => Some(register),
        _ => None,
    });
    BranchRegister {
        instance: instance(),
        branch: fix(),
        ..register.unwrap()
    }
}

fn fix() -> BranchName {
    BranchName::new("fix").unwrap()
}

fn attempt(number: u32) -> BackupId {
    BackupId::first_of_branch_again(register().origin.restore_id, number)
}

/// A schedule of the branch.
fn schedule(number: u128, retention: &str) -> Schedule {
    Schedule {
        id: ScheduleId(uuid::Uuid::from_u128(number)),
        name: format!("of fix {number}"),
        branch: fix(),
        retention: retention.parse().unwrap(),
        ..document(START.parse().unwrap()).schedules[0].clone()
    }
}

/// A branch was just restored and registered; twice.
async fn restored(schedules: Vec<Schedule>) -> Place {
    let place = Place::new(START);
    let mut wanted = document(place.world.clock.now());
    let restore_id = register().origin.restore_id;
    let claim = Branch::Restoring {
        restore_id,
        source: Some(BranchName::main()),
    };
    let _none = wanted.branches.insert(fix(), claim);
    wanted.schedules.extend(schedules);
    registered(&place, &wanted).await;
    for delivery in 1..=2 {
        let command = Command::BranchRegister(register());
        let done = place.deliver(command_id(50), delivery, command).await;
        assert_eq!(done, Outcome::Done);
    }
    assert_eq!(
        place.types().await,
        ["branch.registered", "backup.requested"]
    );
    place
}

impl Place {
    async fn requested(&self) -> Vec<BackupRequested> {
        let requests = self.events().await.into_iter();
        let requests = requests.filter_map(|event| match event {
            Event::BackupRequested(request) => Some(request),
            _ => None,
        });
        requests.collect()
    }

    async fn last_asked(&self) -> BackupRequested {
        self.requested().await.pop().unwrap()
    }

    async fn fail_first(&self, request: &BackupRequested, cause: FailureCause) {
        let Some(Event::BackupFailed(failed)) = example::events()
            .into_iter()
            .find(|event| matches!(event, Event::BackupFailed(_)))
        else {
            unreachable!("there is an example of each event");
        };
        let failed = BackupFailed {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            cause,
            failed_at: self.world.clock.now(),
            ..failed
        };
        self.end(request, Event::BackupFailed(failed)).await;
    }

    /// Every replica looks.
    async fn look(&self, replicas: &mut [FirstBackups]) {
        for replica in replicas {
            let documents = self.world.bus.instances().list().await.unwrap();
            replica.round(&self.world, &documents).await.unwrap();
        }
    }

    async fn wanted_now(&self) -> InstanceDocument {
        let document = self.world.bus.instances().get(&instance()).await.unwrap();
        document.unwrap().0
    }

    async fn look_for(&self, minutes: u64, replicas: &mut [FirstBackups]) {
        for _ in 0..minutes {
            self.clock.advance(Duration::from_secs(60));
            self.look(replicas).await;
        }
    }
}

#[tokio::test]
async fn the_first_backup_of_a_branch_has_an_end() {
    for (schedules, kept, wal) in [
        (vec![], "7d", WalKeep::AsLongAsBackup),
        (vec![schedule(7, "30d")], "30d", WalKeep::AsLongAsBackup),
        (
            vec![schedule(7, "3d"), schedule(8, "1y")],
            "1y",
            WalKeep::For("3d".parse().unwrap()),
        ),
    ] {
        let place = restored(schedules).await;
        let request = place.last_asked().await;
        assert_eq!(request.backup_id, attempt(0));
        assert_eq!(request.retention, kept.parse::<Retention>().ok());
        assert_eq!(request.wal, wal, "{kept}");
    }
}

#[tokio::test]
async fn a_first_backup_that_fails_is_tried_again_until_there_is_one() {
    let place = restored(vec![]).await;
    let mut replicas = [const { None::<FirstBackups> }; 3].map(|_| FirstBackups::default());
    // It waits for a worker: nobody asks for another one.
    place.look_for(30, &mut replicas).await;
    let pauses = [5, 15, 45, 60, 60, 60];
    let causes = [
        FailureCause::Wal,
        FailureCause::Connection,
        FailureCause::Source,
    ];
    for ((number, pause), cause) in (1..).zip(pauses).zip(causes.into_iter().cycle()) {
        let request = place.last_asked().await;
        assert_eq!(request.backup_id, attempt(number - 1));
        place.fail_first(&request, cause).await;
        place.look_for(pause - 1, &mut replicas).await;
        assert_eq!(place.last_asked().await.backup_id, attempt(number - 1));
        if number == 3 {
            replicas[0] = FirstBackups::default();
        }
        place.look_for(1, &mut replicas).await;
        let again = place.last_asked().await;
        assert_eq!(again.backup_id, attempt(number));
        assert_eq!(
            again.name,
            format!("first backup of fix (attempt {})", number + 1)
        );
        assert_eq!(again.retention, Some(Retention::SEVEN_DAYS));
    }
    let request = place.last_asked().await;
    let Some(Event::BackupCompleted(mut completed)) = example::events()
        .into_iter()
        .find(|event| matches!(event, Event::BackupCompleted(_)))
    else {
        unreachable!("there is an example of each event");
    };
    completed.backup_id = request.backup_id;
    (completed.instance, completed.branch) = (instance(), fix());
    place.end(&request, Event::BackupCompleted(completed)).await;
    place.look_for(120, &mut replicas).await;
    assert_eq!(place.requested().await.len(), 7);
}

#[tokio::test]
async fn a_branch_that_has_a_backup_or_is_stopped_is_asked_for_none() {
    let place = restored(vec![]).await;
    let request = place.last_asked().await;
    place.fail_first(&request, FailureCause::Connection).await;
    let (instance, branch) = (instance(), fix());
    let stopped = Event::BranchStopped(BranchStopped {
        instance: instance.clone(),
        branch: branch.clone(),
    });
    place.say(stopped).await;
    let mut replicas = [FirstBackups::default()];
    place.look_for(20, &mut replicas).await;
    assert_eq!(place.requested().await.len(), 1, "it is stopped");
    let started = Event::BranchStarted(events::event::BranchStarted { instance, branch });
    place.say(started).await;
    place.look_for(1, &mut replicas).await;
    let request = place.last_asked().await;
    assert_eq!(request.backup_id, attempt(1));

    // Somebody took one by hand meanwhile, or NATS was lost since.
    place.fail_first(&request, FailureCause::Connection).await;
    let repository = &place.world.repository;
    let writer = repository.writer(&request.instance, &fix());
    let id = BackupId(uuid::Uuid::from_u128(9));
    let pieces = writer.begin_backup(id, "one", BackupOptions::default());
    let stored = pieces.unwrap().finish().await.unwrap();
    let summary = BackupSummary {
        backup_id: id,
        instance: request.instance.clone(),
        branch: fix(),
        attempt: "one".to_owned(),
        files: 0,
        logical_bytes: 0,
        stored_bytes: stored.totals.stored_bytes,
        ..example::backup_summary()
    };
    let _committed = stored.commit(summary).await.unwrap();
    place.look_for(100, &mut replicas).await;
    assert_eq!(place.last_asked().await.backup_id, attempt(1));
}

#[tokio::test]
async fn a_lost_request_is_made_again() {
    let place = restored(vec![]).await;
    let lost = Place::new(START);
    registered(&lost, &place.wanted_now().await).await;
    lost.look(&mut [FirstBackups::default(), FirstBackups::default()])
        .await;
    let asked = lost.requested().await;
    assert_eq!(asked.len(), 1);
    assert_eq!(fence_of(&asked[0]), fence_of(&place.last_asked().await));
}

#[tokio::test]
async fn what_was_wanted_of_a_branch_goes_with_it() {
    let place = restored(vec![schedule(7, "3d"), schedule(8, "1y")]).await;
    let mut wanted = place.wanted_now().await;
    let active = wanted.branches[&fix()].active().unwrap().clone();
    let _active = wanted.branches.insert(fix(), Branch::Deleting(active));
    wanted.drills = Some(events::document::DrillSettings {
        branch: fix(),
        ..example::drills()
    });
    registered(&place, &wanted).await;
    let deleted = Event::BranchDeleted(BranchDeleted {
        instance: instance(),
        branch: fix(),
        restore_id: None,
    });
    for _delivered_twice in 0..2 {
        let delivery = place.delivery(MessageId::new("deleted"), deleted.clone());
        let outcomes = crate::outcomes::Outcomes {
            world: place.world.clone(),
        };
        let heard = bus::Handler::handle(&outcomes, &delivery).await;
        assert_eq!(heard, Outcome::Done);
    }
    let after = place.wanted_now().await;
    assert!(!after.branches.contains_key(&fix()));
    let left: Vec<_> = after.schedules.iter().map(|one| &one.branch).collect();
    assert_eq!(left, [&BranchName::main()]);
    assert_eq!(after.drills, None);
    let types = place.types().await;
    let told: Vec<_> = types.iter().skip(2).collect();
    assert_eq!(
        told,
        [
            &"schedule.deleted",
            &"schedule.deleted",
            &"instance.updated"
        ]
    );
}

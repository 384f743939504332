//! Commands: each has one effect and one outcome, also when it is delivered again.

mod branches;

use bus::Outcome;
use events::command::{BackupCreate, InstanceAdd, InstanceRemove, RestoreCreate};
use events::document::slot_name;
use events::event::{RefusalCode, Refused};
use events::{
    ArchiveMode, BackupType, BranchName, ClusterSize, Command, Event, InstanceName, RestoreId,
    RestoreTarget,
};
use service::seal::dsn_context;
use testkit::postgres::{PgVersion, Postgres};

use super::{Place, command_id, instance};

impl Place {
    pub(super) fn sealed(&self, dsn: &str) -> events::SealedSecret {
        let context = dsn_context(&instance(), &BranchName::main()).map(str::to_owned);
        let context: Vec<&str> = context.iter().map(String::as_str).collect();
        self.world.master_key.seal(dsn, &context).unwrap()
    }

    pub(super) fn add(&self, dsn: &str) -> Command {
        self.add_archived_by(dsn, ArchiveMode::Stream)
    }

    fn add_archived_by(&self, dsn: &str, archive_mode: ArchiveMode) -> Command {
        Command::InstanceAdd(InstanceAdd {
            instance: instance(),
            dsn: self.sealed(dsn),
            default_schedule: true,
            archive_mode,
            disk_risk: events::DiskRiskPolicy::Keep,
        })
    }

    pub(super) async fn last_refusal(&self) -> Refused {
        match self.events().await.pop() {
            Some(
                Event::InstanceRefused(refused)
                | Event::BackupRefused(refused)
                | Event::RestoreRefused(refused)
                | Event::BranchRefused(refused),
            ) => refused,
            other => panic!("{other:?} is not a refusal"),
        }
    }
}

fn backup(instance: InstanceName) -> Command {
    Command::BackupCreate(BackupCreate {
        instance,
        branch: BranchName::main(),
        name: None,
        backup_type: BackupType::Auto,
        retention: None,
        wal: None,
    })
}

fn restore(branch: &str) -> Command {
    Command::RestoreCreate(RestoreCreate {
        instance: instance(),
        source_branch: BranchName::main(),
        branch: BranchName::new(branch).unwrap(),
        target: RestoreTarget::Latest,
        size: ClusterSize::Small,
        keep_passwords: false,
    })
}

pub(super) async fn slots(postgres: &Postgres) -> String {
    postgres
        .psql("SELECT string_agg(slot_name, ',') FROM pg_replication_slots")
        .await
        .unwrap()
}

#[tokio::test]
async fn the_life_of_an_instance_with_every_command_delivered_twice() {
    let postgres = Postgres::builder().start().await.unwrap();
    let place = Place::new("2026-01-01T00:00:00Z");
    let commands = [
        (1, place.add(&postgres.dsn())),
        (2, backup(instance())),
        (3, restore("fix")),
    ];
    for (number, command) in commands {
        for attempt in 1..=2 {
            let outcome = place
                .deliver(command_id(number), attempt, command.clone())
                .await;
            assert_eq!(outcome, Outcome::Done);
        }
    }
    let all = [
        "instance.registered",
        "backup.requested",
        "restore.requested",
    ];
    assert_eq!(place.types().await, all);
    assert_eq!(
        slots(&postgres).await,
        slot_name(&instance(), &BranchName::main())
    );
    let mirrored = place.world.repository.instance(&instance()).await.unwrap();
    let (document, _) = place
        .world
        .bus
        .instances()
        .get(&instance())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(mirrored, document);
    assert_eq!(document.schedules.len(), 1);

    // The name is claimed for the restore that asked first, and free again when that fails.
    let _ = place.deliver(command_id(4), 1, restore("fix")).await;
    assert_eq!(place.last_refusal().await.code, RefusalCode::NameTaken);
    let claimed = events::document::Branch::Restoring {
        restore_id: RestoreId(command_id(3).0),
        source: Some(BranchName::main()),
    };
    let branch = BranchName::new("fix").unwrap();
    place
        .world
        .forget_branch(&instance(), &branch, |held| *held == claimed)
        .await
        .unwrap();
    let _ = place.deliver(command_id(5), 1, restore("fix")).await;
    assert_eq!(place.types().await.last(), Some(&"restore.requested"));
    place
        .world
        .forget_branch(&instance(), &branch, |_| true)
        .await
        .unwrap();

    let remove = Command::InstanceRemove(InstanceRemove {
        instance: instance(),
    });
    for attempt in 1..=2 {
        assert_eq!(
            place.deliver(command_id(6), attempt, remove.clone()).await,
            Outcome::Done
        );
    }
    assert_eq!(place.types().await.last(), Some(&"instance.removed"));
    assert_eq!(slots(&postgres).await, "", "the slot would fill the disk");
    assert!(place.world.bus.instances().list().await.unwrap().is_empty());
    assert!(
        place
            .world
            .repository
            .instance(&instance())
            .await
            .unwrap()
            .removing
    );
}

#[tokio::test]
async fn what_cannot_be_protected_is_refused_and_leaves_nothing() {
    let postgres = Postgres::builder().start().await.unwrap();
    let minimal = Postgres::builder()
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .start()
        .await
        .unwrap();
    let place = Place::new("2026-01-01T00:00:00Z");
    let wrong = postgres.dsn_for("postgres", "wrong", "postgres");
    let nowhere = "postgres://u:p@127.0.0.1:1/db".to_owned();
    let no_database = postgres.dsn_for("postgres", postgres.password(), "nodb");
    for (number, dsn, code) in [
        (1, wrong, RefusalCode::SourceUnreachable),
        (2, nowhere, RefusalCode::SourceUnreachable),
        (3, minimal.dsn(), RefusalCode::SourceUnreachable),
        (4, "postgres://".to_owned(), RefusalCode::Invalid),
        (8, no_database, RefusalCode::SourceUnreachable),
    ] {
        let _ = place.deliver(command_id(number), 1, place.add(&dsn)).await;
        let refused = place.last_refusal().await;
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(
            !refused.hint.is_empty() && !refused.message.contains("wrong"),
            "{refused:?}"
        );
        assert!(place.world.bus.instances().list().await.unwrap().is_empty());
    }
    assert_eq!(slots(&postgres).await, "");

    // PostgreSQL 14 tells of slots over an ordinary connection only.
    let oldest = Postgres::builder().version(PgVersion::V14);
    let mut oldest = oldest.start().await.unwrap();
    let hba = oldest.data_directory().join("pg_hba.conf");
    let allowed = std::fs::read_to_string(&hba).unwrap();
    let only_replication = allowed.replace("host  all ", "# host  all ");
    std::fs::write(&hba, only_replication).unwrap();
    oldest.restart().await.unwrap();
    let _ = place
        .deliver(command_id(6), 1, place.add(&oldest.dsn()))
        .await;
    let refused = place.last_refusal().await;
    assert!(
        refused.code == RefusalCode::SourceUnreachable && refused.hint.contains("PostgreSQL 14"),
        "{refused:?}"
    );
    assert!(place.world.bus.instances().list().await.unwrap().is_empty());
    std::fs::write(&hba, allowed).unwrap();
    oldest.restart().await.unwrap();
    let _ = place
        .deliver(command_id(7), 1, place.add(&oldest.dsn()))
        .await;
    assert_ne!(slots(&oldest).await, "");

    let _ = place
        .deliver(
            command_id(5),
            1,
            backup(InstanceName::new("nobody").unwrap()),
        )
        .await;
    assert_eq!(place.last_refusal().await.code, RefusalCode::NotFound);
}

#[tokio::test]
async fn a_name_that_holds_another_clusters_backups_is_refused() {
    let (first, second) = (
        Postgres::builder().start().await.unwrap(),
        Postgres::builder().start().await.unwrap(),
    );
    let place = Place::new("2026-01-01T00:00:00Z");
    let _ = place
        .deliver(command_id(1), 1, place.add(&first.dsn()))
        .await;
    let _ = place
        .deliver(command_id(2), 1, place.add(&second.dsn()))
        .await;
    assert_eq!(place.last_refusal().await.code, RefusalCode::NameTaken);
    let remove = Command::InstanceRemove(InstanceRemove {
        instance: instance(),
    });
    let _ = place.deliver(command_id(3), 1, remove).await;
    let _ = place
        .deliver(command_id(4), 1, place.add(&second.dsn()))
        .await;
    assert_eq!(place.last_refusal().await.code, RefusalCode::NameTaken);
    assert_eq!(slots(&second).await, "");
    // The same cluster may come back to its own backups.
    let _ = place
        .deliver(command_id(5), 1, place.add(&first.dsn()))
        .await;
    assert_eq!(place.types().await.last(), Some(&"instance.registered"));
}

#[tokio::test]
async fn a_command_delivered_again_after_its_end_changes_nothing() {
    let postgres = Postgres::builder().start().await.unwrap();
    let place = Place::new("2026-01-01T00:00:00Z");
    let _ = place
        .deliver(command_id(1), 1, place.add(&postgres.dsn()))
        .await;
    let _ = place.deliver(command_id(2), 1, backup(instance())).await;
    let _ = place.deliver(command_id(3), 1, restore("fix")).await;
    let branch = BranchName::new("fix").unwrap();
    place
        .world
        .forget_branch(&instance(), &branch, |_| true)
        .await
        .unwrap();

    // The restore has failed meanwhile, and its name is free: it is not claimed again.
    let _ = place.deliver(command_id(3), 2, restore("fix")).await;
    let (document, _) = place
        .world
        .bus
        .instances()
        .get(&instance())
        .await
        .unwrap()
        .unwrap();
    assert!(!document.branches.contains_key(&branch));

    let remove = Command::InstanceRemove(InstanceRemove {
        instance: instance(),
    });
    let _ = place.deliver(command_id(4), 1, remove.clone()).await;
    // The instance is gone: the backup that was requested is not refused after the fact.
    let _ = place.deliver(command_id(2), 2, backup(instance())).await;
    assert_eq!(place.types().await.last(), Some(&"instance.removed"));

    // Registered anew under the same name: the old removal leaves it alone.
    let _ = place
        .deliver(command_id(5), 1, place.add(&postgres.dsn()))
        .await;
    let _ = place.deliver(command_id(4), 2, remove).await;
    assert_eq!(place.world.bus.instances().list().await.unwrap().len(), 1);
    assert!(!slots(&postgres).await.is_empty());
}

#[tokio::test]
async fn an_instance_that_the_bus_lost_is_not_registered_over() {
    let postgres = Postgres::builder().start().await.unwrap();
    let place = Place::new("2026-01-01T00:00:00Z");
    let _ = place
        .deliver(command_id(1), 1, place.add(&postgres.dsn()))
        .await;
    let lost = |_: Option<&events::InstanceDocument>| bus::Decision::Remove(());
    place
        .world
        .bus
        .instances()
        .update(&instance(), lost)
        .await
        .unwrap();

    let _ = place
        .deliver(command_id(2), 1, place.add(&postgres.dsn()))
        .await;
    assert_eq!(place.last_refusal().await.code, RefusalCode::NameTaken);
    let (document, _) = place
        .world
        .bus
        .instances()
        .get(&instance())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(document.registration, command_id(1));
}

#[tokio::test]
async fn a_server_without_slots_can_push_its_wal() {
    let mut postgres = Postgres::builder()
        .setting("max_replication_slots", "0")
        .start()
        .await
        .unwrap();
    let place = Place::new("2026-01-01T00:00:00Z");
    let _ = place
        .deliver(command_id(1), 1, place.add(&postgres.dsn()))
        .await;
    let refused = place.last_refusal().await;
    assert_eq!(refused.code, RefusalCode::UnsuitableSource, "{refused:?}");

    let add = place.add_archived_by(&postgres.dsn(), ArchiveMode::Command);
    let outcome = place.deliver(command_id(2), 1, add).await;
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(place.types().await.last(), Some(&"instance.registered"));
    let (document, _) = place
        .world
        .bus
        .instances()
        .get(&instance())
        .await
        .unwrap()
        .unwrap();
    let main = document.branches[&BranchName::main()].active().unwrap();
    assert_eq!(main.archive_mode, ArchiveMode::Command);

    let remove = Command::InstanceRemove(InstanceRemove {
        instance: instance(),
    });
    // A server that is gone has no slot to wait for either.
    postgres.kill9().await.unwrap();
    let outcome = place.deliver(command_id(3), 1, remove).await;
    assert_eq!(outcome, Outcome::Done);
    let Some(Event::InstanceRemoved(removed)) = place.events().await.pop() else {
        panic!("it is removed");
    };
    assert_eq!(removed.slot_left, None);
}

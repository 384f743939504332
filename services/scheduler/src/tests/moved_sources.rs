//! A server that moved keeps its instance, and checks of drills are tried on it; the servers are real.

use events::command::InstanceUpdate;
use events::document::{DrillCheck, DrillSettings, slot_name};
use events::event::RefusalCode;
use events::{BranchName, Command, Event, SealedSecret};
use testkit::postgres::{Postgres, StopMode};

use super::commands::slots;
use super::{Place, command_id, instance};

const START: &str = "2026-01-01T00:00:00Z";

fn update() -> InstanceUpdate {
    InstanceUpdate {
        instance: instance(),
        pool: None,
        dsn: None,
        drills: None,
        no_drills: false,
    }
}

impl Place {
    fn moved_to(&self, dsn: &str) -> Command {
        Command::InstanceUpdate(InstanceUpdate {
            dsn: Some(self.sealed(dsn)),
            ..update()
        })
    }

    async fn main_dsn(&self) -> SealedSecret {
        let document = self.world.bus.instances().get(&instance()).await.unwrap();
        let (document, _) = document.unwrap();
        let main = document.branches[&BranchName::main()].active();
        main.unwrap().dsn.clone()
    }
}

#[tokio::test]
async fn a_server_that_moved_keeps_its_instance_and_another_one_is_refused() {
    let mut primary = Postgres::builder().start().await.unwrap();
    let standby = Postgres::builder().standby_of(&primary);
    let standby = standby.start().await.unwrap();
    let stranger = Postgres::builder().start().await.unwrap();
    let place = Place::new(START);
    let _ = place
        .deliver(command_id(1), 1, place.add(&primary.dsn()))
        .await;
    let before = place.main_dsn().await;

    let wrong = primary.dsn_for("postgres", "wrong", "postgres");
    let no_database = primary.dsn_for("postgres", primary.password(), "nodb");
    for (number, dsn, code, said) in [
        (2, stranger.dsn(), RefusalCode::UnsuitableSource, "cluster"),
        (3, wrong, RefusalCode::SourceUnreachable, "password"),
        (4, no_database, RefusalCode::SourceUnreachable, "nodb"),
    ] {
        let command = place.moved_to(&dsn);
        let _ = place.deliver(command_id(number), 1, command).await;
        let refused = place.last_refusal().await;
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(refused.message.contains(said), "{refused:?}");
        assert_eq!(place.main_dsn().await, before);
    }
    assert_eq!(slots(&stranger).await, "");

    primary.stop(StopMode::Immediate).await.unwrap();
    standby.promote().await.unwrap();
    let moved = place.moved_to(&standby.dsn());
    for attempt in 1..=2 {
        let _ = place.deliver(command_id(5), attempt, moved.clone()).await;
    }
    let types = place.types().await;
    let told = types.iter().filter(|told| **told == "instance.updated");
    assert_eq!(told.count(), 1, "{types:?}");
    assert_ne!(place.main_dsn().await, before);
    // Its WAL is kept from that moment on.
    let slot = slot_name(&instance(), &BranchName::main());
    assert_eq!(slots(&standby).await, slot);
    let mirrored = place.world.repository.instance(&instance()).await.unwrap();
    let main = mirrored.branches[&BranchName::main()].active().unwrap();
    assert_eq!(main.dsn, place.main_dsn().await);
}

fn drills(checks: &[(Option<&str>, &str)]) -> Command {
    let check = |(number, (database, sql)): (usize, &(Option<&str>, &str))| DrillCheck {
        name: format!("check {number}"),
        database: database.map(str::to_owned),
        sql: (*sql).to_owned(),
    };
    Command::InstanceUpdate(InstanceUpdate {
        drills: Some(DrillSettings {
            cron: None,
            timezone: "UTC".to_owned(),
            branch: BranchName::main(),
            checks: checks.iter().enumerate().map(check).collect(),
            created_at: START.parse().unwrap(),
        }),
        ..update()
    })
}

#[tokio::test]
async fn a_check_is_tried_on_the_source_and_nothing_of_it_is_executed() {
    let mut postgres = Postgres::builder().start().await.unwrap();
    let made = "CREATE TABLE orders (id int); CREATE SEQUENCE tried; CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'k'";
    let _ = postgres.psql(made).await.unwrap();
    let place = Place::new(START);
    let _ = place
        .deliver(command_id(1), 1, place.add(&postgres.dsn()))
        .await;
    let refused = [
        (None, "SELECT nonsense FROM nowhere", "nowhere"),
        (None, "SELECT true FROM orders WHERE", "syntax"),
        (Some("nodb"), "SELECT true", "nodb"),
        (
            None,
            "SELECT true) AS s; DROP TABLE orders; SELECT * FROM (SELECT true",
            "multi",
        ),
        (
            None,
            "WITH d AS (DELETE FROM orders RETURNING true) SELECT * FROM d",
            "WITH",
        ),
    ];
    for (number, (database, sql, said)) in (2..).zip(refused) {
        let command = drills(&[(None, "SELECT count(*) >= 0 FROM orders"), (database, sql)]);
        let _ = place.deliver(command_id(number), 1, command).await;
        let refused = place.last_refusal().await;
        assert_eq!(refused.code, RefusalCode::Invalid, "{refused:?}");
        assert!(
            refused.message.contains("check 1") && refused.message.contains(said),
            "{refused:?}"
        );
    }
    let warned = async |number, command: Command| {
        let _ = place.deliver(command_id(number), 1, command).await;
        match place.events().await.pop() {
            Some(Event::InstanceUpdated(updated)) => updated.warnings,
            other => panic!("{other:?}"),
        }
    };
    let sound = drills(&[
        (
            None,
            "WITH o AS (SELECT * FROM orders) SELECT 'it''s' = 'it''s' FROM o ;",
        ),
        (None, "SELECT nextval('tried') > 0"),
    ]);
    assert_eq!(warned(20, sound.clone()).await, Vec::<String>::new());
    let called = postgres.psql("SELECT is_called FROM tried").await.unwrap();
    assert_eq!(called, "f", "nothing of it is executed");

    // What the role may not read is no mistake in the statement.
    let keeper = postgres.dsn_for("keeper", "k", "postgres");
    let _ = place
        .deliver(command_id(21), 1, place.moved_to(&keeper))
        .await;
    let other = drills(&[(None, "SELECT true FROM orders WHERE id > 0")]);
    let warnings = warned(22, other).await;
    assert!(warnings[0].contains("permission denied"), "{warnings:?}");
    // Nor is a server that is down; what is wanted already is not tried again.
    postgres.stop(StopMode::Immediate).await.unwrap();
    let warnings = warned(23, sound.clone()).await;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(warned(24, sound).await, Vec::<String>::new());
}

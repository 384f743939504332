//! What is wanted of an instance: its pool and its drills.

use events::command::InstanceUpdate;
use events::document::{DrillCheck, DrillSettings};
use events::event::RefusalCode;
use events::{BranchName, Command, Event, InstanceDocument, PoolName};

use super::firing::{document, registered};
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

fn drills(cron: &str, checks: &[(&str, &str)]) -> DrillSettings {
    let check = |(name, sql): &(&str, &str)| DrillCheck {
        name: (*name).to_owned(),
        database: None,
        sql: (*sql).to_owned(),
    };
    DrillSettings {
        cron: Some(cron.to_owned()),
        timezone: "UTC".to_owned(),
        branch: BranchName::main(),
        checks: checks.iter().map(check).collect(),
        created_at: "2020-01-01T00:00:00Z".parse().unwrap(),
    }
}

async fn wanted(place: &Place) -> InstanceDocument {
    let document = place.world.bus.instances().get(&instance()).await.unwrap();
    document.unwrap().0
}

#[tokio::test]
async fn pool_and_drills_are_set_and_what_makes_no_sense_is_refused() {
    let place = Place::new(START);
    registered(&place, &document(START.parse().unwrap())).await;
    let eu = InstanceUpdate {
        pool: Some(PoolName::new("eu").unwrap()),
        drills: Some(drills(
            "@weekly",
            &[(" count ", " SELECT count(*) > 0 FROM orders ")],
        )),
        ..update()
    };
    for attempt in 1..=2 {
        let command = Command::InstanceUpdate(eu.clone());
        let _ = place.deliver(command_id(1), attempt, command).await;
    }
    assert_eq!(place.types().await, ["instance.updated"]);
    let document = wanted(&place).await;
    assert_eq!(document.pool, PoolName::new("eu").ok());
    let settings = document.drills.clone().unwrap();
    assert_eq!(settings.cron.as_deref(), Some("0 0 * * 0"));
    assert_eq!(Some(settings.created_at), START.parse().ok());
    assert_eq!(settings.checks[0].name, "count");
    assert_eq!(settings.checks[0].sql, "SELECT count(*) > 0 FROM orders");

    let mut nowhere = drills("@daily", &[]);
    nowhere.branch = BranchName::new("nowhere").unwrap();
    let mut martian = drills("@daily", &[]);
    martian.cron = None;
    martian.timezone = "Mars/Olympus_Mons".to_owned();
    let cases = [
        (drills("0 0 31 2 *", &[]), RefusalCode::Invalid),
        (drills("@daily", &[("a", " ")]), RefusalCode::Invalid),
        (drills("@daily", &[("", "SELECT 1")]), RefusalCode::Invalid),
        (
            drills("@daily", &[("a", "DELETE FROM orders RETURNING true")]),
            RefusalCode::Invalid,
        ),
        (
            drills("@daily", &[("a", "SELECT 1"); 2]),
            RefusalCode::Invalid,
        ),
        (martian, RefusalCode::Invalid),
        (nowhere, RefusalCode::NotFound),
    ];
    for (number, (refused, code)) in (2..).zip(cases) {
        let command = InstanceUpdate {
            drills: Some(refused.clone()),
            ..update()
        };
        let _ = place
            .deliver(command_id(number), 1, Command::InstanceUpdate(command))
            .await;
        let Some(Event::InstanceRefused(said)) = place.events().await.pop() else {
            panic!("{refused:?} was accepted");
        };
        assert_eq!(said.code, code, "{said:?}");
    }
    assert_eq!(wanted(&place).await, document);

    // Another check is no other time; the default pool is no pool.
    place.clock.set("2026-02-01T00:00:00Z".parse().unwrap());
    let change = InstanceUpdate {
        pool: Some(PoolName::new(PoolName::DEFAULT).unwrap()),
        drills: Some(drills("@weekly", &[])),
        ..update()
    };
    let _ = place
        .deliver(command_id(20), 1, Command::InstanceUpdate(change))
        .await;
    let document = wanted(&place).await;
    assert_eq!(document.pool, None);
    let since = document.drills.map(|settings| settings.created_at);
    assert_eq!(since, START.parse().ok());
    let none = InstanceUpdate {
        no_drills: true,
        ..update()
    };
    let _ = place
        .deliver(command_id(21), 1, Command::InstanceUpdate(none))
        .await;
    assert_eq!(wanted(&place).await.drills, None);
}

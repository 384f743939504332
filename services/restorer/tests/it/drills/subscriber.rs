//! A source that subscribes to another server: its copies must leave that server, and the slot there, alone.

use restorer::compute::Stopping;
use testkit::postgres::{Postgres, StopMode};

use super::*;

/// What the publisher knows of the slot; and that nobody uses it.
async fn slot(publisher: &Postgres) -> Result<String> {
    let sql = "SELECT slot_name || ' ' || active || ' ' || restart_lsn || ' ' || confirmed_flush_lsn \
               FROM pg_replication_slots";
    publisher.psql(sql).await
}

async fn rows_of(server: &Postgres) -> Result<String> {
    server.psql("SELECT count(*) FROM p").await
}

async fn a_copy_of_a_subscriber_takes_nothing_from_its_publisher(version: PgVersion) -> Result<()> {
    let publisher = Postgres::builder()
        .version(version)
        .setting("wal_level", "logical")
        .setting("log_replication_commands", "on")
        .start()
        .await?;
    let _ = publisher
        .psql(
            "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p SELECT generate_series(1, 5); \
             CREATE PUBLICATION news FOR TABLE p",
        )
        .await?;
    let mut world = World::without_tablespace(version).await?;
    let _ = world
        .source
        .psql("CREATE TABLE p (id int PRIMARY KEY)")
        .await?;
    let subscribe = format!(
        "CREATE SUBSCRIPTION feed CONNECTION '{}' PUBLICATION news",
        publisher.dsn()
    );
    let _ = world.source.psql(&subscribe).await?;
    wait_until("the first copy", PATIENCE, async || {
        let ready = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'";
        world
            .source
            .psql(ready)
            .await
            .is_ok_and(|ready| ready == "1")
    })
    .await?;
    let _ = world.back_up().await?;
    let _ = publisher
        .psql("INSERT INTO p SELECT generate_series(6, 10)")
        .await?;
    wait_until("the changes", PATIENCE, async || {
        rows_of(&world.source).await.is_ok_and(|rows| rows == "10")
    })
    .await?;
    // Changes are applied without waiting for the disk; this commit waits, for those before it too.
    world.rows(11..=11).await?;
    let _ = world.archive().await?;
    // Production is down: its slot is free for whoever comes, and what it has not had waits there.
    world.source.stop(StopMode::Fast).await?;
    let _ = publisher
        .psql("INSERT INTO p SELECT generate_series(11, 15)")
        .await?;
    wait_until("a free slot", PATIENCE, async || {
        slot(&publisher)
            .await
            .is_ok_and(|slot| slot.contains(" false "))
    })
    .await?;
    let before = (slot(&publisher).await?, publisher.log().len());

    let checks = vec![
        check("as it was", "SELECT count(*) BETWEEN 5 AND 10 FROM p"),
        check(
            "time to take it",
            "SELECT count(*) BETWEEN 5 AND 10 FROM p, pg_sleep(2)",
        ),
        check(
            "quiet",
            "SELECT NOT subenabled AND subslotname IS NULL FROM pg_subscription",
        ),
    ];
    let summary = completed(&world, checks).await?;
    assert!(summary.checks.iter().all(|check| check.passed));
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let rows = "SELECT count(*) || ' ' || max(id) FROM p";
    assert_eq!(world.ask(&finished, rows).await?, "10 10");
    // As after a crash of the machine.
    world
        .compute
        .stop(&world.site("b"), Stopping::Immediate)
        .await?;
    world.restorer.reconcile().await?;
    assert_eq!(world.ask(&finished, rows).await?, "10 10");
    // Whoever tidies up in the copy does not take the slot away from production.
    let _ = world.ask(&finished, "DROP SUBSCRIPTION feed").await?;
    assert_eq!(slot(&publisher).await?, before.0);
    let log = publisher.log();
    let since = &log[before.1.min(log.len())..];
    assert!(!since.contains("replication command"), "{since}");

    world.source.start_again().await?;
    wait_until("production to go on", PATIENCE, async || {
        rows_of(&world.source).await.is_ok_and(|rows| rows == "15")
    })
    .await
}

#[tokio::test]
async fn a_copy_of_a_subscriber_takes_nothing_from_its_publisher_on_15() -> Result<()> {
    a_copy_of_a_subscriber_takes_nothing_from_its_publisher(PgVersion::V15).await
}

#[tokio::test]
async fn a_copy_of_a_subscriber_takes_nothing_from_its_publisher_on_18() -> Result<()> {
    a_copy_of_a_subscriber_takes_nothing_from_its_publisher(PgVersion::V18).await
}

//! A source that subscribes to another server: its copies must leave that server, and the slot there, alone.

use restorer::compute::Stopping;
use testkit::postgres::{Postgres, StopMode};

use super::*;

/// What the publisher knows of its slots; and whether anybody uses them.
async fn slot(publisher: &Postgres) -> Result<String> {
    let sql = "SELECT slot_name || ' ' || active || ' ' || restart_lsn || ' ' || confirmed_flush_lsn \
               FROM pg_replication_slots ORDER BY slot_name";
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

/// Rows that come to a table wait while its name is in `held`, also those that are copied or applied.
const HOLDING: &str = "
    CREATE TABLE held (name text PRIMARY KEY);
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        WHILE EXISTS (SELECT FROM public.held WHERE name = TG_TABLE_NAME) LOOP PERFORM pg_sleep(0.05); END LOOP;
        RETURN NEW;
    END $$;
    CREATE TABLE p (id int PRIMARY KEY);
    CREATE TABLE copying (id int PRIMARY KEY);
    CREATE TABLE copied (id int PRIMARY KEY);
    CREATE TRIGGER hold BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION hold();
    CREATE TRIGGER hold BEFORE INSERT ON copying FOR EACH ROW EXECUTE FUNCTION hold();
    CREATE TRIGGER hold BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION hold();
    ALTER TABLE p ENABLE ALWAYS TRIGGER hold;
    ALTER TABLE copying ENABLE ALWAYS TRIGGER hold;
    ALTER TABLE copied ENABLE ALWAYS TRIGGER hold";

const STATES: &str = "SELECT string_agg(srrelid::regclass::text || ' ' || srsubstate::text, ', ' ORDER BY srrelid::regclass::text) \
                      FROM pg_subscription_rel";

async fn answers(server: &Postgres, sql: &str, expected: &str) -> Result<()> {
    wait_until(expected, PATIENCE, async || {
        server.psql(sql).await.is_ok_and(|found| found == expected)
    })
    .await
}

/// A subscriber with a table that is being copied, one whose copy waits for the changes since, and a worker that applies
/// none of them meanwhile.
async fn in_the_middle_of_copies(world: &World, publisher: &Postgres) -> Result<()> {
    let tables = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE copying (id int PRIMARY KEY); \
                  CREATE TABLE copied (id int PRIMARY KEY); CREATE PUBLICATION news FOR TABLE p; \
                  INSERT INTO copying SELECT generate_series(1, 5); INSERT INTO copied SELECT generate_series(1, 5)";
    let _ = publisher.psql(tables).await?;
    let source = &world.source;
    let _ = source.psql(HOLDING).await?;
    let subscribe = format!(
        "CREATE SUBSCRIPTION feed CONNECTION '{}' PUBLICATION news",
        publisher.dsn()
    );
    let _ = source.psql(&subscribe).await?;
    answers(source, STATES, "p r").await?;
    let _ = publisher
        .psql("ALTER PUBLICATION news ADD TABLE copying, copied")
        .await?;
    let _ = source
        .psql("INSERT INTO held VALUES ('p'), ('copying'), ('copied')")
        .await?;
    let _ = source
        .psql("ALTER SUBSCRIPTION feed REFRESH PUBLICATION")
        .await?;
    answers(source, STATES, "copied d, copying d, p r").await?;
    let _ = publisher.psql("INSERT INTO p VALUES (1)").await?;
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%worker' \
                  AND wait_event = 'PgSleep'";
    answers(source, asleep, "3").await?;
    let _ = source
        .psql("DELETE FROM held WHERE name = 'copied'")
        .await?;
    answers(source, STATES, "copied f, copying d, p r").await
}

async fn a_copy_leaves_the_slots_of_tables_being_copied_alone(version: PgVersion) -> Result<()> {
    let publisher = Postgres::builder()
        .version(version)
        .setting("wal_level", "logical")
        .setting("log_replication_commands", "on")
        .start()
        .await?;
    let mut world = World::without_tablespace(version).await?;
    in_the_middle_of_copies(&world, &publisher).await?;
    let _ = world.back_up().await?;
    world.rows(11..=11).await?;
    let _ = world.archive().await?;
    world.source.stop(StopMode::Fast).await?;
    let used = "SELECT count(*) || ' ' || count(*) FILTER (WHERE active) FROM pg_replication_slots";
    answers(&publisher, used, "3 0").await?;
    let before = (slot(&publisher).await?, publisher.log().len());

    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let copies = "SELECT (SELECT count(*) FROM copying) || ' ' || (SELECT count(*) FROM copied)";
    assert_eq!(world.ask(&finished, copies).await?, "0 5");
    assert_eq!(world.ask(&finished, STATES).await?, "p r");
    let checks = finished.summary.checks.iter();
    let told: Vec<&str> = checks
        .filter(|check| check.name == "subscribed_tables")
        .map(|check| check.detail.as_str())
        .collect();
    let expected = "public.copied of feed (its rows are there) in postgres, public.copying of feed in postgres;";
    assert!(told.len() == 1 && told[0].contains(expected), "{told:?}");
    // A copy that begins anew makes its origin.
    let origins = "SELECT count(*) FROM pg_replication_origin";
    assert_eq!(world.ask(&finished, origins).await?, "1");
    let _ = world.ask(&finished, "DROP SUBSCRIPTION feed").await?;
    assert_eq!(slot(&publisher).await?, before.0);
    let log = publisher.log();
    let since = &log[before.1.min(log.len())..];
    assert!(!since.contains("replication command"), "{since}");

    world.source.start_again().await?;
    let _ = world.source.psql("DELETE FROM held").await?;
    answers(&world.source, STATES, "copied r, copying r, p r").await?;
    let rows = "SELECT count(*) || ' ' || (SELECT count(*) FROM copying) || ' ' || (SELECT count(*) FROM copied) FROM p";
    answers(&world.source, rows, "1 5 5").await
}

#[tokio::test]
async fn a_copy_leaves_the_slots_of_tables_being_copied_alone_on_15() -> Result<()> {
    a_copy_leaves_the_slots_of_tables_being_copied_alone(PgVersion::V15).await
}

#[tokio::test]
async fn a_copy_leaves_the_slots_of_tables_being_copied_alone_on_18() -> Result<()> {
    a_copy_leaves_the_slots_of_tables_being_copied_alone(PgVersion::V18).await
}

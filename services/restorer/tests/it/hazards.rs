//! What a branch must not do as its source does, and what must not keep anybody out of it.

use std::time::Duration;

use anyhow::Result;
use events::RestoreTarget;
use events::event::Event;
use restorer::outcome::FinishedBranch;
use testkit::postgres::PgVersion;

use crate::copy;
use crate::world::World;

/// Everything that a copied cluster could act with. What is only written with `ALTER SYSTEM` is not in force on the
/// source, but it is in its files.
const DANGEROUS: &str = "
    ALTER SYSTEM SET archive_mode = on;
    ALTER SYSTEM SET archive_command = 'touch /nowhere/%f';
    ALTER SYSTEM SET archive_library = '';
    ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1';
    ALTER SYSTEM SET primary_slot_name = 'theirs';
    ALTER SYSTEM SET synchronous_standby_names = 'nobody';
    ALTER SYSTEM SET restore_command = 'touch /nowhere/%p';
    ALTER SYSTEM SET archive_cleanup_command = 'touch /nowhere/cleaned';
    ALTER SYSTEM SET recovery_end_command = 'touch /nowhere/ended';
    ALTER SYSTEM SET max_logical_replication_workers = 4;
    ALTER SYSTEM SET default_transaction_read_only = on;
    ALTER SYSTEM SET shared_preload_libraries = 'pg_cron, auto_explain';
    ALTER SYSTEM SET session_preload_libraries = 'no_such_library';
    SELECT pg_create_physical_replication_slot('theirs', true);
    CREATE DATABASE other;
    CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p
        WITH (connect = false, slot_name = 'feed_at_home');
    ALTER SUBSCRIPTION feed ENABLE;
    CREATE EXTENSION postgres_fdw;
    CREATE EXTENSION dblink;
    CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '192.0.2.1');
    CREATE SCHEMA cron;
    CREATE TABLE cron.job (jobid int, schedule text, command text, active bool);
    INSERT INTO cron.job VALUES (1, '* * * * *', 'DELETE FROM t', true);
    ALTER ROLE alice SET session_preload_libraries = 'no_such_library';
    ALTER DATABASE other SET local_preload_libraries = 'neither';
    ALTER ROLE alice IN DATABASE other SET default_transaction_read_only = on;
    ALTER ROLE alice SET search_path = nowhere;
    ALTER ROLE postgres SET lock_timeout = '1ms'";

fn check<'a>(finished: &'a FinishedBranch, name: &str) -> Vec<&'a str> {
    let checks = finished.summary.checks.iter();
    let named = checks.filter(|check| check.name == name);
    named.map(|check| check.detail.as_str()).collect()
}

async fn a_branch_acts_for_nobody_but_itself(version: PgVersion) -> Result<()> {
    let world = World::new(version).await?;
    let _ = world.source.psql(DANGEROUS).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;

    for (name, expected) in [
        ("archive_mode", "off"),
        ("archive_command", "(disabled)"),
        ("archive_library", ""),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", ""),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("synchronous_standby_names", ""),
        ("restore_command", ""),
        ("max_logical_replication_workers", "0"),
        ("default_transaction_read_only", "off"),
        ("shared_preload_libraries", "auto_explain"),
        ("session_preload_libraries", ""),
    ] {
        let shown = world.ask(&finished, &format!("SHOW {name}")).await?;
        assert_eq!(shown, expected, "{name}");
    }
    // Nobody waits for a standby.
    let write = world.ask(
        &finished,
        "INSERT INTO t VALUES (11); INSERT INTO elsewhere VALUES (11)",
    );
    let _ = tokio::time::timeout(Duration::from_secs(20), write).await??;
    let slots = "SELECT string_agg(slot_name, ',') FROM pg_replication_slots";
    let slot = events::document::slot_name(&crate::world::instance(), &finished.register.branch);
    assert_eq!(world.ask(&finished, slots).await?, slot);
    let subscription =
        "SELECT subenabled || ' ' || coalesce(subslotname, 'none') FROM pg_subscription";
    assert_eq!(world.ask(&finished, subscription).await?, "false none");
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical%'";
    assert_eq!(world.ask(&finished, workers).await?, "0");
    // The user's rows and objects are as they were.
    assert_eq!(
        world
            .ask(&finished, "SELECT count(*) FROM cron.job")
            .await?,
        "1"
    );
    assert_eq!(
        world
            .ask(&finished, "SELECT srvoptions FROM pg_foreign_server")
            .await?,
        "{host=192.0.2.1}"
    );

    // What would have ended every login is gone, the rest of the roles' settings is there.
    let _ = world
        .ask(&finished, "ALTER ROLE alice PASSWORD 'new'")
        .await?;
    let alice = format!("postgres://alice:new@127.0.0.1:{}/other", finished.port);
    let shown = world
        .source
        .psql_as(
            &alice,
            "SHOW default_transaction_read_only; SHOW search_path",
        )
        .await?;
    assert_eq!(
        shown.split_whitespace().collect::<Vec<_>>(),
        ["on", "nowhere"]
    );

    let told = |name: &str, part: &str| {
        let details = check(&finished, name);
        let found = details.iter().any(|detail| detail.contains(part));
        assert!(found, "{name}: {details:?}");
    };
    told(
        "subscriptions",
        "feed in postgres (its slot is feed_at_home)",
    );
    told("foreign_servers", "far (postgres_fdw) in postgres");
    told("dblink", "dblink in postgres");
    told("cron_jobs", "1 in postgres");
    told("preload_libraries", "pg_cron");
    told(
        "role_settings",
        "session_preload_libraries = no_such_library of role alice",
    );
    told(
        "role_settings",
        "local_preload_libraries = neither in database other",
    );
    told(
        "role_settings",
        "default_transaction_read_only = on of role alice",
    );
    told("settings", "synchronous_standby_names");
    told("passwords", "lost their password");
    Ok(())
}

#[tokio::test]
async fn a_branch_acts_for_nobody_but_itself_on_15() -> Result<()> {
    a_branch_acts_for_nobody_but_itself(PgVersion::V15).await
}

#[tokio::test]
async fn a_branch_acts_for_nobody_but_itself_on_18() -> Result<()> {
    a_branch_acts_for_nobody_but_itself(PgVersion::V18).await
}

#[tokio::test]
async fn a_login_trigger_keeps_the_restorer_out_of_nothing() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let trigger = format!(
        "CREATE FUNCTION deny() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF current_setting('port') <> '{}' THEN RAISE EXCEPTION 'only at home'; END IF; END $$; \
         CREATE EVENT TRIGGER deny ON login EXECUTE FUNCTION deny(); \
         ALTER EVENT TRIGGER deny ENABLE ALWAYS",
        world.source.port()
    );
    let _ = world.source.psql(&trigger).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    // It is the user's, so it is kept, and told with the way around it.
    assert!(world.ask(&finished, "SELECT 1").await.is_err());
    let uri = format!(
        "{}?options=-c%20event_triggers%3Doff",
        world.uri(&finished)?
    );
    let count = world.source.psql_as(&uri, "SELECT count(*) FROM t").await?;
    assert_eq!(count, "10");
    let details = check(&finished, "login_triggers");
    assert!(details[0].contains("deny in postgres"), "{details:?}");
    Ok(())
}

#[tokio::test]
async fn applications_may_keep_their_passwords_and_nobody_else() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let roles = "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'old'; \
         CREATE ROLE mirror REPLICATION LOGIN PASSWORD 'old'; \
         CREATE ROLE deputy LOGIN PASSWORD 'old' IN ROLE boss; \
         CREATE ROLE loader LOGIN PASSWORD 'old' IN ROLE pg_read_server_files; \
         CREATE ROLE staff; CREATE ROLE bob LOGIN PASSWORD 'old' IN ROLE staff";
    let _ = world.source.psql(roles).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let mut request = world.request("b", RestoreTarget::Latest);
    request.keep_passwords = true;
    let said = world.run(&request).await?;
    assert!(matches!(said, Event::RestoreCompleted(_)), "{said:?}");
    let finished = world.finished("b")?;
    let log_in = async |role: &str, password: &str| {
        let uri = format!(
            "postgres://{role}:{password}@127.0.0.1:{}/postgres",
            finished.port
        );
        world.source.psql_as(&uri, "SELECT 1").await.is_ok()
    };
    for role in ["alice", "bob"] {
        assert!(log_in(role, "old").await, "{role}");
        assert!(!log_in(role, "other").await, "{role}");
    }
    for role in ["boss", "mirror", "deputy", "loader"] {
        assert!(!log_in(role, "old").await, "{role}");
    }
    assert!(!log_in("postgres", world.source.password()).await);
    let details = check(&finished, "passwords");
    assert!(
        details[0].contains("kept theirs: alice, bob"),
        "{details:?}"
    );
    Ok(())
}

async fn a_small_branch_of_a_large_source(version: PgVersion) -> Result<()> {
    let mut world = World::new(version).await?;
    let large =
        "ALTER SYSTEM SET max_connections = 500; ALTER SYSTEM SET max_prepared_transactions = 5";
    let _ = world.source.psql(large).await?;
    world.source.restart().await?;
    let _ = world.back_up().await?;
    // The change is in the WAL between the backup and the target.
    let larger =
        "ALTER SYSTEM SET max_connections = 550; ALTER SYSTEM SET max_worker_processes = 40";
    let _ = world.source.psql(larger).await?;
    world.source.restart().await?;
    world.rows(11..=20).await?;
    // More locks than a lock table of the tier's connections holds; they must be there after every start.
    let many = "BEGIN; SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 20000) n; \
                INSERT INTO t VALUES (1000); PREPARE TRANSACTION 'many'";
    let _ = world.source.psql(many).await?;
    let at = copy::clock(&world.source).await?;
    world.rows(21..=22).await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Time { at }).await?;
    assert_eq!(world.count(&finished).await?, 20);
    assert_eq!(world.ask(&finished, "SHOW max_connections").await?, "30");
    assert_eq!(
        world.ask(&finished, "SHOW max_worker_processes").await?,
        "4"
    );
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(world.ask(&finished, held).await?, "20000");
    // The lowered values hold over a crash.
    use restorer::compute::{Compute as _, Stopping};
    let site = world.site("b");
    world.compute.stop(&site, Stopping::Immediate).await?;
    world.restorer.reconcile().await?;
    let _ = world.ask(&finished, "COMMIT PREPARED 'many'").await?;
    let there = "SELECT count(*) FROM t WHERE id = 1000";
    assert_eq!(world.ask(&finished, there).await?, "1");
    Ok(())
}

#[tokio::test]
async fn a_small_branch_of_a_large_source_on_15() -> Result<()> {
    a_small_branch_of_a_large_source(PgVersion::V15).await
}

#[tokio::test]
async fn a_small_branch_of_a_large_source_on_18() -> Result<()> {
    a_small_branch_of_a_large_source(PgVersion::V18).await
}

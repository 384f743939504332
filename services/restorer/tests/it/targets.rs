//! Every kind of target, compared row by row with what the source had at that moment.

use anyhow::Result;
use events::RestoreTarget;
use events::event::{Event, ExtensionState};
use pg_format::Lsn;
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use crate::copy;
use crate::world::{PATIENCE, World, server_user};

async fn every_target(version: PgVersion) -> Result<()> {
    let world = World::new(version).await?;
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let at = copy::clock(&world.source).await?;
    world.rows(16..=17).await?;
    let lsn: Lsn = world
        .source
        .psql("SELECT pg_current_wal_insert_lsn()")
        .await?
        .parse()?;
    world.rows(18..=19).await?;
    let _ = world
        .source
        .psql("SELECT pg_create_restore_point('noon')")
        .await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(20..=20).await?;
    let second = world.back_up().await?;
    world.rows(21..=30).await?;
    let position = world.archive().await?;

    let check = async |branch: &str, target: RestoreTarget, base, rows: i32| -> Result<()> {
        let finished = world.restore(branch, target).await?;
        assert_eq!(finished.summary.backup_id, base, "{branch}");
        assert_eq!(world.count(&finished).await?, rows, "{branch}");
        world.remove(branch).await
    };
    let (one, two) = (first.backup_id, second.backup_id);
    check("time", RestoreTarget::Time { at }, one, 15).await?;
    check("lsn", RestoreTarget::Lsn { lsn }, one, 17).await?;
    let name = "noon".to_owned();
    check("point", RestoreTarget::RestorePoint { name }, one, 19).await?;
    check(
        "first",
        RestoreTarget::Backup {
            id: one,
            even_damaged: false,
        },
        one,
        10,
    )
    .await?;
    check(
        "second",
        RestoreTarget::Backup {
            id: two,
            even_damaged: false,
        },
        two,
        20,
    )
    .await?;
    // Nothing was committed between the last row and this moment: PostgreSQL alone would refuse.
    let idle = RestoreTarget::Time {
        at: position.proven_at,
    };
    check("idle", idle, two, 30).await?;
    let end = RestoreTarget::Lsn { lsn: position.lsn };
    check("end", end, two, 30).await?;
    // More WAL is stored than the position has proven: nothing of it may be served.
    world.rows(31..=35).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    let _ = world.archive().await?;
    world.writer.put_wal_position(&position).await?;
    check("latest", RestoreTarget::Latest, two, 30).await
}

#[tokio::test]
async fn every_target_on_14() -> Result<()> {
    every_target(PgVersion::V14).await
}

#[tokio::test]
async fn every_target_on_15() -> Result<()> {
    every_target(PgVersion::V15).await
}

#[tokio::test]
async fn every_target_on_16() -> Result<()> {
    every_target(PgVersion::V16).await
}

#[tokio::test]
async fn every_target_on_17() -> Result<()> {
    every_target(PgVersion::V17).await
}

#[tokio::test]
async fn every_target_on_18() -> Result<()> {
    every_target(PgVersion::V18).await
}

#[tokio::test]
async fn an_open_branch_is_a_stranger_to_its_source() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world
        .source
        .psql(
            "ALTER SYSTEM SET archive_command = '/bin/false'; ALTER SYSTEM SET max_connections = 300;
             ALTER ROLE alice SET search_path = nowhere",
        )
        .await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let uri = world.uri(&finished)?;
    // The old passwords are gone, and so is trust.
    for user in [
        "alice:old",
        &format!("postgres:{}", world.source.password()),
    ] {
        let old = format!("postgres://{user}@127.0.0.1:{}/postgres", finished.port);
        let refused = world
            .source
            .psql_as(&old, "SELECT 1")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("password authentication failed"),
            "{refused}"
        );
    }
    let hashes = "SELECT count(*) FROM pg_authid WHERE rolpassword IS NOT NULL";
    assert_eq!(world.ask(&finished, hashes).await?, "1");
    let slot = events::document::slot_name(&crate::world::instance(), &finished.register.branch);
    let held = format!(
        "SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    assert_eq!(world.ask(&finished, &held).await?, "t");
    let shown = async |name: &str| world.ask(&finished, &format!("SHOW {name}")).await;
    assert_eq!(shown("archive_command").await?, "(disabled)");
    assert_eq!(shown("max_connections").await?, "30");
    assert_eq!(shown("listen_addresses").await?, "127.0.0.1");
    // psql itself asks for UTC here.
    let carried = "SELECT setting FROM pg_file_settings WHERE lower(name) = 'timezone'";
    assert_eq!(world.ask(&finished, carried).await?, "Europe/Berlin");
    assert_eq!(shown("restore_command").await?, "");
    let summary = &finished.summary;
    assert_eq!(summary.timeline.0, summary.fork_timeline.0 + 1);
    assert!(
        summary
            .extensions
            .iter()
            .all(|one| one.state == ExtensionState::Present)
    );
    assert!(summary.extensions.iter().any(|one| one.name == "plpgsql"));
    assert!(!uri.contains(world.source.password()));
    let outcome = std::fs::read_to_string(world.site("b").outcome_file())?;
    let (_, password) = uri.split_once("postgres:").unwrap();
    let password = password.split_once('@').unwrap().0;
    assert!(
        !outcome.contains(password),
        "the outcome holds the password in the clear"
    );
    // Its first backup and its WAL go to a prefix of its own.
    let record = world
        .restorer
        .repository
        .reader(&crate::world::instance(), &finished.register.branch);
    let record = record.record().await?;
    assert_eq!(record.parent.unwrap().fork_lsn, summary.stop_lsn);
    if let Some(uid) = server_user() {
        use std::os::unix::fs::MetadataExt as _;
        let data = std::fs::metadata(world.site("b").data())?;
        assert_eq!((data.uid(), data.mode() & 0o777), (uid, 0o700));
    }
    Ok(())
}

#[tokio::test]
async fn a_source_that_raised_its_limits_after_the_backup_is_replayed() -> Result<()> {
    let mut world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let raised = "ALTER SYSTEM SET max_connections = 400; ALTER SYSTEM SET max_worker_processes = 60; \
         ALTER SYSTEM SET max_prepared_transactions = 10";
    let _ = world.source.psql(raised).await?;
    world.source.restart().await?;
    world.rows(11..=20).await?;
    // What was prepared stays prepared on the branch, which must have room for it.
    let prepared = "BEGIN; INSERT INTO t VALUES (1000); PREPARE TRANSACTION 'open'";
    let _ = world.source.psql(prepared).await?;
    let at = copy::clock(&world.source).await?;
    world.rows(21..=22).await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Time { at }).await?;
    assert_eq!(world.count(&finished).await?, 20);
    let open = "SELECT string_agg(gid, ',') FROM pg_prepared_xacts";
    assert_eq!(world.ask(&finished, open).await?, "open");
    Ok(())
}

#[tokio::test]
async fn a_gap_is_never_passed_over() -> Result<()> {
    let world = World::new(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    world.rows(11..=15).await?;
    let before = copy::clock(&world.source).await?;
    world.rows(16..=17).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(18..=19).await?;
    let within = copy::clock(&world.source).await?;
    let hole = world
        .source
        .psql("SELECT pg_walfile_name(pg_current_wal_lsn())")
        .await?;
    world.rows(20..=20).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(21..=25).await?;
    let _ = copy::archive_without(&world.source, &world.writer, Some(&hole)).await?;

    let finished = world
        .restore("before", RestoreTarget::Time { at: before })
        .await?;
    assert_eq!(world.count(&finished).await?, 15);
    match world
        .run(&world.request("within", RestoreTarget::Time { at: within }))
        .await?
    {
        Event::RestoreRefused(refused) => {
            assert!(refused.message.contains("gap"), "{}", refused.message);
        }
        other => panic!("{other:?}"),
    }
    assert!(!world.root_of("within").exists());
    let latest = world
        .run(&world.request("latest", RestoreTarget::Latest))
        .await?;
    assert!(matches!(latest, Event::RestoreRefused(_)), "{latest:?}");
    Ok(())
}

#[tokio::test]
async fn recovery_follows_a_promotion() -> Result<()> {
    let mut world = World::without_tablespace(PgVersion::V18).await?;
    let standby = Postgres::builder()
        .standby_of(&world.source)
        .start()
        .await?;
    let base = world.back_up().await?;
    world.rows(11..=15).await?;
    let before = copy::clock(&world.source).await?;
    world.rows(16..=20).await?;
    let end: Lsn = world
        .source
        .psql("SELECT pg_current_wal_lsn()")
        .await?
        .parse()?;
    let _ = world.archive().await?;
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    wait_until("the standby to have it all", PATIENCE, async || {
        standby
            .psql(&caught_up)
            .await
            .is_ok_and(|answer| answer == "t")
    })
    .await?;
    standby.promote().await?;
    // The old primary goes on for a while; that past is not the branch's any more.
    world.rows(100..=105).await?;
    world.source = standby;
    world.rows(21..=25).await?;
    let after = copy::clock(&world.source).await?;
    world.rows(26..=27).await?;
    let position = world.archive().await?;
    assert_eq!(position.timeline.0, 2);

    for (branch, target, rows) in [
        ("before", RestoreTarget::Time { at: before }, 15),
        ("after", RestoreTarget::Time { at: after }, 25),
        ("latest", RestoreTarget::Latest, 27),
        (
            "backup",
            RestoreTarget::Backup {
                id: base.backup_id,
                even_damaged: false,
            },
            10,
        ),
    ] {
        let finished = world.restore(branch, target).await?;
        assert_eq!(world.count(&finished).await?, rows, "{branch}");
        world.remove(branch).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_not_there_is_refused_and_leaves_nothing() -> Result<()> {
    let world = World::new(PgVersion::V15).await?;
    let backup = world.back_up().await?;
    let _ = world.archive().await?;
    let name = "never made".to_owned();
    let request = world.request("b", RestoreTarget::RestorePoint { name });
    match world.run(&request).await? {
        Event::RestoreRefused(refused) => {
            assert!(
                refused.message.contains("never made"),
                "{}",
                refused.message
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(!world.root_of("b").exists());
    let early = backup.backed_up_at - chrono::TimeDelta::seconds(1);
    let request = world.request("b", RestoreTarget::Time { at: early });
    match world.run(&request).await? {
        Event::RestoreRefused(refused) => {
            let earliest = events::envelope::rfc3339(backup.backed_up_at);
            assert!(refused.message.contains(&earliest), "{}", refused.message);
        }
        other => panic!("{other:?}"),
    }
    assert!(!world.root_of("b").exists());
    Ok(())
}

#[tokio::test]
async fn without_the_sources_key_the_data_still_comes_back() -> Result<()> {
    let mut world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    world.rows(11..=12).await?;
    let _ = world.archive().await?;
    let restorer = std::sync::Arc::get_mut(&mut world.restorer);
    let restorer = restorer.ok_or_else(|| anyhow::anyhow!("the restorer is shared"))?;
    restorer.key = std::sync::Arc::new(service::MasterKey::from_bytes(&[8; 32]));
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    assert_eq!(world.count(&finished).await?, 12);
    Ok(())
}

//! Pain 7: `pg_wal` on a small disk, with the archive down.

use std::time::Duration;

use events::DiskRiskPolicy;
use events::event::{Event, GapCause, SlotRiskChanged, SlotRiskLevel};
use pg_format::{SegmentName, TimelineId};
use testkit::postgres::{PgVersion, Postgres};
use testkit::process::Service;
use testkit::wait_until;

use super::{check_unbroken, told_gaps, wait_for_gap, wait_for_streaming};
use crate::world::{PATIENCE, Registered, World, flush_lsn};

const DISK: u64 = 12 << 20;

async fn small() -> Postgres {
    let server = Postgres::builder()
        .version(PgVersion::V18)
        .wal_segment_size_mib(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .setting("autovacuum", "off")
        .start()
        .await
        .unwrap();
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    server
}

async fn archiver(world: &World) -> Service {
    let builder = world
        .builder("one")
        .env("ZEKTOR_SLOT_RISK_INTERVAL", "200ms");
    let builder = builder.env("ZEKTOR_SLOT_DISK_BYTES", DISK.to_string());
    builder.start().await.unwrap()
}

async fn told_risks(world: &World, registered: &Registered) -> Vec<SlotRiskChanged> {
    let events = world.events(registered).await;
    let risks = events.into_iter().filter_map(|event| match event {
        Event::SlotRiskChanged(risk) => Some(risk),
        _ => None,
    });
    risks.collect()
}

async fn wait_for_level(world: &World, registered: &Registered, level: SlotRiskLevel) {
    let mut last = None;
    let told = wait_until("the level to be told", PATIENCE, async || {
        last = told_risks(world, registered).await.pop();
        last.as_ref().is_some_and(|risk| risk.level == level)
    });
    if let Err(error) = told.await {
        panic!("{error}: {level:?}, but {last:?}");
    }
}

/// Writes about a mebibyte of WAL; the server may remove what is not held.
async fn write(server: &Postgres) {
    let rows = "INSERT INTO t SELECT generate_series(1, 16000); CHECKPOINT";
    let _ = server.psql(rows).await.unwrap();
}

/// Writes until that level is told, or one above it: on a busy machine one may be passed over.
async fn write_until(
    world: &World,
    registered: &Registered,
    server: &Postgres,
    level: SlotRiskLevel,
) {
    wait_until("the level to be told", PATIENCE, async || {
        write(server).await;
        // Time to measure it, or a slow machine writes past the limit.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let told = told_risks(world, registered).await;
            if told.iter().any(|risk| risk.level >= level) {
                return true;
            }
        }
        false
    })
    .await
    .unwrap();
}

async fn pg_wal_bytes(server: &Postgres) -> u64 {
    let sum = "SELECT sum(size) FROM pg_ls_waldir()";
    server.psql(sum).await.unwrap().parse().unwrap()
}

#[tokio::test]
async fn pg_wal_on_a_small_disk_with_the_archive_down_is_freed_where_the_policy_allows_it() {
    let world = World::new().await;
    let server = small().await;
    let registered = world.register("shop", &server).await;
    let allow = |active: &mut events::document::ActiveBranch| {
        active.disk_risk = DiskRiskPolicy::Release;
    };
    world.change(&registered, allow).await;
    let _archiver = archiver(&world).await;
    let before = registered.caught_up(&server).await;
    wait_for_streaming(&world, &registered).await;
    assert_eq!(
        told_risks(&world, &registered).await,
        [],
        "nothing to fear, nothing to tell"
    );
    let (here, away) = (
        world.repository_directory(),
        world.repository_directory().with_extension("away"),
    );
    std::fs::rename(&here, &away).unwrap();
    write_until(&world, &registered, &server, SlotRiskLevel::Warning).await;
    write_until(&world, &registered, &server, SlotRiskLevel::Released).await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(server.psql(slots).await.unwrap(), "0");
    // The database goes on, for far more than the disk would have held.
    for _ in 0..16 {
        write(&server).await;
        assert!(pg_wal_bytes(&server).await < 2 * DISK);
    }
    assert!(pg_wal_bytes(&server).await < DISK);
    assert_eq!(
        server.psql(slots).await.unwrap(),
        "0",
        "nothing is held while the archive is away"
    );

    std::fs::rename(&away, &here).unwrap();
    let gap = wait_for_gap(&world, &registered).await;
    assert_eq!(gap.cause, GapCause::Released);
    assert!(gap.from_lsn >= before, "{gap:?}");
    write(&server).await;
    let end = registered.caught_up(&server).await;
    assert!(gap.to_lsn <= end, "{gap:?}");
    let first = registered.position().await.unwrap().first_segment;
    let again = SegmentName::containing(TimelineId(1), gap.to_lsn, registered.size);
    assert_eq!(first, again.to_string());
    wait_for_level(&world, &registered, SlotRiskLevel::Low).await;
    let levels = told_risks(&world, &registered).await;
    let levels: Vec<_> = levels.iter().map(|risk| risk.level).collect();
    assert!(
        levels.windows(2).all(|pair| pair[0] != pair[1]),
        "each once: {levels:?}"
    );
    assert_eq!(told_gaps(&world, &registered).await.len(), 1);
}

#[tokio::test]
async fn wal_is_kept_on_a_small_disk_whatever_happens_where_the_policy_says_so() {
    let mut world = World::new().await;
    let server = small().await;
    let registered = world.register("shop", &server).await;
    let begin = flush_lsn(&server).await;
    let archiver = archiver(&world).await;
    let _ = registered.caught_up(&server).await;
    let (here, away) = (
        world.repository_directory(),
        world.repository_directory().with_extension("away"),
    );
    std::fs::rename(&here, &away).unwrap();
    // The bus is away too: the last state is told when it is back.
    world.nats.kill().await.unwrap();
    let held = format!(
        "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn) > {} FROM pg_replication_slots",
        2 * DISK
    );
    wait_until("more than the limit to be held", PATIENCE, async || {
        write(&server).await;
        server.psql(&held).await.unwrap() == "t"
    })
    .await
    .unwrap();
    wait_until("the alert", PATIENCE, async || {
        archiver
            .log()
            .contains("when the disk is full the database stops")
    })
    .await
    .unwrap();
    world.nats.start_again().await.unwrap();
    wait_for_level(&world, &registered, SlotRiskLevel::Alert).await;
    std::fs::rename(&away, &here).unwrap();
    let end = registered.caught_up(&server).await;
    check_unbroken(&world, &registered, begin, end).await;
    wait_for_level(&world, &registered, SlotRiskLevel::Low).await;
}

/// It may stream, but may not ask in SQL: the database of its connection URI is not there.
#[tokio::test]
async fn the_risk_is_measured_for_a_role_without_sql_too() {
    for version in [PgVersion::V18, PgVersion::V15] {
        let world = World::new().await;
        let server = Postgres::builder()
            .version(version)
            .wal_segment_size_mib(1)
            .setting("max_slot_wal_keep_size", "12MB")
            .setting("autovacuum", "off")
            .start()
            .await
            .unwrap();
        let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
        let registered = world.register("shop", &server).await;
        let dsn = server.dsn_for("postgres", server.password(), "absent");
        world.moves_to_dsn(&registered, &dsn).await;
        let builder = world
            .builder("one")
            .env("ZEKTOR_SLOT_RISK_INTERVAL", "200ms");
        let _archiver = builder.start().await.unwrap();
        let _ = registered.caught_up(&server).await;
        let (here, away) = (
            world.repository_directory(),
            world.repository_directory().with_extension("away"),
        );
        std::fs::rename(&here, &away).unwrap();
        write_until(&world, &registered, &server, SlotRiskLevel::Warning).await;
        let told = told_risks(&world, &registered).await;
        assert_eq!(told[0].limit_bytes, Some(12 << 20), "{told:?}");
        assert!(told[0].message.contains("invalidates"), "{told:?}");
        std::fs::rename(&away, &here).unwrap();
    }
}

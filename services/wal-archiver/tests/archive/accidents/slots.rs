//! What befalls slots behind our back.

use events::event::GapCause;
use pg_format::TimelineId;
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use super::{check_unbroken, fill, keeping, told_gaps, wait_for_gap};
use crate::world::{PATIENCE, Registered, World, flush_lsn};

const VERSIONS: [PgVersion; 2] = [PgVersion::V18, PgVersion::V15];

/// A server that removes WAL as soon as it may.
pub(super) async fn forgetful(version: PgVersion, limit: Option<&str>) -> Postgres {
    let mut builder = Postgres::builder()
        .version(version)
        .wal_segment_size_mib(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .setting("autovacuum", "off");
    if let Some(limit) = limit {
        builder = builder.setting("max_slot_wal_keep_size", limit);
    }
    let server = builder.start().await.unwrap();
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    server
}

pub(super) async fn wait_for_free_slot(server: &Postgres) {
    let free = "SELECT count(*) FROM pg_replication_slots WHERE active";
    wait_until("the slot to be free", PATIENCE, async || {
        server.psql(free).await.unwrap() == "0"
    })
    .await
    .unwrap();
}

pub(super) async fn go_on(server: &Postgres) {
    for _ in 0..4 {
        let fill =
            "INSERT INTO t SELECT generate_series(1, 40000); SELECT pg_switch_wal(); CHECKPOINT";
        let _ = server.psql(fill).await.unwrap();
    }
}

const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";

fn create(registered: &Registered, reserve: bool) -> String {
    let slot = events::document::slot_name(&registered.instance, &registered.branch);
    format!("SELECT pg_create_physical_replication_slot('{slot}', {reserve})")
}

#[tokio::test]
async fn a_slot_dropped_under_the_stream_without_wal_lost_is_no_gap() {
    for version in VERSIONS {
        let world = World::new().await;
        let server = keeping(version).await;
        let registered = world.register("shop", &server).await;
        let begin = flush_lsn(&server).await;
        let _archiver = world.archiver("one").await;
        let _ = registered.caught_up(&server).await;
        let kill =
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active";
        let dropping =
            "SELECT count(pg_drop_replication_slot(slot_name)::text) FROM pg_replication_slots";
        wait_until("the slot to be gone", PATIENCE, async || {
            let _ = server.psql(kill).await.unwrap();
            server
                .psql(dropping)
                .await
                .is_ok_and(|dropped| dropped == "1")
        })
        .await
        .unwrap();
        fill(&server).await;
        let end = registered.caught_up(&server).await;
        check_unbroken(&world, &registered, begin, end).await;
        registered.check_chain(&server, TimelineId(1), end).await;
    }
}

#[tokio::test]
async fn a_slot_made_again_by_somebody_without_wal_lost_is_no_gap() {
    for reserve in [false, true] {
        let world = World::new().await;
        let server = keeping(PgVersion::V18).await;
        let registered = world.register("shop", &server).await;
        let begin = flush_lsn(&server).await;
        let mut archiver = world.archiver("one").await;
        let _ = registered.caught_up(&server).await;
        let _ = archiver.kill9().await.unwrap();
        wait_for_free_slot(&server).await;
        let _ = server.psql(DROP).await.unwrap();
        fill(&server).await;
        let _ = server.psql(&create(&registered, reserve)).await.unwrap();
        archiver.start_again().await.unwrap();
        fill(&server).await;
        let end = registered.caught_up(&server).await;
        check_unbroken(&world, &registered, begin, end).await;
    }
}

/// Loses WAL in the way of `lose`; the gap begins where the archive ended, and has the right cause.
async fn check_lost(
    version: PgVersion,
    limit: Option<&str>,
    lose: impl AsyncFn(&Postgres, &Registered),
    cause: GapCause,
) {
    let world = World::new().await;
    let server = forgetful(version, limit).await;
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let before = registered.caught_up(&server).await;
    wait_until("a moment to be proven", PATIENCE, async || {
        let position = registered.position().await;
        position.is_some_and(|position| position.proven_at > chrono::DateTime::UNIX_EPOCH)
    })
    .await
    .unwrap();
    let _ = archiver.kill9().await.unwrap();
    let promised = registered.position().await.unwrap();
    let durable = promised.lsn;
    wait_for_free_slot(&server).await;
    lose(&server, &registered).await;
    archiver.start_again().await.unwrap();
    let gap = wait_for_gap(&world, &registered).await;
    assert_eq!(gap.cause, cause);
    assert!(gap.from_lsn >= before, "{gap:?} begins before {before}");
    assert!(gap.from_lsn >= durable, "{gap:?} begins before {durable}");
    // The position says now what is proven behind the gap.
    let recorded = registered.reader.wal_gaps().await.unwrap();
    let proven = recorded[0].proven.unwrap();
    assert_eq!((proven.lsn, proven.at), (durable, promised.proven_at));
    let end = registered.caught_up(&server).await;
    assert!(gap.from_lsn < gap.to_lsn && gap.to_lsn <= end, "{gap:?}");
    let first = registered.position().await.unwrap().first_segment;
    let again = pg_format::SegmentName::containing(TimelineId(1), gap.to_lsn, registered.size);
    assert_eq!(first, again.to_string());
    assert_eq!(told_gaps(&world, &registered).await.len(), 1);
}

#[tokio::test]
async fn a_slot_dropped_with_wal_lost_is_a_gap() {
    for version in VERSIONS {
        let lose = async |server: &Postgres, _: &Registered| {
            let _ = server.psql(DROP).await.unwrap();
            go_on(server).await;
        };
        check_lost(version, None, lose, GapCause::SlotLost).await;
    }
}

#[tokio::test]
async fn a_slot_made_again_by_somebody_with_wal_lost_is_a_gap() {
    let lose = async |server: &Postgres, registered: &Registered| {
        let _ = server.psql(DROP).await.unwrap();
        go_on(server).await;
        let _ = server.psql(&create(registered, true)).await.unwrap();
    };
    check_lost(PgVersion::V18, None, lose, GapCause::SlotLost).await;
}

#[tokio::test]
async fn a_slot_that_the_server_invalidated_is_a_gap_of_that_cause() {
    for version in VERSIONS {
        let lose = async |server: &Postgres, _: &Registered| {
            go_on(server).await;
            let status = "SELECT wal_status FROM pg_replication_slots";
            assert_eq!(server.psql(status).await.unwrap(), "lost");
        };
        check_lost(version, Some("2MB"), lose, GapCause::SlotInvalidated).await;
    }
}

/// Nobody can be told when it is found, and the archiver is not restarted.
#[tokio::test]
async fn a_gap_found_while_the_bus_is_away_is_told_when_it_is_back() {
    let mut world = World::new().await;
    let server = forgetful(PgVersion::V18, None).await;
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    wait_for_free_slot(&server).await;
    let _ = server.psql(DROP).await.unwrap();
    go_on(&server).await;
    world.nats.kill().await.unwrap();
    archiver.start_again().await.unwrap();
    let end = registered.caught_up(&server).await;
    let recorded = registered.reader.wal_gaps().await.unwrap();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    world.nats.start_again().await.unwrap();
    let gap = wait_for_gap(&world, &registered).await;
    assert_eq!(
        (gap.from_lsn, gap.to_lsn),
        (recorded[0].from_lsn, recorded[0].to_lsn)
    );
    assert!(gap.to_lsn <= end);
}

/// The one who found the gap before had a clock that was ahead; what is found later is told nevertheless.
#[tokio::test]
async fn a_gap_found_after_one_of_a_clock_that_was_ahead_is_told_too() {
    let world = World::new().await;
    let server = forgetful(PgVersion::V18, None).await;
    let registered = world.register("shop", &server).await;
    let before = repository::WalGap {
        timeline: TimelineId(1),
        from_lsn: pg_format::Lsn(1 << 20),
        to_lsn: pg_format::Lsn(2 << 20),
        cause: GapCause::SlotLost,
        detected_at: service::Clock::now(&service::SystemClock) + chrono::TimeDelta::hours(1),
        proven: None,
    };
    let writer = world
        .repository
        .writer(&registered.instance, &registered.branch);
    writer.put_wal_gap(&before).await.unwrap();
    let mut archiver = world.archiver("one").await;
    let _ = registered.caught_up(&server).await;
    let _ = wait_for_gap(&world, &registered).await;
    let _ = archiver.kill9().await.unwrap();
    wait_for_free_slot(&server).await;
    let _ = server.psql(DROP).await.unwrap();
    go_on(&server).await;
    archiver.start_again().await.unwrap();
    wait_until("the second gap to be told", PATIENCE, async || {
        told_gaps(&world, &registered).await.len() == 2
    })
    .await
    .unwrap();
}

//! Segments that were never pushed. What `wal push` would store is stored here by the test.

use bytes::Bytes;
use events::ArchiveMode;
use events::document::ActiveBranch;
use events::event::GapCause;
use pg_format::{Lsn, SegmentName, TimelineId};
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use super::{keeping, told_gaps, wait_for_gap};
use crate::world::{PATIENCE, Registered, World};

/// Fills a segment; its name.
async fn fill_segment(server: &Postgres, registered: &Registered) -> SegmentName {
    let insert = "INSERT INTO t SELECT generate_series(1, 100)";
    let _ = server.psql(insert).await.unwrap();
    let open = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
    let name = server.psql(open).await.unwrap();
    let _ = server.psql("SELECT pg_switch_wal()").await.unwrap();
    SegmentName::parse(&name, registered.size).unwrap()
}

async fn push(world: &World, server: &Postgres, registered: &Registered, name: SegmentName) {
    let writer = world
        .repository
        .writer(&registered.instance, &registered.branch);
    let file = server
        .data_directory()
        .join("pg_wal")
        .join(name.to_string());
    let bytes = Bytes::from(std::fs::read(file).unwrap());
    let _ = writer.put_segment(name, bytes).await.unwrap();
}

/// The one who found the gap before had a clock that was ahead; what is found later is told nevertheless.
#[tokio::test]
async fn a_segment_never_pushed_is_told_after_a_gap_of_a_clock_that_was_ahead() {
    let world = World::new().await;
    let server = keeping(PgVersion::V18).await;
    let registered = world.registered("shop", &server).await;
    let by_command = |active: &mut ActiveBranch| active.archive_mode = ArchiveMode::Command;
    world.change(&registered, by_command).await;
    let before = repository::WalGap {
        timeline: TimelineId(1),
        from_lsn: Lsn(1 << 20),
        to_lsn: Lsn(2 << 20),
        cause: GapCause::NotPushed,
        detected_at: service::Clock::now(&service::SystemClock) + chrono::TimeDelta::hours(1),
        proven: None,
    };
    let writer = world
        .repository
        .writer(&registered.instance, &registered.branch);
    writer.put_wal_gap(&before).await.unwrap();
    let archiver = world
        .builder("one")
        .env("ZEKTOR_WAL_PUSHED_GAP_AFTER", "1s");
    let _archiver = archiver.start().await.unwrap();
    let first = fill_segment(&server, &registered).await;
    push(&world, &server, &registered, first).await;
    let _ = wait_for_gap(&world, &registered).await;
    wait_until("the first segment to be followed", PATIENCE, async || {
        registered.position().await.is_some()
    })
    .await
    .unwrap();

    let lost = fill_segment(&server, &registered).await;
    let next = fill_segment(&server, &registered).await;
    push(&world, &server, &registered, next).await;
    wait_until("the second gap to be told", PATIENCE, async || {
        told_gaps(&world, &registered).await.len() == 2
    })
    .await
    .unwrap();
    let told = told_gaps(&world, &registered).await;
    let lies = (lost.start(registered.size), next.start(registered.size));
    assert_eq!((told[1].from_lsn, told[1].to_lsn), lies);
}

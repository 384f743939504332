//! Segments of a gibibyte: few bytes of it are written, and memory and traffic are in proportion to those.

use pg_format::TimelineId;
use testkit::postgres::Postgres;
use testkit::process::Service;

use super::wait_for_streaming;
use crate::world::{Registered, World};

/// The most memory that the process has had, in mebibytes.
fn peak_mib(service: &Service) -> u64 {
    let process = service.process_id().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes / 1024
}

async fn grow(server: &Postgres, registered: &Registered, mebibytes: u32) {
    let rows = format!(
        "INSERT INTO t SELECT repeat(md5(random()::text), 32) FROM generate_series(1, {})",
        mebibytes * 940
    );
    let _ = server.psql(&rows).await.unwrap();
    let _ = registered.caught_up(server).await;
}

#[tokio::test]
async fn a_segment_of_a_gibibyte_with_few_writes_needs_little_memory() {
    let world = World::new().await;
    let server = Postgres::builder()
        .wal_segment_size_mib(1024)
        .setting("max_wal_size", "4GB")
        .setting("autovacuum", "off")
        .start()
        .await
        .unwrap();
    let _ = server.psql("CREATE TABLE t (filler text)").await.unwrap();
    let registered = world.register("shop", &server).await;
    let archiver = world.archiver("one").await;
    wait_for_streaming(&world, &registered).await;
    let _ = registered.caught_up(&server).await;
    let empty = peak_mib(&archiver);
    grow(&server, &registered, 20).await;
    let after_20 = peak_mib(&archiver);
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
    assert!(
        after_20 < empty + 5 * 20 + 30,
        "{empty} MiB, then {after_20} MiB"
    );
}

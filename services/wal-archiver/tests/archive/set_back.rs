//! A server that lost WAL which is archived is refused: what it writes next is another cluster's WAL.

use testkit::postgres::{Postgres, StopMode};
use testkit::wait_until;

use crate::world::{PATIENCE, Registered, World, flush_lsn};

async fn wait_for_error(world: &World, registered: &Registered, text: &str) {
    let mut last = None;
    let seen = wait_until("the refusal", PATIENCE, async || {
        last = world.ask(registered).await;
        let error = last.as_ref().and_then(|answer| answer.error.as_ref());
        error.is_some_and(|error| error.contains(text))
    });
    if let Err(error) = seen.await {
        panic!("{error}: {last:?}");
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let mut command = std::process::Command::new("cp");
    let status = command.arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_server_that_was_set_back_to_a_snapshot_is_refused_for_good() {
    let world = World::new().await;
    let mut server = Postgres::builder()
        .wal_segment_size_mib(1)
        .setting("autovacuum", "off")
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let archiver = world.archiver("one").await;
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let _ = registered.caught_up(&server).await;
    server.stop(StopMode::Fast).await.unwrap();
    let data = server.data_directory().to_owned();
    let snapshot = data.with_extension("snapshot");
    copy(&data, &snapshot);
    server.start_again().await.unwrap();
    let fill = "INSERT INTO t SELECT generate_series(1, 60000)";
    let _ = server.psql(fill).await.unwrap();
    let archived = registered.caught_up(&server).await;
    server.stop(StopMode::Fast).await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&snapshot, &data).unwrap();
    server.start_again().await.unwrap();
    wait_for_error(&world, &registered, "set back").await;
    let position = registered.position().await.unwrap();
    let segments = registered.segments().await;
    // It goes on, and soon is ahead of what is archived.
    let other = "INSERT INTO t SELECT generate_series(1, 777)";
    while flush_lsn(&server).await.0 < archived.0 + 2 * registered.size.bytes() {
        let _ = server.psql(other).await.unwrap();
    }
    wait_for_error(&world, &registered, "damaged or foreign").await;
    drop(archiver);
    let after = registered.position().await.unwrap();
    assert_eq!(
        (after.lsn, after.proven_at),
        (position.lsn, position.proven_at)
    );
    assert_eq!(registered.segments().await, segments);
}

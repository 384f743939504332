//! Everything is killed under write load, and nothing is lost.

use std::sync::Arc;

use events::Timestamp;
use pg_format::{Lsn, TimelineId};
use testkit::postgres::{PgVersion, Postgres, StopMode};
use testkit::proxy::TcpProxy;
use testkit::wait_until;
use tokio::sync::RwLock;

use crate::damage::DamagingProxy;
use crate::world::{PATIENCE, Registered, World, Writer};

async fn loaded_server(version: PgVersion) -> Postgres {
    Postgres::builder()
        .version(version)
        .wal_segment_size_mib(1)
        .setting("wal_keep_size", "4GB")
        .start()
        .await
        .unwrap()
}

async fn more_segments(registered: &Registered, count: usize) {
    let before = registered.segments().await.len();
    wait_until("more segments", PATIENCE, async || {
        registered.segments().await.len() >= before + count
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_archiver_is_killed_again_and_again() {
    for version in PgVersion::ALL {
        let world = World::new().await;
        let server = loaded_server(version).await;
        let registered = world.register("shop", &server).await;
        let server = Arc::new(RwLock::new(server));
        let writer = Writer::start(&server).await;
        let mut archiver = world.archiver("one").await;
        for _ in 0..5 {
            more_segments(&registered, 3).await;
            let _ = archiver.kill9().await.unwrap();
            archiver.start_again().await.unwrap();
        }
        assert!(writer.end().await > 0);
        let server = server.read().await;
        let end = registered.caught_up(&server).await;
        registered.check_chain(&server, TimelineId(1), end).await;
        let _ = world.all_announced(&registered).await;
    }
}

#[tokio::test]
async fn postgresql_is_killed() {
    for version in PgVersion::ALL {
        let world = World::new().await;
        let server = loaded_server(version).await;
        let registered = world.register("shop", &server).await;
        let server = Arc::new(RwLock::new(server));
        let writer = Writer::start(&server).await;
        let _archiver = world.archiver("one").await;
        for _ in 0..3 {
            more_segments(&registered, 2).await;
            let mut server = server.write().await;
            server.kill9().await.unwrap();
            server.start_again().await.unwrap();
        }
        more_segments(&registered, 2).await;
        let _ = writer.end().await;
        let server = server.read().await;
        let end = registered.caught_up(&server).await;
        registered.check_chain(&server, TimelineId(1), end).await;
    }
}

#[tokio::test]
async fn an_orderly_stop_of_postgresql_waits_for_the_archive() {
    let world = World::new().await;
    let mut server = loaded_server(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let _archiver = world.archiver("one").await;
    let _ = server
        .psql("CREATE TABLE t AS SELECT 1 AS n")
        .await
        .unwrap();
    let _ = registered.caught_up(&server).await;
    server.restart().await.unwrap();
    let _ = server.psql("INSERT INTO t VALUES (2)").await.unwrap();
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
}

#[tokio::test]
async fn the_bus_is_down_at_the_start_and_later() {
    let mut world = World::new().await;
    let server = loaded_server(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    world.nats.kill().await.unwrap();
    let archiver = world.archiver("one").await;
    let fill = "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 6000) n";
    let _ = server.psql(fill).await.unwrap();
    let _ = registered.caught_up(&server).await;
    assert!(
        archiver.log().contains("those in the repository"),
        "{}",
        archiver.log()
    );

    world.nats.start_again().await.unwrap();
    let _ = world.all_announced(&registered).await;
    world.nats.kill().await.unwrap();
    let _ = server.psql("UPDATE t SET n = n + 1").await.unwrap();
    let end = registered.caught_up(&server).await;
    world.nats.start_again().await.unwrap();
    let announced = world.all_announced(&registered).await;
    let mut in_order = announced.clone();
    in_order.sort();
    assert_eq!(announced, in_order);
    registered.check_chain(&server, TimelineId(1), end).await;
}

#[tokio::test]
async fn the_store_is_away_for_a_while() {
    let world = World::new().await;
    let server = loaded_server(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let server = Arc::new(RwLock::new(server));
    let writer = Writer::start(&server).await;
    let _archiver = world.archiver("one").await;
    more_segments(&registered, 3).await;
    let (here, away) = (
        world.repository_directory(),
        world.repository_directory().with_extension("away"),
    );
    std::fs::rename(&here, &away).unwrap();
    wait_until("the archiver to say so", PATIENCE, async || {
        world
            .ask(&registered)
            .await
            .is_some_and(|answer| answer.error.is_some())
    })
    .await
    .unwrap();
    // Far more than may wait on disk: what is not read stays with PostgreSQL.
    let far = format!(
        "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), min(restart_lsn)) > {} \
         FROM pg_replication_slots",
        8 << 20
    );
    wait_until("the slot to fall behind", PATIENCE, async || {
        server.read().await.psql(&far).await.unwrap() == "t"
    })
    .await
    .unwrap();
    std::fs::rename(&away, &here).unwrap();
    let _ = writer.end().await;
    let server = server.read().await;
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
    let _ = world.all_announced(&registered).await;
}

#[tokio::test]
async fn a_server_that_stops_is_not_held_up_by_a_store_that_is_away() {
    let world = World::new().await;
    let mut server = loaded_server(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let _archiver = world.archiver("one").await;
    let _ = registered.caught_up(&server).await;
    let (here, away) = (
        world.repository_directory(),
        world.repository_directory().with_extension("away"),
    );
    std::fs::rename(&here, &away).unwrap();
    let _ = server
        .psql("CREATE TABLE t AS SELECT 1 AS n")
        .await
        .unwrap();
    // Fails after a minute.
    server.stop(StopMode::Fast).await.unwrap();
    std::fs::rename(&away, &here).unwrap();
    server.start_again().await.unwrap();
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
}

#[tokio::test]
async fn wal_damaged_on_its_way_is_refused_and_fetched_again() {
    let world = World::new().await;
    let server = loaded_server(PgVersion::V18).await;
    let damage = DamagingProxy::start(server.port(), b"the-marked-row").await;
    let registered = world.register_behind("shop", &server, damage.port()).await;
    let archiver = world.archiver("one").await;
    let _ = registered.caught_up(&server).await;
    let _ = server
        .psql("CREATE TABLE t AS SELECT 'first'")
        .await
        .unwrap();
    let before = registered.caught_up(&server).await;
    damage.begin();
    let _ = server
        .psql("INSERT INTO t VALUES ('the-marked-row')")
        .await
        .unwrap();
    wait_until("the refusal", PATIENCE, async || {
        archiver
            .log()
            .contains("damaged or foreign; it was refused")
    })
    .await
    .unwrap();
    let position = registered.position().await.unwrap();
    assert!(position.lsn >= before);
    registered
        .check_chain(&server, TimelineId(1), position.lsn)
        .await;
    damage.end();
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
}

#[tokio::test]
async fn a_connection_that_has_died_in_silence_is_made_anew() {
    let world = World::new().await;
    let server = loaded_server(PgVersion::V18).await;
    let proxy = TcpProxy::start(&format!("127.0.0.1:{}", server.port()))
        .await
        .unwrap();
    let registered = world.register_behind("shop", &server, proxy.port()).await;
    let builder = world
        .builder("one")
        .env("ZEKTOR_WAL_RECEIVER_TIMEOUT", "3s");
    let archiver = builder.start().await.unwrap();
    let _ = registered.caught_up(&server).await;
    proxy.stall();
    wait_until("the silence to be noticed", PATIENCE, async || {
        archiver.log().contains("was silent")
    })
    .await
    .unwrap();
    proxy.resume();
    let _ = server
        .psql("CREATE TABLE t AS SELECT 1 AS n")
        .await
        .unwrap();
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
}

/// What the server says it had flushed, and a moment after that.
async fn sample(server: &Postgres) -> (Lsn, Timestamp) {
    let ask = "SELECT pg_current_wal_flush_lsn(), extract(epoch FROM clock_timestamp()) * 1000000";
    let answer = server.psql(ask).await.unwrap();
    let (lsn, micros) = answer.split_once('|').unwrap();
    let micros = micros.split('.').next().unwrap().parse().unwrap();
    (
        lsn.parse().unwrap(),
        Timestamp::from_timestamp_micros(micros).unwrap(),
    )
}

#[tokio::test]
async fn the_proven_moment_is_never_ahead_of_the_archive() {
    let world = World::new().await;
    let server = loaded_server(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let mut samples = Vec::new();
    for _ in 0..10 {
        let _ = server
            .psql("INSERT INTO t SELECT generate_series(1, 30000)")
            .await
            .unwrap();
        samples.push(sample(&server).await);
    }
    // Far behind, it reconnects: nothing may be called complete before it is.
    archiver.start_again().await.unwrap();
    let end = sample(&server).await;
    samples.push(end);
    let mut seen = 0;
    wait_until("the archive to be proven complete", PATIENCE, async || {
        let position = registered.position().await.unwrap();
        for (lsn, at) in &samples {
            let covered = position.proven_at < *at || position.lsn >= *lsn;
            assert!(covered, "{position:?} misses {lsn}, flushed by {at}");
        }
        seen += 1;
        position.proven_at >= end.1
    })
    .await
    .unwrap();
    assert!(seen > 1, "it was proven while it was looked at");
}

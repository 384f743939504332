//! Nothing goes wrong: the chain, the position, the announcements, the answers.

use events::event::{Event, WalObjectKind};
use pg_format::TimelineId;
use testkit::http;
use testkit::port::Port;
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use crate::world::{PATIENCE, World, names};

#[tokio::test]
async fn a_branch_is_archived_from_its_slot_to_its_end() {
    for version in PgVersion::ALL {
        let world = World::new().await;
        let server = Postgres::builder()
            .version(version)
            .wal_segment_size_mib(1)
            .setting("wal_keep_size", "1GB")
            .start()
            .await
            .unwrap();
        let registered = world.register("shop", &server).await;
        let archiver = world.archiver("one").await;
        let fill = "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 12000) n;
                    SELECT pg_switch_wal(); UPDATE t SET n = n + 1 WHERE n % 3 = 0";
        let _ = server.psql(fill).await.unwrap();
        let end = registered.caught_up(&server).await;
        registered.check_chain(&server, TimelineId(1), end).await;
        assert!(registered.segments().await.len() > 5);

        let announced = world.all_announced(&registered).await;
        let archived: Vec<String> = registered
            .segments()
            .await
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(announced, archived, "each once, and in order");

        let answer = world.ask(&registered).await.unwrap();
        assert!(answer.streaming && answer.error.is_none(), "{answer:?}");
        assert_eq!(answer.timeline, Some(TimelineId(1)));
        assert!(
            answer.archived_lsn >= Some(end) && answer.lag_bytes == Some(0),
            "{answer:?}"
        );
        drop(archiver);
    }
}

#[tokio::test]
async fn events_say_what_the_listing_says() {
    let world = World::new().await;
    let server = Postgres::builder()
        .wal_segment_size_mib(1)
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let _archiver = world.archiver("one").await;
    let _ = server
        .psql("CREATE TABLE t (n int); SELECT pg_switch_wal()")
        .await
        .unwrap();
    let _ = registered.caught_up(&server).await;
    let _ = world.all_announced(&registered).await;
    let objects = registered.reader.list_wal(registered.size).await.unwrap();
    let events = world.events(&registered).await;
    assert!(!names(&events).is_empty());
    for event in events {
        let Event::WalSegmentArchived(archived) = event else {
            panic!("{event:?}")
        };
        assert_eq!(archived.kind, WalObjectKind::Segment);
        let same = objects.iter().any(|object| {
            object.last_modified == archived.archived_at
                && object.stored_bytes == archived.stored_bytes
        });
        assert!(same, "{archived:?} is not in {objects:?}");
    }
}

#[tokio::test]
async fn an_idle_database_is_proven_complete_again_and_again() {
    let world = World::new().await;
    let server = Postgres::builder().start().await.unwrap();
    let registered = world.register("shop", &server).await;
    let archiver = world.archiver("one").await;
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let committed = server
        .psql("SELECT clock_timestamp()::timestamptz(6)")
        .await
        .unwrap();
    let _ = registered.caught_up(&server).await;
    let mut last = None;
    for _ in 0..3 {
        wait_until("a newer proof", PATIENCE, async || {
            let position = registered.position().await.unwrap();
            let newer = last.is_none_or(|last| position.proven_at > last);
            last = Some(position.proven_at);
            newer
        })
        .await
        .unwrap();
    }
    let after = format!(
        "SELECT '{}' > timestamptz '{committed}'",
        last.unwrap().to_rfc3339()
    );
    wait_until("a proof after the commit", PATIENCE, async || {
        let proven = registered.position().await.unwrap().proven_at.to_rfc3339();
        let after = after.replace(&last.unwrap().to_rfc3339(), &proven);
        server.psql(&after).await.unwrap() == "t"
    })
    .await
    .unwrap();
    let log = archiver.log();
    assert!(
        !log.contains("interrupted"),
        "an idle stream is left alone: {log}"
    );
}

#[tokio::test]
async fn two_archivers_share_and_take_over() {
    let world = World::new().await;
    let server = Postgres::builder()
        .wal_segment_size_mib(1)
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let mut first = world.archiver("one").await;
    let _ = registered.caught_up(&server).await;
    let second = world.archiver("two").await;
    let _ = server
        .psql("CREATE TABLE t (n int); SELECT pg_switch_wal()")
        .await
        .unwrap();
    let _ = registered.caught_up(&server).await;
    assert!(
        !second.log().contains("archiving begins"),
        "the first one has the lease"
    );
    let _ = first.kill9().await.unwrap();
    let _ = server
        .psql("INSERT INTO t VALUES (1); SELECT pg_switch_wal()")
        .await
        .unwrap();
    let _ = registered.caught_up(&server).await;
    assert!(second.log().contains("archiving begins"));
}

#[tokio::test]
async fn a_branch_that_is_removed_leaves_its_slot_free() {
    let world = World::new().await;
    let server = Postgres::builder().start().await.unwrap();
    let registered = world.register("shop", &server).await;
    let _archiver = world.archiver("one").await;
    let active = "SELECT bool_or(active) FROM pg_replication_slots";
    let is = async |state: &str| server.psql(active).await.unwrap() == state;
    wait_until("streaming", PATIENCE, async || is("t").await)
        .await
        .unwrap();
    let (mut document, _) = world
        .bus
        .instances()
        .get(&registered.instance)
        .await
        .unwrap()
        .unwrap();
    document.removing = true;
    world.put(document).await;
    wait_until("the slot to be free", PATIENCE, async || is("f").await)
        .await
        .unwrap();
}

#[tokio::test]
async fn readiness_and_metrics_are_shown() {
    let world = World::new().await;
    let server = Postgres::builder().start().await.unwrap();
    let registered = world.register("shop", &server).await;
    let port = Port::reserve().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let builder = world.builder("one").env("ZEKTOR_HTTP_LISTEN", &address);
    let _archiver = builder.health(&address).start().await.unwrap();
    let _ = registered.caught_up(&server).await;
    let metrics = http::get(&address, "/metrics").await.unwrap().body;
    for name in [
        "zektor_wal_lag_bytes",
        "zektor_wal_archived_segments",
        "zektor_wal_streaming",
    ] {
        let shown = metrics.lines().any(|line| {
            line.starts_with(name)
                && line.contains("instance=\"shop\"")
                && line.contains("branch=\"main\"")
        });
        assert!(shown, "{name} is not in {metrics}");
    }
}

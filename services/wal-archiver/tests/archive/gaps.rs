//! What cannot be archived is said.

use events::event::{Event, GapCause};
use pg_format::{SegmentName, TimelineId};
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::world::{PATIENCE, World};

async fn small() -> Postgres {
    Postgres::builder()
        .wal_segment_size_mib(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .start()
        .await
        .unwrap()
}

/// Drops the slot and lets the server remove what it held back.
async fn lose_wal(server: &Postgres) {
    let drop_slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    let free = "SELECT count(*) FROM pg_replication_slots WHERE active";
    wait_until("the slot to be free", PATIENCE, async || {
        server.psql(free).await.unwrap() == "0"
    })
    .await
    .unwrap();
    let _ = server.psql(drop_slot).await.unwrap();
    for _ in 0..4 {
        let fill =
            "INSERT INTO t SELECT generate_series(1, 40000); SELECT pg_switch_wal(); CHECKPOINT";
        let _ = server.psql(fill).await.unwrap();
    }
}

#[tokio::test]
async fn wal_that_the_server_removed_is_a_gap_that_is_told() {
    let world = World::new().await;
    let server = small().await;
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let before = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    lose_wal(&server).await;
    archiver.start_again().await.unwrap();
    let end = registered.caught_up(&server).await;
    let mut gap = None;
    wait_until("the gap to be told", PATIENCE, async || {
        let events = world.events(&registered).await;
        gap = events.into_iter().find_map(|event| match event {
            Event::WalGapDetected(gap) => Some(gap),
            _ => None,
        });
        gap.is_some()
    })
    .await
    .unwrap();
    let gap = gap.unwrap();
    assert!(gap.from_lsn >= before, "what is stored is not missing");
    assert!(gap.to_lsn > gap.from_lsn && gap.to_lsn <= end, "{gap:?}");
    let position = registered.position().await.unwrap();
    let first = SegmentName::containing(TimelineId(1), gap.to_lsn, registered.size);
    assert_eq!(position.first_segment, first.to_string());
    // A restart goes on beyond the gap and does not tell it again.
    let _ = archiver.kill9().await.unwrap();
    archiver.start_again().await.unwrap();
    let _ = server
        .psql("INSERT INTO t VALUES (1); SELECT pg_switch_wal()")
        .await
        .unwrap();
    let _ = registered.caught_up(&server).await;
    let _ = world.all_announced(&registered).await;
    let gaps = world.events(&registered).await;
    let gaps = gaps
        .iter()
        .filter(|event| matches!(event, Event::WalGapDetected(_)));
    assert_eq!(gaps.count(), 1);
}

#[tokio::test]
async fn a_gap_that_nobody_could_be_told_of_is_told_after_a_restart() {
    let mut world = World::new().await;
    let server = small().await;
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    lose_wal(&server).await;
    world.nats.kill().await.unwrap();
    archiver.start_again().await.unwrap();
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    world.nats.start_again().await.unwrap();
    archiver.start_again().await.unwrap();
    wait_until("the gap to be told", PATIENCE, async || {
        let events = world.events(&registered).await;
        events
            .iter()
            .any(|event| matches!(event, Event::WalGapDetected(_)))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_slot_that_the_server_invalidated_is_made_again_and_the_gap_is_told() {
    let world = World::new().await;
    let server = Postgres::builder()
        .wal_segment_size_mib(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .setting("max_slot_wal_keep_size", "2MB")
        .setting("autovacuum", "off")
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    for _ in 0..4 {
        let fill =
            "INSERT INTO t SELECT generate_series(1, 40000); SELECT pg_switch_wal(); CHECKPOINT";
        let _ = server.psql(fill).await.unwrap();
    }
    assert_eq!(
        server
            .psql("SELECT wal_status FROM pg_replication_slots")
            .await
            .unwrap(),
        "lost"
    );
    archiver.start_again().await.unwrap();
    let _ = registered.caught_up(&server).await;
    wait_until("the gap to be told", PATIENCE, async || {
        let events = world.events(&registered).await;
        events.iter().any(|event| match event {
            Event::WalGapDetected(gap) => gap.cause == GapCause::SlotInvalidated,
            _ => false,
        })
    })
    .await
    .unwrap();
    assert_eq!(
        server
            .psql("SELECT active FROM pg_replication_slots")
            .await
            .unwrap(),
        "t"
    );
}

/// It still says from where on it held WAL back.
#[tokio::test]
async fn a_slot_that_was_idle_for_too_long_is_made_again() {
    let world = World::new().await;
    let server = Postgres::builder()
        .setting("idle_replication_slot_timeout", "1s")
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    let shown = "SELECT restart_lsn IS NOT NULL FROM pg_replication_slots \
                 WHERE invalidation_reason = 'idle_timeout'";
    wait_until("the slot to be invalidated", PATIENCE, async || {
        let _ = server.psql("CHECKPOINT").await.unwrap();
        server.psql(shown).await.unwrap() == "t"
    })
    .await
    .unwrap();
    archiver.start_again().await.unwrap();
    let _ = server.psql("INSERT INTO t VALUES (1)").await.unwrap();
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
}

#[tokio::test]
async fn another_cluster_behind_the_address_is_refused() {
    let world = World::new().await;
    let server = Postgres::builder().start().await.unwrap();
    let registered = world.registered("shop", &server).await;
    let (mut document, _) = world
        .bus
        .instances()
        .get(&registered.instance)
        .await
        .unwrap()
        .unwrap();
    for branch in document.branches.values_mut() {
        if let events::document::Branch::Active(active) = branch {
            active.system_identifier.0 += 1;
        }
    }
    world.put(document).await;
    let _archiver = world.archiver("one").await;
    wait_until("the refusal", PATIENCE, async || {
        let answer = world.ask(&registered).await;
        answer
            .and_then(|answer| answer.error)
            .is_some_and(|error| error.contains("the cluster"))
    })
    .await
    .unwrap();
    assert!(
        registered
            .reader
            .list_wal(registered.size)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        server
            .psql("SELECT count(*) FROM pg_replication_slots")
            .await
            .unwrap(),
        "0"
    );
}

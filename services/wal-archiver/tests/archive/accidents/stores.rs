//! A store that fails, is slow, or does not show what it has: nothing is confirmed too early, and there is no false gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use pg_format::{Lsn, SegmentName, TimelineId};
use repository::faulty::{Fault, FaultyStore};
use repository::{Repository, RetryPolicy};
use testkit::postgres::PgVersion;
use testkit::wait_until;

use super::lagging_store::LaggingStore;
use super::slots::{forgetful, go_on, wait_for_free_slot};
use super::{check_unbroken, fill, keeping, told_gaps, wait_for_streaming};
use crate::world::{PATIENCE, Registered, World, flush_lsn};

fn local(world: &World) -> Arc<dyn ObjectStore> {
    Arc::new(LocalFileSystem::new_with_prefix(world.repository_directory()).unwrap())
}

fn impatient() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(50),
        call_timeout: Duration::from_secs(2),
    }
}

/// How far the chain that begins with `first` is stored.
async fn stored_to(registered: &Registered, first: SegmentName) -> Lsn {
    let size = registered.size;
    let segments = registered.segments().await;
    let mut name = first;
    while segments.contains(&name) {
        name = name.next(size);
    }
    match registered.reader.get_segment(name).await {
        Ok(_) => return name.end(size),
        Err(error) => assert!(error.is_absent(), "{error}"),
    }
    let open = registered.reader.open_segment(name).await;
    let open = open.map_or(0, |open| open.raw_bytes);
    name.start(size).saturating_add(open)
}

#[tokio::test]
async fn a_store_that_fails_and_is_slow_is_never_confirmed_too_early() {
    let world = World::new().await;
    let server = keeping(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let begin = flush_lsn(&server).await;
    let calls = AtomicU64::new(0);
    let faulty = FaultyStore::new(local(&world), move |_, _| {
        // The same mixture each time, in no step with what is asked.
        match calls
            .fetch_add(1, Ordering::SeqCst)
            .wrapping_mul(0x9E37_79B9)
            >> 7
            & 15
        {
            0..=2 => Fault::Fail,
            3 => Fault::LoseResponse,
            4 => Fault::Delay(Duration::from_millis(120)),
            _ => Fault::Pass,
        }
    });
    let repository = Repository::with_store(Arc::new(faulty), "", impatient());
    let archiver = world.archiver_over(repository).await;
    let restart = "SELECT restart_lsn FROM pg_replication_slots";
    let first = SegmentName::containing(TimelineId(1), begin, registered.size);
    for _ in 0..20 {
        fill(&server).await;
        let confirmed: Lsn = server.psql(restart).await.unwrap().parse().unwrap();
        let stored = stored_to(&registered, first).await;
        assert!(
            confirmed <= stored,
            "{confirmed} is confirmed, {stored} is stored"
        );
    }
    let end = registered.caught_up(&server).await;
    check_unbroken(&world, &registered, begin, end).await;
    registered.check_chain(&server, TimelineId(1), end).await;
    archiver.end().await;
}

/// The server has removed what was confirmed; the archiver begins anew where the store shows the end of the archive.
async fn check_hidden(absent_at_first: bool) {
    let world = World::new().await;
    let server = forgetful(PgVersion::V18, None).await;
    let registered = world.register("shop", &server).await;
    let begin = flush_lsn(&server).await;
    let mut archiver = world.archiver("one").await;
    let old = registered.caught_up(&server).await;
    let place = world.repository_directory().join(format!(
        "v1/{}/{}/wal/position",
        registered.instance, registered.branch
    ));
    let position = std::fs::read(&place).unwrap();
    go_on(&server).await;
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    wait_for_free_slot(&server).await;
    let _ = server.psql("CHECKPOINT").await.unwrap();
    let _ = server.psql("CHECKPOINT").await.unwrap();
    // As if the archiver had died before it wrote the position again.
    std::fs::write(&place, position).unwrap();
    let segment = registered.size.segment_of(old);
    let kept: Vec<_> = std::fs::read_dir(server.data_directory().join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let name = |number| SegmentName::new(TimelineId(1), number, registered.size).to_string();
    assert!(
        !kept.contains(&name(segment)),
        "the server still has it: {kept:?}"
    );

    let absent = Arc::new(AtomicBool::new(absent_at_first));
    let hidden: Vec<String> = (segment..segment + 40).map(name).collect();
    let lags = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&lags);
    let lagging = LaggingStore::new(local(&world), &absent, move |path| {
        still.load(Ordering::SeqCst) && hidden.iter().any(|name| path.ends_with(name))
    });
    let repository = Repository::with_store(Arc::new(lagging), "", impatient());
    let archiver = world.archiver_over(repository).await;
    if absent_at_first {
        wait_until("the server to be asked", PATIENCE, async || {
            let answer = world.ask(&registered).await.and_then(|answer| answer.error);
            answer.is_some_and(|error| error.contains("removed"))
        })
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        absent.store(false, Ordering::SeqCst);
    }
    wait_for_streaming(&world, &registered).await;
    lags.store(false, Ordering::SeqCst);
    fill(&server).await;
    let end = registered.caught_up(&server).await;
    assert_eq!(registered.reader.wal_gaps().await.unwrap(), []);
    check_unbroken(&world, &registered, begin, end).await;
    archiver.end().await;
}

#[tokio::test]
async fn segments_that_are_not_listed_yet_are_no_gap() {
    check_hidden(false).await;
}

#[tokio::test]
async fn segments_that_are_answered_with_404_for_a_while_are_no_gap() {
    check_hidden(true).await;
}

/// Behind a gap nothing but the position says where the chain begins.
#[tokio::test]
async fn a_position_that_is_answered_with_404_for_a_while_is_waited_for() {
    let world = World::new().await;
    let server = forgetful(PgVersion::V18, None).await;
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    go_on(&server).await;
    let _ = registered.caught_up(&server).await;
    let _ = archiver.kill9().await.unwrap();
    wait_for_free_slot(&server).await;
    let dropping = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    let _ = server.psql(dropping).await.unwrap();
    go_on(&server).await;
    archiver.start_again().await.unwrap();
    let _ = registered.caught_up(&server).await;
    let first = registered.position().await.unwrap().first_segment;
    let _ = archiver.kill9().await.unwrap();
    let place = world.repository_directory().join(format!(
        "v1/{}/{}/wal/position",
        registered.instance, registered.branch
    ));
    let away = place.with_extension("away");
    std::fs::rename(&place, &away).unwrap();
    archiver.start_again().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    std::fs::rename(&away, &place).unwrap();
    fill(&server).await;
    let _ = registered.caught_up(&server).await;
    let _ = world.all_announced(&registered).await;
    assert_eq!(registered.position().await.unwrap().first_segment, first);
    assert_eq!(told_gaps(&world, &registered).await.len(), 1);
}

//! Promotions, and the old primary that returns.

use pg_format::TimelineId;
use testkit::postgres::{PgVersion, Postgres};

use super::{
    check_unbroken, everything, fill, keeping, wait_for_error, wait_for_standby, wait_for_streaming,
};
use crate::world::{World, flush_lsn};

const VERSIONS: [PgVersion; 2] = [PgVersion::V18, PgVersion::V15];

async fn standby_of(primary: &Postgres) -> Postgres {
    let standby = Postgres::builder().standby_of(primary).start().await;
    standby.unwrap()
}

/// WAL-G #1390; the switches lie in the middle of segments.
#[tokio::test]
async fn a_promotion_while_streaming_and_another_one_are_no_gaps() {
    for version in VERSIONS {
        let world = World::new().await;
        let first = keeping(version).await;
        let second = standby_of(&first).await;
        let registered = world.register("shop", &first).await;
        let begin = flush_lsn(&first).await;
        let _archiver = world.archiver("one").await;
        fill(&first).await;
        let _ = registered.caught_up(&first).await;
        // The address leads to the standby now, which is promoted while its WAL is streamed.
        world.moves_to(&registered, &second).await;
        let _ = wait_for_standby(&first, &second).await;
        let _ = wait_for_error(&world, &registered, "standby").await;
        second.promote().await.unwrap();
        fill(&second).await;
        let _ = registered.caught_up(&second).await;
        let third = standby_of(&second).await;
        world.moves_to(&registered, &third).await;
        let _ = wait_for_error(&world, &registered, "standby").await;
        fill(&second).await;
        let _ = wait_for_standby(&second, &third).await;
        third.promote().await.unwrap();
        fill(&third).await;
        let end = registered.caught_up(&third).await;
        assert_eq!(registered.position().await.unwrap().timeline, TimelineId(3));
        check_unbroken(&world, &registered, begin, end).await;
    }
}

/// Slots are not replicated: the new primary has none.
#[tokio::test]
async fn the_address_moves_to_the_new_primary_and_nothing_is_missing() {
    for version in VERSIONS {
        let world = World::new().await;
        let mut old = keeping(version).await;
        let new = standby_of(&old).await;
        let registered = world.register("shop", &old).await;
        let begin = flush_lsn(&old).await;
        let _archiver = world.archiver("one").await;
        fill(&old).await;
        let _ = wait_for_standby(&old, &new).await;
        let _ = registered.caught_up(&old).await;
        old.kill9().await.unwrap();
        new.promote().await.unwrap();
        fill(&new).await;
        world.moves_to(&registered, &new).await;
        fill(&new).await;
        let end = registered.caught_up(&new).await;
        check_unbroken(&world, &registered, begin, end).await;
    }
}

/// It was not told that it lost; its WAL goes another way from the fork on.
#[tokio::test]
async fn an_old_primary_that_returns_is_refused_and_spoils_nothing() {
    for version in VERSIONS {
        let world = World::new().await;
        let mut old = keeping(version).await;
        let new = standby_of(&old).await;
        let registered = world.register("shop", &old).await;
        let begin = flush_lsn(&old).await;
        let _archiver = world.archiver("one").await;
        fill(&old).await;
        let _ = wait_for_standby(&old, &new).await;
        let _ = registered.caught_up(&old).await;
        old.kill9().await.unwrap();
        new.promote().await.unwrap();
        world.moves_to(&registered, &new).await;
        fill(&new).await;
        let _ = registered.caught_up(&new).await;
        let _ = world.all_announced(&registered).await;

        old.start_again().await.unwrap();
        let other = "INSERT INTO t SELECT generate_series(1, 100000)";
        let _ = old.psql(other).await.unwrap();
        world.moves_to(&registered, &old).await;
        let error = wait_for_error(&world, &registered, "old primary").await;
        assert!(error.contains("connection uri"), "what to do: {error}");
        let before = everything(&world, &registered).await;
        let _ = old.psql(other).await.unwrap();
        let _ = wait_for_error(&world, &registered, "old primary").await;
        assert!(before == everything(&world, &registered).await);

        world.moves_to(&registered, &new).await;
        wait_for_streaming(&world, &registered).await;
        fill(&new).await;
        let end = registered.caught_up(&new).await;
        check_unbroken(&world, &registered, begin, end).await;
    }
}

/// Two standbys were promoted: both call what they write timeline 2.
#[tokio::test]
async fn another_server_with_the_same_new_timeline_is_refused() {
    let world = World::new().await;
    let mut old = keeping(PgVersion::V18).await;
    let (new, rival) = (standby_of(&old).await, standby_of(&old).await);
    let registered = world.register("shop", &old).await;
    let begin = flush_lsn(&old).await;
    let _archiver = world.archiver("one").await;
    fill(&old).await;
    let _ = wait_for_standby(&old, &rival).await;
    let _ = registered.caught_up(&old).await;
    // One of them got less, or the forks would be the same place.
    rival.promote().await.unwrap();
    fill(&old).await;
    let _ = wait_for_standby(&old, &new).await;
    let _ = registered.caught_up(&old).await;
    old.kill9().await.unwrap();
    new.promote().await.unwrap();
    world.moves_to(&registered, &new).await;
    fill(&new).await;
    let _ = registered.caught_up(&new).await;
    for _ in 0..4 {
        fill(&rival).await;
    }
    world.moves_to(&registered, &rival).await;
    let _ = wait_for_error(&world, &registered, "another cluster").await;
    let before = everything(&world, &registered).await;
    fill(&rival).await;
    let _ = wait_for_error(&world, &registered, "another cluster").await;
    assert!(before == everything(&world, &registered).await);
    world.moves_to(&registered, &new).await;
    wait_for_streaming(&world, &registered).await;
    fill(&new).await;
    let end = registered.caught_up(&new).await;
    check_unbroken(&world, &registered, begin, end).await;
}

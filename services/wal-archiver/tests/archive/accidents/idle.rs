//! Databasus #680: a healthy receiver of an idle source was restarted by a watchdog, from the wrong place.

use pg_format::TimelineId;
use testkit::postgres::PgVersion;
use testkit::wait_until;

use super::{check_unbroken, keeping, wait_for_streaming};
use crate::world::{PATIENCE, World, flush_lsn};

#[tokio::test]
async fn an_idle_source_is_left_alone_and_restarts_lose_nothing() {
    for version in [PgVersion::V18, PgVersion::V15] {
        let mut world = World::new().await;
        let mut server = keeping(version).await;
        let registered = world.register("shop", &server).await;
        let begin = flush_lsn(&server).await;
        let builder = world.builder("one");
        // Far shorter than the idleness that follows.
        let builder = builder.env("ZEKTOR_WAL_RECEIVER_TIMEOUT", "2s");
        let mut archiver = builder.start().await.unwrap();
        let _ = registered.caught_up(&server).await;
        let before = registered.position().await.unwrap();
        let proven_after = async |seconds: i64| {
            let moment = before.proven_at + chrono::TimeDelta::seconds(seconds);
            wait_until("a later proof", PATIENCE, async || {
                registered.position().await.unwrap().proven_at > moment
            })
            .await
            .unwrap();
        };
        proven_after(6).await;
        assert!(
            !archiver.log().contains("interrupted"),
            "{}",
            archiver.log()
        );
        let _ = archiver.kill9().await.unwrap();
        archiver.start_again().await.unwrap();
        proven_after(8).await;
        server.restart().await.unwrap();
        wait_for_streaming(&world, &registered).await;
        world.nats.kill().await.unwrap();
        world.nats.start_again().await.unwrap();
        let _ = archiver.terminate().await.unwrap();
        archiver.start_again().await.unwrap();
        let _ = server.psql("INSERT INTO t VALUES (1)").await.unwrap();
        let end = registered.caught_up(&server).await;
        check_unbroken(&world, &registered, begin, end).await;
        registered.check_chain(&server, TimelineId(1), end).await;
        let after = registered.position().await.unwrap();
        assert_eq!(after.first_segment, before.first_segment);
    }
}

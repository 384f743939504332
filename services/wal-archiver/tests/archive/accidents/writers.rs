//! Two clusters with one system identifier.

use testkit::postgres::{PgVersion, Postgres, StopMode};

use super::{copy, everything, wait_for_error};
use crate::world::{World, flush_lsn};

/// They part in the segment that is open: no complete segment tells them apart.
#[tokio::test]
async fn a_copy_that_went_another_way_in_the_open_segment_is_refused() {
    for version in [PgVersion::V18, PgVersion::V15] {
        let world = World::new().await;
        let mut server = Postgres::builder()
            .version(version)
            .setting("autovacuum", "off")
            .start()
            .await
            .unwrap();
        let registered = world.register("shop", &server).await;
        let mut archiver = world.archiver("one").await;
        let _ = server
            .psql("CREATE TABLE t (n int); SELECT pg_switch_wal()")
            .await
            .unwrap();
        let _ = registered.caught_up(&server).await;
        server.stop(StopMode::Fast).await.unwrap();
        let data = server.data_directory().to_owned();
        let (copied, original) = (data.with_extension("copy"), data.with_extension("original"));
        copy(&data, &copied);
        server.start_again().await.unwrap();
        let _ = server
            .psql("INSERT INTO t SELECT generate_series(1, 1000)")
            .await
            .unwrap();
        let archived = registered.caught_up(&server).await;
        let _ = archiver.kill9().await.unwrap();
        let before = everything(&world, &registered).await;
        server.stop(StopMode::Immediate).await.unwrap();
        std::fs::rename(&data, &original).unwrap();
        std::fs::rename(&copied, &data).unwrap();
        server.start_again().await.unwrap();
        let other = "INSERT INTO t SELECT generate_series(1, 777)";
        while flush_lsn(&server).await.0 < archived.0 + (64 << 10) {
            let _ = server.psql(other).await.unwrap();
        }
        let size = registered.size;
        assert_eq!(
            size.segment_of(archived),
            size.segment_of(flush_lsn(&server).await),
            "the same segment"
        );
        archiver.start_again().await.unwrap();
        let error = wait_for_error(&world, &registered, "another cluster").await;
        assert!(error.contains("nothing of it is archived"), "{error}");
        let _ = server.psql("SELECT pg_switch_wal()").await.unwrap();
        let _ = server.psql(other).await.unwrap();
        let _ = wait_for_error(&world, &registered, "another cluster").await;
        assert!(before == everything(&world, &registered).await);
    }
}

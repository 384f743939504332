//! A store that takes nothing, and a server that wants to end the walsender meanwhile: it is not held up.

use pg_format::TimelineId;
use testkit::postgres::{PgVersion, Postgres, StopMode};
use testkit::process::Service;
use testkit::wait_until;

use super::wait_for_gap;
use crate::world::{PATIENCE, Registered, World};

/// More than the buffers of a connection take: the walsender stands in a write.
const MUCH: &str = "INSERT INTO t SELECT generate_series(1, 600000)";

struct Case {
    world: World,
    server: Postgres,
    registered: Registered,
    _archiver: Service,
}

impl Case {
    /// Archiving goes on, until the store is gone and much more was written.
    async fn with_the_store_away(version: PgVersion, setting: &str, value: &str) -> Case {
        let world = World::new().await;
        let builder = Postgres::builder().version(version).wal_segment_size_mib(1);
        let builder = builder.setting(setting, value);
        let server = builder.setting("autovacuum", "off").start().await.unwrap();
        let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
        let registered = world.register("shop", &server).await;
        let builder = world
            .builder("one")
            .env("ZEKTOR_WAL_RECEIVER_TIMEOUT", "3s");
        let archiver = builder.start().await.unwrap();
        let _ = registered.caught_up(&server).await;
        let here = world.repository_directory();
        std::fs::rename(&here, here.with_extension("away")).unwrap();
        let _ = server.psql(MUCH).await.unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' \
                     OR (backend_type = 'walsender' AND wait_event = 'WalSenderMain')";
        wait_until("the walsender to stand", PATIENCE, async || {
            server.psql(waits).await.is_ok_and(|count| count != "0")
        })
        .await
        .unwrap();
        Case {
            world,
            server,
            registered,
            _archiver: archiver,
        }
    }

    fn store_is_back(&self) {
        let here = self.world.repository_directory();
        std::fs::rename(here.with_extension("away"), &here).unwrap();
    }
}

#[tokio::test]
async fn a_checkpoint_that_takes_the_slot_away_is_not_held_up() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let case = Case::with_the_store_away(version, "max_slot_wal_keep_size", "12MB").await;
        let checkpoint = "SET statement_timeout = '60s'; CHECKPOINT";
        let _ = case.server.psql(checkpoint).await.unwrap();
        case.store_is_back();
        let _gap = wait_for_gap(&case.world, &case.registered).await;
    }
}

#[tokio::test]
async fn a_shutdown_is_not_held_up_and_nothing_is_lost() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let mut case = Case::with_the_store_away(version, "wal_keep_size", "1GB").await;
        case.server.stop(StopMode::Fast).await.unwrap();
        case.server.start_again().await.unwrap();
        case.store_is_back();
        let end = case.registered.caught_up(&case.server).await;
        case.registered
            .check_chain(&case.server, TimelineId(1), end)
            .await;
    }
}

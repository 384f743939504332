//! A standby is archived, and becomes a primary while it is.

use pg_format::{SegmentName, TimelineHistory, TimelineId};
use repository::{WalCoverage, WalObjectKind, wal_coverage};
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use crate::world::{PATIENCE, Registered, World, flush_lsn, names};

async fn pair(version: PgVersion) -> (Postgres, Postgres) {
    let primary = Postgres::builder()
        .version(version)
        .wal_segment_size_mib(1)
        .setting("wal_keep_size", "1GB")
        .start()
        .await
        .unwrap();
    let _ = primary.psql("CREATE TABLE t (n int)").await.unwrap();
    let standby = Postgres::builder()
        .standby_of(&primary)
        .start()
        .await
        .unwrap();
    (primary, standby)
}

/// Fills the primary and waits for the standby.
async fn fill(primary: &Postgres, standby: &Postgres) {
    let rows = "INSERT INTO t SELECT generate_series(1, 30000)";
    let _ = primary.psql(rows).await.unwrap();
    let lsn = flush_lsn(primary).await;
    wait_until("the standby to have it", PATIENCE, async || {
        let ask = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        standby.psql(&ask).await.unwrap() == "t"
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_standby_proves_nothing_until_it_is_promoted() {
    let world = World::new().await;
    let (primary, standby) = pair(PgVersion::V18).await;
    let registered = world.register("shop", &standby).await;
    let _archiver = world.archiver("one").await;
    fill(&primary, &standby).await;
    let mut answer = None;
    wait_until("the standby to be told", PATIENCE, async || {
        answer = world.ask(&registered).await;
        let error = answer.as_ref().and_then(|answer| answer.error.as_ref());
        error.is_some_and(|error| error.contains("standby"))
    })
    .await
    .unwrap();
    assert!(answer.unwrap().streaming);
    let position = registered.position().await.unwrap();
    assert_eq!(position.proven_at, events::Timestamp::UNIX_EPOCH);
    standby.promote().await.unwrap();
    wait_until("a proof, and no complaint", PATIENCE, async || {
        let answer = world.ask(&registered).await;
        answer.is_some_and(|answer| answer.proven_at.is_some() && answer.error.is_none())
    })
    .await
    .unwrap();
}

async fn check_promoted(world: &World, registered: &Registered, server: &Postgres) {
    let _ = server
        .psql("INSERT INTO t SELECT generate_series(1, 30000)")
        .await
        .unwrap();
    let end = registered.caught_up(server).await;
    let position = registered.position().await.unwrap();
    assert_eq!(position.timeline, TimelineId(2));
    let text = registered.reader.get_history(TimelineId(2)).await.unwrap();
    let file = server.data_directory().join("pg_wal/00000002.history");
    assert_eq!(text, std::fs::read(file).unwrap());
    let history =
        TimelineHistory::parse(TimelineId(2), std::str::from_utf8(&text).unwrap()).unwrap();
    let switch = history.switches()[0].switch_point;
    let size = registered.size;
    let ended = SegmentName::containing(TimelineId(1), switch, size);
    let partial = registered.reader.get_partial(ended).await.unwrap();
    assert_eq!(
        partial.len() as u64,
        size.offset_in_segment(switch),
        "all the old timeline has"
    );
    let objects = registered.reader.list_wal(size).await.unwrap();
    let open = SegmentName::containing(TimelineId(2), end, size);
    let open = registered
        .reader
        .open_segment(open)
        .await
        .ok()
        .into_iter()
        .collect::<Vec<_>>();
    let first = SegmentName::parse(&position.first_segment, size)
        .unwrap()
        .start(size);
    let coverage = wal_coverage(&objects, &history, size, first, end, &open);
    assert_eq!(coverage, WalCoverage::Complete);
    for object in &objects {
        let WalObjectKind::Segment(name) = object.kind else {
            continue;
        };
        let original = std::fs::read(server.data_directory().join(format!("pg_wal/{name}")));
        let Ok(original) = original else { continue };
        assert!(
            registered.reader.get_segment(name).await.unwrap() == original,
            "{name}"
        );
    }
    let announced = world.all_announced(registered).await;
    assert!(
        announced.contains(&format!("{ended}.partial")),
        "{announced:?}"
    );
    assert!(
        announced.contains(&"00000002.history".to_owned()),
        "{announced:?}"
    );
    assert_eq!(names(&world.events(registered).await), announced);
}

#[tokio::test]
async fn a_promotion_is_followed_while_it_happens() {
    for version in PgVersion::ALL {
        let world = World::new().await;
        let (primary, standby) = pair(version).await;
        let registered = world.register("shop", &standby).await;
        let _archiver = world.archiver("one").await;
        fill(&primary, &standby).await;
        wait_until("segments of the standby", PATIENCE, async || {
            !registered.segments().await.is_empty()
        })
        .await
        .unwrap();
        standby.promote().await.unwrap();
        check_promoted(&world, &registered, &standby).await;
    }
}

#[tokio::test]
async fn a_promotion_while_the_archiver_is_away_is_caught_up() {
    let world = World::new().await;
    let (primary, standby) = pair(PgVersion::V18).await;
    let registered = world.register("shop", &standby).await;
    let mut archiver = world.archiver("one").await;
    fill(&primary, &standby).await;
    wait_until("segments of the standby", PATIENCE, async || {
        !registered.segments().await.is_empty()
    })
    .await
    .unwrap();
    let _ = archiver.kill9().await.unwrap();
    fill(&primary, &standby).await;
    standby.promote().await.unwrap();
    archiver.start_again().await.unwrap();
    check_promoted(&world, &registered, &standby).await;
}

#[tokio::test]
async fn a_restored_branch_is_archived_from_its_fork() {
    let world = World::new().await;
    let (primary, restored) = pair(PgVersion::V18).await;
    fill(&primary, &restored).await;
    restored.promote().await.unwrap();
    let history =
        std::fs::read_to_string(restored.data_directory().join("pg_wal/00000002.history")).unwrap();
    let history = TimelineHistory::parse(TimelineId(2), &history).unwrap();
    let fork_lsn = history.switches()[0].switch_point;
    let registered = world.register_restored("shop", &restored, fork_lsn).await;
    let _archiver = world.archiver("one").await;
    let _ = restored
        .psql("INSERT INTO t SELECT generate_series(1, 30000)")
        .await
        .unwrap();
    let end = registered.caught_up(&restored).await;
    let position = registered.position().await.unwrap();
    let first = SegmentName::containing(TimelineId(2), fork_lsn, registered.size);
    assert_eq!(position.first_segment, first.to_string());
    registered.check_chain(&restored, TimelineId(2), end).await;
    let announced = world.all_announced(&registered).await;
    assert_eq!(
        announced.first().map(String::as_str),
        Some("00000002.history")
    );
    let objects = registered.reader.list_wal(registered.size).await.unwrap();
    assert!(
        objects
            .iter()
            .all(|object| object.timeline == TimelineId(2)),
        "{objects:?}"
    );
}

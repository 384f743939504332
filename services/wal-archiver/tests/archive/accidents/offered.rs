//! Segments that are truncated or come twice, and two that are of one name. (Those of another version are the WAL
//! reader's business.)

use bytes::Bytes;
use pg_format::{SegmentName, TimelineId};
use repository::{PutOutcome, RepositoryError};
use testkit::postgres::PgVersion;
use testkit::proxy::TcpProxy;
use testkit::wait_until;

use super::{check_unbroken, everything, fill, keeping, wait_for_error, wait_for_streaming};
use crate::world::{PATIENCE, World, flush_lsn};

/// WAL-G #63: half a segment was taken for one.
#[tokio::test]
async fn a_segment_cut_off_anywhere_on_its_way_is_streamed_again() {
    let world = World::new().await;
    let server = keeping(PgVersion::V18).await;
    let proxy = TcpProxy::start(&format!("127.0.0.1:{}", server.port()))
        .await
        .unwrap();
    let registered = world.register_behind("shop", &server, proxy.port()).await;
    let begin = flush_lsn(&server).await;
    let archiver = world.archiver("one").await;
    let _ = registered.caught_up(&server).await;
    for cut in [1, 24, 25, 8192 + 13, (1 << 20) - 1, (1 << 20) + 300_001] {
        let interrupted = archiver.log().matches("interrupted").count();
        proxy.cut_after(cut);
        fill(&server).await;
        wait_until("the connection to be cut", PATIENCE, async || {
            archiver.log().matches("interrupted").count() > interrupted
        })
        .await
        .unwrap();
        proxy.resume();
    }
    let end = registered.caught_up(&server).await;
    check_unbroken(&world, &registered, begin, end).await;
    registered.check_chain(&server, TimelineId(1), end).await;
}

#[tokio::test]
async fn a_segment_offered_twice_is_stored_once_and_another_one_of_its_name_is_refused() {
    let world = World::new().await;
    let server = keeping(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let archiver = world.archiver("one").await;
    for _ in 0..2 {
        fill(&server).await;
    }
    let _ = registered.caught_up(&server).await;
    drop(archiver);
    let writer = world
        .repository
        .writer(&registered.instance, &registered.branch);
    let name = *registered.segments().await.first().unwrap();
    let bytes = registered.reader.get_segment(name).await.unwrap();
    let before = everything(&world, &registered).await;
    let again = writer.put_segment(name, bytes.clone()).await.unwrap();
    assert!(matches!(again, PutOutcome::AlreadyStored { .. }));
    let mut other = bytes.to_vec();
    other[77_777] ^= 1;
    let refused = writer.put_segment(name, Bytes::from(other)).await;
    assert!(
        matches!(refused, Err(RepositoryError::Conflict { .. })),
        "{refused:?}"
    );
    for cut in [0, 1, 8192, bytes.len() - 1] {
        let refused = writer.put_segment(name, bytes.slice(..cut)).await;
        assert!(refused.is_err(), "{cut} bytes are no segment");
    }
    assert!(before == everything(&world, &registered).await);
}

/// Another archiver, of another installation perhaps, stored what its own cluster wrote there.
#[tokio::test]
async fn a_segment_that_another_writer_stored_first_is_not_replaced_and_nothing_is_confirmed() {
    let world = World::new().await;
    let server = keeping(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let _archiver = world.archiver("one").await;
    let end = registered.caught_up(&server).await;
    let size = registered.size;
    let name = SegmentName::new(TimelineId(1), size.segment_of(end) + 1, size);
    let foreign = Bytes::from(vec![7; 1 << 20]);
    let writer = world
        .repository
        .writer(&registered.instance, &registered.branch);
    let _ = writer.put_segment(name, foreign.clone()).await.unwrap();
    for _ in 0..2 {
        fill(&server).await;
    }
    let error = wait_for_error(&world, &registered, "another cluster").await;
    assert!(error.contains(&name.to_string()), "{error}");
    assert_eq!(registered.reader.get_segment(name).await.unwrap(), foreign);
    let confirmed = "SELECT restart_lsn FROM pg_replication_slots";
    let confirmed: pg_format::Lsn = server.psql(confirmed).await.unwrap().parse().unwrap();
    assert!(confirmed < name.end(size), "{confirmed}");
    // Mended by whoever knows which one is right.
    let place = format!(
        "v1/{}/{}/wal/{}/{name}",
        registered.instance,
        registered.branch,
        TimelineId(1)
    );
    let directory = world.repository_directory();
    let found: Vec<_> = everything(&world, &registered).await;
    let stored = found
        .iter()
        .find(|(path, _)| path.ends_with(name.to_string()));
    let (path, _) = stored.unwrap_or_else(|| panic!("{place} is not in {}", directory.display()));
    std::fs::remove_file(path).unwrap();
    wait_for_streaming(&world, &registered).await;
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
}

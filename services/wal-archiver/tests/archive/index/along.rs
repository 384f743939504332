//! The index over a promotion, and how large it is.

use pg_format::wal::WalBlockSize;
use pg_format::{SegmentName, TimelineHistory, TimelineId};
use repository::{WalFormat, WalObjectKind, WalPath};
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;
use wal_index::{IndexSettings, SegmentIndex};

use crate::world::{PATIENCE, Registered, World};

async fn path(registered: &Registered, server: &Postgres, history: TimelineHistory) -> WalPath {
    let size = registered.size;
    let objects = registered.reader.list_wal(size).await.unwrap();
    let mut open = Vec::new();
    for object in &objects {
        if let WalObjectKind::Partial(name) = object.kind {
            open.push(registered.reader.open_segment(name).await.unwrap());
        }
    }
    let ask = "SELECT system_identifier FROM pg_control_system()";
    let format = WalFormat {
        system_identifier: server.psql(ask).await.unwrap().parse().unwrap(),
        segment_size: size,
        block_size: WalBlockSize::DEFAULT,
        server_major: 18,
    };
    WalPath::new(&objects, &open, history, format)
}

fn encoded(index: &SegmentIndex) -> Vec<u8> {
    wal_index::encode(std::slice::from_ref(index))
}

#[tokio::test]
async fn both_timelines_of_a_promotion_are_indexed() {
    let world = World::new().await;
    let primary = Postgres::builder()
        .version(PgVersion::V18)
        .wal_segment_size_mib(1)
        .setting("wal_keep_size", "1GB")
        .start()
        .await
        .unwrap();
    let standby = Postgres::builder()
        .standby_of(&primary)
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &standby).await;
    let _archiver = world.archiver("one").await;
    let fill =
        "CREATE TABLE t AS SELECT generate_series(1, 30000) AS n; DELETE FROM t WHERE n <= 200";
    let _ = primary.psql(fill).await.unwrap();
    let lsn = crate::world::flush_lsn(&primary).await;
    wait_until("the standby to have it", PATIENCE, async || {
        let ask = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        standby.psql(&ask).await.unwrap() == "t"
    })
    .await
    .unwrap();
    standby.promote().await.unwrap();
    let after = "DELETE FROM t WHERE n <= 500; INSERT INTO t SELECT generate_series(1, 40000); SELECT pg_switch_wal()";
    let _ = standby.psql(after).await.unwrap();
    let _ = registered.caught_up(&standby).await;
    let text = registered.reader.get_history(TimelineId(2)).await.unwrap();
    let second =
        TimelineHistory::parse(TimelineId(2), std::str::from_utf8(&text).unwrap()).unwrap();
    let (size, switch) = (registered.size, second.switches()[0].switch_point);
    let shared = size.segment_of(switch);
    let mut stored = Vec::new();
    wait_until(
        "every segment of both timelines to be indexed",
        PATIENCE,
        async || {
            stored.clear();
            let mut names = registered.segments().await;
            names.push(SegmentName::new(TimelineId(1), shared, size));
            for name in names {
                let number = name.number(size);
                let index = registered
                    .reader
                    .stored_wal_index(name.timeline, number)
                    .await
                    .unwrap();
                stored.extend(index.map(|index| (name.timeline, index)));
            }
            stored.len() == registered.segments().await.len() + 1
        },
    )
    .await
    .unwrap();
    let old_end = stored
        .iter()
        .find(|(timeline, index)| (*timeline, index.segment) == (TimelineId(1), shared));
    assert_eq!(old_end.unwrap().1.end, switch);
    // Without anything stored, readers build the same from the WAL.
    let place = world.repository_directory().join("v1/shop/main/wal-index");
    for timeline in ["00000001", "00000002"] {
        std::fs::remove_dir_all(place.join(timeline)).unwrap();
    }
    let first = size.start_of(stored.iter().map(|(_, index)| index.segment).min().unwrap());
    let mut compared = 0;
    for (history, end) in [
        (TimelineHistory::root(TimelineId(1)), switch),
        (second, size.start_of(shared + 2)),
    ] {
        let path = path(&registered, &standby, history).await;
        let slice = registered
            .reader
            .wal_index(&path, IndexSettings::default(), first, end);
        for built in slice.await.unwrap().segments {
            let timeline = path.history().timeline_at(built.end);
            let timeline = if built.segment < shared {
                TimelineId(1)
            } else {
                timeline
            };
            let same = stored
                .iter()
                .find(|(on, index)| (*on, index.segment) == (timeline, built.segment));
            if let Some((_, same)) = same {
                assert_eq!(
                    encoded(same),
                    encoded(&built),
                    "{timeline} {same:#?} {built:#?}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 4, "{compared}");
}

/// Bytes of all files below a directory.
fn bytes_below(place: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(place).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => bytes_below(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

#[tokio::test]
async fn the_index_is_less_than_a_hundredth_of_the_wal() {
    let world = World::new().await;
    let server = Postgres::builder()
        .version(PgVersion::V15)
        .setting("synchronous_commit", "off")
        .setting("max_wal_size", "256MB")
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let _archiver = world.archiver("one").await;
    for arguments in [
        vec!["-i", "-s", "5"],
        vec!["-c", "8", "-j", "2", "-t", "4000", "-N"],
    ] {
        let output = tokio::process::Command::new(server.bin("pgbench").unwrap())
            .args(arguments)
            .arg(server.dsn())
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let _ = server.psql("SELECT pg_switch_wal()").await.unwrap();
    let _ = registered.caught_up(&server).await;
    wait_until("every segment to be indexed", PATIENCE, async || {
        let last = registered.segments().await.last().copied().unwrap();
        let number = last.number(registered.size);
        let index = registered.reader.stored_wal_index(last.timeline, number);
        index.await.unwrap().is_some()
    })
    .await
    .unwrap();
    let branch = world.repository_directory().join("v1/shop/main");
    let (wal, index) = (
        bytes_below(&branch.join("wal/00000001")),
        bytes_below(&branch.join("wal-index/00000001")),
    );
    let segments = registered.segments().await.len();
    assert!(segments > 3);
    assert!(
        index * 100 < wal,
        "{index} bytes of index for {wal} bytes of {segments} segments"
    );
}

//! Accidents that befell others, each as a test: what is archived stays whole, a gap is told exactly when WAL is
//! missing, and what is wrong is said.

mod idle;
mod lagging_store;
mod large_segments;
mod not_pushed;
mod offered;
mod promotions;
mod slots;
mod small_disk;
mod stores;
mod unread;
mod writers;

use std::path::Path;

use events::event::{Event, WalGapDetected};
use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId};
use repository::{WalCoverage, wal_coverage};
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use crate::world::{PATIENCE, Registered, World, flush_lsn};

/// A server of small segments that keeps its WAL whatever slots say.
async fn keeping(version: PgVersion) -> Postgres {
    let server = Postgres::builder()
        .version(version)
        .wal_segment_size_mib(1)
        .setting("wal_keep_size", "1GB")
        .setting("autovacuum", "off")
        .start()
        .await
        .unwrap();
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    server
}

async fn fill(server: &Postgres) {
    let rows = "INSERT INTO t SELECT generate_series(1, 30000)";
    let _ = server.psql(rows).await.unwrap();
}

/// Waits until the branch's status complains of this.
async fn wait_for_error(world: &World, registered: &Registered, text: &str) -> String {
    let mut last = None;
    let seen = wait_until("the complaint", PATIENCE, async || {
        last = world.ask(registered).await.and_then(|answer| answer.error);
        last.as_ref().is_some_and(|error| error.contains(text))
    });
    if let Err(error) = seen.await {
        panic!("{error}: {text:?} is not in {last:?}");
    }
    last.unwrap()
}

async fn wait_for_streaming(world: &World, registered: &Registered) {
    wait_until("streaming without a complaint", PATIENCE, async || {
        let answer = world.ask(registered).await;
        answer.is_some_and(|answer| answer.streaming && answer.error.is_none())
    })
    .await
    .unwrap();
}

async fn told_gaps(world: &World, registered: &Registered) -> Vec<WalGapDetected> {
    let events = world.events(registered).await;
    let gaps = events.into_iter().filter_map(|event| match event {
        Event::WalGapDetected(gap) => Some(gap),
        _ => None,
    });
    gaps.collect()
}

async fn wait_for_gap(world: &World, registered: &Registered) -> WalGapDetected {
    let mut gaps = Vec::new();
    wait_until("the gap to be told", PATIENCE, async || {
        gaps = told_gaps(world, registered).await;
        !gaps.is_empty()
    })
    .await
    .unwrap();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    gaps.remove(0)
}

/// No gap is recorded or told, and the chain from `first` to `end` has everything along the server's history.
async fn check_unbroken(world: &World, registered: &Registered, first: Lsn, end: Lsn) {
    assert_eq!(registered.reader.wal_gaps().await.unwrap(), []);
    let _ = world.all_announced(registered).await;
    assert_eq!(told_gaps(world, registered).await, []);
    let position = registered.position().await.unwrap();
    assert!(position.lsn >= end, "{position:?}");
    let begin = SegmentName::parse(&position.first_segment, registered.size).unwrap();
    assert!(begin.start(registered.size) <= first, "{position:?}");
    let timeline = position.timeline;
    let history = if timeline == TimelineId(1) {
        TimelineHistory::root(timeline)
    } else {
        let text = registered.reader.get_history(timeline).await.unwrap();
        TimelineHistory::parse(timeline, std::str::from_utf8(&text).unwrap()).unwrap()
    };
    let size = registered.size;
    let objects = registered.reader.list_wal(size).await.unwrap();
    let open = SegmentName::containing(timeline, end, size);
    let open = registered.reader.open_segment(open).await.ok();
    let open: Vec<_> = open.into_iter().collect();
    let coverage = wal_coverage(&objects, &history, size, first, end, &open);
    assert_eq!(coverage, WalCoverage::Complete, "{objects:?}");
}

/// Every WAL object of the branch with its bytes in the store.
async fn everything(world: &World, registered: &Registered) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let branch = format!("v1/{}/{}/wal", registered.instance, registered.branch);
    let mut found = Vec::new();
    let mut directories = vec![world.repository_directory().join(branch)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    let mut command = std::process::Command::new("cp");
    assert!(
        command
            .arg("-a")
            .arg(from)
            .arg(to)
            .status()
            .unwrap()
            .success()
    );
}

/// Waits until a standby has all its primary has.
async fn wait_for_standby(primary: &Postgres, standby: &Postgres) -> Lsn {
    let lsn = flush_lsn(primary).await;
    wait_until("the standby to have it", PATIENCE, async || {
        let ask = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        standby.psql(&ask).await.unwrap() == "t"
    })
    .await
    .unwrap();
    lsn
}

//! Retention lets go of the oldest WAL beside the archiver: it goes on, asks for nothing of it again, and has no gap.

use std::collections::BTreeSet;

use bus::Outgoing;
use events::document::WalStretch;
use events::event::{BackupSummary, BranchSwept};
use events::{Event, MessageId, SweepId};
use pg_format::{SegmentName, SegmentNumber, TimelineId};
use service::{Clock, SystemClock};
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::index::window::{back_up, told};
use crate::world::{PATIENCE, Registered, World};

/// Does what a sweep does: the backup, and everything before the one that stays.
async fn sweep(
    world: &World,
    registered: &Registered,
    gone: &BackupSummary,
    kept: &BackupSummary,
) -> SegmentName {
    let (size, timeline) = (registered.size, TimelineId(1));
    let segments = registered.segments().await;
    let first = segments.first().unwrap().start(size);
    let stretch = WalStretch {
        timeline,
        from_lsn: first,
        to_lsn: size.floor(kept.start_lsn),
    };
    let branch = world
        .repository
        .writer(&registered.instance, &registered.branch);
    let going = [gone.backup_id];
    let named = branch.packs_named_by_others(&going).await.unwrap();
    let _ = branch
        .delete_backup(gone.backup_id, &named, &|| {})
        .await
        .unwrap();
    let pruned = branch.prune_wal(&[stretch], size, &|| {}).await.unwrap();
    assert!(pruned[0].segments > 2, "{pruned:?}");
    let (sweep_id, swept_at) = (SweepId(gone.backup_id.0), SystemClock.now());
    let event = Event::BranchSwept(BranchSwept {
        instance: registered.instance.clone(),
        branch: registered.branch.clone(),
        sweep_id,
        objects: pruned[0].objects,
        bytes: pruned[0].bytes,
        swept_at,
    });
    let id = MessageId::new(format!("branch.swept:{sweep_id}"));
    let outgoing = Outgoing::new(event, id, swept_at);
    let _ = world.bus.publish(outgoing).await.unwrap();
    SegmentName::containing(timeline, kept.start_lsn, size)
}

/// Everything from `first` on is there and indexed, and nothing before it has come back.
async fn check(registered: &Registered, first: SegmentName) {
    let size = registered.size;
    let numbers: Vec<SegmentNumber> = registered
        .segments()
        .await
        .iter()
        .map(|name| name.number(size))
        .collect();
    let begin = first.number(size);
    let end = begin + numbers.len() as u64;
    assert_eq!(numbers, (begin..end).collect::<Vec<_>>());
    let missing = async |numbers: BTreeSet<SegmentNumber>| {
        let missing = registered.reader.without_wal_index(TimelineId(1), numbers);
        missing.await.unwrap()
    };
    wait_until("what is left to be indexed", PATIENCE, async || {
        missing((begin..end).collect()).await.is_empty()
    })
    .await
    .unwrap();
    let archive = repository::archive::read(&registered.reader).await.unwrap();
    assert_eq!(archive.gaps, []);
}

/// Several segments.
async fn fill(server: &Postgres) {
    let rows = "INSERT INTO t SELECT generate_series(1, 60000); SELECT pg_switch_wal()";
    let _ = server.psql(rows).await.unwrap();
}

/// The window that was told last begins with this backup, and has no gap.
async fn window_begins(world: &World, registered: &Registered, backup: &BackupSummary) {
    wait_until("the window to begin later", PATIENCE, async || {
        let windows = told(world, registered).await;
        windows.last().unwrap().earliest_backup_id == Some(backup.backup_id)
    })
    .await
    .unwrap();
    let last = told(world, registered).await.pop().unwrap();
    assert_eq!(last.earliest, Some(backup.backed_up_at));
    assert!(last.complete && last.gaps.is_empty(), "{last:?}");
}

#[tokio::test]
async fn archiving_goes_on_behind_what_was_let_go() {
    let world = World::new().await;
    // The server has all of its WAL still: whatever is asked for once more comes back.
    let server = Postgres::builder()
        .wal_segment_size_mib(1)
        .setting("wal_keep_size", "1GB")
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    let mut backups = Vec::new();
    for _ in 0..3 {
        backups.push(back_up(&world, &registered, &server).await);
        fill(&server).await;
        let _ = registered.caught_up(&server).await;
    }
    // While it archives.
    let first = sweep(&world, &registered, &backups[0], &backups[1]).await;
    window_begins(&world, &registered, &backups[1]).await;
    fill(&server).await;
    let _ = registered.caught_up(&server).await;
    check(&registered, first).await;
    let _ = archiver.kill9().await.unwrap();
    archiver.start_again().await.unwrap();
    fill(&server).await;
    let end = registered.caught_up(&server).await;
    check(&registered, first).await;
    let position = registered.position().await.unwrap();
    assert_eq!(position.first_segment, first.to_string());
    registered.check_chain(&server, TimelineId(1), end).await;

    // While there is none.
    let _ = archiver.terminate().await.unwrap();
    let first = sweep(&world, &registered, &backups[1], &backups[2]).await;
    fill(&server).await;
    archiver.start_again().await.unwrap();
    let end = registered.caught_up(&server).await;
    check(&registered, first).await;
    registered.check_chain(&server, TimelineId(1), end).await;
    window_begins(&world, &registered, &backups[2]).await;
    let log = archiver.log();
    for said in ["missing for good", "without an index", "is behind"] {
        assert!(!log.contains(said), "{log}");
    }
}

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use events::event::{BackupSummary, GapCause};
use events::mark::BackupMark;
use events::{BackupId, BackupType, BranchName, InstanceName, Trigger};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize};

use super::{KnownManifests, WalObjectKind, read, read_all, read_new};
use crate::faulty::{Fault, FaultyStore, Operation};
use crate::{BackupOptions, BranchWriter, Repository, RetryPolicy, WalGap, WalPosition};

const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn name(number: u64) -> SegmentName {
    SegmentName::new(TimelineId(1), number, size())
}

fn repository(store: Arc<dyn ObjectStore>) -> (Repository, BranchWriter) {
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    let repository = Repository::with_store(store, "", retry);
    let instance = InstanceName::new("orders").unwrap();
    let writer = repository.writer(&instance, &BranchName::main());
    (repository, writer)
}

async fn back_up(writer: &BranchWriter, id: BackupId) {
    let at = DateTime::UNIX_EPOCH;
    let files = writer.begin_backup(id, "a", BackupOptions::default());
    let stored = files.unwrap().finish().await.unwrap();
    let summary = BackupSummary {
        backup_id: id,
        instance: writer.instance().clone(),
        branch: writer.branch().clone(),
        name: "test".to_owned(),
        backup_type: BackupType::Full,
        trigger: Trigger::Manual,
        schedule_id: None,
        requested_at: at,
        started_at: at,
        backed_up_at: at,
        ended_at: None,
        expires_at: None,
        wal_until: None,
        start_lsn: Lsn(3 * MIB + 40),
        stop_lsn: Lsn(3 * MIB + 80),
        timeline: TimelineId(1),
        system_identifier: SystemIdentifier(7),
        server_version: 160_000,
        wal_segment_size: size(),
        logical_bytes: stored.totals.logical_bytes,
        stored_bytes: stored.totals.stored_bytes,
        files: stored.totals.files,
        attempt: "a".to_owned(),
        damaged_pages: Vec::new(),
    };
    let _ = stored.commit(summary).await.unwrap();
}

fn id(number: u128) -> BackupId {
    BackupId(uuid::Uuid::from_u128(number))
}

/// Two backups, segments 3 and 4, a part of 5, and a position.
async fn fill(writer: &BranchWriter) {
    for number in [1, 2] {
        back_up(writer, id(number)).await;
    }
    for number in [3, 4] {
        let raw = Bytes::from(vec![0; MIB as usize]);
        let _ = writer.put_segment(name(number), raw).await.unwrap();
    }
    let part = Bytes::from_static(&[0; 500]);
    let _ = writer.put_partial(name(5), part).await.unwrap();
    let position = WalPosition {
        timeline: TimelineId(1),
        lsn: Lsn(5 * MIB + 500),
        proven_at: DateTime::UNIX_EPOCH,
        first_segment: name(3).to_string(),
        updated: DateTime::UNIX_EPOCH,
    };
    writer.put_wal_position(&position).await.unwrap();
    for from in [9, 7] {
        let gap = WalGap {
            timeline: TimelineId(1),
            from_lsn: Lsn(from * MIB),
            to_lsn: Lsn((from + 1) * MIB),
            cause: GapCause::SlotLost,
            detected_at: DateTime::from_timestamp(from as i64, 0).unwrap(),
            proven: None,
        };
        writer.put_wal_gap(&gap).await.unwrap();
    }
}

/// Overwrites with garbage whatever has such a name.
async fn damage(store: &InMemory, part: &str) {
    use futures::TryStreamExt as _;
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut damaged = 0;
    for object in all {
        if object.location.as_ref().contains(part) {
            let _ = store.put(&object.location, "garbage".into()).await.unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1, "{part}");
}

#[tokio::test]
async fn damage_is_passed_over() {
    let store = Arc::new(InMemory::new());
    let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
    fill(&writer).await;
    let archive = read(writer.reader()).await.unwrap();
    assert_eq!((archive.backups.len(), archive.open.len()), (2, 1));
    assert!(archive.position.is_some());
    let gaps = |gaps: &[WalGap]| {
        gaps.iter()
            .map(|gap| gap.from_lsn.0 / MIB)
            .collect::<Vec<_>>()
    };
    assert_eq!(gaps(&archive.gaps), [7, 9]);
    damage(&store, &format!("gaps/00000001-{:016X}", 9 * MIB)).await;
    damage(&store, &format!("{}/manifest", id(1).0)).await;
    damage(&store, ".partial").await;
    let archive = read(writer.reader()).await.unwrap();
    assert_eq!((archive.backups.len(), archive.open.len()), (1, 0));
    assert_eq!(gaps(&archive.gaps), [7]);
    assert_eq!(archive.backups[0].backup_id, id(2));
    assert!(archive.position.is_some());
    damage(&store, "position").await;
    let archive = read(writer.reader()).await.unwrap();
    assert!(archive.position.is_none());
    assert_eq!(archive.backups.len(), 1);
}

#[tokio::test]
async fn a_store_that_fails_is_an_error() {
    let store = Arc::new(InMemory::new());
    let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
    fill(&writer).await;
    let faulty = FaultyStore::new(store, |operation, path| {
        let manifest = path.as_ref().ends_with("/manifest");
        match operation == Operation::Get && manifest {
            true => Fault::Fail,
            false => Fault::Pass,
        }
    });
    let (_, writer) = repository(Arc::new(faulty));
    assert!(read(writer.reader()).await.is_err());
}

#[tokio::test]
async fn what_is_known_is_read_again_when_it_is_another_and_never_more_than_there_is_room_for() {
    let store = Arc::new(InMemory::new());
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let shared = Arc::clone(&store) as Arc<dyn ObjectStore>;
    let counting = FaultyStore::new(shared, move |operation, path| {
        if operation == Operation::Get && path.as_ref().ends_with("/manifest") {
            let _ = counted.fetch_add(1, Ordering::SeqCst);
        }
        Fault::Pass
    });
    let (_, writer) = repository(Arc::new(counting));
    fill(&writer).await;
    let known = KnownManifests::new(1 << 20);
    let look = async |known: &KnownManifests, backups: usize, expected: usize| {
        let before = reads.load(Ordering::SeqCst);
        let (archive, _) = read_new(writer.reader(), known).await.unwrap();
        let (plain, _) = read_all(writer.reader()).await.unwrap();
        assert_eq!(archive.backups, plain.backups);
        assert_eq!(archive.marks, plain.marks);
        assert_eq!(archive.unreadable, plain.unreadable);
        assert_eq!(archive.backups.len(), backups);
        let plain = backups + plain.unreadable.len();
        let read = reads.load(Ordering::SeqCst) - before - plain;
        assert_eq!(read, expected);
    };
    look(&known, 2, 2).await;
    look(&known, 2, 0).await;
    back_up(&writer, id(3)).await;
    look(&known, 3, 1).await;
    let mark = BackupMark {
        name: Some("renamed".to_owned()),
        ..BackupMark::default()
    };
    let read = writer.mark(id(3)).await.unwrap();
    let _ = writer.put_mark(id(3), &mark, &read).await.unwrap();
    look(&known, 3, 0).await;
    let (count, bytes) = known.size();
    assert_eq!(count, 3);
    assert!((200 * count..1000 * count).contains(&bytes), "{bytes}");
    // Damaged where it rests: it is not taken for what it was.
    damage(&store, &format!("{}/manifest", id(1).0)).await;
    look(&known, 2, 1).await;
    look(&known, 2, 1).await;
    let manifest = writer.layout.manifest(id(2));
    writer.store.delete(&manifest).await.unwrap();
    look(&known, 1, 1).await;
    // Another one in its place.
    back_up(&writer, id(2)).await;
    look(&known, 2, 2).await;
    look(&known, 2, 1).await;

    let small = KnownManifests::new(bytes / count);
    look(&small, 2, 3).await;
    look(&small, 2, 2).await;
    assert_eq!(small.size().0, 1);
    small.forget(&InstanceName::new("other").unwrap());
    assert_eq!(small.size().0, 1);
    small.forget(writer.instance());
    assert_eq!(small.size(), (0, 0));
}

#[tokio::test]
async fn a_hundred_backups_take_a_few_requests_time() {
    let store = Arc::new(InMemory::new());
    let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
    for number in 0..100 {
        back_up(&writer, id(number)).await;
    }
    let delay = Duration::from_millis(30);
    let slow = FaultyStore::new(store, move |operation, path| {
        let manifest = path.as_ref().ends_with("/manifest");
        match operation == Operation::Get && manifest {
            true => Fault::Delay(delay),
            false => Fault::Pass,
        }
    });
    let (_, slow) = repository(Arc::new(slow));
    let begin = tokio::time::Instant::now();
    let archive = read(slow.reader()).await.unwrap();
    assert_eq!(archive.backups.len(), 100);
    assert!(begin.elapsed() < 50 * delay, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_segment_that_is_completed_meanwhile_is_in_the_listing() {
    let store = Arc::new(InMemory::new());
    let (_, writer) = repository(Arc::clone(&store) as Arc<dyn ObjectStore>);
    fill(&writer).await;
    let looked = Arc::new(tokio::sync::Notify::new());
    let looks = Arc::clone(&looked);
    let slow = FaultyStore::new(store, move |operation, path| {
        if operation == Operation::Get && path.as_ref().ends_with(".partial") {
            looks.notify_one();
            return Fault::Delay(Duration::from_secs(1));
        }
        Fault::Pass
    });
    let (_, slow) = repository(Arc::new(slow));
    let completing = async {
        looked.notified().await;
        let raw = Bytes::from(vec![0; MIB as usize]);
        let _ = writer.put_segment(name(5), raw).await.unwrap();
        writer.delete_partial(name(5)).await.unwrap();
    };
    let (archive, ()) = tokio::join!(read(slow.reader()), completing);
    let archive = archive.unwrap();
    let complete = WalObjectKind::Segment(name(5));
    assert!(archive.objects.iter().any(|one| one.kind == complete));
    assert!(archive.open.is_empty());
}

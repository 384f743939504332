//! What retention lets go of is gone, and nothing else; whatever fails in between, another call does the rest.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chrono::DateTime;
use events::document::{Sweep, WalStretch};
use events::event::GapCause;
use events::mark::BackupMark;
use events::{BackupId, SweepId};
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use pg_format::{Lsn, SegmentName, TimelineId};
use wal_index::{RelationMap, SegmentIndex};

use super::{back_up, backup_id, main_of, sample, segment_size, store, summary};
use crate::faulty::{Fault, FaultyStore, Operation};
use crate::{
    BranchWriter, Deleted, Pack, PutMark, ReadMark, Repository, RetryPolicy, WalGap, archive,
};

const ONE: TimelineId = TimelineId(1);

fn opened(store: Arc<dyn ObjectStore>) -> Repository {
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    Repository::with_store(store, "", retry)
}

async fn keys(store: &InMemory) -> BTreeSet<String> {
    let listed = store.list(None).map_ok(|meta| meta.location.to_string());
    listed.try_collect().await.unwrap()
}

fn name(number: u64) -> SegmentName {
    SegmentName::new(ONE, number, segment_size())
}

fn stretch(first: u64, after: u64) -> WalStretch {
    WalStretch {
        timeline: ONE,
        from_lsn: segment_size().start_of(first),
        to_lsn: segment_size().start_of(after),
    }
}

async fn hold(branch: &BranchWriter, id: BackupId) {
    let mark = BackupMark {
        name: Some("kept".to_owned()),
        ..BackupMark::default()
    };
    let put = branch.put_mark(id, &mark, &ReadMark::default()).await;
    assert!(matches!(put.unwrap(), PutMark::Written(_)));
}

/// Two backups with marks; the second one names a pack of the first.
async fn two_backups(branch: &BranchWriter) -> Pack {
    let first = back_up(branch, backup_id(1), &sample()).await;
    let _killed = store(branch, backup_id(1), "killed", &sample(), 999)
        .await
        .unwrap();
    let mut second = store(branch, backup_id(2), "attempt-1", &sample(), 999)
        .await
        .unwrap();
    second.packs.push(first.packs[1].clone());
    let summary = summary(branch, backup_id(2), "attempt-1", &second);
    let _ = second.commit(summary).await.unwrap();
    for number in [1, 2] {
        hold(branch, backup_id(number)).await;
    }
    first.packs[1].clone()
}

#[tokio::test]
async fn a_backup_goes_but_for_what_others_name() {
    let memory = Arc::new(InMemory::new());
    let branch = main_of(&opened(Arc::clone(&memory) as Arc<dyn ObjectStore>));
    let shared = two_backups(&branch).await;
    let before = keys(&memory).await;
    let gone = |key: &&String| key.contains(&backup_id(1).to_string());
    let named = branch.packs_named_by_others(&[backup_id(1)]).await.unwrap();
    let deleted = branch
        .delete_backup(backup_id(1), &named, &|| {})
        .await
        .unwrap();
    let shared = branch
        .layout
        .pack(backup_id(1), &shared.attempt, shared.number);
    let expected: BTreeSet<_> = before
        .iter()
        .filter(|key| !gone(key) || **key == shared)
        .cloned()
        .collect();
    assert_eq!(keys(&memory).await, expected);
    assert_eq!(deleted.objects, (before.len() - expected.len()) as u64);
    let again = branch
        .delete_backup(backup_id(1), &named, &|| {})
        .await
        .unwrap();
    assert_eq!(again, Deleted::default());
    // When the other goes as well, nobody names it.
    let named = branch.packs_named_by_others(&[backup_id(2)]).await.unwrap();
    for number in [2, 1] {
        let deleted = branch
            .delete_backup(backup_id(number), &named, &|| {})
            .await;
        assert!(deleted.unwrap().objects > 0);
    }
    assert_eq!(keys(&memory).await, BTreeSet::new());
}

#[tokio::test]
async fn whatever_fails_the_manifest_goes_first_and_the_rest_later() {
    let memory = Arc::new(InMemory::new());
    let _ = two_backups(&main_of(&opened(
        Arc::clone(&memory) as Arc<dyn ObjectStore>
    )))
    .await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let faulty = FaultyStore::new(
        Arc::clone(&memory) as Arc<dyn ObjectStore>,
        move |operation, path| {
            if operation != Operation::Delete {
                return Fault::Pass;
            }
            let mut seen = seen.lock().unwrap();
            let first = !seen.contains(&path.to_string());
            seen.push(path.to_string());
            match (first, seen.len() % 2) {
                (true, 0) => Fault::LoseResponse,
                (true, _) => Fault::Fail,
                _ => Fault::Pass,
            }
        },
    );
    let branch = main_of(&opened(Arc::new(faulty)));
    let going = [backup_id(2), backup_id(1)];
    let mut failures = 0;
    loop {
        let named = branch.packs_named_by_others(&going).await.unwrap();
        let mut result = Ok(Deleted::default());
        for backup in going {
            if result.is_ok() {
                result = branch.delete_backup(backup, &named, &|| {}).await;
            }
        }
        match result {
            Ok(_) => break,
            Err(_) => failures += 1,
        }
        assert!(failures < 500);
    }
    assert!(failures > 3, "{failures}");
    assert_eq!(keys(&memory).await, BTreeSet::new());
    let order = order.lock().unwrap();
    for backup in going {
        let of_it = |key: &&String| key.contains(&backup.to_string());
        let first = order.iter().find(of_it).unwrap();
        assert!(first.ends_with("/manifest"), "{first}");
    }
}

fn index(number: u64) -> SegmentIndex {
    let size = segment_size();
    SegmentIndex {
        segment: number,
        start: size.start_of(number),
        end: size.start_of(number + 1),
        intervals: Vec::new(),
        events: Vec::new(),
        open: Vec::new(),
        undecoded: 0,
    }
}

/// Segments 60 to 135, with index and names of relations at 50, 61, 70, 90, 129 and 133; gaps before 60 and at 136.
async fn wal(branch: &BranchWriter) {
    let size = segment_size();
    let raw = Bytes::from(vec![0; usize::try_from(size.bytes()).unwrap()]);
    for number in 60..=135 {
        let _ = branch.put_segment(name(number), raw.clone()).await.unwrap();
    }
    let part = raw.slice(..100);
    for number in [61, 136] {
        let _ = branch
            .put_partial(name(number), part.clone())
            .await
            .unwrap();
    }
    let indexed: Vec<_> = (60..=135).map(index).collect();
    branch.put_wal_index(ONE, &indexed).await.unwrap();
    for number in [50, 61, 70, 90, 129, 133] {
        let map = RelationMap {
            as_of: size.start_of(number),
            databases: Vec::new(),
            relations: Vec::new(),
        };
        let key = branch.layout.relation_map(ONE, map.as_of);
        let history = wal_index::RelationHistory::new(map).encode();
        let frame = crate::frame::encode(crate::frame::FrameKind::RelationMap, "x", &history, 1);
        branch.store.put(&key, frame.unwrap()).await.unwrap();
    }
    for (from, to) in [(40, 60), (137, 139)] {
        let gap = WalGap {
            timeline: ONE,
            from_lsn: size.start_of(from),
            to_lsn: size.start_of(to),
            cause: GapCause::SlotLost,
            detected_at: DateTime::UNIX_EPOCH,
            proven: None,
        };
        branch.put_wal_gap(&gap).await.unwrap();
    }
}

fn files(keys: &BTreeSet<String>, directory: &str) -> Vec<String> {
    let of_it = keys.iter().filter(|key| key.contains(directory));
    of_it
        .filter_map(|key| key.rsplit('/').next().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn wal_goes_and_what_tells_of_nothing_else() {
    let memory = Arc::new(InMemory::new());
    let branch = main_of(&opened(Arc::clone(&memory) as Arc<dyn ObjectStore>));
    wal(&branch).await;
    let size = segment_size();
    let cut = WalStretch {
        // Not the whole of 131.
        to_lsn: Lsn(size.start_of(132).0 - 1),
        ..stretch(60, 132)
    };
    let pruned = branch.prune_wal(&[cut], size, &|| {}).await.unwrap();
    assert_eq!(pruned[0].segments, 71);
    let left = keys(&memory).await;
    let expected: Vec<_> = (131..=135)
        .map(|number| name(number).to_string())
        .chain([format!("{}.partial", name(136))])
        .collect();
    assert_eq!(files(&left, "/wal/00000001/"), expected);
    // 128 to 191 has something left.
    assert_eq!(
        files(&left, "/wal-index/00000001/"),
        [format!("{:016X}", 2)]
    );
    let map = |number: u64| format!("00000001-{:016X}", size.start_of(number).0);
    assert_eq!(files(&left, "/relations/"), [map(129), map(133)]);
    let gap = |number: u64| format!("00000001-{:016X}", size.start_of(number).0);
    assert_eq!(files(&left, "/gaps/"), [gap(137)]);
    let again = branch.prune_wal(&[cut], size, &|| {}).await.unwrap();
    assert_eq!(again, [Deleted::default()]);
    assert_eq!(keys(&memory).await, left);
}

#[tokio::test]
async fn an_index_that_was_stored_behind_a_sweep_goes_with_the_next_one() {
    let memory = Arc::new(InMemory::new());
    let branch = main_of(&opened(Arc::clone(&memory) as Arc<dyn ObjectStore>));
    wal(&branch).await;
    let size = segment_size();
    let read = branch.stored_wal_index(ONE, 70).await.unwrap().unwrap();
    let _ = branch
        .prune_wal(&[stretch(60, 129)], size, &|| {})
        .await
        .unwrap();
    // The archiver had read the segment before it went.
    branch.put_wal_index(ONE, &[read]).await.unwrap();
    let group = |number: u64| format!("{number:016X}");
    let groups = async || files(&keys(&memory).await, "/wal-index/00000001/");
    assert_eq!(groups().await, [group(1), group(2)]);
    let _ = branch
        .prune_wal(&[stretch(129, 131)], size, &|| {})
        .await
        .unwrap();
    assert_eq!(groups().await, [group(2)]);
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_leaves_the_end_of_a_stretch() {
    let memory = Arc::new(InMemory::new());
    let plain = main_of(&opened(Arc::clone(&memory) as Arc<dyn ObjectStore>));
    wal(&plain).await;
    let deletions = Mutex::new(0);
    let faulty = FaultyStore::new(
        Arc::clone(&memory) as Arc<dyn ObjectStore>,
        move |operation, _| {
            let mut deletions = deletions.lock().unwrap();
            *deletions += u32::from(operation == Operation::Delete);
            match operation == Operation::Delete && deletions.is_multiple_of(20) {
                true => Fault::Fail,
                false => Fault::Pass,
            }
        },
    );
    let branch = main_of(&opened(Arc::new(faulty)));
    let (mut failures, mut segments) = (0, 0);
    let stretches = [stretch(60, 100), stretch(100, 130)];
    loop {
        match branch.prune_wal(&stretches, segment_size(), &|| {}).await {
            Ok(pruned) => {
                segments += pruned.iter().map(|one| one.segments).sum::<u64>();
                break;
            }
            Err(_) => failures += 1,
        }
        let left = files(&keys(&memory).await, "/wal/00000001/");
        // So many are deleted side by side.
        let hole = left
            .windows(2)
            .position(|two| two[0] == name(99).to_string() && two[1] != name(100).to_string());
        assert_eq!(hole, None, "{left:?}");
    }
    assert!(failures > 2 && segments < 70, "{failures} {segments}");
    let left = keys(&memory).await;
    assert_eq!(files(&left, "/wal/00000001/").len(), 7);
    assert_eq!(
        files(&left, "/wal-index/00000001/"),
        [format!("{:016X}", 2)]
    );
}

#[tokio::test]
async fn whoever_restores_acts_as_if_it_were_gone() {
    let branch = main_of(&opened(Arc::new(InMemory::new())));
    let _ = two_backups(&branch).await;
    wal(&branch).await;
    let text = Bytes::from_static(b"1\t0/3000000\tx\n");
    let _ = branch.put_history(TimelineId(2), text).await.unwrap();
    let stored = archive::read(&branch).await.unwrap();
    assert_eq!(stored.backups[0].name, "kept");
    assert_eq!(stored.refers_to[&backup_id(2)], [backup_id(1)]);
    let sweep = Sweep {
        sweep_id: SweepId(uuid::Uuid::nil()),
        asked_at: DateTime::UNIX_EPOCH,
        backups: vec![backup_id(1)],
        wal: vec![stretch(60, 100), stretch(136, 137)],
        histories: vec![TimelineId(2)],
        leftovers: Vec::new(),
        hollow: false,
        purge: false,
        withdrawn_at: None,
    };
    let left = stored.clone().without(&sweep);
    assert_eq!(left.backups.len(), 1);
    assert_eq!(left.backups[0].backup_id, backup_id(2));
    assert_eq!(left.objects.len(), 36);
    assert!(left.histories.is_empty() && left.open.is_empty());
    let named = branch.packs_named_by_others(&sweep.backups).await.unwrap();
    let _ = branch
        .delete_backup(backup_id(1), &named, &|| {})
        .await
        .unwrap();
    let _ = branch
        .prune_wal(&sweep.wal, segment_size(), &|| {})
        .await
        .unwrap();
    let files = branch.find_prunable(&[], &sweep.histories, segment_size());
    let mut files = files.await.unwrap();
    let gone = branch.prune_history(&mut files).await.unwrap();
    assert_eq!(gone.unwrap().objects, 1);
    assert_eq!(branch.prune_history(&mut files).await.unwrap(), None);
    let gone = archive::read(&branch).await.unwrap();
    assert_eq!(gone.backups, left.backups);
    assert_eq!(gone.objects, left.objects);
    assert_eq!((gone.open, gone.histories), (left.open, left.histories));
}

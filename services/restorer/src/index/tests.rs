//! What is kept of a branch, and for how long.

use std::sync::Arc;

use events::{BranchName, InstanceName, Timestamp};
use object_store::memory::InMemory;
use pg_format::wal::WalBlockSize;
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{
    BranchRecord, Repository, RetryPolicy, WalFormat, WalObject, WalObjectKind, WalPath,
};
use wal_index::{Interval, SegmentIndex};

use super::{Cut, GROUP_SEGMENTS, IndexCache};

const TIMELINE: TimelineId = TimelineId(2);
const CLUSTER: SystemIdentifier = SystemIdentifier(7);

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    chrono::DateTime::from_timestamp(seconds, 0).unwrap()
}

/// `undecoded` tells the lives of a branch apart.
fn segment(number: u64, undecoded: u32) -> SegmentIndex {
    let (start, end) = (size().start_of(number), size().start_of(number + 1));
    let ends = None;
    SegmentIndex {
        segment: number,
        start,
        end,
        intervals: vec![Interval { start, end, ends }],
        events: Vec::new(),
        open: Vec::new(),
        undecoded,
    }
}

fn path() -> WalPath {
    let object = |number| WalObject {
        timeline: TIMELINE,
        kind: WalObjectKind::Segment(SegmentName::new(TIMELINE, number, size())),
        stored_bytes: 1,
        last_modified: at(0),
    };
    let objects: Vec<WalObject> = (0..=GROUP_SEGMENTS).map(object).collect();
    let format = WalFormat {
        system_identifier: CLUSTER,
        segment_size: size(),
        block_size: WalBlockSize::DEFAULT,
        server_major: 18,
    };
    WalPath::new(&objects, &[], TimelineHistory::root(TIMELINE), format)
}

#[tokio::test]
async fn a_branch_made_anew_under_its_name_is_not_taken_for_the_purged_one() {
    let store = Arc::new(InMemory::new());
    let repository = Repository::with_store(store, "", RetryPolicy::default());
    let instance = InstanceName::new("orders").unwrap();
    let branch = BranchName::new("staging").unwrap();
    let writer = repository.writer(&instance, &branch);
    let (cache, path) = (IndexCache::default(), path());
    let cut = Cut {
        cluster: CLUSTER,
        size: size(),
    };
    let read = async || {
        let end = size().start_of(GROUP_SEGMENTS + 1);
        let slice = cache.read(&writer, &path, cut, Lsn(0)..end).await.unwrap();
        assert!(slice.missing.is_empty());
        slice.segments[0].undecoded
    };
    for life in 1..=2 {
        let record = BranchRecord {
            instance: instance.clone(),
            branch: branch.clone(),
            system_identifier: CLUSTER,
            server_version: 180_000,
            wal_segment_size: size(),
            parent: None,
            created_at: at(life.into()),
        };
        let _ = writer.claim_branch(&record).await.unwrap();
        let all: Vec<SegmentIndex> = (0..=GROUP_SEGMENTS).map(|n| segment(n, life)).collect();
        writer.put_wal_index(TIMELINE, &all).await.unwrap();
        assert_eq!(read().await, life);
        // Kept: what is stored now is not looked at.
        let other: Vec<SegmentIndex> = (0..GROUP_SEGMENTS).map(|n| segment(n, 9)).collect();
        writer.put_wal_index(TIMELINE, &other).await.unwrap();
        assert_eq!(read().await, life);
        let _ = repository.delete_branch(&instance, &branch).await.unwrap();
    }
}

//! On WAL of a real server: `chain` of pg-format's golden files, three segments, a WAL switch in the first, and a record
//! that goes on from the second into the third.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use events::{BranchName, InstanceName};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use pg_format::wal::{WalBlockSize, WalPageHeader};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};
use proptest::prelude::{any, prop, prop_assert_eq, proptest};
use wal_index::{IndexSettings, SegmentIndex};

use super::IndexSlice;
use crate::archive::Archive;
use crate::faulty::{Fault, FaultyStore, Operation};
use crate::{BranchWriter, Repository, RetryPolicy, WalFormat, WalObjectKind, WalPath};

const TIMELINE: TimelineId = TimelineId(1);
const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn name(number: u64) -> SegmentName {
    SegmentName::new(TIMELINE, number, size())
}

fn segment(number: u64) -> Bytes {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../pg-format/tests/golden/18");
    let file = format!("{root}/chain-{}.zst", name(number));
    zstd::decode_all(&*std::fs::read(file).unwrap())
        .unwrap()
        .into()
}

fn writer(store: Arc<dyn ObjectStore>) -> BranchWriter {
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    let instance = InstanceName::new("orders").unwrap();
    Repository::with_store(store, "", retry).writer(&instance, &BranchName::main())
}

/// All three segments.
async fn filled() -> (Arc<InMemory>, BranchWriter) {
    let store = Arc::new(InMemory::new());
    let branch = writer(Arc::clone(&store) as Arc<dyn ObjectStore>);
    for number in 9..12 {
        let _ = branch
            .put_segment(name(number), segment(number))
            .await
            .unwrap();
    }
    (store, branch)
}

async fn path(branch: &BranchWriter) -> WalPath {
    let objects = branch.list_wal(size()).await.unwrap();
    let mut open = Vec::new();
    for object in &objects {
        if let WalObjectKind::Partial(name) = object.kind {
            open.push(branch.open_segment(name).await.unwrap());
        }
    }
    let long = WalPageHeader::parse(&segment(9)[..40])
        .unwrap()
        .long
        .unwrap();
    let format = WalFormat {
        system_identifier: long.system_identifier,
        segment_size: size(),
        block_size: WalBlockSize::DEFAULT,
        server_major: 18,
    };
    WalPath::new(&objects, &open, TimelineHistory::root(TIMELINE), format)
}

async fn slice(branch: &BranchWriter, from: u64, to: u64) -> IndexSlice {
    let path = path(branch).await;
    let settings = IndexSettings::default();
    branch
        .wal_index(&path, settings, Lsn(from), Lsn(to))
        .await
        .unwrap()
}

fn numbers(slice: &IndexSlice) -> Vec<u64> {
    slice
        .segments
        .iter()
        .map(|segment| segment.segment)
        .collect()
}

fn ends(segments: &[SegmentIndex]) -> u32 {
    let intervals = segments.iter().flat_map(|segment| &segment.intervals);
    intervals
        .filter_map(|interval| Some(interval.ends.as_ref()?.count))
        .sum()
}

#[tokio::test]
async fn what_is_not_stored_is_built_from_the_wal() {
    let (_, branch) = filled().await;
    let built = slice(&branch, 9 * MIB, 12 * MIB).await;
    assert_eq!(numbers(&built), [9, 10, 11]);
    assert_eq!(built.segments[0].end, Lsn(10 * MIB));
    let path = path(&branch).await;
    let all = branch
        .ends_between(&path, Lsn(9 * MIB), Lsn(12 * MIB))
        .await
        .unwrap();
    assert!(all.len() > 5, "{all:?}");
    assert_eq!(ends(&built.segments) as usize, all.len());
    assert!(
        built
            .segments
            .iter()
            .any(|segment| !segment.events.is_empty())
    );
    let last = all.iter().rev().find_map(wal_index::TransactionEnd::commit);
    let before = |lsn: u64| {
        branch.last_commit_before(&path, IndexSettings::default(), Lsn(lsn), Lsn(9 * MIB))
    };
    assert_eq!(before(12 * MIB).await.unwrap(), last);
    for (number, end) in all.iter().enumerate() {
        let earlier = all[..number]
            .iter()
            .rev()
            .find_map(wal_index::TransactionEnd::commit);
        assert_eq!(
            before(end.lsn.0).await.unwrap(),
            earlier,
            "before {}",
            end.lsn
        );
    }
}

/// The times of the last commits before the window's gaps come from the WAL.
#[tokio::test]
async fn a_gap_begins_with_the_last_commit_before_it() {
    let (_, branch) = filled().await;
    let path = path(&branch).await;
    let ends = branch
        .ends_between(&path, Lsn(9 * MIB), Lsn(11 * MIB))
        .await
        .unwrap();
    branch
        .delete_wal(&branch.list_wal(size()).await.unwrap()[2])
        .await
        .unwrap();
    let mut backup = crate::window::tests::backup(1, 36, 37);
    (backup.wal_segment_size, backup.server_version) = (size(), 180_006);
    backup.system_identifier = path.format.system_identifier;
    let archive = Archive {
        backups: vec![backup],
        position: Some(crate::window::tests::position(1, 48)),
        objects: branch.list_wal(size()).await.unwrap(),
        ..Archive::default()
    };
    let window = branch
        .restorable_window(&archive, IndexSettings::default())
        .await
        .unwrap();
    let last = ends
        .iter()
        .rev()
        .find_map(wal_index::TransactionEnd::commit)
        .unwrap();
    let time = chrono::DateTime::from_timestamp_micros(last.time.to_unix_micros());
    assert_eq!(
        (window.latest, window.latest_lsn),
        (time, Some(Lsn(11 * MIB)))
    );
    assert_eq!(window.gaps[0].from, time);
}

/// Retention took the WAL and has not come to its index, or a late archiver has stored that behind it.
#[tokio::test]
async fn the_index_of_wal_that_was_let_go_says_nothing() {
    let (_, branch) = filled().await;
    let built = slice(&branch, 9 * MIB, 12 * MIB).await;
    branch
        .put_wal_index(TIMELINE, &built.segments)
        .await
        .unwrap();
    let all = path(&branch).await;
    let listed = branch.list_wal(size()).await.unwrap();
    let commit_before = async |lsn: u64| {
        let path = path(&branch).await;
        let settings = IndexSettings::default();
        let found = branch.last_commit_before(&path, settings, Lsn(lsn), Lsn(9 * MIB));
        found.await.unwrap()
    };
    let first = commit_before(10 * MIB).await.unwrap();
    assert_ne!(commit_before(11 * MIB).await, Some(first));
    let backup = |start, stop| {
        let mut backup = crate::window::tests::backup(1, start, stop);
        (backup.wal_segment_size, backup.server_version) = (size(), 180_006);
        backup.system_identifier = all.format.system_identifier;
        backup
    };
    let window = async |backups| {
        let archive = Archive {
            backups,
            position: Some(crate::window::tests::position(1, 48)),
            objects: branch.list_wal(size()).await.unwrap(),
            ..Archive::default()
        };
        let settings = IndexSettings::default();
        branch.restorable_window(&archive, settings).await.unwrap()
    };

    // The middle.
    branch.delete_wal(&listed[1]).await.unwrap();
    let left = slice(&branch, 9 * MIB, 12 * MIB).await;
    assert_eq!(numbers(&left), [9, 11]);
    assert_eq!(left.missing, [Lsn(10 * MIB)..Lsn(11 * MIB)]);
    assert_eq!(commit_before(11 * MIB).await, Some(first));
    let told = window(vec![backup(36, 37)]).await;
    let time = chrono::DateTime::from_timestamp_micros(first.time.to_unix_micros());
    assert_eq!((told.gaps.len(), told.gaps[0].from), (1, time));
    assert_eq!((told.latest, told.latest_lsn), (time, Some(Lsn(10 * MIB))));

    // And the beginning.
    branch.delete_wal(&listed[0]).await.unwrap();
    let left = slice(&branch, 9 * MIB, 12 * MIB).await;
    assert_eq!(left.segments, built.segments[2..]);
    assert_eq!(left.missing, [Lsn(9 * MIB)..Lsn(11 * MIB)]);
    assert_eq!(commit_before(11 * MIB).await, None);
    let told = window(vec![backup(36, 37), backup(45, 46)]).await;
    assert_eq!(told.earliest_backup_id, Some(backup(45, 46).backup_id));
    assert!(told.complete, "{told:?}");

    // All of it.
    branch.delete_wal(&listed[2]).await.unwrap();
    let none = slice(&branch, 9 * MIB, 12 * MIB).await;
    assert_eq!(numbers(&none), [0; 0]);
    assert_eq!(commit_before(12 * MIB).await, None);
    let told = window(vec![backup(45, 46)]).await;
    assert_eq!((told.earliest, told.latest), (None, None));
}

#[tokio::test]
async fn a_record_belongs_to_the_stretch_it_begins_in() {
    let (_, branch) = filled().await;
    let path = path(&branch).await;
    let mut all = Vec::new();
    let keep = |record: &pg_format::wal::WalRecord<'_>| all.push((record.start, record.end));
    let (first, last) = (Lsn(9 * MIB), Lsn(12 * MIB));
    let reached = branch
        .records_between(&path, first, last, keep)
        .await
        .unwrap();
    let crossing = all.iter().find(|(start, end)| end.0 / MIB > start.0 / MIB);
    let (start, end) = *crossing.expect("a record that crosses a border");
    assert!(reached >= all.last().unwrap().0);
    for (from, to) in [
        (start, Lsn(start.0 + 1)),
        (Lsn(start.0 + 1), end),
        (Lsn(start.0 - 200), end),
        (all[7].0, all[9].0),
        (all[9].0, all[9].0),
    ] {
        let mut some = Vec::new();
        let keep = |record: &pg_format::wal::WalRecord<'_>| some.push((record.start, record.end));
        let reached = branch.records_between(&path, from, to, keep).await.unwrap();
        let expected = all.iter().filter(|(start, _)| (from..to).contains(start));
        assert_eq!(some, expected.copied().collect::<Vec<_>>(), "{from} {to}");
        assert_eq!(reached, to);
    }
    // Without the segment it ends in, the record that crosses is none.
    branch
        .delete_wal(&branch.list_wal(size()).await.unwrap()[2])
        .await
        .unwrap();
    let path = self::path(&branch).await;
    let reached = branch
        .records_between(&path, first, last, |_| {})
        .await
        .unwrap();
    assert_eq!(reached, start);
    let slice = slice(&branch, first.0, last.0).await;
    assert_eq!(slice.missing.last().map(|missing| missing.end), Some(last));
}

/// What is stored is believed; the WAL is read only where nothing is stored.
#[tokio::test]
async fn stored_index_is_used() {
    let (store, branch) = filled().await;
    let built = slice(&branch, 9 * MIB, 12 * MIB).await;
    branch
        .put_wal_index(TIMELINE, &built.segments[..2])
        .await
        .unwrap();
    let reads = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&reads);
    let counting = FaultyStore::new(store, move |operation, path| {
        if operation == Operation::Get && path.as_ref().contains("/wal/") {
            let _ = counted.fetch_add(1, Ordering::Relaxed);
        }
        Fault::Pass
    });
    let counting = writer(Arc::new(counting));
    assert_eq!(
        slice(&counting, 9 * MIB, 11 * MIB).await.segments,
        built.segments[..2]
    );
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    assert_eq!(slice(&counting, 9 * MIB, 12 * MIB).await, built);
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn of_two_for_one_segment_the_larger_is_kept() {
    let (_, branch) = filled().await;
    let built = slice(&branch, 9 * MIB, 12 * MIB).await.segments;
    let mut less = built[1].clone();
    (less.end, less.intervals) = (Lsn(10 * MIB + 100), Vec::new());
    branch
        .put_wal_index(TIMELINE, std::slice::from_ref(&less))
        .await
        .unwrap();
    branch
        .put_wal_index(TIMELINE, &[built[2].clone(), built[0].clone()])
        .await
        .unwrap();
    let stored = branch.stored_group(TIMELINE, 0).await.unwrap();
    assert_eq!(stored, [built[0].clone(), less.clone(), built[2].clone()]);
    // What does not cover its segment is not believed.
    assert_eq!(slice(&branch, 9 * MIB, 12 * MIB).await.segments, built);
    branch.put_wal_index(TIMELINE, &built[1..2]).await.unwrap();
    branch.put_wal_index(TIMELINE, &[less]).await.unwrap();
    assert_eq!(branch.stored_group(TIMELINE, 0).await.unwrap(), built);
    // Groups are apart.
    let mut far = built[0].clone();
    far.segment = 64;
    branch
        .put_wal_index(TIMELINE, &[built[0].clone(), far.clone()])
        .await
        .unwrap();
    assert_eq!(branch.stored_group(TIMELINE, 1).await.unwrap(), [far]);
}

async fn damage(store: &InMemory, key: &str) {
    let path = object_store::path::Path::from(format!("v1/orders/main/{key}"));
    assert!(store.head(&path).await.is_ok(), "{path}");
    let _ = store.put(&path, "garbage".into()).await.unwrap();
}

#[tokio::test]
async fn damage_is_built_anew_or_told() {
    let (store, branch) = filled().await;
    let built = slice(&branch, 9 * MIB, 12 * MIB).await;
    branch
        .put_wal_index(TIMELINE, &built.segments)
        .await
        .unwrap();
    damage(&store, "wal-index/00000001/0000000000000000").await;
    assert_eq!(slice(&branch, 9 * MIB, 12 * MIB).await, built);
    damage(&store, &format!("wal/00000001/{}", name(11))).await;
    let damaged = slice(&branch, 9 * MIB, 12 * MIB).await;
    assert_eq!(numbers(&damaged), [9, 10]);
    // The last record of the segment before is lost with it.
    let [missing] = damaged.missing.as_slice() else {
        panic!("{:?}", damaged.missing);
    };
    assert!((Lsn(10 * MIB)..Lsn(11 * MIB)).contains(&missing.start));
    assert_eq!(missing.end, Lsn(12 * MIB));
    damage(&store, &format!("wal/00000001/{}", name(10))).await;
    let damaged = slice(&branch, 9 * MIB, 12 * MIB).await;
    assert_eq!(damaged.segments, built.segments[..1]);
    assert_eq!(damaged.missing, [Lsn(10 * MIB)..Lsn(12 * MIB)]);
    // What is stored does not need the WAL.
    branch
        .put_wal_index(TIMELINE, &built.segments)
        .await
        .unwrap();
    assert_eq!(slice(&branch, 9 * MIB, 12 * MIB).await, built);
}

#[tokio::test]
async fn wal_that_is_not_what_it_should_be_is_missing_from_there() {
    let (store, branch) = filled().await;
    let built = slice(&branch, 9 * MIB, 12 * MIB).await;
    let mut raw = segment(9).to_vec();
    raw[MIB as usize / 2] ^= 1;
    let other = writer(Arc::new(InMemory::new()));
    let _ = other.put_segment(name(9), raw.into()).await.unwrap();
    let index = slice(&other, 9 * MIB, 10 * MIB).await;
    let [missing] = index.missing.as_slice() else {
        panic!("{:?}", index.missing);
    };
    assert!(missing.start <= Lsn(9 * MIB + MIB / 2) && missing.start > Lsn(9 * MIB));
    assert_eq!(missing.end, Lsn(10 * MIB));
    assert!(ends(&index.segments) <= ends(&built.segments[..1]));
    let path = path(&other).await;
    assert!(
        other
            .ends_between(&path, Lsn(9 * MIB), Lsn(10 * MIB))
            .await
            .is_err()
    );
    drop(store);
}

#[tokio::test]
async fn a_store_that_fails_is_an_error() {
    let (store, branch) = filled().await;
    let path = path(&branch).await;
    for part in ["/wal-index/", "/wal/"] {
        let store = Arc::clone(&store) as Arc<dyn ObjectStore>;
        let faulty = writer(Arc::new(FaultyStore::new(
            store,
            move |operation, path| match operation == Operation::Get && path.as_ref().contains(part)
            {
                true => Fault::Fail,
                false => Fault::Pass,
            },
        )));
        let (from, to) = (Lsn(9 * MIB), Lsn(12 * MIB));
        let index = faulty
            .wal_index(&path, IndexSettings::default(), from, to)
            .await;
        assert!(index.is_err(), "{part}");
    }
}

#[tokio::test]
async fn of_another_cluster_nothing_is_read() {
    let (_, branch) = filled().await;
    let mut path = path(&branch).await;
    path.format.system_identifier = SystemIdentifier(1);
    let (from, to) = (Lsn(9 * MIB), Lsn(12 * MIB));
    let index = branch
        .wal_index(&path, IndexSettings::default(), from, to)
        .await
        .unwrap();
    assert!(index.segments.is_empty());
    assert_eq!(index.missing, [from..to]);
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]

    /// Whatever part of the index is stored, and whatever stretch is asked for: the same comes out.
    #[test]
    fn rebuilding_gives_the_same(
        stored in prop::collection::vec(any::<bool>(), 3),
        from in 9 * MIB..12 * MIB,
        to in 9 * MIB..12 * MIB,
        open_bytes in 1..MIB,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Arc::new(InMemory::new());
            let branch = writer(store);
            for number in 9..11 {
                let _ = branch.put_segment(name(number), segment(number)).await.unwrap();
            }
            let part = segment(11).slice(..open_bytes as usize);
            let _ = branch.put_partial(name(11), part).await.unwrap();
            let whole = slice(&branch, 9 * MIB, 12 * MIB).await;
            for (index, stored) in whole.segments.iter().zip(&stored) {
                if *stored {
                    branch.put_wal_index(TIMELINE, std::slice::from_ref(index)).await.unwrap();
                }
            }
            prop_assert_eq!(&slice(&branch, 9 * MIB, 12 * MIB).await, &whole);
            let part = slice(&branch, from, to).await;
            let wanted = |segment: &&SegmentIndex| {
                from < to && segment.end > Lsn(from) && segment.segment * MIB < to
            };
            let expected: Vec<_> = whole.segments.iter().filter(wanted).cloned().collect();
            prop_assert_eq!(part.segments, expected);
            Ok(())
        })?;
    }
}

//! A branch that was deleted before, purged: wherever it is broken off, nothing is left and its name is free, last.

use std::sync::Mutex;

use events::mark::{BackupMark, Hold};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::*;

fn old() -> BranchName {
    BranchName::new("old").unwrap()
}

/// Two backups, one of them held, packs without a manifest, WAL, and all that is beside that.
async fn place() -> Place {
    let mut place = Place::new().await;
    let branch = place.sweeps.repository.writer(&instance(), &old());
    let record = BranchRecord {
        instance: instance(),
        branch: old(),
        system_identifier: SystemIdentifier(7),
        server_version: 180_000,
        wal_segment_size: size(),
        parent: None,
        created_at: DateTime::UNIX_EPOCH,
    };
    let _ = branch.claim_branch(&record).await.unwrap();
    for number in [21, 22] {
        back_up(&branch, number).await;
    }
    let read = branch.mark(id(21)).await.unwrap();
    let held = BackupMark {
        hold: Some(Hold {
            reason: None,
            since: example::at(0),
        }),
        ..BackupMark::default()
    };
    let _ = branch.put_mark(id(21), &held, &read).await.unwrap();
    for number in 5..=8 {
        let name = SegmentName::new(TimelineId(1), number, size());
        let raw = Bytes::from(vec![0; MIB as usize]);
        let _ = branch.put_segment(name, raw).await.unwrap();
    }
    for key in [
        "packs/00000000-0000-0000-0000-00000000002a/a/000000",
        "wal/position",
        "something/of/later",
    ] {
        let path = Path::from(format!("v1/orders/old/{key}"));
        let _ = place.store.put(&path, "x".into()).await.unwrap();
    }
    place.request.branch = old();
    place.request.sweep = Sweep {
        backups: vec![id(21), id(22)],
        wal: vec![WalStretch {
            timeline: TimelineId(1),
            from_lsn: Lsn(5 * MIB),
            to_lsn: Lsn(9 * MIB),
        }],
        histories: Vec::new(),
        purge: true,
        ..place.request.sweep.clone()
    };
    place.list_old(true).await;
    place
}

impl Place {
    async fn list_old(&self, wanted: bool) {
        let (sweep, name) = (self.request.sweep.clone(), instance());
        let instances = self.sweeps.bus.instances();
        let listed = instances.update(&name, |document| {
            let mut document = document.cloned().unwrap();
            document.sweeps.clear();
            let sweep = wanted.then(|| (old(), sweep.clone()));
            document.sweeps.extend(sweep);
            Decision::Put(Box::new(document), ())
        });
        listed.await.unwrap();
    }

    async fn keys(&self) -> Vec<String> {
        let listed: Vec<_> = self.store.list(None).collect().await;
        let keys = listed
            .into_iter()
            .map(|meta| meta.unwrap().location.to_string());
        keys.collect()
    }

    async fn check_purged(&self) {
        let keys = self.keys().await;
        let left = keys.iter().filter(|key| key.starts_with("v1/orders/old/"));
        assert_eq!(left.count(), 0, "{keys:?}");
        let expected = [
            "backup.expired",
            "backup.expired",
            "branch.deleted",
            "branch.sweep_requested",
            "branch.swept",
            "wal.pruned",
        ];
        assert_eq!(self.types().await, expected);
        let reader = self
            .sweeps
            .repository
            .reader(&instance(), &BranchName::main());
        let archive = archive::read(&reader).await.unwrap();
        assert_eq!((archive.backups.len(), archive.objects.len()), (3, 10));
    }
}

#[tokio::test]
async fn whatever_call_fails_or_is_lost_the_next_delivery_does_the_rest() {
    for lost in [false, true] {
        let mut number = 0;
        loop {
            let place = place().await;
            let (failing, calls) = place.failing_at(number, lost);
            let first = failing.handle(&place.delivery()).await;
            if calls.load(Ordering::SeqCst) <= number {
                assert_eq!(first, Outcome::Done);
                break;
            }
            assert!(
                matches!(first, Outcome::Retry { .. }),
                "{number}: {first:?}"
            );
            let keys = place.keys().await;
            let left = keys.iter().filter(|key| key.starts_with("v1/orders/old/"));
            let record = keys.iter().any(|key| key == "v1/orders/old/branch.json");
            assert!(
                record || left.count() == 0,
                "the record goes last: {keys:?}"
            );
            assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
            place.check_purged().await;
            // Twice.
            assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
            place.check_purged().await;
            number += 1;
        }
        assert!(number > 15, "{number}");
    }
}

#[tokio::test]
async fn it_waits_for_the_archiver_and_takes_what_that_wrote_last() {
    let place = place().await;
    let bucket = place.sweeps.bus.bucket(topology::LEASES);
    let lease = format!("wal-archiver.{}.{}", instance(), old());
    let held = bucket.create(&lease, "an archiver").await.unwrap();
    let before = place.keys().await;
    let delivery = place.delivery();
    let purge = place.sweeps.handle(&delivery);
    let archive = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(place.keys().await, before, "somebody writes still");
        let writer = place.sweeps.repository.writer(&instance(), &old());
        let name = SegmentName::new(TimelineId(1), 9, size());
        let raw = Bytes::from(vec![0; MIB as usize]);
        let _ = writer.put_segment(name, raw).await.unwrap();
        bucket.release(&lease, held).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(purge, archive);
    assert_eq!(outcome, Outcome::Done);
    place.check_purged().await;
}

#[tokio::test]
async fn a_purge_that_is_no_longer_wanted_deletes_nothing_more() {
    let place = place().await;
    place.list_old(false).await;
    let before = place.keys().await;
    assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
    assert_eq!(place.keys().await, before);
}

/// Another worker does it, and somebody restores under the name: what wakes later deletes nothing of that.
#[tokio::test]
async fn a_worker_that_stood_still_deletes_nothing_of_the_next_branch_of_the_name() {
    let position = "v1/orders/old/wal/position";
    for (meant, key) in [
        (Operation::List, "v1/orders/old"),
        (Operation::Delete, position),
        (Operation::Delete, "v1/orders/old/something/of/later"),
    ] {
        let place = place().await;
        let still = Arc::new(tokio::sync::Notify::new());
        let (stands, seen) = (Arc::clone(&still), Mutex::new(false));
        let plan = move |operation, path: &Path| {
            let mut seen = seen.lock().unwrap();
            if operation != meant || path.as_ref() != key || *seen {
                return Fault::Pass;
            }
            *seen = true;
            stands.notify_one();
            Fault::Delay(Duration::from_secs(1))
        };
        let store = FaultyStore::new(Arc::clone(&place.store) as Arc<dyn ObjectStore>, plan);
        let slow = Sweeps {
            bus: place.sweeps.bus.clone(),
            repository: repository(Arc::new(store)),
            clock: Arc::clone(&place.sweeps.clock),
        };
        let next = async {
            still.notified().await;
            let delivery = place.delivery();
            assert_eq!(place.sweeps.handle(&delivery).await, Outcome::Done);
            place.list_old(false).await;
            let branch = place.sweeps.repository.writer(&instance(), &old());
            let record = BranchRecord {
                instance: instance(),
                branch: old(),
                system_identifier: SystemIdentifier(8),
                server_version: 180_000,
                wal_segment_size: size(),
                parent: None,
                created_at: DateTime::UNIX_EPOCH,
            };
            let _ = branch.claim_branch(&record).await.unwrap();
            // What the other has not begun to delete by then.
            let path = Path::from("v1/orders/old/wal/00000001/000000010000000000000006");
            let _ = place.store.put(&path, "another".into()).await.unwrap();
            place.keys().await
        };
        let delivery = place.delivery();
        let (outcome, before) = tokio::join!(slow.handle(&delivery), next);
        assert_eq!(outcome, Outcome::Done, "{key}");
        assert_eq!(place.keys().await, before, "{meant:?} {key}");
        assert!(before.iter().any(|key| key == "v1/orders/old/branch.json"));
    }
}

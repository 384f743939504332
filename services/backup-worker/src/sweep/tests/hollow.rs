//! Branches of which nothing is left, and a worker that stands still until the name is another branch's.

use std::sync::Mutex;

use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::*;

pub(super) fn old() -> BranchName {
    BranchName::new("old").unwrap()
}

pub(super) fn record(number: u64) -> BranchRecord {
    BranchRecord {
        instance: instance(),
        branch: old(),
        system_identifier: SystemIdentifier(number),
        server_version: 180_000,
        wal_segment_size: size(),
        parent: None,
        created_at: DateTime::UNIX_EPOCH,
    }
}

pub(super) async fn content(store: &InMemory) -> Vec<(String, Bytes)> {
    let listed: Vec<_> = store.list(None).collect().await;
    let mut content = Vec::new();
    for meta in listed {
        let path = meta.unwrap().location;
        let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
        content.push((path.to_string(), bytes));
    }
    content.sort();
    content
}

/// The record of a branch that is gone, and the mark of a backup that is.
async fn hollow_place() -> Place {
    let mut place = Place::new().await;
    let plain = &place.sweeps.repository;
    let branch = plain.writer(&instance(), &old());
    let _ = branch.claim_branch(&record(7)).await.unwrap();
    let read = branch.mark(id(1)).await.unwrap();
    let mark = events::mark::BackupMark::default();
    let _ = branch.put_mark(id(1), &mark, &read).await.unwrap();
    place.request.branch = old();
    place.request.sweep = Sweep {
        backups: Vec::new(),
        wal: Vec::new(),
        histories: Vec::new(),
        hollow: true,
        ..place.request.sweep.clone()
    };
    let sweep = place.request.sweep.clone();
    let instances = place.sweeps.bus.instances();
    let name = instance();
    let wanted = instances.update(&name, |document| {
        let mut document = document.cloned().unwrap();
        document.sweeps = [(old(), sweep.clone())].into();
        Decision::Put(Box::new(document), ())
    });
    wanted.await.unwrap();
    place
}

#[tokio::test]
async fn all_that_is_left_goes() {
    let place = hollow_place().await;
    assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
    let left = content(&place.store).await;
    assert!(
        left.iter()
            .all(|(key, _)| key.starts_with("v1/orders/main/")),
        "{left:?}"
    );
    assert!(place.types().await.contains(&"branch.swept"));
}

/// Another worker does it, the name is free, and somebody restores under it: what wakes later deletes nothing of that.
#[tokio::test]
async fn a_worker_that_stood_still_deletes_nothing_of_the_next_branch_of_the_name() {
    let calls = [
        (Operation::List, "v1/orders/old", 0),
        (Operation::Get, "/mark", 0),
        (Operation::Delete, "/mark", 0),
        // It is read first, for its segment size.
        (Operation::Get, "v1/orders/old/branch.json", 1),
    ];
    for (meant, key, number) in calls {
        let place = hollow_place().await;
        let still = Arc::new(tokio::sync::Notify::new());
        let (stands, seen) = (Arc::clone(&still), Mutex::new(0));
        let plan = move |operation, path: &Path| {
            let mut seen = seen.lock().unwrap();
            if operation != meant || !path.as_ref().ends_with(key) {
                return Fault::Pass;
            }
            *seen += 1;
            if *seen != number + 1 {
                return Fault::Pass;
            }
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
            place.list(None).await;
            let branch = place.sweeps.repository.writer(&instance(), &old());
            let _ = branch.claim_branch(&record(8)).await.unwrap();
            let position = Path::from("v1/orders/old/wal/position");
            let _ = place.store.put(&position, "x".into()).await.unwrap();
            content(&place.store).await
        };
        let delivery = place.delivery();
        let (outcome, before) = tokio::join!(slow.handle(&delivery), next);
        assert_eq!(outcome, Outcome::Done, "{key}");
        let after = content(&place.store).await;
        assert_eq!(after, before, "{meant:?} {key}");
        assert!(
            before
                .iter()
                .any(|(key, _)| key == "v1/orders/old/branch.json")
        );
    }
}

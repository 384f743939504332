//! A worker that stands still in the WAL of a sweep, until the branch was purged and its name is another branch's, with
//! WAL of the same keys.

use std::sync::Mutex;

use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::hollow::{content, old, record};
use super::*;

/// Longer than something is deleted by what the store said.
const STILL: Duration = Duration::from_secs(100);

/// Segments, what tells of them, and the history of a timeline that they led to.
async fn store_wal(store: &InMemory, what: &str) {
    for number in 3..60_u64 {
        let name = SegmentName::new(TimelineId(1), number, size());
        put(store, &format!("wal/00000001/{name}"), what).await;
    }
    let name = SegmentName::new(TimelineId(1), 60, size());
    put(store, &format!("wal/00000001/{name}.partial"), what).await;
    put(store, "wal/00000002/00000002.history", what).await;
    put(store, "wal-index/00000001/0000000000000000", what).await;
    for number in [1, 2] {
        let key = format!("wal-index/relations/00000001-{:016X}", number * MIB);
        put(store, &key, what).await;
    }
}

async fn put(store: &InMemory, key: &str, what: &str) {
    let path = Path::from(format!("v1/orders/old/{key}"));
    let _ = store.put(&path, what.to_owned().into()).await.unwrap();
}

fn gap() -> repository::WalGap {
    let gap = serde_json::json!({
        "timeline": TimelineId(1),
        "from_lsn": Lsn(4 * MIB),
        "to_lsn": Lsn(5 * MIB),
        "cause": events::event::GapCause::SlotLost,
        "detected_at": example::at(0),
    });
    serde_json::from_value(gap).unwrap()
}

/// A branch that is to be gone but for its record.
async fn place() -> Place {
    let mut place = Place::new().await;
    let branch = place.sweeps.repository.writer(&instance(), &old());
    let _ = branch.claim_branch(&record(7)).await.unwrap();
    store_wal(&place.store, "one").await;
    branch.put_wal_gap(&gap()).await.unwrap();
    place.request.branch = old();
    place.request.sweep = Sweep {
        backups: Vec::new(),
        wal: vec![WalStretch {
            timeline: TimelineId(1),
            from_lsn: Lsn(3 * MIB),
            to_lsn: Lsn(61 * MIB),
        }],
        histories: vec![TimelineId(2)],
        ..place.request.sweep.clone()
    };
    place
        .list_of(&old(), Some(place.request.sweep.clone()))
        .await;
    place
}

/// The name is free, somebody restores under it, and archives from the same place on.
async fn made_again(place: &Place) -> Vec<(String, Bytes)> {
    assert_eq!(place.sweeps.handle(&place.delivery()).await, Outcome::Done);
    place.list(None).await;
    let left = place.store.list(Some(&Path::from("v1/orders/old")));
    let left: Vec<_> = left.collect().await;
    for meta in left {
        let path = meta.unwrap().location;
        place.store.delete(&path).await.unwrap();
    }
    let branch = place.sweeps.repository.writer(&instance(), &old());
    let _ = branch.claim_branch(&record(8)).await.unwrap();
    store_wal(&place.store, "two").await;
    branch.put_wal_gap(&gap()).await.unwrap();
    content(&place.store).await
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_under_the_same_keys_since_stays_wherever_the_worker_stood_still() {
    let (mut number, mut deletions) = (0, 0);
    loop {
        let place = place().await;
        let still = Arc::new(tokio::sync::Notify::new());
        let (stands, calls) = (Arc::clone(&still), AtomicU64::new(0));
        let stood_in = Arc::new(Mutex::new(None));
        let stood = Arc::clone(&stood_in);
        let plan = move |operation, path: &Path| {
            if calls.fetch_add(1, Ordering::SeqCst) != number {
                return Fault::Pass;
            }
            *stood.lock().unwrap() = Some((operation, path.to_string()));
            stands.notify_one();
            Fault::Delay(STILL)
        };
        let store = FaultyStore::new(Arc::clone(&place.store) as Arc<dyn ObjectStore>, plan);
        let slow = Sweeps {
            bus: place.sweeps.bus.clone(),
            repository: repository(Arc::new(store)),
            clock: Arc::clone(&place.sweeps.clock),
        };
        let next = async {
            still.notified().await;
            made_again(&place).await
        };
        let delivery = place.delivery();
        let handled = slow.handle(&delivery);
        tokio::pin!(handled, next);
        let before = tokio::select! {
            biased;
            before = &mut next => before,
            outcome = &mut handled => {
                // It made no call of this number.
                assert_eq!(outcome, Outcome::Done);
                assert!(deletions > 10 && number > deletions, "{number} {deletions}");
                return;
            }
        };
        assert_eq!(handled.await, Outcome::Done);
        let mut expected = before;
        let stood = stood_in.lock().unwrap().clone();
        // A deletion that was under way reaches the store later, and no store deletes on condition.
        if let Some((Operation::Delete, key)) = stood {
            deletions += 1;
            expected.retain(|(found, _)| *found != key);
        }
        assert_eq!(content(&place.store).await, expected, "call {number}");
        number += 1;
    }
}

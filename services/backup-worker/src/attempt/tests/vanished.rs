//! What was stored is deleted before the manifest is written.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use pg_format::SegmentName;
use repository::faulty::{Fault, FaultyStore, Operation};
use repository::{RetryPolicy, WalPosition};
use testkit::wait_until;

use super::*;

const PATIENCE: Duration = Duration::from_secs(120);

/// All WAL that the backup can need is archived, but for the position that says so.
async fn archive_wal(place: &Place) -> WalPosition {
    let (request, size) = (&place.request, WalSegmentSize::DEFAULT);
    let repository = &place.jobs.world.repository;
    let branch = repository.writer(&request.instance, &request.branch);
    let raw = Bytes::from(vec![0; usize::try_from(size.bytes()).unwrap()]);
    let name = |number| SegmentName::new(TimelineId(1), number, size);
    for number in 1..8 {
        let put = branch.put_segment(name(number), raw.clone()).await;
        let _ = put.unwrap();
    }
    WalPosition {
        timeline: TimelineId(1),
        lsn: size.start_of(8),
        proven_at: example::at(0),
        first_segment: name(1).to_string(),
        updated: example::at(0),
    }
}

#[tokio::test]
async fn a_backup_whose_packs_are_gone_is_not_committed_and_tried_again() {
    let server = Postgres::builder().start().await.unwrap();
    let mut place = place(&server, WorkerConfig::default()).await;
    let store = Arc::new(InMemory::new());
    let shared = Arc::clone(&store) as Arc<dyn ObjectStore>;
    place.jobs.world.repository = Repository::with_store(shared, "", RetryPolicy::default());
    let position = archive_wal(&place).await;
    let (request, repository) = (&place.request, &place.jobs.world.repository);
    let branch = repository.writer(&request.instance, &request.branch);

    let delivery = place.delivery(false);
    let (outcome, gone) = tokio::join!(place.jobs.handle(&delivery), async {
        wait_until("everything to be stored", PATIENCE, async || {
            let told = progress(&place).await;
            told.last()
                .is_some_and(|last| last.phase == BackupPhase::WaitingForWal)
        })
        .await
        .unwrap();
        let mut listed = store.list(None);
        let pack = loop {
            let found = listed.next().await.unwrap().unwrap().location;
            if found.as_ref().ends_with("/000000") {
                break found;
            }
        };
        store.delete(&pack).await.unwrap();
        branch.put_wal_position(&position).await.unwrap();
        pack
    });
    let Outcome::Retry { reason, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(reason.contains(gone.as_ref()), "{reason}");
    assert!(
        reason.contains("not in the repository any more"),
        "{reason}"
    );
    assert_eq!(branch.list_backups().await.unwrap(), []);

    // The next attempt copies it again.
    assert_eq!(place.jobs.handle(&delivery).await, Outcome::Done);
    assert_eq!(place.last_said().await.type_name(), "backup.completed");
    assert_eq!(branch.list_backups().await.unwrap(), [request.backup_id]);
}

/// The slots were lost, or the worker stood still: retention knew of no backup that needs it.
#[tokio::test]
async fn a_backup_whose_wal_went_after_it_was_waited_for_is_not_committed_and_tried_again() {
    let server = Postgres::builder().start().await.unwrap();
    let mut place = place(&server, WorkerConfig::default()).await;
    let store = Arc::new(InMemory::new());
    let listings = std::sync::atomic::AtomicU64::new(0);
    let inner = Arc::clone(&store);
    let prune = move |operation, path: &object_store::path::Path| {
        let is_listed = operation == Operation::List && path.as_ref().ends_with("/wal");
        // The first one found everything.
        if is_listed && listings.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            let found: Vec<_> = inner.list(Some(path)).collect().now_or_never().unwrap();
            for meta in found {
                let gone = inner.delete(&meta.unwrap().location).now_or_never();
                gone.unwrap().unwrap();
            }
        }
        Fault::Pass
    };
    let faulty = FaultyStore::new(Arc::clone(&store) as Arc<dyn ObjectStore>, prune);
    place.jobs.world.repository =
        Repository::with_store(Arc::new(faulty), "", RetryPolicy::default());
    let position = archive_wal(&place).await;
    let (request, repository) = (&place.request, &place.jobs.world.repository);
    let branch = repository.writer(&request.instance, &request.branch);
    branch.put_wal_position(&position).await.unwrap();
    let outcome = place.jobs.handle(&place.delivery(false)).await;
    let Outcome::Retry { reason, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(reason.contains("is gone"), "{reason}");
    assert_eq!(branch.list_backups().await.unwrap(), []);
}

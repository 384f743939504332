//! The store fails, is slow, or does the work and loses the answer. Nothing is lost, nothing is
//! believed that was not said.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;

use super::{
    backup_id, main_of, record, restore, retry, sample, segment, segment_size, store, summary, wal,
};
use crate::faulty::{Fault, FaultyStore, Operation};
use crate::{ClaimOutcome, CommitOutcome, ErrorClass, PutOutcome, Repository, RetryPolicy};

fn faulty(plan: impl Fn(Operation, &Path) -> Fault + Send + Sync + 'static) -> Repository {
    let store = FaultyStore::new(Arc::new(InMemory::new()), plan);
    Repository::with_store(Arc::new(store), "", retry())
}

/// The first call for each kind of operation and object suffers `fault`.
fn once_each(fault: Fault) -> impl Fn(Operation, &Path) -> Fault + Send + Sync {
    let seen = Mutex::new(HashMap::new());
    move |operation, path| {
        let mut seen = seen.lock().unwrap();
        let calls: &mut u32 = seen.entry((operation, path.clone())).or_default();
        *calls += 1;
        if *calls == 1 { fault } else { Fault::Pass }
    }
}

async fn whole_road(repository: &Repository) {
    let branch = main_of(repository);
    let claimed = branch.claim_branch(&record(7)).await.unwrap();
    assert!(matches!(
        claimed,
        ClaimOutcome::Claimed | ClaimOutcome::AlreadyOurs
    ));
    let _ = branch.put_segment(segment(2), wal(1)).await.unwrap();
    assert_eq!(branch.get_segment(segment(2)).await.unwrap(), wal(1));
    let _ = branch
        .put_partial(segment(3), wal(2).slice(..100))
        .await
        .unwrap();
    branch.delete_partial(segment(3)).await.unwrap();
    assert_eq!(branch.list_wal(segment_size()).await.unwrap().len(), 1);
    let id = backup_id(1);
    let stored = store(&branch, id, "a", &sample(), 3000).await.unwrap();
    let outcome = stored
        .commit(summary(&branch, id, "a", &stored))
        .await
        .unwrap();
    assert!(
        matches!(outcome, CommitOutcome::Committed(_)),
        "its own manifest is recognised"
    );
    let place = tempfile::tempdir().unwrap();
    let files = restore(&branch, outcome.manifest(), place.path())
        .await
        .unwrap();
    assert_eq!(files, sample());
    assert!(
        branch
            .verify(outcome.manifest(), &|_| {})
            .await
            .unwrap()
            .is_sound()
    );
}

#[tokio::test]
async fn every_first_call_fails() {
    whole_road(&faulty(once_each(Fault::Fail))).await;
}

#[tokio::test]
async fn every_first_answer_is_lost() {
    whole_road(&faulty(once_each(Fault::LoseResponse))).await;
}

#[tokio::test]
async fn every_first_call_is_slow() {
    whole_road(&faulty(once_each(Fault::Delay(Duration::from_millis(5))))).await;
}

#[tokio::test]
async fn a_call_that_never_returns_ends_at_the_deadline() {
    let hang = FaultyStore::new(Arc::new(InMemory::new()), |_, _| Fault::Hang);
    let policy = RetryPolicy {
        call_timeout: Duration::from_millis(30),
        ..retry()
    };
    let branch = main_of(&Repository::with_store(Arc::new(hang), "", policy));
    let read = branch
        .get_history(pg_format::TimelineId(2))
        .await
        .unwrap_err();
    assert_eq!(read.class(), ErrorClass::Transient, "{read}");
    let listed = branch.list_backups().await.unwrap_err();
    assert_eq!(listed.class(), ErrorClass::Transient, "{listed}");
}

#[tokio::test]
async fn a_store_that_is_down_never_says_absent() {
    let branch = main_of(&faulty(|_, _| Fault::Fail));
    let errors = [
        branch.get_segment(segment(2)).await.map(drop),
        branch.get_partial(segment(2)).await.map(drop),
        branch.record().await.map(drop),
        branch.wal_position().await.map(drop),
        branch.manifest(backup_id(1)).await.map(drop),
        branch.list_wal(segment_size()).await.map(drop),
        branch.put_segment(segment(2), wal(1)).await.map(drop),
        branch.claim_branch(&record(7)).await.map(drop),
    ];
    for error in errors {
        assert_eq!(error.unwrap_err().class(), ErrorClass::Transient);
    }
}

#[tokio::test]
async fn a_lost_answer_does_not_hide_a_conflict() {
    let branch = main_of(&faulty(once_each(Fault::LoseResponse)));
    let outcome = branch.put_segment(segment(2), wal(1)).await.unwrap();
    assert!(
        matches!(outcome, PutOutcome::AlreadyStored { .. }),
        "{outcome:?}"
    );
    let error = branch.put_segment(segment(2), wal(2)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
}

#[tokio::test]
async fn a_failed_upload_fails_the_attempt() {
    let branch = main_of(&faulty(|operation, path| {
        let is_pack = operation == Operation::Put && path.as_ref().ends_with("/000001");
        if is_pack { Fault::Fail } else { Fault::Pass }
    }));
    let error = store(&branch, backup_id(1), "a", &sample(), 3000)
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    assert!(branch.list_backups().await.unwrap().is_empty());
}

//! A manifest stands only over what is there.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::sync::Notify;

use super::{backup_id, in_memory, main_of, retry, sample, store, summary};
use crate::faulty::{Fault, FaultyStore, Operation};
use crate::{BranchWriter, CommitOutcome, Repository, RepositoryError, Result, StoredBackup};

async fn commit(
    branch: &BranchWriter,
    attempt: &str,
    stored: &StoredBackup,
) -> Result<CommitOutcome> {
    let summary = summary(branch, backup_id(1), attempt, stored);
    stored.commit(summary).await
}

fn vanished(outcome: Result<CommitOutcome>) -> String {
    match outcome {
        Err(RepositoryError::Vanished { key }) => key,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_any_one_of_its_objects_a_backup_is_not_committed() {
    let branch = main_of(&in_memory());
    let stored = store(&branch, backup_id(1), "a", &sample(), 999)
        .await
        .unwrap();
    let objects = branch.store.list(&branch.layout.root()).await.unwrap();
    assert!(stored.packs.len() > 1 && stored.index.len() > 1);
    assert_eq!(objects.len(), stored.packs.len() + stored.index.len());
    for (key, _) in &objects {
        let bytes = branch.store.get(key).await.unwrap();
        branch.store.delete(key).await.unwrap();
        assert_eq!(vanished(commit(&branch, "a", &stored).await), *key);
        assert_eq!(branch.list_backups().await.unwrap(), []);
        let cut = bytes.slice(1..);
        branch.store.put(key, cut).await.unwrap();
        assert_eq!(vanished(commit(&branch, "a", &stored).await), *key);
        branch.store.put(key, bytes).await.unwrap();
    }
    let committed = commit(&branch, "a", &stored).await.unwrap();
    assert!(matches!(committed, CommitOutcome::Committed(_)));
    // Asked once more behind that.
    let (key, _) = &objects[0];
    branch.store.delete(key).await.unwrap();
    assert_eq!(vanished(commit(&branch, "a", &stored).await), *key);
    assert_eq!(branch.list_backups().await.unwrap(), []);
}

/// Whoever was first has removed what the other attempts stored.
#[tokio::test]
async fn a_late_attempt_finds_the_backup_that_stands() {
    let branch = main_of(&in_memory());
    let mut stored = Vec::new();
    for attempt in ["a", "b"] {
        let attempt = store(&branch, backup_id(1), attempt, &sample(), 999).await;
        stored.push(attempt.unwrap());
    }
    let first = commit(&branch, "b", &stored[1]).await.unwrap();
    let removed = branch.delete_attempts_except(backup_id(1), "b").await;
    assert!(removed.unwrap() > 0);
    let late = commit(&branch, "a", &stored[0]).await.unwrap();
    assert_eq!(
        late,
        CommitOutcome::AlreadyCommitted(first.manifest().clone())
    );
    assert_eq!(branch.list_backups().await.unwrap(), [backup_id(1)]);
}

/// It has looked, and then stands still before its manifest is written.
#[tokio::test]
async fn a_manifest_that_comes_too_late_is_taken_back() {
    let writing = Arc::new(Notify::new());
    let begun = Arc::clone(&writing);
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let slow = FaultyStore::new(Arc::clone(&memory), move |operation, path| {
        if operation == Operation::Create && path.as_ref().ends_with("/manifest") {
            begun.notify_one();
            return Fault::Delay(Duration::from_millis(500));
        }
        Fault::Pass
    });
    let slow = main_of(&Repository::with_store(Arc::new(slow), "", retry()));
    let branch = main_of(&Repository::with_store(memory, "", retry()));
    let stored = store(&slow, backup_id(1), "a", &sample(), 999)
        .await
        .unwrap();
    let pack = branch.layout.pack(backup_id(1), "a", 0);
    let deleting = async {
        writing.notified().await;
        branch.store.delete(&pack).await.unwrap();
    };
    let (committed, ()) = tokio::join!(commit(&slow, "a", &stored), deleting);
    assert_eq!(vanished(committed), pack);
    assert_eq!(branch.list_backups().await.unwrap(), []);
}

//! What no manifest names goes; what one names stays, whenever it was written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use events::mark::BackupMark;
use events::{BackupId, BranchName};
use futures::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::sync::Notify;

use super::{back_up, backup_id, instance, main_of, record, retry, sample, store, summary};
use crate::faulty::{Fault, FaultyStore, Operation};
use crate::{BranchWriter, Deleted, Hollow, ReadMark, Repository};

/// Everything is old enough.
const AT_ONCE: TimeDelta = TimeDelta::zero();

fn place() -> (Arc<InMemory>, Repository, BranchWriter) {
    let memory = Arc::new(InMemory::new());
    let shared = Arc::clone(&memory) as Arc<dyn ObjectStore>;
    let repository = Repository::with_store(shared, "", retry());
    let branch = main_of(&repository);
    (memory, repository, branch)
}

async fn keys(store: &InMemory) -> BTreeSet<String> {
    let listed = store.list(None).map_ok(|meta| meta.location.to_string());
    listed.try_collect().await.unwrap()
}

async fn let_go(branch: &BranchWriter, id: BackupId, quiet: TimeDelta) -> Option<Deleted> {
    let named = branch.packs_named_by_others(&[]).await.unwrap();
    let gone = branch.delete_leftovers(id, &named, quiet, &|| {}).await;
    gone.unwrap()
}

#[tokio::test]
async fn what_a_failed_backup_stored_goes_and_nothing_else() {
    let (memory, _, branch) = place();
    let _ = back_up(&branch, backup_id(1), &sample()).await;
    let before = keys(&memory).await;
    for attempt in ["one", "other"] {
        let _failed = store(&branch, backup_id(2), attempt, &sample(), 999)
            .await
            .unwrap();
    }
    assert_eq!(
        branch.backups_with_packs().await.unwrap(),
        [1, 2].map(backup_id)
    );
    let stored = branch.stored_packs(backup_id(2)).await.unwrap().unwrap();
    assert!(stored.objects > 4 && stored.bytes > 1000, "{stored:?}");
    // Somebody wrote to it just now, by the store's clock.
    assert_eq!(
        let_go(&branch, backup_id(2), TimeDelta::hours(1)).await,
        None
    );
    let gone = let_go(&branch, backup_id(2), AT_ONCE).await.unwrap();
    assert_eq!((gone.objects, gone.bytes), (stored.objects, stored.bytes));
    assert_eq!(keys(&memory).await, before);
    assert_eq!(
        let_go(&branch, backup_id(2), AT_ONCE).await,
        Some(Deleted::default())
    );
    assert_eq!(
        let_go(&branch, backup_id(1), AT_ONCE).await,
        None,
        "it has a manifest"
    );
    assert_eq!(keys(&memory).await, before);
}

#[tokio::test]
async fn while_a_manifest_cannot_be_read_nothing_is_left_over() {
    let (memory, _, branch) = place();
    let _ = back_up(&branch, backup_id(1), &sample()).await;
    let _failed = store(&branch, backup_id(2), "a", &sample(), 999)
        .await
        .unwrap();
    let key = branch.layout.manifest(backup_id(1));
    let _ = memory
        .put(&key.as_str().into(), "garbage".into())
        .await
        .unwrap();
    let before = keys(&memory).await;
    for number in [1, 2] {
        assert_eq!(let_go(&branch, backup_id(number), AT_ONCE).await, None);
    }
    assert_eq!(keys(&memory).await, before);
}

/// The worker stood still between its last pack and its manifest, and wakes at the worst moment.
#[tokio::test]
async fn what_is_committed_while_it_is_deleted_does_not_look_restorable() {
    let (memory, _, branch) = place();
    let late = store(&branch, backup_id(2), "a", &sample(), 999)
        .await
        .unwrap();
    let deleting = Arc::new(Notify::new());
    let begun = Arc::clone(&deleting);
    let slow = FaultyStore::new(
        Arc::clone(&memory) as Arc<dyn ObjectStore>,
        move |operation, path| {
            if operation == Operation::Delete && path.as_ref().contains("/packs/") {
                begun.notify_one();
                return Fault::Delay(Duration::from_secs(1));
            }
            Fault::Pass
        },
    );
    let slow = main_of(&Repository::with_store(Arc::new(slow), "", retry()));
    let commit = async {
        deleting.notified().await;
        let summary = summary(&branch, backup_id(2), "a", &late);
        late.commit(summary).await.unwrap()
    };
    let (gone, _) = tokio::join!(let_go(&slow, backup_id(2), AT_ONCE), commit);
    assert!(gone.unwrap().objects > 0);
    assert_eq!(branch.list_backups().await.unwrap(), []);
    assert_eq!(keys(&memory).await, BTreeSet::new());
}

/// The same branch, on whose way something happens when such a key is deleted for the first time.
fn slow_at(memory: &Arc<InMemory>, part: &'static str) -> (BranchWriter, Arc<Notify>) {
    let deleting = Arc::new(Notify::new());
    let (begun, seen) = (Arc::clone(&deleting), AtomicBool::new(false));
    let slow = FaultyStore::new(
        Arc::clone(memory) as Arc<dyn ObjectStore>,
        move |operation, path| {
            let meant = operation == Operation::Delete && path.as_ref().contains(part);
            if !meant || seen.swap(true, Ordering::SeqCst) {
                return Fault::Pass;
            }
            begun.notify_one();
            Fault::Delay(Duration::from_secs(1))
        },
    );
    let slow = main_of(&Repository::with_store(Arc::new(slow), "", retry()));
    (slow, deleting)
}

#[tokio::test]
async fn what_another_attempt_stores_meanwhile_is_not_left_over() {
    let (memory, _, branch) = place();
    let _failed = store(&branch, backup_id(2), "one", &sample(), 999).await;
    let (slow, asking) = slow_at(&memory, "/clock");
    let again = async {
        asking.notified().await;
        let stored = store(&branch, backup_id(2), "other", &sample(), 999).await;
        (stored.unwrap(), keys(&memory).await)
    };
    let (gone, (stored, mut before)) = tokio::join!(let_go(&slow, backup_id(2), AT_ONCE), again);
    assert_eq!(gone, None);
    before.retain(|key| !key.ends_with("/clock"));
    assert_eq!(keys(&memory).await, before);
    let summary = summary(&branch, backup_id(2), "other", &stored);
    let _ = stored.commit(summary).await.unwrap();
}

#[tokio::test]
async fn another_attempt_that_is_committed_meanwhile_stays_with_its_mark() {
    let (memory, _, branch) = place();
    let _failed = store(&branch, backup_id(2), "one", &sample(), 999).await;
    let (slow, deleting) = slow_at(&memory, "/packs/");
    let again = async {
        deleting.notified().await;
        let stored = store(&branch, backup_id(2), "other", &sample(), 999).await;
        let stored = stored.unwrap();
        let summary = summary(&branch, backup_id(2), "other", &stored);
        let _ = stored.commit(summary).await.unwrap();
        let (read, mark) = (ReadMark::default(), BackupMark::default());
        let _ = branch.put_mark(backup_id(2), &mark, &read).await.unwrap();
    };
    let (gone, ()) = tokio::join!(let_go(&slow, backup_id(2), AT_ONCE), again);
    assert!(gone.unwrap().objects > 0);
    assert_eq!(branch.list_backups().await.unwrap(), [backup_id(2)]);
    let left = keys(&memory).await;
    assert!(left.iter().any(|key| key.ends_with("/mark")));
    assert!(!left.iter().any(|key| key.contains("/one/")), "{left:?}");
}

/// Backups that name packs of others, deleted or not, in any order: what a manifest names is there.
#[tokio::test]
async fn nothing_that_a_manifest_names_ever_goes() {
    for seed in 0..60_u64 {
        let (memory, _, branch) = place();
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut packs = Vec::new();
        for number in 1..=5 {
            let mut stored = store(&branch, backup_id(number), "a", &sample(), 999)
                .await
                .unwrap();
            let own = stored.packs.clone();
            if next(3) > 0 {
                let borrowed: Vec<_> = packs.iter().filter(|_| next(4) == 0).cloned().collect();
                stored.packs.extend(borrowed);
                let summary = summary(&branch, backup_id(number), "a", &stored);
                let _ = stored.commit(summary).await.unwrap();
                packs.extend(own);
            }
        }
        // Deletions that were broken off behind the manifest.
        for number in 1..=5 {
            if next(3) == 0 {
                branch
                    .store
                    .delete(&branch.layout.manifest(backup_id(number)))
                    .await
                    .unwrap();
            }
        }
        for backup in branch.backups_with_packs().await.unwrap() {
            let _ = let_go(&branch, backup, AT_ONCE).await;
        }
        let left = keys(&memory).await;
        let mut named = BTreeSet::new();
        for manifest in branch.manifests().await.unwrap() {
            let own = manifest.summary.backup_id;
            let layout = &branch.layout;
            for pack in &manifest.packs {
                let _ = named.insert(layout.pack(pack.backup, &pack.attempt, pack.number));
            }
            for part in &manifest.index {
                let _ = named.insert(layout.index(own, "a", part.number));
            }
        }
        let packs: BTreeSet<_> = left
            .iter()
            .filter(|key| key.contains("/packs/"))
            .cloned()
            .collect();
        assert_eq!(packs, named, "seed {seed}");
    }
}

#[tokio::test]
async fn a_branch_of_which_nothing_is_left_is_hollow() {
    let (memory, repository, _) = place();
    let old = BranchName::new("old").unwrap();
    let branch = repository.writer(&instance(), &old);
    let delete = async || {
        let found = branch.find_hollow().await.unwrap()?;
        let remains = branch
            .delete_hollow_remains(&found, &|| {})
            .await
            .unwrap()?;
        let record = branch.delete_hollow_record(found).await.unwrap()?;
        Some(remains.and(record))
    };
    let record = crate::BranchRecord {
        branch: old.clone(),
        ..record(7)
    };
    let _ = branch.claim_branch(&record).await.unwrap();
    assert_eq!(branch.hollow().await.unwrap(), Hollow::Record);
    for key in [
        "wal/position",
        "wal-index/00000001/0000000000000000",
        "wal/gaps/00000001-0000000000100000",
        "backups/00000000-0000-0000-0000-000000000001/mark",
    ] {
        let key = format!("{}/{key}", branch.layout.root());
        branch
            .store
            .put(&key, Bytes::from_static(b"x"))
            .await
            .unwrap();
        let hollow = branch.hollow().await.unwrap();
        assert!(matches!(hollow, Hollow::Remains { .. }), "{key}");
    }
    for key in [
        "wal/00000001/000000010000000000000003",
        "wal/00000001/000000010000000000000003.partial",
        "backups/00000000-0000-0000-0000-000000000001/manifest",
        "packs/00000000-0000-0000-0000-000000000001/a/000000",
        "of-a-newer-version",
    ] {
        let key = format!("{}/{key}", branch.layout.root());
        branch
            .store
            .put(&key, Bytes::from_static(b"x"))
            .await
            .unwrap();
        assert_eq!(branch.hollow().await.unwrap(), Hollow::No, "{key}");
        let before = keys(&memory).await;
        assert_eq!(delete().await, None);
        assert_eq!(keys(&memory).await, before);
        branch.store.delete(&key).await.unwrap();
    }
    assert!(delete().await.is_some());
    assert_eq!(keys(&memory).await, BTreeSet::new());
    let main = main_of(&repository);
    let found = main.find_hollow().await.unwrap().unwrap();
    assert!(main.delete_hollow_remains(&found, &|| {}).await.is_err());
    assert!(main.delete_hollow_record(found).await.is_err());
}

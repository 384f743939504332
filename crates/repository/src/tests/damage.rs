//! A changed byte is found, wherever it is; a missing object is named.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{back_up, backup_id, main_of, record, restore, retry, sample, segment, wal};
use crate::{BranchWriter, ErrorClass, Manifest, Repository, WalPosition};

struct Scene {
    store: Arc<InMemory>,
    branch: BranchWriter,
    manifest: Manifest,
}

async fn scene() -> Scene {
    let store = Arc::new(InMemory::new());
    let repository = Repository::with_store(Arc::<InMemory>::clone(&store), "", retry());
    let branch = main_of(&repository);
    let _ = branch.claim_branch(&record(7)).await.unwrap();
    let _ = branch.put_segment(segment(2), wal(1)).await.unwrap();
    let position = WalPosition {
        timeline: pg_format::TimelineId(1),
        lsn: pg_format::Lsn(3 << 20),
        proven_at: chrono::DateTime::UNIX_EPOCH,
        first_segment: segment(2).to_string(),
        updated: chrono::DateTime::UNIX_EPOCH,
    };
    branch.put_wal_position(&position).await.unwrap();
    let manifest = back_up(&branch, backup_id(1), &sample()).await;
    Scene {
        store,
        branch,
        manifest,
    }
}

impl Scene {
    async fn objects(&self) -> Vec<(Path, Bytes)> {
        let listed: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let mut objects = Vec::new();
        for meta in listed {
            let bytes = self
                .store
                .get(&meta.location)
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap();
            objects.push((meta.location, bytes));
        }
        objects
    }

    /// Reads everything there is, as a verification would: `Ok` only if nothing is wrong.
    async fn check(&self) -> Result<(), String> {
        let text = |error: crate::RepositoryError| error.to_string();
        let _ = self.branch.record().await.map_err(text)?;
        let _ = self.branch.wal_position().await.map_err(text)?;
        let manifest = self.branch.manifest(backup_id(1)).await.map_err(text)?;
        let report = self.branch.verify(&manifest, &|_| {}).await.map_err(text)?;
        report
            .problems
            .first()
            .map_or(Ok(()), |problem| Err(problem.reason.clone()))
    }
}

#[tokio::test]
async fn one_flipped_bit_in_any_object() {
    let scene = scene().await;
    scene.check().await.unwrap();
    for (path, original) in scene.objects().await {
        // Every byte of the small objects, and enough of the large ones.
        let step = (original.len() / 97).max(1);
        let ends = [0, 4, 5, original.len() - 2].into_iter();
        for at in (0..original.len()).step_by(step).chain(ends) {
            let mut damaged = original.to_vec();
            damaged[at] ^= 0x10;
            let is_json = original.starts_with(b"{");
            if is_json && (damaged[at].is_ascii_whitespace() || original[at].is_ascii_whitespace())
            {
                continue;
            }
            let _ = scene
                .store
                .put(&path, Bytes::from(damaged).into())
                .await
                .unwrap();
            assert!(
                scene.check().await.is_err(),
                "{path}, byte {at}, was not noticed"
            );
        }
        let _ = scene.store.put(&path, original.into()).await.unwrap();
    }
    scene.check().await.unwrap();
}

#[tokio::test]
async fn a_missing_object_is_named() {
    let scene = scene().await;
    for (path, original) in scene.objects().await {
        scene.store.delete(&path).await.unwrap();
        let error = scene.check().await.unwrap_err();
        assert!(
            error.contains("is not in the repository"),
            "{path}: {error}"
        );
        let _ = scene.store.put(&path, original.into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_restore_refuses_damage() {
    let scene = scene().await;
    for (path, original) in scene.objects().await {
        if !path.as_ref().contains("/packs/") {
            continue;
        }
        for damaged in [
            original.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>(),
            original[..original.len() - 1].to_vec(),
            [original.as_ref(), b"x"].concat(),
        ] {
            let _ = scene
                .store
                .put(&path, Bytes::from(damaged).into())
                .await
                .unwrap();
            let place = tempfile::tempdir().unwrap();
            let error = restore(&scene.branch, &scene.manifest, place.path())
                .await
                .unwrap_err();
            assert_eq!(error.class(), ErrorClass::Corrupt, "{path}: {error}");
        }
        let _ = scene.store.put(&path, original.into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() {
    let scene = scene().await;
    for (path, original) in scene.objects().await {
        let newer = if original.starts_with(b"{") {
            let text = String::from_utf8(original.to_vec()).unwrap();
            text.replace("\"version\": 1", "\"version\": 2")
                .into_bytes()
        } else {
            let mut bytes = original.to_vec();
            bytes[4] = 2;
            bytes
        };
        let _ = scene
            .store
            .put(&path, Bytes::from(newer).into())
            .await
            .unwrap();
        let error = scene.check().await.unwrap_err();
        let is_index = path.as_ref().contains("/index-");
        assert!(
            is_index || error.contains("made by a newer Zektor"),
            "{path}: {error}"
        );
        let _ = scene.store.put(&path, original.into()).await.unwrap();
    }
}

//! A repository that version 1 wrote. Every later build must read it: its bytes never change.

use std::path::PathBuf;

use super::{back_up, backup_id, main_of, record, restore, retry, sample, segment, wal};
use crate::{BranchWriter, Repository, WalPosition};

fn place() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden"].iter().collect()
}

fn open(place: &std::path::Path) -> BranchWriter {
    let url = format!("file://{}", place.display());
    main_of(&Repository::open(&url, retry()).unwrap())
}

fn position() -> WalPosition {
    WalPosition {
        timeline: pg_format::TimelineId(1),
        lsn: pg_format::Lsn(3 << 20),
        proven_at: chrono::DateTime::UNIX_EPOCH,
        first_segment: segment(2).to_string(),
        updated: chrono::DateTime::UNIX_EPOCH,
    }
}

const HISTORY: &str = "1\t0/2FFFF0\tno recovery target specified\n";

#[tokio::test]
async fn version_1_is_read() {
    let branch = open(&place());
    assert_eq!(branch.record().await.unwrap(), record(7));
    assert_eq!(branch.wal_position().await.unwrap(), position());
    assert_eq!(branch.get_segment(segment(2)).await.unwrap(), wal(1));
    assert_eq!(
        branch.get_partial(segment(3)).await.unwrap(),
        wal(2).slice(..1000)
    );
    assert_eq!(
        branch.get_history(pg_format::TimelineId(2)).await.unwrap(),
        HISTORY
    );
    assert_eq!(branch.list_backups().await.unwrap(), [backup_id(1)]);
    let manifest = branch.manifest(backup_id(1)).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    assert_eq!(
        restore(&branch, &manifest, place.path()).await.unwrap(),
        sample()
    );
    let report = branch.verify(&manifest, &|_| {}).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Writes the golden repository anew: only when the layout gets a new version, into a new folder.
#[tokio::test]
#[ignore = "writes into the source tree"]
async fn write_golden() {
    let branch = open(&place());
    let _ = branch.claim_branch(&record(7)).await.unwrap();
    branch.put_wal_position(&position()).await.unwrap();
    let _ = branch.put_segment(segment(2), wal(1)).await.unwrap();
    let _ = branch
        .put_partial(segment(3), wal(2).slice(..1000))
        .await
        .unwrap();
    let _ = branch
        .put_history(pg_format::TimelineId(2), HISTORY.into())
        .await
        .unwrap();
    let _ = back_up(&branch, backup_id(1), &sample()).await;
}

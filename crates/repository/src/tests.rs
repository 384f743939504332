//! The suites: every store, every fault, every kind of damage, every tree of files.

mod conformance;
mod damage;
mod expire;
mod faults;
mod golden;
mod leftover;
mod presence;
mod single_files;
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use events::{BackupId, BackupSummary, BackupType, BranchName, InstanceName, Trigger};
use object_store::memory::InMemory;
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize};
use uuid::Uuid;

use crate::{
    BackupOptions, BranchReader, BranchRecord, BranchWriter, EntryKind, EntryPath, FileHeader,
    Manifest, Repository, RetryPolicy, StoredBackup, Target,
};

/// Impatient, so that a test of failures takes no time.
fn retry() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        call_timeout: Duration::from_secs(20),
    }
}

fn in_memory() -> Repository {
    Repository::with_store(Arc::new(InMemory::new()), "some/prefix", retry())
}

fn instance() -> InstanceName {
    InstanceName::new("orders").unwrap()
}

fn main_of(repository: &Repository) -> BranchWriter {
    repository.writer(&instance(), &BranchName::main())
}

fn backup_id(number: u128) -> BackupId {
    BackupId(Uuid::from_u128(number))
}

fn record(system_identifier: u64) -> BranchRecord {
    BranchRecord {
        instance: instance(),
        branch: BranchName::main(),
        system_identifier: SystemIdentifier(system_identifier),
        server_version: 180_006,
        wal_segment_size: segment_size(),
        parent: None,
        created_at: DateTime::UNIX_EPOCH,
    }
}

/// The smallest there is: 1 MiB.
fn segment_size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

fn segment(number: u64) -> SegmentName {
    SegmentName::new(TimelineId(1), number, segment_size())
}

fn wal(fill: u8) -> Bytes {
    let bytes = (0..1_u32 << 20).map(|n| fill.wrapping_add((n / 7) as u8));
    bytes.collect::<Vec<u8>>().into()
}

/// Everything small, so that a small tree has many chunks, packs and index parts.
fn small() -> BackupOptions {
    BackupOptions {
        chunk_bytes: 4096,
        pack_bytes: 12_000,
        index_part_bytes: 1500,
        ..BackupOptions::default()
    }
}

/// A cluster's files: path to mode and content, `None` for a directory.
type Files = BTreeMap<EntryPath, (u32, Option<Vec<u8>>)>;

fn summary(
    branch: &BranchReader,
    id: BackupId,
    attempt: &str,
    stored: &StoredBackup,
) -> BackupSummary {
    let start = segment_size().start_of(2);
    BackupSummary {
        backup_id: id,
        instance: branch.instance().clone(),
        branch: branch.branch().clone(),
        name: "test".to_owned(),
        backup_type: BackupType::Full,
        trigger: Trigger::Manual,
        schedule_id: None,
        requested_at: DateTime::UNIX_EPOCH,
        started_at: DateTime::UNIX_EPOCH,
        backed_up_at: DateTime::UNIX_EPOCH,
        ended_at: None,
        expires_at: None,
        wal_until: None,
        start_lsn: Lsn(start.0 + 40),
        stop_lsn: Lsn(start.0 + 312),
        timeline: TimelineId(1),
        system_identifier: SystemIdentifier(7),
        server_version: 180_006,
        wal_segment_size: segment_size(),
        logical_bytes: stored.totals.logical_bytes,
        stored_bytes: stored.totals.stored_bytes,
        files: stored.totals.files,
        attempt: attempt.to_owned(),
        damaged_pages: Vec::new(),
    }
}

fn header(path: &EntryPath, mode: u32, kind: EntryKind, size: u64) -> FileHeader {
    FileHeader {
        path: path.clone(),
        kind,
        mode,
        size,
        modified_unix_secs: 1_800_000_000,
    }
}

/// Stores the files as an attempt; `piece` is how many bytes are written at a time.
async fn store(
    branch: &BranchWriter,
    id: BackupId,
    attempt: &str,
    files: &Files,
    piece: usize,
) -> crate::Result<StoredBackup> {
    let mut writer = branch.begin_backup(id, attempt, small())?;
    for (path, (mode, content)) in files {
        match content {
            None => {
                writer
                    .begin_file(header(path, *mode, EntryKind::Directory, 0))
                    .await?
            }
            Some(content) => {
                let size = content.len() as u64;
                writer
                    .begin_file(header(path, *mode, EntryKind::File, size))
                    .await?;
                for part in content.chunks(piece) {
                    writer.write(Bytes::copy_from_slice(part)).await?;
                }
                writer.end_file().await?;
            }
        }
    }
    writer.finish().await
}

async fn back_up(branch: &BranchWriter, id: BackupId, files: &Files) -> Manifest {
    let stored = store(branch, id, "attempt-1", files, 1000).await.unwrap();
    let summary = summary(branch, id, "attempt-1", &stored);
    stored.commit(summary).await.unwrap().manifest().clone()
}

/// Restores into new directories under `place`.
async fn restore(branch: &BranchReader, manifest: &Manifest, place: &Path) -> crate::Result<Files> {
    let tablespaces = BTreeMap::from([(16384, place.join("space"))]);
    let data_directory = place.join("data");
    let target = Target {
        data_directory: data_directory.clone(),
        tablespaces,
        other_tablespaces: None,
        owner: None,
    };
    let restored = branch.materialise(manifest, &target, 3, &|_| {}).await?;
    assert_eq!(restored.logical_bytes, manifest.totals.logical_bytes);
    let mut files = Files::new();
    read_tree(&data_directory, None, "", &mut files);
    read_tree(&place.join("space"), Some(16384), "", &mut files);
    Ok(files)
}

fn read_tree(root: &Path, tablespace: Option<u32>, prefix: &str, files: &mut Files) {
    for found in fs::read_dir(root.join(prefix)).unwrap() {
        let found = found.unwrap();
        let name = found.file_name().into_string().unwrap();
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let metadata = found.path().symlink_metadata().unwrap();
        if metadata.is_symlink() {
            continue;
        }
        let mode = metadata.permissions().mode() & 0o7777;
        let content = (!metadata.is_dir()).then(|| fs::read(found.path()).unwrap());
        if metadata.is_dir() {
            read_tree(root, tablespace, &path, files);
        }
        let _ = files.insert(EntryPath { tablespace, path }, (mode, content));
    }
}

/// A small tree with everything that can be in one.
fn sample() -> Files {
    let noise = |seed: u64, length: usize| -> Vec<u8> {
        let mut reader = blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof();
        let mut bytes = vec![0; length];
        reader.fill(&mut bytes);
        bytes
    };
    let text = |length: usize| {
        b"zektor "
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect::<Vec<u8>>()
    };
    let mut sparse = vec![0; 5 * 4096];
    sparse[2 * 4096 + 5] = 1;
    let data = |path: &str| EntryPath::data(path);
    let space = |path: &str| EntryPath::tablespace(16384, path);
    Files::from([
        (data("PG_VERSION"), (0o600, Some(b"18\n".to_vec()))),
        (data("base"), (0o700, None)),
        (data("base/5"), (0o700, None)),
        (data("base/5/1"), (0o600, Some(noise(1, 30_000)))),
        (data("base/5/2"), (0o600, Some(text(20 * 4096)))),
        (data("base/5/3"), (0o640, Some(Vec::new()))),
        (data("base/5/4"), (0o600, Some(sparse))),
        (data("base/5/5"), (0o600, Some(noise(2, 4096)))),
        (data("pg_tblspc"), (0o700, None)),
        (data("pg_wal"), (0o750, None)),
        (space("PG_18_202506291"), (0o700, None)),
        (space("PG_18_202506291/6"), (0o600, Some(text(4097)))),
    ])
}

//! The memory of a backup does not grow with the database. Alone in its process, so that the peak is
//! its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use events::{BackupId, BranchName, InstanceName};
use object_store::local::LocalFileSystem;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use repository::{BackupOptions, EntryKind, EntryPath, FileHeader, Repository, RetryPolicy};

const MIB: u64 = 1 << 20;
const FILES: u64 = 8;
const FILE_BYTES: u64 = 96 * MIB;
/// What the options promise, and what the process needs anyway.
const LIMIT_BYTES: u64 = (120 + 20) * MIB;

/// Bytes that do not compress, without keeping them anywhere.
fn noise(seed: u64) -> impl Iterator<Item = Bytes> {
    let mut reader = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    (0..FILE_BYTES / (128 << 10)).map(move |_| {
        let mut piece = vec![0; 128 << 10];
        reader.fill(&mut piece);
        piece.into()
    })
}

#[tokio::test]
async fn a_slow_store_does_not_make_a_backup_large() {
    let place = tempfile::tempdir().unwrap();
    let slow = ThrottleConfig {
        wait_put_per_call: Duration::from_millis(400),
        ..ThrottleConfig::default()
    };
    let files = LocalFileSystem::new_with_prefix(place.path()).unwrap();
    let store = Arc::new(ThrottledStore::new(files, slow));
    let repository = Repository::with_store(store, "", RetryPolicy::default());
    let instance = InstanceName::new("orders").unwrap();
    let branch = repository.writer(&instance, &BranchName::main());
    let id = BackupId(uuid::Uuid::from_u128(1));

    let mut writer = branch
        .begin_backup(id, "one", BackupOptions::default())
        .unwrap();
    for number in 0..FILES {
        let path = EntryPath::data(format!("base/5/{number}"));
        let (kind, size) = (EntryKind::File, FILE_BYTES);
        let header = FileHeader {
            path,
            kind,
            mode: 0o600,
            size,
            modified_unix_secs: 0,
        };
        writer.begin_file(header).await.unwrap();
        for piece in noise(number) {
            writer.write(piece).await.unwrap();
        }
        writer.end_file().await.unwrap();
    }
    let stored = writer.finish().await.unwrap();
    assert_eq!(stored.totals.logical_bytes, FILES * FILE_BYTES);

    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib * 1024 <= LIMIT_BYTES, "the peak was {} MiB", kib / 1024);
    println!("peak {} MiB", kib / 1024);
}

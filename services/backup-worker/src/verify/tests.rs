//! Verification of a backup in a local directory, over the in-memory bus.

use std::path::Path;

use bus::{Bus, Progress, Sequence};
use bytes::Bytes;
use events::event::BackupVerified;
use events::{BackupSummary, Envelope, example, topology};
use futures::StreamExt as _;
use pg_format::{Lsn, SegmentName, WalSegmentSize};
use repository::{BackupOptions, EntryKind, EntryPath, FileHeader, Repository, RetryPolicy};
use uuid::Uuid;

use super::*;
use crate::jobs::tests::Place;

const FILE_BYTES: usize = 300_000;

struct Stored {
    verifications: Verifications,
    summary: BackupSummary,
    directory: tempfile::TempDir,
}

impl Stored {
    /// A backup of one file, with the segment that makes it consistent.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("file://{}", directory.path().display());
        let mut world = Place::on(Bus::in_memory()).jobs.world;
        world.repository = Repository::open(&url, RetryPolicy::default()).unwrap();
        let size = WalSegmentSize::new(1 << 20).unwrap();
        let mut summary = BackupSummary {
            start_lsn: Lsn(0x20_0028),
            stop_lsn: Lsn(0x20_0158),
            wal_segment_size: size,
            ..example::backup_summary()
        };
        let writer = world.repository.writer(&summary.instance, &summary.branch);
        let mut pieces = writer
            .begin_backup(
                summary.backup_id,
                &summary.attempt,
                BackupOptions::default(),
            )
            .unwrap();
        let header = FileHeader {
            path: EntryPath::data("base/5/16384"),
            kind: EntryKind::File,
            mode: 0o600,
            size: FILE_BYTES as u64,
            modified_unix_secs: 0,
        };
        pieces.begin_file(header).await.unwrap();
        let content: Vec<u8> = (0..FILE_BYTES).map(|n| (n * 7 % 251) as u8).collect();
        pieces.write(Bytes::from(content)).await.unwrap();
        pieces.end_file().await.unwrap();
        let stored = pieces.finish().await.unwrap();
        (summary.files, summary.logical_bytes) = (stored.totals.files, stored.totals.logical_bytes);
        summary.stored_bytes = stored.totals.stored_bytes;
        let _committed = stored.commit(summary.clone()).await.unwrap();
        let segment = SegmentName::containing(summary.timeline, summary.start_lsn, size);
        let raw = Bytes::from(vec![0; 1 << 20]);
        let _put = writer.put_segment(segment, raw).await.unwrap();
        Stored {
            verifications: Verifications { world },
            summary,
            directory,
        }
    }

    /// What the handler says at the end.
    async fn verify(&self, backup_id: events::BackupId) -> Event {
        let wanted = BackupVerify {
            instance: self.summary.instance.clone(),
            branch: self.summary.branch.clone(),
            backup_id,
        };
        let delivery = Delivery {
            envelope: Envelope {
                id: MessageId::new(Uuid::now_v7().to_string()),
                source: "test".to_owned(),
                time: example::at(0),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: Command::BackupVerify(wanted),
            },
            sequence: Sequence(1),
            attempt: 1,
            last_attempt: false,
            progress: Progress::default(),
        };
        assert_eq!(self.verifications.handle(&delivery).await, Outcome::Done);
        assert_eq!(self.verifications.handle(&delivery).await, Outcome::Done);
        let bus = &self.verifications.world.bus;
        let said = bus.history(Vec::new(), Sequence::NONE, topology::EVENTS);
        let said: Vec<_> = said.await.unwrap().collect().await;
        let of_this =
            |said: &Event| matches!(said, Event::BackupVerified(_) | Event::BackupRefused(_));
        let mut said: Vec<Event> = said
            .into_iter()
            .map(|stored| stored.unwrap().envelope)
            .filter(|envelope| envelope.causation.as_deref() == Some(delivery.envelope.id.as_str()))
            .map(|envelope| envelope.message)
            .filter(of_this)
            .collect();
        assert_eq!(said.len(), 1, "a command delivered twice has one outcome");
        said.remove(0)
    }

    async fn outcome(&self) -> BackupVerified {
        match self.verify(self.summary.backup_id).await {
            Event::BackupVerified(verified) => verified,
            other => panic!("{other:?}"),
        }
    }

    /// The largest stored file below a folder of that name.
    fn largest_below(&self, folder: &str) -> std::path::PathBuf {
        fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    files(&path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        files(self.directory.path(), &mut found);
        found.retain(|path| path.components().any(|part| part.as_os_str() == folder));
        let size = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().len();
        found.into_iter().max_by_key(size).unwrap()
    }
}

#[tokio::test]
async fn a_sound_backup_is_said_to_be_sound() {
    let stored = Stored::new().await;
    let outcome = stored.outcome().await;
    assert!(outcome.sound, "{:?}", outcome.problems);
    assert_eq!((outcome.files, outcome.bytes), (1, FILE_BYTES as u64));
}

#[tokio::test]
async fn one_wrong_byte_is_found_and_its_file_named() {
    let stored = Stored::new().await;
    let pack = stored.largest_below("packs");
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let outcome = stored.outcome().await;
    assert!(!outcome.sound);
    let told = outcome.problems.join("\n");
    assert!(told.contains("base/5/16384"), "{told}");
}

#[tokio::test]
async fn a_backup_without_its_wal_cannot_be_restored() {
    let stored = Stored::new().await;
    std::fs::remove_file(stored.largest_below("wal")).unwrap();
    assert!(!stored.outcome().await.sound);
}

#[tokio::test]
async fn what_is_not_stored_is_not_found() {
    let stored = Stored::new().await;
    let outcome = stored.verify(events::BackupId(Uuid::now_v7())).await;
    let Event::BackupRefused(refused) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(refused.code, RefusalCode::NotFound);
}

//! Verification of a backup in a local directory, over the in-memory bus.

use std::path::Path;
use std::sync::Arc;

use bus::{Bus, Decision, Progress, Sequence};
use bytes::Bytes;
use events::document::Sweep;
use events::event::{BackupCompleted, BackupExpired, BackupRequested, BackupVerified};
use events::{BackupSummary, Envelope, InstanceDocument, SweepId, example, topology};
use futures::StreamExt as _;
use object_store::memory::InMemory;
use pg_format::{Lsn, SegmentName, WalSegmentSize};
use repository::faulty::{Fault, FaultyStore};
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
        let delivery = self.delivery(backup_id, 1);
        assert_eq!(self.verifications.handle(&delivery).await, Outcome::Done);
        assert_eq!(self.verifications.handle(&delivery).await, Outcome::Done);
        let mut said = self.said(Some(&delivery)).await;
        assert_eq!(said.len(), 1, "a command delivered twice has one outcome");
        said.remove(0)
    }

    fn wanted(&self, backup_id: events::BackupId) -> BackupVerify {
        BackupVerify {
            instance: self.summary.instance.clone(),
            branch: self.summary.branch.clone(),
            backup_id,
        }
    }

    fn delivery(&self, backup_id: events::BackupId, attempt: u64) -> Delivery<Command> {
        Delivery {
            envelope: Envelope {
                id: MessageId::new(Uuid::now_v7().to_string()),
                source: "test".to_owned(),
                time: example::at(0),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: Command::BackupVerify(self.wanted(backup_id)),
            },
            sequence: Sequence(1),
            stored_at: example::at(0),
            attempt,
            last_attempt: false,
            progress: Progress::default(),
        }
    }

    /// Everything that was said, or what was said because of a command.
    async fn said(&self, because: Option<&Delivery<Command>>) -> Vec<Event> {
        let bus = &self.verifications.world.bus;
        let said = bus.history(Vec::new(), Sequence::NONE, topology::EVENTS);
        let said: Vec<_> = said.await.unwrap().collect().await;
        let said = said.into_iter().map(|stored| stored.unwrap().envelope);
        said.filter(|envelope| {
            because.is_none_or(|delivery| {
                envelope.causation.as_deref() == Some(delivery.envelope.id.as_str())
            })
        })
        .map(|envelope| envelope.message)
        .collect()
    }

    /// Somebody else says something.
    async fn say(&self, event: Event) {
        let id = MessageId::new(Uuid::now_v7().to_string());
        let world = &self.verifications.world;
        let outgoing = Outgoing::new(event, id, world.clock.now());
        let _sequence = world.bus.publish(outgoing).await.unwrap();
    }

    fn expired(&self) -> Event {
        Event::BackupExpired(BackupExpired {
            backup_id: self.summary.backup_id,
            instance: self.summary.instance.clone(),
            branch: self.summary.branch.clone(),
            sweep_id: SweepId(Uuid::from_u128(9)),
            expired_at: example::at(0),
        })
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

fn is_not_found(event: &Event) -> bool {
    matches!(event, Event::BackupRefused(refused) if refused.code == RefusalCode::NotFound)
}

#[tokio::test]
async fn nothing_is_told_of_a_backup_before_its_end_is() {
    let stored = Stored::new().await;
    let requested = example::events().into_iter().find_map(|event| match event {
        Event::BackupRequested(request) => Some(request),
        _ => None,
    });
    let summary = stored.summary.clone();
    stored
        .say(Event::BackupRequested(BackupRequested {
            backup_id: summary.backup_id,
            instance: summary.instance.clone(),
            branch: summary.branch.clone(),
            ..requested.unwrap()
        }))
        .await;
    // However often: that is no fault of the store.
    for attempt in [1, 100] {
        let delivery = stored.delivery(summary.backup_id, attempt);
        let outcome = stored.verifications.handle(&delivery).await;
        assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    }
    assert_eq!(stored.said(None).await.len(), 1);
    stored
        .say(Event::BackupCompleted(BackupCompleted {
            backup_id: summary.backup_id,
            instance: summary.instance.clone(),
            branch: summary.branch.clone(),
            summary,
        }))
        .await;
    assert!(stored.outcome().await.sound);
}

#[tokio::test]
async fn a_backup_that_a_sweep_has_is_not_found_whatever_is_missing_of_it() {
    let stored = Stored::new().await;
    std::fs::remove_file(stored.largest_below("packs")).unwrap();
    let (instance, branch) = (&stored.summary.instance, &stored.summary.branch);
    let instances = stored.verifications.world.bus.instances();
    let list = |backups: Vec<events::BackupId>| {
        instances.update(instance, move |_| {
            let mut document = InstanceDocument::new(
                instance.clone(),
                CommandId(Uuid::from_u128(1)),
                example::at(0),
            );
            let sweep = Sweep {
                sweep_id: SweepId(Uuid::from_u128(9)),
                asked_at: example::at(0),
                backups: backups.clone(),
                wal: Vec::new(),
                histories: Vec::new(),
                leftovers: Vec::new(),
                hollow: false,
                purge: false,
                withdrawn_at: None,
            };
            let _none = document.sweeps.insert(branch.clone(), sweep);
            Decision::Put(Box::new(document), ())
        })
    };
    let id = stored.summary.backup_id;
    list(vec![id]).await.unwrap();
    assert!(is_not_found(&stored.verify(id).await));
    // A sweep of others is none of its business.
    list(vec![]).await.unwrap();
    assert!(!stored.outcome().await.sound);
    stored.say(stored.expired()).await;
    assert!(is_not_found(&stored.verify(id).await));
}

#[tokio::test]
async fn a_backup_that_goes_while_it_is_read_is_not_found() {
    let stored = Stored::new().await;
    let wanted = stored.wanted(stored.summary.backup_id);
    let command = CommandId(Uuid::now_v7());
    let verifications = &stored.verifications;
    let outcome = verifications.outcome(&wanted, command, Instant::now());
    stored.say(stored.expired()).await;
    let verdict = Event::BackupVerified(outcome);
    verifications.tell(&wanted, command, verdict).await.unwrap();
    let said = stored.said(None).await;
    assert!(is_not_found(&said[1]) && said.len() == 2, "{said:?}");
}

#[tokio::test]
async fn a_verification_that_cannot_succeed_ends() {
    let mut stored = Stored::new().await;
    let broken = FaultyStore::new(Arc::new(InMemory::new()), |_, _| Fault::Fail);
    let once = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    stored.verifications.world.repository = Repository::with_store(Arc::new(broken), "", once);
    let id = stored.summary.backup_id;
    for attempt in [1, MOST_DELIVERIES - 1] {
        let delivery = stored.delivery(id, attempt);
        let outcome = stored.verifications.handle(&delivery).await;
        assert!(matches!(outcome, Outcome::Retry { .. }));
    }
    let last = stored.delivery(id, MOST_DELIVERIES);
    assert_eq!(stored.verifications.handle(&last).await, Outcome::Done);
    let said = stored.said(None).await;
    let [Event::BackupRefused(refused)] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert!(refused.message.contains("could not be read"), "{refused:?}");

    let denied = VerifyError::Repository(RepositoryError::Denied {
        operation: "read",
        key: "k".to_owned(),
        source: "no".into(),
    });
    assert!(!denied.is_final(MOST_REFUSED - 1) && denied.is_final(MOST_REFUSED));
}

#[test]
fn an_object_is_named_once() {
    let problem = |reason: &str| Problem {
        key: "v1/a/000000".to_owned(),
        file: None,
        reason: reason.to_owned(),
    };
    let damaged = "v1/a/000000 is damaged in the repository: it has another digest";
    assert_eq!(sentence(&problem(damaged)), damaged);
    assert_eq!(sentence(&problem("it is gone")), "v1/a/000000: it is gone");
}

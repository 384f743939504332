use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use events::event::FailureCause;
use events::{BranchName, InstanceName};
use object_store::memory::InMemory;
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};
use repository::faulty::{Fault, FaultyStore};
use repository::{BranchReader, Repository, RetryPolicy};

use super::{Cluster, STORE_PATIENCE, WalService, fetch, restore_command, script};
use crate::error::{Reaction, RestoreError};
use crate::served::ServedWal;

const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn cluster() -> Cluster {
    Cluster {
        system_identifier: SystemIdentifier(7),
        major: 16,
    }
}

fn name(number: u64) -> SegmentName {
    SegmentName::new(TimelineId(1), number, size())
}

/// A segment whose bytes all are its number.
fn segment(number: u64) -> Bytes {
    vec![u8::try_from(number).unwrap(); MIB as usize].into()
}

struct Spool {
    directory: tempfile::TempDir,
}

impl Spool {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for folder in ["want", "ready", "absent", "tmp"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        fs::write(directory.path().join("fetch.sh"), script(directory.path())).unwrap();
        Spool { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Runs the `restore_command` as PostgreSQL does; its exit status, and what it brought.
    async fn ask(&self, file: &str) -> (Option<i32>, Option<Vec<u8>>) {
        let destination = self.path().join("RECOVERYXLOG");
        let _ = fs::remove_file(&destination);
        let command = restore_command(&self.path().join("fetch.sh"));
        let command = command
            .replace("%f", file)
            .replace("%p", &destination.to_string_lossy());
        let run = move || {
            Command::new("/bin/sh")
                .args(["-c", &command])
                .status()
                .unwrap()
        };
        let status = tokio::task::spawn_blocking(run).await.unwrap();
        (status.code(), fs::read(&destination).ok())
    }
}

async fn archive(directory: &Path) -> BranchReader {
    let url = format!("file://{}", directory.display());
    let repository = Repository::open(&url, RetryPolicy::default()).unwrap();
    let instance = InstanceName::new("orders").unwrap();
    let writer = repository.writer(&instance, &BranchName::main());
    for number in 3..6 {
        let _ = writer
            .put_segment(name(number), segment(number))
            .await
            .unwrap();
    }
    let _ = writer
        .put_partial(name(6), segment(6).slice(..500))
        .await
        .unwrap();
    repository.reader(&instance, &BranchName::main())
}

fn served(end: u64) -> ServedWal {
    let history = TimelineHistory::root(TimelineId(1));
    ServedWal::new(history, size(), Lsn(3 * MIB + 40), Lsn(end))
}

#[tokio::test]
async fn gives_what_is_planned_and_zeros_beyond_the_end() {
    let (store, spool) = (tempfile::tempdir().unwrap(), Spool::new());
    let reader = archive(store.path()).await;
    let service = WalService::new(reader, served(6 * MIB + 300), cluster(), spool.path(), None);
    let asking = async {
        for number in [4, 3, 4, 5] {
            let (status, bytes) = spool.ask(&name(number).to_string()).await;
            assert_eq!(status, Some(0));
            assert_eq!(bytes.unwrap(), segment(number));
        }
        let (status, bytes) = spool.ask(&name(6).to_string()).await;
        let bytes = bytes.unwrap();
        assert_eq!((status, bytes.len() as u64), (Some(0), MIB));
        assert!(bytes[..300].iter().all(|byte| *byte == 6));
        assert!(bytes[300..].iter().all(|byte| *byte == 0));
        for absent in [
            &name(7).to_string(),
            &name(2).to_string(),
            "00000002.history",
            "x",
        ] {
            assert_eq!(spool.ask(absent).await, (Some(1), None), "{absent}");
        }
    };
    tokio::select! {
        ended = service.run() => panic!("{ended:?}"),
        () = asking => {}
    }
}

#[tokio::test]
async fn a_lost_segment_is_a_failure_and_never_the_end_of_wal() {
    let (store, spool) = (tempfile::tempdir().unwrap(), Spool::new());
    let reader = archive(store.path()).await;
    // The archive ends in segment 6.
    let service = WalService::new(reader, served(8 * MIB), cluster(), spool.path(), None);
    let file = name(7).to_string();
    tokio::select! {
        ended = service.run() => {
            let error = ended.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("000000010000000000000"), "{error}");
        }
        answer = spool.ask(&file) => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn without_a_living_restorer_recovery_ends_fatally() {
    let spool = Spool::new();
    // No heartbeat was ever made.
    let asked = tokio::time::timeout(Duration::from_secs(60), spool.ask("anything"))
        .await
        .unwrap();
    assert_eq!(asked, (Some(255), None));
    fs::remove_dir_all(spool.path().join("want")).unwrap();
    assert_eq!(spool.ask("anything").await, (Some(255), None));
}

/// The plan ends before timeline 2 begins, in the same segment, so either timeline's segment will do.
async fn an_older_timelines_segment_will_do(newer_partial: Option<usize>) {
    let (store, spool) = (tempfile::tempdir().unwrap(), Spool::new());
    let reader = archive(store.path()).await;
    let newer = SegmentName::new(TimelineId(2), 5, size());
    let older = name(5).to_string();
    if let Some(bytes) = newer_partial {
        let url = format!("file://{}", store.path().display());
        let repository = Repository::open(&url, RetryPolicy::default()).unwrap();
        let writer = repository.writer(reader.instance(), reader.branch());
        let _ = writer
            .put_partial(newer, segment(5).slice(..bytes))
            .await
            .unwrap();
    }
    let text = format!("1\t{}\tpromoted\n", Lsn(5 * MIB + 900));
    let history = TimelineHistory::parse(TimelineId(2), &text).unwrap();
    let served = ServedWal::new(history, size(), Lsn(4 * MIB), Lsn(5 * MIB + 300));
    let service = WalService::new(reader, served, cluster(), spool.path(), None);
    let asking = async {
        // Fetched ahead, though the newer one is not there.
        let ready = spool.path().join("ready").join(&older);
        testkit::wait_until("the older one", Duration::from_secs(20), async || {
            ready.exists()
        })
        .await
        .unwrap();
        assert_eq!(spool.ask(&name(4).to_string()).await.0, Some(0));
        assert_eq!(spool.ask(&newer.to_string()).await, (Some(1), None));
        let (status, bytes) = spool.ask(&older).await;
        assert_eq!(status, Some(0));
        assert_eq!(bytes.unwrap()[..300], segment(5)[..300]);
    };
    tokio::select! {
        ended = service.run() => panic!("{ended:?}"),
        () = asking => {}
    }
}

#[tokio::test]
async fn a_newer_timeline_without_the_segment_is_passed_over() {
    an_older_timelines_segment_will_do(None).await;
}

#[tokio::test]
async fn a_newer_timeline_with_too_little_of_the_segment_is_passed_over() {
    an_older_timelines_segment_will_do(Some(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_ever_ends_the_attempt() {
    let broken = FaultyStore::new(Arc::new(InMemory::new()), |_, _| Fault::Fail);
    let retry = RetryPolicy {
        attempts: 1,
        ..RetryPolicy::default()
    };
    let repository = Repository::with_store(Arc::new(broken), "", retry);
    let instance = InstanceName::new("orders").unwrap();
    let reader = repository.reader(&instance, &BranchName::main());
    let begun = tokio::time::Instant::now();
    let file = name(3).to_string();
    let error = fetch(&reader, &served(5 * MIB), &file).await.unwrap_err();
    assert!(begun.elapsed() >= STORE_PATIENCE);
    let error = RestoreError::Fetch(error);
    assert!(matches!(error.reaction(), Reaction::Retry(_)), "{error:?}");
    match error.failure() {
        Reaction::Fail { cause, .. } => assert_eq!(cause, FailureCause::Storage),
        other => panic!("{other:?}"),
    }
}

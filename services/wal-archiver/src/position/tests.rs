//! The margin, against commits that come late: as a backend does that takes its commit's time and then sleeps.

use std::sync::Arc;
use std::time::Duration;

use events::document::ActiveBranch;
use pg_format::{Lsn, PgTimestamp, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{Repository, RetryPolicy};
use service::SystemClock;
use service::seal::{MasterKey, dsn_context};

use super::PositionKeeper;
use crate::announcer::Announcer;
use crate::index::{ArchiveTurn, IndexDesk};
use crate::proof::CommitTime;
use crate::session::BranchContext;
use crate::start_point::{StartPoint, StartReason};
use crate::status::{BranchKey, Statuses};
use crate::uploader::{UploadMemory, Uploader};

const SECOND: i64 = 1_000_000;

fn context() -> BranchContext {
    let (instance, branch) = ("shop".parse().unwrap(), "main".parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let master_key = MasterKey::generate_file(&place.path().join("key")).unwrap();
    let active = ActiveBranch {
        dsn: master_key
            .seal(
                "postgresql://nobody@localhost/",
                &dsn_context(&instance, &branch),
            )
            .unwrap(),
        system_identifier: pg_format::SystemIdentifier(7),
        timeline: TimelineId(1),
        server_version: 180_000,
        wal_segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        origin: None,
        size: None,
        created_at: events::Timestamp::UNIX_EPOCH,
        archive_mode: events::ArchiveMode::default(),
        disk_risk: events::DiskRiskPolicy::default(),
    };
    let repository = Repository::open("memory://", RetryPolicy::default()).unwrap();
    let writer = repository.writer(&instance, &branch);
    let key = BranchKey { instance, branch };
    let status = Statuses::default().of(&key);
    BranchContext {
        key,
        branch: active,
        config: Arc::default(),
        spool_directory: Arc::default(),
        master_key: Arc::new(master_key),
        clock: Arc::new(SystemClock),
        uploader: Uploader::new(writer, UploadMemory::new(1), Arc::clone(&status)),
        status,
        announcer: Announcer::default(),
        index: IndexDesk::default(),
        archive_turn: ArchiveTurn::new(tokio::sync::Semaphore::new(1)),
    }
}

fn keeper(branch: &BranchContext, stored: Option<repository::WalPosition>) -> PositionKeeper {
    let size = branch.branch.wal_segment_size;
    let start = StartPoint {
        timeline: TimelineId(1),
        lsn: Lsn(0),
        chain_first: SegmentName::new(TimelineId(1), 0, size),
        reason: StartReason::Archive,
    };
    PositionKeeper::new(
        branch,
        stored,
        &start,
        &TimelineHistory::root(TimelineId(1)),
    )
}

fn commit(lsn: u64, micros: i64) -> CommitTime {
    CommitTime {
        lsn: Lsn(lsn),
        time: PgTimestamp(micros),
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_comes_late_is_counted_and_keeps_later_proofs_away() {
    let branch = context();
    let mut keeper = keeper(&branch, None);
    let seen = || branch.status.observed();
    assert!(!keeper.durable(Lsn(1000)));
    assert!(keeper.claim(Lsn(1000), PgTimestamp(10 * SECOND)));
    assert_eq!(seen().proven_at, Some(PgTimestamp(10 * SECOND)));
    keeper.committed(commit(1000, 10 * SECOND + 1));
    assert_eq!(seen().proof_violations, 0, "it was committed later");
    keeper.committed(commit(1100, 10 * SECOND - 300_000));
    assert_eq!(seen().proof_violations, 1);
    let _ = keeper.durable(Lsn(2000));
    assert!(keeper.claim(Lsn(2000), PgTimestamp(20 * SECOND)));
    assert_eq!(seen().proven_at, Some(PgTimestamp(20 * SECOND - 300_001)));
    assert!(keeper.due_now(tokio::time::Instant::now()).is_some());
    assert!(keeper.proves(PgTimestamp(20 * SECOND)), "as well as can be");
    assert!(!keeper.proves(PgTimestamp(20 * SECOND + 1)));
    keeper.committed(commit(2100, 20 * SECOND - 300_000));
    assert_eq!(
        seen().proof_violations,
        1,
        "the margin is wide enough for it"
    );
    tokio::time::advance(Duration::from_secs(3600)).await;
    let _ = keeper.durable(Lsn(3000));
    assert!(keeper.claim(Lsn(3000), PgTimestamp(3700 * SECOND)));
    assert_eq!(seen().proven_at, Some(PgTimestamp(3700 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_a_restart_counts() {
    let branch = context();
    let mut before = keeper(&branch, None);
    let _ = before.durable(Lsn(1000));
    assert!(before.claim(Lsn(1000), PgTimestamp(10 * SECOND)));
    let stored = before.due_now(tokio::time::Instant::now());
    let mut after = keeper(&branch, stored);
    after.committed(commit(900, 9 * SECOND));
    assert_eq!(
        branch.status.observed().proof_violations,
        0,
        "streamed again"
    );
    after.committed(commit(1000, 9 * SECOND));
    assert_eq!(branch.status.observed().proof_violations, 1);
}

/// Whatever is said, every commit that it is wrong about is counted, and no other.
#[tokio::test(start_paused = true)]
async fn every_commit_that_contradicts_what_was_said_is_counted() {
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..50 {
        let branch = context();
        let mut keeper = keeper(&branch, None);
        let (mut lsn, mut clock, mut violations) = (1000, 0, 0);
        for _ in 0..300 {
            clock += i64::try_from(random(1000)).unwrap();
            let said = branch.status.observed().proven_at;
            match random(4) {
                0 => {
                    let flushed = Lsn(lsn - random(200));
                    let _ = keeper.claim(flushed, PgTimestamp(clock));
                }
                1 => {
                    let _ = keeper.durable(Lsn(lsn - random(100)));
                }
                _ => {
                    lsn += 50;
                    let late = i64::try_from(random(2000)).unwrap();
                    let time = PgTimestamp(clock - late);
                    violations += u64::from(said.is_some_and(|said| time <= said));
                    keeper.committed(commit(lsn, time.0));
                }
            }
        }
        assert_eq!(branch.status.observed().proof_violations, violations);
    }
}

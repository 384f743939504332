//! How long window, moments and plan take over an index of ten million commits, through the real functions, with the
//! index in a directory on disk.
//!
//! `cargo run --release -p restorer --example ten_million_commits`
//!
//! The segments are empty: all that the answers need is in the index. A plan for a time among the commits reads the
//! records of one or two segments besides.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bus::Bus;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use events::event::BackupSummary;
use events::moments::MomentsQuestion;
use events::plan::{RestoreAnswer, RestoreQuestion};
use events::window::WindowQuestion;
use events::{
    BackupId, BackupType, BranchName, ClusterSize, InstanceName, RestoreTarget, Timestamp, Trigger,
};
use pg_format::wal::RelationFile;
use pg_format::{Lsn, PgTimestamp, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize};
use repository::{
    BackupOptions, BranchWriter, EntryKind, EntryPath, FileHeader, Repository, RetryPolicy,
    WalPosition,
};
use restorer::compute::{LocalCompute, compute_account};
use restorer::plan::Policy;
use restorer::restorer::{Memory, Restorer};
use service::{MasterKey, SystemClock};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wal_index::{Ends, Interval, SegmentIndex, TransactionEnd, TransactionEvent, WalEvent};

const COMMITS: u64 = 10_000_000;
const SEGMENTS: u64 = 960;
const FIRST: u64 = 64;
/// As `pgbench` with one client for each of a few processors does.
const COMMITS_A_SECOND: u64 = 2_000;
const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

/// The beginning of the story, well in the past.
fn begin() -> Timestamp {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default()
}

fn time_of(commit: u64) -> PgTimestamp {
    let micros = commit * 1_000_000 / COMMITS_A_SECOND;
    PgTimestamp::from_unix_micros(begin().timestamp_micros() + micros as i64)
}

/// The index of one segment: an interval for each half mebibyte, as the builder cuts them.
fn segment(number: u64) -> SegmentIndex {
    const INTERVALS: u64 = 32;
    let (start, end) = (SIZE.start_of(number), SIZE.start_of(number + 1));
    let (first, after) = (number - FIRST, number - FIRST + 1);
    let commits = first * COMMITS / SEGMENTS..after * COMMITS / SEGMENTS;
    let count = commits.end - commits.start;
    let interval = |at: u64| {
        let bytes = SIZE.bytes() / INTERVALS;
        // The last commit has an interval for itself: then its records need not be read.
        let border = |at: u64| match number == FIRST + SEGMENTS - 1 && at == INTERVALS - 1 {
            true => commits.end - 1,
            false => commits.start + at * count / INTERVALS,
        };
        let (from, to) = (border(at), border(at + 1));
        let end = Lsn(start.0 + (at + 1) * bytes);
        let last = TransactionEnd {
            lsn: Lsn(end.0 - 64),
            end,
            time: time_of(to - 1),
            xid: 1_000 + (to - 1) as u32,
            committed: true,
        };
        Interval {
            start: Lsn(start.0 + at * bytes),
            end,
            ends: Some(Ends {
                count: (to - from) as u32,
                commits: (to - from) as u32,
                min_time: time_of(from),
                max_time: last.time,
                min_xid: 1_000 + from as u32,
                max_xid: last.xid,
                last,
                last_commit: last.commit(),
            }),
        }
    };
    let intervals: Vec<Interval> = (0..INTERVALS).map(interval).collect();
    let dropped = intervals.get(3).and_then(|one| one.ends.as_ref());
    let events = dropped.map(|ends| {
        WalEvent::Transaction(TransactionEvent {
            commit: ends.last,
            previous: None,
            latest_before: Some(ends.min_time),
            database: Some(5),
            dropped: vec![RelationFile {
                tablespace: 1663,
                database: 5,
                number: 20_000 + number as u32,
            }],
            dropped_more: 0,
            created: Vec::new(),
            created_more: 0,
            dropped_databases: Vec::new(),
            truncated: Vec::new(),
            rows: Vec::new(),
        })
    });
    SegmentIndex {
        segment: number,
        start,
        end,
        intervals,
        events: events.into_iter().collect(),
        open: Vec::new(),
        undecoded: 0,
    }
}

async fn back_up(writer: &BranchWriter) -> Result<()> {
    let id = BackupId(Uuid::from_u128(1));
    let mut files = writer.begin_backup(id, "a", BackupOptions::default())?;
    let content = Bytes::from_static(b"max_connections = 100\n");
    let header = FileHeader {
        path: EntryPath::data("postgresql.conf"),
        kind: EntryKind::File,
        mode: 0o600,
        size: content.len() as u64,
        modified_unix_secs: 0,
    };
    files.begin_file(header).await?;
    files.write(content).await?;
    files.end_file().await?;
    let stored = files.finish().await?;
    let summary = BackupSummary {
        backup_id: id,
        instance: writer.instance().clone(),
        branch: writer.branch().clone(),
        name: "bench".to_owned(),
        backup_type: BackupType::Full,
        trigger: Trigger::Manual,
        schedule_id: None,
        requested_at: begin(),
        started_at: begin(),
        backed_up_at: begin(),
        ended_at: None,
        expires_at: None,
        wal_until: None,
        start_lsn: SIZE.start_of(FIRST),
        stop_lsn: Lsn(SIZE.start_of(FIRST).0 + SIZE.bytes() / 32),
        timeline: TimelineId(1),
        system_identifier: SystemIdentifier(7),
        server_version: 180_000,
        wal_segment_size: SIZE,
        logical_bytes: stored.totals.logical_bytes,
        stored_bytes: stored.totals.stored_bytes,
        files: stored.totals.files,
        attempt: "a".to_owned(),
        damaged_pages: Vec::new(),
    };
    let _ = stored.commit(summary).await?;
    Ok(())
}

async fn fill(writer: &BranchWriter) -> Result<()> {
    back_up(writer).await?;
    let empty = Bytes::from(vec![0; usize::try_from(SIZE.bytes())?]);
    let numbers: Vec<u64> = (FIRST..FIRST + SEGMENTS).collect();
    for number in &numbers {
        let name = SegmentName::new(TimelineId(1), *number, SIZE);
        let _ = writer.put_segment(name, empty.clone()).await?;
    }
    for group in numbers.chunk_by(|a, b| a / 64 == b / 64) {
        let segments: Vec<SegmentIndex> = group.iter().map(|number| segment(*number)).collect();
        writer.put_wal_index(TimelineId(1), &segments).await?;
    }
    let proven_at = begin() + TimeDelta::seconds((COMMITS / COMMITS_A_SECOND) as i64 + 1);
    let position = WalPosition {
        timeline: TimelineId(1),
        lsn: SIZE.start_of(FIRST + SEGMENTS),
        proven_at,
        first_segment: SegmentName::new(TimelineId(1), FIRST, SIZE).to_string(),
        updated: proven_at,
    };
    Ok(writer.put_wal_position(&position).await?)
}

async fn run() -> Result<()> {
    let place = tempfile::tempdir()?;
    let url = format!("file://{}", place.path().join("repository").display());
    std::fs::create_dir(place.path().join("repository"))?;
    let repository = Repository::open(&url, RetryPolicy::default())?;
    let (instance, branch) = (InstanceName::new("bench")?, BranchName::main());
    fill(&repository.writer(&instance, &branch)).await?;
    let compute = LocalCompute::new(
        place.path().join("compute"),
        compute_account("postgres")?,
        Vec::new(),
    );
    let restorer = Restorer {
        bus: Bus::in_memory(),
        repository,
        compute: Arc::new(compute),
        key: Arc::new(MasterKey::from_bytes(&[7; 32])),
        clock: Arc::new(SystemClock),
        policy: Policy {
            min_target_age: Duration::from_secs(120),
            room_bytes: 1 << 30,
        },
        name: "bench".to_owned(),
        parallelism: 4,
        memory: Memory::default(),
        drain: CancellationToken::new(),
    };
    let mut out = std::io::stdout();
    for pass in ["first", "again"] {
        let begun = Instant::now();
        let question = WindowQuestion {
            instance: instance.clone(),
            branch: branch.clone(),
        };
        let window = restorer.window(&question).await?;
        let took = begun.elapsed().as_millis();
        writeln!(out, "{pass} window: {took} ms ({:?})", window.complete)?;

        let begun = Instant::now();
        let found = restorer
            .moments(&MomentsQuestion {
                instance: instance.clone(),
                branch: branch.clone(),
                from: None,
                to: None,
                only_drops: true,
                limit: None,
            })
            .await?;
        let took = begun.elapsed().as_millis();
        let commits: u64 = found.buckets.iter().map(|bucket| bucket.commits).sum();
        let many = found.moments.len();
        writeln!(
            out,
            "{pass} moments: {took} ms ({many} of them, {commits} commits)"
        )?;

        let begun = Instant::now();
        let answer = restorer
            .answer(RestoreQuestion {
                instance: instance.clone(),
                source_branch: branch.clone(),
                branch: None,
                target: RestoreTarget::Time {
                    at: begin() + TimeDelta::seconds((COMMITS / COMMITS_A_SECOND) as i64),
                },
                size: ClusterSize::Dev,
            })
            .await;
        let took = begun.elapsed().as_millis();
        let RestoreAnswer::Possible(preview) = answer else {
            anyhow::bail!("{answer:?}");
        };
        let last = preview.plan.last_commit.context("no last commit")?;
        writeln!(
            out,
            "{pass} plan: {took} ms (the last commit is {})",
            last.xid
        )?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run())
}

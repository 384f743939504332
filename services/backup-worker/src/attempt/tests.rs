//! Attempts at a real PostgreSQL; bus and repository are in memory.

mod clocks;
mod vanished;

use std::time::Duration;

use bus::{Decision, Handler as _, Outcome, Sequence};
use events::document::Sweep;
use events::event::{BackupProgressed, FailureCause};
use events::{CommandId, DiskRiskPolicy, Event, InstanceDocument, SweepId, example, topology};
use futures::StreamExt as _;
use pg_format::{Lsn, WalSegmentSize};
use testkit::postgres::Postgres;
use tokio::time::Instant;

use super::*;
use crate::jobs::tests::Place;

const MIB: f64 = 1_048_576.0;

/// A worker on a bus of its own, to which this server is registered.
async fn place(server: &Postgres, config: WorkerConfig) -> Place {
    let mut place = Place::on(Bus::in_memory());
    place.jobs.world.rates = Rates::of(&config);
    place.jobs.world.config = config;
    register(&place, server, None).await;
    place
}

async fn register(place: &Place, server: &Postgres, sweep: Option<Sweep>) {
    let (world, request) = (&place.jobs.world, &place.request);
    let (instance, branch) = (&request.instance, &request.branch);
    let system = server
        .psql("SELECT system_identifier FROM pg_control_system()")
        .await
        .unwrap();
    let active = ActiveBranch {
        dsn: world
            .master_key
            .seal(&server.dsn(), &dsn_context(instance, branch))
            .unwrap(),
        system_identifier: SystemIdentifier(system.trim().parse().unwrap()),
        timeline: TimelineId(1),
        server_version: 180_000,
        wal_segment_size: WalSegmentSize::DEFAULT,
        origin: None,
        size: None,
        created_at: example::at(0),
        archive_mode: ArchiveMode::Stream,
        disk_risk: DiskRiskPolicy::default(),
    };
    let document = InstanceDocument {
        branches: [(branch.clone(), Branch::Active(active))].into(),
        sweeps: sweep
            .map(|sweep| (branch.clone(), sweep))
            .into_iter()
            .collect(),
        ..InstanceDocument::new(
            instance.clone(),
            CommandId(uuid::Uuid::nil()),
            example::at(0),
        )
    };
    let put = |_: Option<&InstanceDocument>| Decision::Put(document.clone().into(), ());
    world.bus.instances().update(instance, put).await.unwrap();
}

/// A sweep of all WAL before this.
fn sweep_before(to_lsn: Lsn) -> Option<Sweep> {
    let stretch = WalStretch {
        timeline: TimelineId(1),
        from_lsn: Lsn(0),
        to_lsn,
    };
    let sweep = serde_json::json!({
        "sweep_id": SweepId(uuid::Uuid::from_u128(7)),
        "asked_at": example::at(0),
        "backups": [],
        "wal": [stretch],
    });
    Some(serde_json::from_value(sweep).unwrap())
}

fn without_an_archive() -> WorkerConfig {
    WorkerConfig {
        backup_wal_timeout: Duration::from_millis(200),
        ..WorkerConfig::default()
    }
}

async fn progress(place: &Place) -> Vec<BackupProgressed> {
    let bus = &place.jobs.world.bus;
    let said = bus.history(Vec::new(), Sequence::NONE, topology::EVENTS);
    let said = said.await.unwrap();
    let progress = said.filter_map(async |stored| match stored.unwrap().envelope.message {
        Event::BackupProgressed(progressed) => Some(progressed),
        _ => None,
    });
    progress.collect().await
}

async fn wal_position(server: &Postgres) -> Lsn {
    let said = server.psql("SELECT pg_current_wal_insert_lsn()").await;
    said.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_backup_that_begins_in_wal_that_goes_is_tried_again_and_in_the_end_told() {
    let server = Postgres::builder().start().await.unwrap();
    let place = place(&server, without_an_archive()).await;
    register(&place, &server, sweep_before(Lsn(1 << 60))).await;
    let outcome = place.jobs.handle(&place.delivery(false)).await;
    let Outcome::Retry { reason, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(reason.contains("is deleting"), "{reason}");
    // Retention saw where it began, and nothing says that it is over.
    let Event::BackupProgressed(last) = place.last_said().await else {
        panic!("{:?}", place.last_said().await);
    };
    assert!(last.start.is_some());

    assert_eq!(
        place.jobs.handle(&place.delivery(true)).await,
        Outcome::Done
    );
    let Event::BackupFailed(failed) = place.last_said().await else {
        panic!("{:?}", place.last_said().await);
    };
    assert_eq!(failed.cause, FailureCause::Wal);
    assert!(failed.message.contains("is deleting"), "{}", failed.message);
    assert!(failed.hint.contains("standby"), "{}", failed.hint);
}

#[tokio::test]
async fn where_a_backup_begins_is_told_before_its_first_byte_and_as_long_as_it_runs() {
    let server = Postgres::builder().start().await.unwrap();
    let place = place(&server, without_an_archive()).await;
    let before = wal_position(&server).await;
    // What is swept up to there is not needed.
    register(&place, &server, sweep_before(before)).await;
    let outcome = place.jobs.handle(&place.delivery(true)).await;
    assert_eq!(outcome, Outcome::Done);
    let after = wal_position(&server).await;
    let Event::BackupFailed(failed) = place.last_said().await else {
        panic!("{:?}", place.last_said().await);
    };
    assert!(failed.message.contains("archive"), "{}", failed.message);

    let told = progress(&place).await;
    assert_eq!(
        (told[0].phase, told[0].start),
        (BackupPhase::Checkpoint, None)
    );
    let start = told[1].start.unwrap();
    assert_eq!(
        (told[1].phase, told[1].done_bytes),
        (BackupPhase::Copying, 0)
    );
    assert_eq!(start.timeline, TimelineId(1));
    assert!(
        before <= start.lsn && start.lsn <= after,
        "{before} {start:?} {after}"
    );
    assert!(told[1..].iter().all(|told| told.start == Some(start)));
    assert_eq!(told.last().unwrap().phase, BackupPhase::WaitingForWal);
}

/// A server with 24 MiB of its own beside the 23 MiB of an empty one; nothing makes them smaller.
async fn filled() -> Postgres {
    let server = Postgres::builder().start().await.unwrap();
    let sql = "CREATE TABLE filler AS SELECT i, (SELECT string_agg(sha256((i || ':' || j)::bytea), '') \
               FROM generate_series(1, 50) j) AS noise FROM generate_series(1, 15000) i; CHECKPOINT";
    let _ = server.psql(sql).await.unwrap();
    server
}

/// What was read and stored, in bytes.
async fn take(place: &Place) -> (f64, f64) {
    let mut attempt = place.attempt("measured").await;
    let (branch, dsn) = attempt.source().await.unwrap();
    let taken = Box::pin(attempt.take(&branch, &dsn)).await.unwrap();
    let totals = &taken.stored.totals;
    (totals.logical_bytes as f64, totals.stored_bytes as f64)
}

/// Not faster than the limit by more than a tenth, and not slower.
fn within_a_tenth(bytes: f64, took: Duration, limit_mib: f64) {
    let rate = bytes / MIB / took.as_secs_f64();
    assert!(
        (0.9..=1.1).contains(&(rate / limit_mib)),
        "{rate:.2} MiB/s, the limit is {limit_mib}; {:.1} MiB in {took:.1?}",
        bytes / MIB
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_alone_and_two_at_once_are_read_at_the_workers_rate() {
    let server = filled().await;
    let config = WorkerConfig {
        worker_max_rate_kib: 8 * 1024,
        ..WorkerConfig::default()
    };
    let first = place(&server, config.clone()).await;
    let begun = Instant::now();
    let (read, _) = take(&first).await;
    within_a_tenth(read, begun.elapsed(), 8.0);

    let mut second = place(&server, config).await;
    second.jobs.world.rates = first.jobs.world.rates.clone();
    let begun = Instant::now();
    let ((one, _), (other, _)) = tokio::join!(take(&first), take(&second));
    within_a_tenth(one + other, begun.elapsed(), 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_stored_at_the_stores_rate() {
    let server = filled().await;
    let config = WorkerConfig {
        store_max_rate_kib: 3 * 1024,
        ..WorkerConfig::default()
    };
    let place = place(&server, config).await;
    let begun = Instant::now();
    let (_, stored) = take(&place).await;
    within_a_tenth(stored, begun.elapsed(), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_sends_one_backup_at_its_own_rate() {
    let server = filled().await;
    let config = WorkerConfig {
        backup_max_rate_kib: 6 * 1024,
        ..WorkerConfig::default()
    };
    let place = place(&server, config).await;
    let begun = Instant::now();
    let (read, _) = take(&place).await;
    within_a_tenth(read, begun.elapsed(), 6.0);
}

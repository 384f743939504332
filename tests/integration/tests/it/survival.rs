//! Anything may be killed at any time; nothing is lost and nothing happens twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bus::From;
use events::{BackupId, BranchName, Event, InstanceName, topology};
use futures::StreamExt;
use integration::{DIGEST, Ledger, PATIENCE, Stack, Store};
use pg_format::{Lsn, WalSegmentSize};
use repository::WalObjectKind;
use testkit::postgres::Postgres;
use testkit::s3::S3Server;
use testkit::wait_until;

use crate::exactness::{text, wait_archived};

/// Slow enough to be killed in the middle, quick enough to wait for.
const SLOW_KIB_PER_SECOND: &str = "16384";

async fn with_history() -> Result<Postgres> {
    Postgres::builder()
        .setting("track_commit_timestamp", "on")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_backup_is_finished_once_by_the_other() -> Result<()> {
    let mut stack = Stack::builder()
        .workers(2)
        .env("ZEKTOR_BACKUP_MAX_RATE_KIB", SLOW_KIB_PER_SECOND)
        .start()
        .await?;
    let (first, second) = (with_history().await?, with_history().await?);
    for (name, postgres) in [("first", &first), ("second", &second)] {
        let fill = "CREATE TABLE filler AS SELECT n, md5(n::text) || md5((n + 1)::text) AS text \
                    FROM generate_series(1, 700000) n";
        let _output = postgres.psql(fill).await?;
        stack.register(name, postgres).await?;
    }
    let asked = stack.zektor_ok(&["backup", "create", "first"]).await?;
    let first_id: BackupId = text(&asked, "id")?.parse()?;
    let asked = stack.zektor_ok(&["backup", "create", "second"]).await?;
    let second_id: BackupId = text(&asked, "id")?.parse()?;

    let worker = worker_in_the_middle_of(&stack, first_id).await?;
    let _status = stack.service(&worker).kill9().await?;

    for (name, id) in [("first", first_id), ("second", second_id)] {
        wait_until("both backups to complete", PATIENCE, async || {
            let shown = stack
                .zektor(&["backup", "show", name, &id.to_string()])
                .await;
            shown.is_ok_and(|shown| shown.json["status"] == "completed")
        })
        .await?;
        ensure!(
            endings(&stack, id).await? == 1,
            "{name}: not exactly one completed"
        );
        let listed = stack.zektor_ok(&["backup", "list", name]).await?;
        ensure!(
            listed["backups"].as_array().map(Vec::len) == Some(1),
            "{listed}"
        );
        let branch = stack
            .repository()?
            .reader(&InstanceName::new(name)?, &BranchName::main());
        let manifests = branch.manifests().await?;
        ensure!(
            manifests.len() == 1,
            "{} manifests of {name}",
            manifests.len()
        );
        ensure!(
            branch.verify(&manifests[0], &|_| {}).await?.is_sound(),
            "{name} does not verify"
        );
    }
    Ok(())
}

/// The worker whose `started` is followed by copying progress.
async fn worker_in_the_middle_of(stack: &Stack, id: BackupId) -> Result<String> {
    let bus = stack.bus().await?;
    let subjects = vec!["zektor.backup.>".to_owned()];
    let mut events = Box::pin(bus.follow(subjects, From::Start, topology::EVENTS));
    let mut worker = None;
    while let Some(stored) = events.next().await {
        match stored?.envelope.message {
            Event::BackupStarted(started) if started.backup_id == id => {
                worker = Some(started.worker)
            }
            Event::BackupProgressed(progress)
                if progress.backup_id == id && progress.done_bytes > 0 =>
            {
                return worker.context("progress before the start");
            }
            Event::BackupCompleted(completed) if completed.backup_id == id => {
                anyhow::bail!("the backup completed before its worker could be killed");
            }
            _ => {}
        }
    }
    anyhow::bail!("the events ended")
}

/// How many `completed` and `failed` a backup has.
async fn endings(stack: &Stack, id: BackupId) -> Result<usize> {
    let bus = stack.bus().await?;
    let last = bus.stream_state(topology::EVENTS).await?.last;
    let subjects = vec!["zektor.>".to_owned()];
    let mut events = Box::pin(bus.follow(subjects, From::Start, topology::EVENTS));
    let mut count = 0;
    while let Some(stored) = events.next().await {
        let stored = stored?;
        match stored.envelope.message {
            Event::BackupCompleted(completed) if completed.backup_id == id => count += 1,
            Event::BackupFailed(failed) if failed.backup_id == id => count += 1,
            _ => {}
        }
        if stored.sequence >= last {
            break;
        }
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn archiver_nats_catalog_and_store_are_killed_under_load_without_a_gap() -> Result<()> {
    let mut stack = Stack::builder()
        .store(Store::S3(S3Server::start().await?))
        .start()
        .await?;
    let mut postgres = with_history().await?;
    stack.register("orders", &postgres).await?;
    let mut ledger = Ledger::create(&postgres).await?;
    let backup = stack.back_up("orders").await?;

    for round in 0..2 {
        load(&postgres, &mut ledger).await?;
        let _status = stack.service("wal-archiver").kill9().await?;
        load(&postgres, &mut ledger).await?;
        stack.service("wal-archiver").start_again().await?;
        load(&postgres, &mut ledger).await?;

        stack.nats.kill().await?;
        load(&postgres, &mut ledger).await?;
        stack.nats.start_again().await?;

        let _status = stack.service("catalog").kill9().await?;
        load(&postgres, &mut ledger).await?;
        stack.service("catalog").start_again().await?;

        if let Store::S3(store) = &mut stack.store {
            store.kill().await?;
        }
        load(&postgres, &mut ledger).await?;
        if let Store::S3(store) = &mut stack.store {
            store.start_again().await?;
        }
        if round == 0 {
            postgres.kill9().await?;
            postgres.start_again().await?;
            ledger.reconnect(&postgres).await?;
        }
    }
    let last = ledger.last().clone();
    wait_archived(&stack, last.lsn).await?;
    read_from_end_to_end(
        &stack,
        &postgres,
        text(&backup, "start_lsn")?.parse()?,
        last.lsn,
    )
    .await?;

    let status = stack.zektor_ok(&["wal", "status", "orders"]).await?;
    ensure!(
        status["gaps"].as_array().is_some_and(Vec::is_empty),
        "{status}"
    );
    let restored = stack
        .zektor_ok(&["restore", "orders", "--latest", "--as", "after", "--wait"])
        .await?;
    let digest = postgres
        .psql_as(&text(&restored, "connection_uri")?, DIGEST)
        .await?;
    ensure!(digest == last.digest, "{digest}, not {}", last.digest);
    announced_what_is_archived(&stack).await
}

/// A few commits, and enough WAL to fill segments.
async fn load(postgres: &Postgres, ledger: &mut Ledger) -> Result<()> {
    ledger.write(10).await?;
    let bulk = "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS text \
                FROM generate_series(1, 40000) n; DROP TABLE bulk";
    let _output = postgres.psql(bulk).await?;
    ledger.write(10).await
}

/// PostgreSQL's own reader accepts every record of the archived chain.
async fn read_from_end_to_end(
    stack: &Stack,
    postgres: &Postgres,
    from: Lsn,
    to: Lsn,
) -> Result<()> {
    let branch = stack
        .repository()?
        .reader(&InstanceName::new("orders")?, &BranchName::main());
    let size = WalSegmentSize::DEFAULT;
    let directory = stack.fresh_directory("archived-wal")?;
    for object in branch.list_wal(size).await? {
        let (name, mut bytes) = match object.kind {
            WalObjectKind::Segment(name) => (name, branch.get_segment(name).await?.to_vec()),
            WalObjectKind::Partial(name) => (name, branch.get_partial(name).await?.to_vec()),
            WalObjectKind::History => continue,
        };
        bytes.resize(usize::try_from(size.bytes())?, 0);
        std::fs::write(directory.join(name.to_string()), bytes)?;
    }
    let output = std::process::Command::new(postgres.bin("pg_waldump")?)
        .arg("--quiet")
        .arg(format!("--path={}", directory.display()))
        .arg(format!("--start={from}"))
        .arg(format!("--end={to}"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "pg_waldump from {from} to {to}: {said}"
    );
    Ok(())
}

/// Every archived segment is known to the catalog, though NATS was away.
async fn announced_what_is_archived(stack: &Stack) -> Result<()> {
    let branch = stack
        .repository()?
        .reader(&InstanceName::new("orders")?, &BranchName::main());
    let objects = branch.list_wal(WalSegmentSize::DEFAULT).await?;
    let archived = objects
        .iter()
        .filter(|o| matches!(o.kind, WalObjectKind::Segment(_)))
        .count();
    wait_until(
        "the catalog to know every segment",
        Duration::from_secs(60),
        async || {
            let status = stack.zektor(&["wal", "status", "orders"]).await;
            status.is_ok_and(|status| status.json["segments"].as_u64() == Some(archived as u64))
        },
    )
    .await
}

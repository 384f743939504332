//! Random moments among concurrent, aborted and prepared transactions: the branch is what PostgreSQL's own recovery
//! gives for the same time, and what was foretold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use events::envelope::rfc3339;
use integration::oracle::{self, Oracle};
use integration::workload::{self, Dice, WORKLOAD_DIGEST};
use integration::{Stack, rounds};
use testkit::postgres::{PgVersion, Postgres};

use crate::exactness::text;

/// The last commit in the order of the WAL; nothing when this server has not replayed one.
const LAST_COMMIT: &str =
    "SELECT (extract(epoch FROM timestamp) * 1000000)::bigint FROM pg_last_committed_xact()";
const SESSIONS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn random_moments_equal_postgresqls_own_recovery_on_14() {
    println!("{}", random_moments(PgVersion::V14).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_moments_equal_postgresqls_own_recovery_on_15() {
    println!("{}", random_moments(PgVersion::V15).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_moments_equal_postgresqls_own_recovery_on_16() {
    println!("{}", random_moments(PgVersion::V16).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_moments_equal_postgresqls_own_recovery_on_17() {
    println!("{}", random_moments(PgVersion::V17).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_moments_equal_postgresqls_own_recovery_on_18() {
    println!("{}", random_moments(PgVersion::V18).await.unwrap());
}

/// `ZEKTOR_TEST_TARGETS` moments of a version; a few unless it is set.
async fn random_moments(version: PgVersion) -> Result<String> {
    let archive = oracle::archive_directory()?;
    let builder = Postgres::builder()
        .version(version)
        .setting("track_commit_timestamp", "on")
        .setting("max_prepared_transactions", "20");
    let source = oracle::archiving(builder, &archive).start().await?;
    workload::create(&source).await?;
    let mut oracle = Oracle::copy_of(&source, archive).await?;
    let stack = Stack::builder().start().await?;
    stack.register("orders", &source).await?;

    let stop = AtomicBool::new(false);
    let sessions = (1..=SESSIONS).map(|seed| workload::session(&source, seed, &stop));
    let (done, ended) = tokio::join!(futures::future::try_join_all(sessions), async {
        let backup = stack.back_up("orders").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        stop.store(true, Ordering::Relaxed);
        backup
    });
    let (transactions, backup) = (done?.iter().sum::<u64>(), ended?);
    ensure!(transactions > 100, "only {transactions} transactions");
    // One more commit, so that every target is followed by one; and its WAL goes where the oracle reads.
    let last = source
        .psql("INSERT INTO work (id) VALUES ('last'); SELECT clock_timestamp()")
        .await?;
    let _lsn = source.psql("SELECT pg_switch_wal(); CHECKPOINT").await?;
    let last_row_at = source
        .psql("SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM work WHERE id = 'last'")
        .await?;
    let end = DateTime::from_timestamp_micros(last_row_at.parse()?).context(last)?;
    let begin: DateTime<Utc> = text(&backup, "backed_up_at")?.parse()?;

    let span = (end - begin).num_microseconds().context("a long time")?;
    let mut dice = Dice(0x1234_5678_9ABC_DEF1 ^ version as u64);
    let mut moments: Vec<DateTime<Utc>> = (0..rounds("ZEKTOR_TEST_TARGETS", 3))
        .map(|_| begin + TimeDelta::microseconds(dice.below(span.unsigned_abs()).cast_signed()))
        .collect();
    // The very commit, and just before it.
    let some_commit = source
        .psql("SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM work WHERE id = '3-200-a' OR id LIKE '2-1%-a' ORDER BY 1 DESC LIMIT 1")
        .await?;
    let some_commit = DateTime::from_timestamp_micros(some_commit.parse()?).context("a time")?;
    moments.extend([some_commit, some_commit - TimeDelta::microseconds(1)]);
    moments.retain(|moment| *moment >= begin && *moment < end);
    moments.sort();
    for (number, moment) in moments.iter().enumerate() {
        let expected = oracle.at(*moment, &[WORKLOAD_DIGEST, LAST_COMMIT]).await?;
        check(&stack, &source, number, *moment, &expected).await?;
    }
    Ok(format!(
        "postgresql {version}: {} moments among {transactions} transactions",
        moments.len()
    ))
}

async fn check(
    stack: &Stack,
    source: &Postgres,
    number: usize,
    moment: DateTime<Utc>,
    expected: &[String],
) -> Result<()> {
    let (branch, time) = (format!("b{number}"), rfc3339(moment));
    let target = ["restore", "orders", "--time", &time, "--as", &branch];
    let foretold = stack
        .zektor_ok(&[&target[..], &["--dry-run"]].concat())
        .await?;
    let restored = stack
        .zektor_ok(&[&target[..], &["--wait"]].concat())
        .await?;
    let uri = text(&restored, "connection_uri")?;
    let rows = source.psql_as(&uri, WORKLOAD_DIGEST).await?;
    ensure!(
        rows == expected[0],
        "{time}: {rows}, postgresql's own recovery has {}; {restored}",
        expected[0]
    );
    ensure!(
        foretold["last_commit_at"] == restored["last_commit_at"],
        "{time}: foretold {foretold}, came out {restored}"
    );
    if let Ok(micros) = expected[1].parse() {
        let last: DateTime<Utc> = text(&restored, "last_commit_at")?.parse()?;
        ensure!(
            Some(last) == DateTime::from_timestamp_micros(micros),
            "{time}: last commit {last}, postgresql's own recovery has {micros}"
        );
    }
    let _gone = stack
        .zektor_ok(&["branch", "delete", "orders", &branch, "--wait"])
        .await?;
    Ok(())
}

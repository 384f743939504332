//! The promise itself: any moment comes back, exactly.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use events::envelope::rfc3339;
use integration::{Ledger, PATIENCE, Stack};
use pg_format::Lsn;
use serde_json::Value;
use testkit::postgres::{PgVersion, Postgres};

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_on_postgresql_14() {
    every_moment_comes_back(PgVersion::V14).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_on_postgresql_15() {
    every_moment_comes_back(PgVersion::V15).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_on_postgresql_16() {
    every_moment_comes_back(PgVersion::V16).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_on_postgresql_17() {
    every_moment_comes_back(PgVersion::V17).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_on_postgresql_18() {
    every_moment_comes_back(PgVersion::V18).await.unwrap();
}

async fn every_moment_comes_back(version: PgVersion) -> Result<()> {
    let postgres = Postgres::builder()
        .version(version)
        .setting("track_commit_timestamp", "on")
        .start()
        .await?;
    let stack = Stack::builder().start().await?;
    let mut ledger = Ledger::create(&postgres).await?;
    ledger.write(40).await?;
    stack.register("orders", &postgres).await?;

    // Rows are written all the while the backup is taken.
    let backed_up = AtomicBool::new(false);
    let (backup, written) = tokio::join!(
        async {
            let backup = stack.back_up("orders").await;
            backed_up.store(true, Ordering::Relaxed);
            backup
        },
        async {
            while !backed_up.load(Ordering::Relaxed) {
                ledger.write(1).await?;
            }
            anyhow::Ok(())
        },
    );
    let backup = backup?;
    written?;
    ledger.write(200).await?;

    let points = ledger.points();
    let ended_at: DateTime<Utc> = text(&backup, "backed_up_at")?.parse()?;
    let after_end = points
        .iter()
        .position(|p| p.committed_at > ended_at)
        .context("no commit later")?;

    let restore = Restores {
        stack: &stack,
        postgres: &postgres,
    };
    // Between two commits.
    let (earlier, later) = (&points[after_end + 20], &points[after_end + 21]);
    let between = earlier.committed_at + (later.committed_at - earlier.committed_at) / 2;
    let digest = &ledger.at(between).context("no state")?.digest;
    restore
        .check("between", &["--time", &rfc3339(between)], &[digest])
        .await?;
    // On a commit: that commit is in, the next is not.
    let on = &points[after_end + 60];
    restore
        .check(
            "on-commit",
            &["--time", &rfc3339(on.committed_at)],
            &[&on.digest],
        )
        .await?;
    let just_before = on.committed_at - TimeDelta::microseconds(1);
    let before = &ledger.at(just_before).context("no state")?.digest;
    restore
        .check("just-before", &["--time", &rfc3339(just_before)], &[before])
        .await?;
    // Right after the backup's end.
    let first = &ledger.at(ended_at).context("no state")?.digest;
    restore
        .check("first", &["--time", &rfc3339(ended_at)], &[first])
        .await?;
    // A position.
    let at_lsn = &points[after_end + 100];
    restore
        .check(
            "at-lsn",
            &["--lsn", &at_lsn.lsn.to_string()],
            &[&at_lsn.digest],
        )
        .await?;
    // Everything there is.
    restore
        .check("latest", &["--latest"], &[&ledger.last().digest])
        .await?;
    // The backup alone: its stop LSN lies between the notes of two commits, and is one of these states.
    let stop: Lsn = text(&backup, "stop_lsn")?.parse()?;
    let last_in = points
        .iter()
        .rposition(|p| p.lsn <= stop)
        .context("no commit before")?;
    let states = [&*points[last_in].digest, &*points[last_in + 1].digest];
    restore
        .check("by-backup", &["--backup", &text(&backup, "id")?], &states)
        .await?;

    // The source was only read.
    let source = postgres.psql(integration::DIGEST).await?;
    ensure!(
        source == ledger.last().digest,
        "the source changed: {source}"
    );
    Ok(())
}

struct Restores<'a> {
    stack: &'a Stack,
    postgres: &'a Postgres,
}

impl Restores<'_> {
    /// Restores to the target as a branch, and compares all rows with the oracle's.
    async fn check(&self, branch: &str, target: &[&str], expected: &[&str]) -> Result<()> {
        let mut arguments = vec!["restore", "orders", "--as", branch, "--wait"];
        arguments.extend(target);
        let answer = self.stack.zektor_ok(&arguments).await?;
        ensure!(answer["status"] == "completed", "{branch}: {answer}");
        let uri = text(&answer, "connection_uri")?;
        let digest = self.postgres.psql_as(&uri, integration::DIGEST).await?;
        ensure!(
            expected.contains(&&*digest),
            "{branch}: {digest}, not {expected:?}; {answer}"
        );
        // The branch is its own, writable cluster.
        let write = "INSERT INTO ledger (id, version, payload) VALUES (-1, 0, 'branch')";
        let _output = self.postgres.psql_as(&uri, write).await?;
        let _gone = self
            .stack
            .zektor_ok(&["branch", "delete", "orders", branch])
            .await?;
        Ok(())
    }
}

/// Waits until the archive is past a position.
pub(crate) async fn wait_archived(stack: &Stack, lsn: Lsn) -> Result<()> {
    testkit::wait_until("the archive to catch up", PATIENCE, async || {
        let status = stack.zektor(&["wal", "status", "orders"]).await;
        let archived = status.ok().and_then(|status| {
            status.json["archived_lsn"]
                .as_str()
                .and_then(|text| text.parse::<Lsn>().ok())
        });
        archived.is_some_and(|archived| archived >= lsn)
    })
    .await
}

/// A text field of an answer.
pub(crate) fn text(answer: &Value, field: &str) -> Result<String> {
    let value = answer[field]
        .as_str()
        .with_context(|| format!("no {field} in {answer}"))?;
    Ok(value.to_owned())
}

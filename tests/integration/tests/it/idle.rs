//! A database that nobody writes to: its window goes on with the clock, and a restart of anything is no gap.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use integration::{DIGEST, Ledger, PATIENCE, Stack};
use service::{Clock, SystemClock};
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::text;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_databases_window_advances_through_every_restart_without_a_gap() -> Result<()> {
    let mut source = Postgres::builder()
        .setting("track_commit_timestamp", "on")
        .start()
        .await?;
    let mut stack = Stack::builder()
        .env("ZEKTOR_POSITION_INTERVAL", "1s")
        .start()
        .await?;
    let mut ledger = Ledger::create(&source).await?;
    stack.register("quiet", &source).await?;
    let _backup = stack.back_up("quiet").await?;
    ledger.write(3).await?;

    advances(&stack).await.context("while nothing happens")?;
    let _status = stack.service("wal-archiver").kill9().await?;
    stack.service("wal-archiver").start_again().await?;
    advances(&stack).await.context("the archiver restarted")?;
    source.restart().await?;
    advances(&stack).await.context("the server restarted")?;
    source.kill9().await?;
    source.start_again().await?;
    advances(&stack).await.context("the server was killed")?;
    stack.nats.kill().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stack.nats.start_again().await?;
    advances(&stack).await.context("nats was killed")?;

    let status = stack.zektor_ok(&["wal", "status", "quiet"]).await?;
    ensure!(
        status["gaps"].as_array().is_some_and(Vec::is_empty),
        "{status}"
    );
    let restored = stack
        .zektor_ok(&["restore", "quiet", "--latest", "--as", "copy", "--wait"])
        .await?;
    let uri = text(&restored, "connection_uri")?;
    let rows = source.psql_as(&uri, DIGEST).await?;
    ensure!(rows == ledger.last().digest, "{rows}");
    Ok(())
}

/// `latest` of the window passes the moment at which this was called; nothing is missing.
async fn advances(stack: &Stack) -> Result<()> {
    let now: DateTime<Utc> = SystemClock.now();
    wait_until("the window to pass that moment", PATIENCE, async || {
        let Ok(answer) = stack.zektor(&["window", "quiet"]).await else {
            return false;
        };
        let latest = answer.json["latest"]
            .as_str()
            .map(str::parse::<DateTime<Utc>>);
        latest.is_some_and(|latest| latest.is_ok_and(|latest| latest > now))
    })
    .await?;
    let window = stack.zektor_ok(&["window", "quiet"]).await?;
    ensure!(window["complete"] == true, "{window}");
    ensure!(
        window["gaps"].as_array().is_some_and(Vec::is_empty),
        "{window}"
    );
    Ok(())
}

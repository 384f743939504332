//! NATS and the catalog are lost, with all they had stored. The repository is enough.

use anyhow::{Result, ensure};
use integration::{DIGEST, Ledger, PATIENCE, Stack};
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::{text, wait_archived};

#[tokio::test(flavor = "multi_thread")]
async fn nats_and_catalog_are_lost_whole_and_everything_comes_back() -> Result<()> {
    let mut stack = Stack::builder().start().await?;
    let postgres = Postgres::builder()
        .setting("track_commit_timestamp", "on")
        .start()
        .await?;
    let mut ledger = Ledger::create(&postgres).await?;
    stack.register("orders", &postgres).await?;
    let backup = stack.back_up("orders").await?;
    ledger.write(20).await?;

    for name in ["catalog", "scheduler", "restorer", "backup-worker-1"] {
        let _status = stack.service(name).kill9().await?;
    }
    stack.nats.lose_everything().await?;
    let catalog = stack
        .variable("ZEKTOR_CATALOG_URL")
        .trim_start_matches("sqlite://")
        .to_owned();
    for suffix in ["", "-wal", "-shm"] {
        let _absent = std::fs::remove_file(format!("{catalog}{suffix}"));
    }
    ledger.write(20).await?;
    for name in ["catalog", "scheduler", "restorer", "backup-worker-1"] {
        stack.service(name).start_again().await?;
    }
    // The archiver was left alone: it went on, and announces again to a bus that knows nothing.
    wait_until("the instance to be recalled", PATIENCE, async || {
        stack
            .zektor(&["schedule", "list", "orders"])
            .await
            .is_ok_and(|answer| answer.code == 0)
    })
    .await?;
    let _rebuilt = stack
        .zektor_ok(&["catalog", "rebuild", "--from", "repository"])
        .await?;
    let listed = stack.zektor_ok(&["backup", "list", "orders"]).await?;
    ensure!(
        listed["backups"][0]["id"] == backup["id"],
        "{listed}, without {backup}"
    );
    wait_archived(&stack, ledger.last().lsn).await?;

    let restored = stack
        .zektor_ok(&["restore", "orders", "--latest", "--as", "after", "--wait"])
        .await?;
    let digest = postgres
        .psql_as(&text(&restored, "connection_uri")?, DIGEST)
        .await?;
    ensure!(
        digest == ledger.last().digest,
        "{digest}, not {}",
        ledger.last().digest
    );
    let again = stack.back_up("orders").await?;
    ensure!(again["status"] == "completed", "{again}");
    Ok(())
}

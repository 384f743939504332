//! Pain 7: the archive is down and `pg_wal` is on a small disk. The database goes on, and what is missing is told and
//! healed by a backup behind it.

use anyhow::{Result, ensure};
use integration::{DIGEST, Ledger, PATIENCE, Stack};
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::text;

const DISK: u64 = 16 << 20;
const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";
/// About a mebibyte of WAL; what is not held goes away.
const WRITE: &str = "INSERT INTO filler SELECT generate_series(1, 16000); CHECKPOINT";

#[tokio::test(flavor = "multi_thread")]
async fn with_the_archive_down_a_small_disk_is_freed_and_a_backup_heals_the_gap() -> Result<()> {
    let source = Postgres::builder()
        .wal_segment_size_mib(1)
        .setting("track_commit_timestamp", "on")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .start()
        .await?;
    let stack = Stack::builder()
        .env("ZEKTOR_SLOT_RISK_INTERVAL", "300ms")
        .env("ZEKTOR_SLOT_DISK_BYTES", DISK.to_string())
        .start()
        .await?;
    let mut ledger = Ledger::create(&source).await?;
    let _made = source.psql("CREATE TABLE filler (n int)").await?;
    let dsn = source.dsn();
    let add = [
        "instance",
        "add",
        "shop",
        "--dsn",
        &dsn,
        "--on-disk-risk",
        "release",
    ];
    let _added = stack.zektor_ok(&add).await?;
    let _backup = stack.back_up("shop").await?;
    ledger.write(5).await?;

    while_the_archive_is_down(&stack, &source).await?;
    wait_until("a backup behind the gap", PATIENCE, async || {
        let Ok(listed) = stack.zektor(&["backup", "list", "shop"]).await else {
            return false;
        };
        let backups = listed.json["backups"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        backups.len() == 2 && backups.iter().all(|backup| backup["status"] == "completed")
    })
    .await?;
    let status = stack.zektor_ok(&["wal", "status", "shop"]).await?;
    ensure!(status["gaps"][0]["cause"] == "released", "{status}");
    ensure!(
        status["gaps"]
            .as_array()
            .is_some_and(|gaps| gaps.len() == 1),
        "{status}"
    );
    ledger.write(5).await?;
    let restored = stack
        .zektor_ok(&["restore", "shop", "--latest", "--as", "healed", "--wait"])
        .await?;
    let uri = text(&restored, "connection_uri")?;
    let rows = source.psql_as(&uri, DIGEST).await?;
    ensure!(rows == ledger.last().digest, "{rows}");
    Ok(())
}

/// The slot is released, and the database goes on for far more than the disk would have held.
async fn while_the_archive_is_down(stack: &Stack, source: &Postgres) -> Result<()> {
    let here = stack.directory().join("repository");
    let away = stack.directory().join("repository.away");
    std::fs::rename(&here, &away)?;
    wait_until("the slot to be released", PATIENCE, async || {
        source.psql(WRITE).await.is_ok() && source.psql(SLOTS).await.is_ok_and(|slots| slots == "0")
    })
    .await?;
    for _ in 0..20 {
        let _written = source.psql(WRITE).await?;
    }
    let used = source.psql("SELECT sum(size) FROM pg_ls_waldir()").await?;
    ensure!(used.parse::<u64>()? < DISK, "{used} bytes in pg_wal");
    // The catalog hears of it a moment later.
    wait_until("the release to be told", PATIENCE, async || {
        let status = stack.zektor(&["wal", "status", "shop"]).await;
        status.is_ok_and(|status| status.json["slot_risk"]["level"] == "released")
    })
    .await?;
    std::fs::remove_dir_all(&here).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    std::fs::rename(&away, &here)?;
    Ok(())
}

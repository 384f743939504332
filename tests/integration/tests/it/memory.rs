//! The worker's memory does not follow the size of the database.

use anyhow::{Context, Result, ensure};
use integration::Stack;
use testkit::postgres::Postgres;

const LIMIT_MIB: u64 = 256;
const DATABASE_MIB: u64 = 2048;

/// 2 GiB that do not compress away: md5 of random numbers. Made with `wal_level = minimal`, which writes no
/// WAL for a table made in the same transaction, so that the test is about the backup and not about the load.
async fn two_gibibytes() -> Result<Postgres> {
    let mut postgres = Postgres::builder()
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .setting("max_wal_size", "8GB")
        .start()
        .await?;
    let random = ["md5(random()::text)"; 16].join(" || ");
    let fill = format!(
        "CREATE TABLE filler AS SELECT n, {random} AS text FROM generate_series(1, 3900000) n"
    );
    let _output = postgres.psql(&fill).await?;
    let settings = "ALTER SYSTEM SET wal_level = 'replica'; ALTER SYSTEM SET max_wal_senders = 10";
    let _output = postgres.psql(settings).await?;
    postgres.restart().await?;
    let bytes: u64 = postgres
        .psql("SELECT sum(pg_database_size(oid)) FROM pg_database")
        .await?
        .parse()?;
    ensure!(
        bytes >> 20 >= DATABASE_MIB,
        "only {} MiB were made",
        bytes >> 20
    );
    Ok(postgres)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gibibytes_are_backed_up_in_less_than_256_mebibytes() -> Result<()> {
    let postgres = two_gibibytes().await?;
    let mut stack = Stack::builder().start().await?;
    stack.register("big", &postgres).await?;
    let backup = stack.back_up("big").await?;
    ensure!(
        backup["logical_bytes"]
            .as_u64()
            .is_some_and(|b| b >> 20 >= DATABASE_MIB),
        "{backup}"
    );

    let pid = stack
        .service("backup-worker-1")
        .process_id()
        .context("the worker does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    println!(
        "{} MiB backed up in {} ms as {} MiB, worker's peak {} MiB",
        backup["logical_bytes"].as_u64().unwrap_or_default() >> 20,
        backup["duration_ms"],
        backup["size_bytes"].as_u64().unwrap_or_default() >> 20,
        peak_kib >> 10
    );
    ensure!(
        peak_kib >> 10 < LIMIT_MIB,
        "the worker's peak is {} MiB",
        peak_kib >> 10
    );
    Ok(())
}

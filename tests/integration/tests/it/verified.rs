//! PostgreSQL's own judgement of a copy that came out of the repository.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use events::{BranchName, InstanceName};
use integration::Stack;
use repository::Target;
use testkit::postgres::{PgVersion, Postgres};

use crate::exactness::text;

async fn a_copy_passes(version: PgVersion) -> Result<()> {
    let postgres = Postgres::builder().version(version).start().await?;
    let fill = "CREATE TABLE many AS SELECT n, md5(n::text) FROM generate_series(1, 100000) n; \
                CREATE INDEX ON many (n); CREATE DATABASE other";
    for statement in fill.split("; ") {
        let _output = postgres.psql(statement).await?;
    }
    // A tablespace is an archive of its own, and 14 sends each archive as a copy of its own.
    let space = postgres.directory("space")?;
    let apart = format!("CREATE TABLESPACE space LOCATION '{}'", space.display());
    let _output = postgres.psql(&apart).await?;
    let table = "CREATE TABLE apart TABLESPACE space AS SELECT n FROM generate_series(1, 5000) n";
    let _output = postgres.psql(table).await?;
    let stack = Stack::builder().start().await?;
    stack.register("orders", &postgres).await?;
    let backup = stack.back_up("orders").await?;

    let branch = stack
        .repository()?
        .reader(&InstanceName::new("orders")?, &BranchName::main());
    let manifest = branch.manifest(text(&backup, "id")?.parse()?).await?;
    let target = Target {
        data_directory: stack.directory().join("copy"),
        tablespaces: BTreeMap::new(),
        other_tablespaces: Some(stack.directory().join("spaces")),
        owner: None,
    };
    let _restored = branch.materialise(&manifest, &target, 4, &|_| {}).await?;
    let output = std::process::Command::new(postgres.bin("pg_verifybackup")?)
        .arg("--no-parse-wal")
        .arg(&target.data_directory)
        .output()
        .context("pg_verifybackup cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pg_verifybackup: {said}");
    let spaces = std::fs::read_dir(stack.directory().join("spaces"))?.count();
    ensure!(spaces == 1, "{spaces} tablespaces were restored");

    // And the running branch: every index agrees with its table, on every page. The build of 16 that is
    // tested with comes without the extension that looks.
    let amcheck = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'";
    if postgres.psql(amcheck).await? == "0" {
        ensure!(version == PgVersion::V16, "{version} has lost amcheck");
        return Ok(());
    }
    let restored = stack
        .zektor_ok(&["restore", "orders", "--latest", "--as", "b", "--wait"])
        .await?;
    let uri = text(&restored, "connection_uri")?;
    let moved = postgres.psql_as(&uri, "SELECT count(*), sum(n) FROM apart");
    ensure!(moved.await? == "5000|12502500", "the tablespace's rows");
    let output = std::process::Command::new(postgres.bin("pg_amcheck")?)
        .args([
            "--install-missing",
            "--heapallindexed",
            "--all",
            "--maintenance-db",
            &uri,
        ])
        .output()
        .context("pg_amcheck cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pg_amcheck: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_verifybackup_and_pg_amcheck_accept_a_copy_of_postgresql_14() -> Result<()> {
    a_copy_passes(PgVersion::V14).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_verifybackup_and_pg_amcheck_accept_a_copy_of_postgresql_15() -> Result<()> {
    a_copy_passes(PgVersion::V15).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_verifybackup_and_pg_amcheck_accept_a_copy_of_postgresql_16() -> Result<()> {
    a_copy_passes(PgVersion::V16).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_verifybackup_and_pg_amcheck_accept_a_copy_of_postgresql_17() -> Result<()> {
    a_copy_passes(PgVersion::V17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_verifybackup_and_pg_amcheck_accept_a_copy_of_postgresql_18() -> Result<()> {
    a_copy_passes(PgVersion::V18).await
}

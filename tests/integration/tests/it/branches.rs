//! A restored branch is a cluster of its own: its own credentials, its own archive, its own past.

use anyhow::{Result, ensure};
use integration::{DIGEST, PATIENCE, Stack};
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::text;

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_its_own_credentials_archive_and_past() -> Result<()> {
    let postgres = Postgres::builder()
        .setting("track_commit_timestamp", "on")
        .start()
        .await?;
    let place = postgres.directory("space")?;
    let sql = format!(
        "CREATE ROLE app LOGIN PASSWORD 'old-secret'; CREATE TABLESPACE space LOCATION '{}'; \
         CREATE TABLE ledger (id bigint PRIMARY KEY, note text) TABLESPACE space; \
         INSERT INTO ledger SELECT n, md5(n::text) FROM generate_series(1, 10000) n",
        place.display()
    );
    let _output = postgres.psql(&sql).await?;
    let stack = Stack::builder().start().await?;
    stack.register("orders", &postgres).await?;
    let _backup = stack.back_up("orders").await?;
    let source = postgres.psql(DIGEST).await?;

    let first = stack
        .zektor_ok(&["restore", "orders", "--latest", "--as", "first", "--wait"])
        .await?;
    let uri = text(&first, "connection_uri")?;
    ensure!(
        postgres.psql_as(&uri, DIGEST).await? == source,
        "the rows differ"
    );
    let moved = postgres
        .psql_as(
            &uri,
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'",
        )
        .await?;
    ensure!(
        moved != place.display().to_string(),
        "the tablespace is the source's own: {moved}"
    );
    old_passwords_are_dead(&postgres, &uri).await?;

    // From its first second on: what is written right after the opening can be restored.
    let _output = postgres
        .psql_as(&uri, "INSERT INTO ledger VALUES (-1, 'first write')")
        .await?;
    let written = postgres.psql_as(&uri, DIGEST).await?;
    wait_until("the branch's first backup", PATIENCE, async || {
        let list = stack
            .zektor(&["backup", "list", "orders", "--branch", "first"])
            .await;
        list.is_ok_and(|list| list.json["backups"][0]["status"] == "completed")
    })
    .await?;
    let second = stack
        .zektor_ok(&[
            "restore", "orders", "--from", "first", "--latest", "--as", "second", "--wait",
        ])
        .await?;
    let digest = postgres
        .psql_as(&text(&second, "connection_uri")?, DIGEST)
        .await?;
    ensure!(digest == written, "the branch of the branch differs");
    ensure!(postgres.psql(DIGEST).await? == source, "the source changed");

    // A name is given once, and the refusal says so.
    let again = stack
        .zektor(&["restore", "orders", "--latest", "--as", "first"])
        .await?;
    ensure!(again.code == 3, "{again:?}");
    let gone = stack
        .zektor_ok(&["branch", "delete", "orders", "second"])
        .await?;
    ensure!(gone.is_object(), "{gone}");
    Ok(())
}

async fn old_passwords_are_dead(postgres: &Postgres, uri: &str) -> Result<()> {
    let (_, address) = uri.rsplit_once('@').unwrap_or(("", uri));
    let superuser = format!("postgres://postgres:{}@{address}", postgres.password());
    for old in [superuser, format!("postgres://app:old-secret@{address}")] {
        ensure!(
            postgres.psql_as(&old, "SELECT 1").await.is_err(),
            "an old password works on the branch"
        );
    }
    Ok(())
}

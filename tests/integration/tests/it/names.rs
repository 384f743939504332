//! The name of a deleted branch: its backups hold it until they go, and a purge frees it, whoever is killed meanwhile.

use anyhow::{Context as _, Result, ensure};
use events::{BranchName, InstanceName};
use integration::{Answer, DIGEST, PATIENCE, Stack};
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::text;

const RESTORE: [&str; 5] = ["restore", "orders", "--latest", "--as", "rescue"];
const PURGE: [&str; 7] = [
    "branch", "delete", "orders", "rescue", "--purge", "--yes", "--wait",
];

fn says(answer: &Answer, code: i32, parts: &[&str]) -> Result<()> {
    ensure!(answer.code == code, "{answer:?}");
    for part in parts {
        ensure!(answer.stderr.contains(part), "{part}: {answer:?}");
    }
    Ok(())
}

async fn is_stored(stack: &Stack) -> Result<bool> {
    let (instance, branch) = (InstanceName::new("orders")?, BranchName::new("rescue")?);
    let reader = stack.repository()?.reader(&instance, &branch);
    Ok(!reader.find_all().await?.is_nothing())
}

async fn restored(stack: &Stack, postgres: &Postgres) -> Result<()> {
    let arguments = [&RESTORE[..], &["--wait"]].concat();
    let made = stack.zektor_ok(&arguments).await?;
    let uri = text(&made, "connection_uri")?;
    let (rows, source) = (
        postgres.psql_as(&uri, DIGEST).await?,
        postgres.psql(DIGEST).await?,
    );
    ensure!(rows == source, "the rows differ");
    Ok(())
}

async fn first_backup(stack: &Stack) -> Result<()> {
    wait_until("the branch's first backup", PATIENCE, async || {
        let list = stack
            .zektor(&["backup", "list", "orders", "--branch", "rescue"])
            .await;
        list.is_ok_and(|list| list.json["backups"][0]["status"] == "completed")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_deleted_branch_is_free_when_it_is_purged() -> Result<()> {
    let postgres = Postgres::builder()
        .setting("track_commit_timestamp", "on")
        .start()
        .await?;
    let sql = "CREATE TABLE ledger (id bigint PRIMARY KEY, note text); \
               INSERT INTO ledger SELECT n, md5(n::text) FROM generate_series(1, 1000) n";
    let _output = postgres.psql(sql).await?;
    let mut stack = Stack::builder().start().await?;
    stack.register("orders", &postgres).await?;
    let _backup = stack.back_up("orders").await?;
    // The password of somebody's own server is not for whoever asks how to connect.
    let source = stack
        .zektor_ok(&["branch", "credentials", "orders", "main"])
        .await?;
    let uri = text(&source, "connection_uri")?;
    ensure!(uri.contains(":***@"), "{uri}");

    restored(&stack, &postgres).await?;
    first_backup(&stack).await?;
    let deleted = stack
        .zektor_ok(&["branch", "delete", "orders", "rescue", "--wait"])
        .await?;
    ensure!(deleted["kept_backups"] == 1, "{deleted}");
    ensure!(deleted["kept_until"].is_string(), "{deleted}");
    let purge = "zektor branch delete orders rescue --purge";
    let parts = ["1 backup", "until 20", purge];
    says(&stack.zektor(&RESTORE).await?, 3, &parts)?;
    let dry = [&RESTORE[..], &["--dry-run"]].concat();
    let parts = ["the name rescue is taken", purge];
    says(&stack.zektor(&dry).await?, 3, &parts)?;
    let again = stack.zektor(&PURGE[..4]).await?;
    says(&again, 4, &["is deleted already", purge])?;

    // The worker is killed with the request, and the scheduler right after it.
    let _status = stack.service("backup-worker-1").kill9().await?;
    let asked = stack.zektor(&PURGE[..6]).await?;
    ensure!(asked.code == 0, "{asked:?}");
    ensure!(asked.json["state"] == "deleting", "{asked:?}");
    let _status = stack.service("scheduler").kill9().await?;
    ensure!(is_stored(&stack).await?, "nobody is there to delete it");
    stack.add_service("scheduler-2", "zektor-scheduler").await?;
    says(&stack.zektor(&RESTORE).await?, 3, &["is being removed"])?;
    stack
        .add_service("backup-worker-2", "zektor-backup-worker")
        .await?;
    let gone = async || is_stored(&stack).await.is_ok_and(|stored| !stored);
    wait_until("the purge", PATIENCE, gone).await?;
    wait_until("the name", PATIENCE, async || {
        let free = stack.zektor(&dry).await;
        free.is_ok_and(|free| free.code == 0)
    })
    .await?;

    // Deleted at once: its first backup is cut off, and leaves packs and no manifest.
    restored(&stack, &postgres).await?;
    let deleted = stack
        .zektor_ok(&["branch", "delete", "orders", "rescue", "--wait"])
        .await?;
    ensure!(deleted["state"] == "deleted", "{deleted}");
    wait_until("the purge", PATIENCE, async || {
        let purged = stack.zektor(&PURGE).await;
        // Not before the backup has ended.
        purged.is_ok_and(|purged| purged.code == 0 && purged.json["state"] == "deleted")
    })
    .await?;
    // At once: who waited for the purge has the name.
    restored(&stack, &postgres).await?;
    let list = stack
        .zektor_ok(&["backup", "list", "orders", "--branch", "rescue"])
        .await?;
    let listed = list["backups"].as_array().context("no list")?;
    ensure!(listed.len() <= 1, "what was purged is listed: {list}");
    Ok(())
}

//! The catalog may be thrown away: from the stream, and from the repository alone, it comes back the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::Stack;
use serde_json::Value;
use testkit::postgres::Postgres;
use testkit::wait_until;

async fn questions(stack: &Stack) -> Result<Vec<Value>> {
    let mut answers = Vec::new();
    for arguments in [
        &["instance", "list"][..],
        &["backup", "list", "orders"],
        &["branch", "list", "orders"],
        &["schedule", "list", "orders"],
    ] {
        answers.push(stack.zektor_ok(arguments).await?);
    }
    let status = stack.zektor_ok(&["wal", "status", "orders"]).await?;
    for field in [
        "timeline",
        "first_segment",
        "last_segment",
        "gaps",
        "segments",
        "stored_bytes",
    ] {
        answers.push(status[field].clone());
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_and_repository_give_the_same_catalog() -> Result<()> {
    let postgres = Postgres::builder().start().await?;
    let stack = Stack::builder().start().await?;
    stack.register("orders", &postgres).await?;
    let _first = stack.back_up("orders").await?;
    for _ in 0..3 {
        let _output = postgres
            .psql("CREATE TABLE t AS SELECT 1; DROP TABLE t; SELECT pg_switch_wal()")
            .await?;
    }
    let _second = stack.back_up("orders").await?;
    let mut before = Vec::new();
    wait_until(
        "the archive to be quiet",
        Duration::from_secs(60),
        async || {
            let now = questions(&stack).await.unwrap_or_default();
            let quiet = !now.is_empty() && now == before;
            before = now;
            quiet
        },
    )
    .await?;

    for from in ["stream", "repository"] {
        let _rebuilt = stack
            .zektor_ok(&["catalog", "rebuild", "--from", from])
            .await?;
        let after = questions(&stack).await?;
        ensure!(
            after == before,
            "rebuilt from the {from}: {after:#?}, not {before:#?}"
        );
    }
    Ok(())
}

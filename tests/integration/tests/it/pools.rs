//! An instance in a pool that nobody serves: everything says so, and whoever waits there has a way out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::Stack;
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::text;

const DEADLINE: Duration = Duration::from_secs(60);
const NOBODY: &str = "no worker serves the pool eu now; start one with ZEKTOR_WORKER_POOLS=eu";

/// The status of a backup, by its name or id; empty as long as it is not known.
async fn status(stack: &Stack, backup: &str) -> Result<String> {
    let shown = stack.zektor(&["backup", "show", "shop", backup]).await?;
    Ok(shown.json["status"].as_str().unwrap_or_default().to_owned())
}

async fn until(stack: &Stack, backup: &str, wanted: &str) -> Result<()> {
    wait_until(&format!("{backup} is {wanted}"), DEADLINE, async || {
        status(stack, backup)
            .await
            .is_ok_and(|status| status == wanted)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_pool_that_nobody_serves_is_told_cancelled_and_moved() -> Result<()> {
    let postgres = Postgres::builder().start().await?;
    let stack = Stack::builder().start().await?;
    stack.register("shop", &postgres).await?;
    let to_eu = ["instance", "update", "shop", "--pool", "eu"];
    let updated = stack.zektor(&to_eu).await?;
    ensure!(
        updated.code == 0 && updated.json["pool_served"] == false,
        "{updated:?}"
    );
    ensure!(updated.stderr.contains(NOBODY), "{updated:?}");

    let one = ["backup", "create", "shop", "--name", "one"];
    let one = stack.zektor(&one).await?;
    ensure!(one.code == 0 && one.stderr.contains(NOBODY), "{one:?}");
    let one = text(&one.json, "id")?;
    let shown = stack.zektor_ok(&["backup", "show", "shop", &one]).await?;
    let waiting = serde_json::json!({ "pool": "eu", "served": false, "behind": null });
    ensure!(
        shown["status"] == "requested" && shown["waiting"] == waiting,
        "{shown}"
    );
    let doctor = stack.zektor(&["doctor"]).await?;
    let checks = doctor.json["checks"].as_array().context("checks")?;
    let of_pool = checks.iter().find(|check| check["name"] == "pool eu");
    let of_pool = of_pool.with_context(|| format!("{doctor:?}"))?;
    ensure!(
        doctor.code == 1 && of_pool["state"] == "failed",
        "{of_pool}"
    );

    // What waits behind it has its turn when it is cancelled.
    let two = ["backup", "create", "shop", "--name", "two"];
    let two = text(&stack.zektor_ok(&two).await?, "id")?;
    let shown = stack.zektor_ok(&["backup", "show", "shop", &two]).await?;
    ensure!(shown["waiting"]["behind"] == one.as_str(), "{shown}");
    let deleted = stack.zektor_ok(&["backup", "delete", "shop", &one]).await?;
    ensure!(deleted["status"] == "failed", "{deleted}");
    until(&stack, &one, "failed").await?;
    wait_until("the next one has its turn", DEADLINE, async || {
        let shown = stack.zektor_ok(&["backup", "show", "shop", &two]).await;
        shown.is_ok_and(|shown| shown["waiting"] == waiting)
    })
    .await?;

    // In another pool it is taken, and so is what waits behind it.
    let three = ["backup", "create", "shop", "--name", "three", "--wait"];
    let three = stack.zektor(&three);
    let moved = async {
        until(&stack, "three", "requested").await?;
        stack
            .zektor_ok(&["instance", "update", "shop", "--pool", "default"])
            .await
    };
    let (three, moved) = tokio::join!(three, moved);
    let (three, moved) = (three?, moved?);
    ensure!(moved["pool_served"] == true, "{moved}");
    ensure!(
        three.code == 0 && three.json["status"] == "completed",
        "{three:?}"
    );
    let told = format!(
        "waiting for the end of backup {two}, which waits for a worker of the pool eu; none serves it now"
    );
    ensure!(three.stderr.contains(&told), "{three:?}");
    until(&stack, &two, "completed").await?;
    ensure!(
        status(&stack, &one).await? == "failed",
        "it was never taken"
    );
    let doctor = stack.zektor(&["doctor"]).await?;
    ensure!(!doctor.json.to_string().contains("pool eu"), "{doctor:?}");
    Ok(())
}

//! Restores that are rehearsed on the whole stack: what is proven, what is found, and that nothing of it stays.

use anyhow::{Context, Result, ensure};
use events::document::RunningDrill;
use events::{DrillId, InstanceName};
use integration::{Ledger, PATIENCE, Stack};
use serde_json::Value;
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::text;

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_proves_that_the_data_comes_back_or_says_what_does_not() -> Result<()> {
    let source = Postgres::builder()
        .setting("track_commit_timestamp", "on")
        .start()
        .await?;
    let mut ledger = Ledger::create(&source).await?;
    let stack = Stack::builder().start().await?;
    stack.register("orders", &source).await?;
    let backup = stack.back_up("orders").await?;
    ledger.write(5).await?;

    let check = "writes are there=SELECT count(*) > 0 FROM pg_tables WHERE schemaname = 'public'";
    let weekly = [
        "drill", "schedule", "orders", "--every", "weekly", "--check", check,
    ];
    let scheduled = stack.zektor_ok(&weekly).await?;
    ensure!(
        scheduled["next"]
            .as_array()
            .is_some_and(|next| next.len() == 3),
        "{scheduled}"
    );
    let drill = stack
        .zektor_ok(&["drill", "run", "orders", "--wait"])
        .await?;
    ensure!(drill["status"] == "completed", "{drill}");
    ensure!(drill["backup_id"] == backup["id"], "{drill}");
    let checks = drill["checks"].as_array().context("checks")?;
    ensure!(checks.len() == 2, "{drill}");
    ensure!(
        checks.iter().all(|check| check["passed"] == true),
        "{drill}"
    );

    // It is in the catalog, and on the instance.
    let id = text(&drill, "id")?;
    let shown = stack
        .zektor_ok(&["drill", "show", "orders", &id[..13]])
        .await?;
    ensure!(shown["target"] == drill["target"], "{shown}");
    let proven = proven(&stack).await?;
    ensure!(
        proven[1] == drill["target"] && proven[2] == drill["restore_ms"],
        "{proven:?}"
    );
    nothing_is_left(&stack).await?;

    // A check that does not hold is a failure, and proves nothing.
    let wrong = [
        "drill",
        "schedule",
        "orders",
        "--check",
        "never=SELECT false",
    ];
    let _by_hand = stack.zektor_ok(&wrong).await?;
    let failed = stack.zektor(&["drill", "run", "orders", "--wait"]).await?;
    ensure!(failed.code == 1, "{} {}", failed.code, failed.stderr);
    ensure!(failed.json["failed_step"] == "checks", "{}", failed.json);
    ensure!(failed.stderr.contains("never"), "{}", failed.stderr);
    ensure!(
        self::proven(&stack).await? == proven,
        "a failed drill proves something"
    );
    nothing_is_left(&stack).await?;
    let off = stack
        .zektor_ok(&["drill", "schedule", "orders", "--off"])
        .await?;
    ensure!(off["drills"].is_null(), "{off}");
    let listed = stack.zektor_ok(&["drill", "list", "orders"]).await?;
    let statuses: Vec<&Value> = listed["drills"]
        .as_array()
        .context("drills")?
        .iter()
        .map(|drill| &drill["status"])
        .collect();
    ensure!(statuses == ["failed", "completed"], "{listed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restorer_that_dies_in_a_drill_leaves_nothing_and_the_drill_ends() -> Result<()> {
    let source = Postgres::builder().start().await?;
    let mut stack = Stack::builder().start().await?;
    stack.register("orders", &source).await?;
    let _backup = stack.back_up("orders").await?;
    let slow = "slow=SELECT true FROM pg_sleep(8)";
    let _set = stack
        .zektor_ok(&["drill", "schedule", "orders", "--check", slow])
        .await?;
    let asked = stack.zektor_ok(&["drill", "run", "orders"]).await?;
    let id = text(&asked, "id")?;
    let status = async |wanted: &str| {
        let shown = stack.zektor_ok(&["drill", "show", "orders", &id]).await;
        shown.is_ok_and(|shown| shown["status"] == wanted)
    };
    wait_until("the drill to begin", PATIENCE, async || {
        status("in_progress").await
    })
    .await?;
    // A second one is refused meanwhile, and says why.
    let second = stack.zektor(&["drill", "run", "orders"]).await?;
    ensure!(
        second.code == 3 && second.stderr.contains("is running"),
        "{}",
        second.stderr
    );
    wait_until("its files", PATIENCE, async || {
        std::fs::read_dir(stack.directory().join("compute/.drills"))
            .is_ok_and(|drills| drills.count() == 1)
    })
    .await?;
    let _status = stack.service("restorer").kill9().await?;
    stack.service("restorer").start_again().await?;
    let status = async |wanted: &str| {
        let shown = stack.zektor_ok(&["drill", "show", "orders", &id]).await;
        shown.is_ok_and(|shown| shown["status"] == wanted)
    };
    wait_until("the drill to end", PATIENCE, async || {
        status("completed").await
    })
    .await?;
    nothing_is_left(&stack).await
}

/// When, for which moment and how fast it was proven that the instance can be restored.
async fn proven(stack: &Stack) -> Result<[Value; 3]> {
    let shown = stack.zektor_ok(&["instance", "show", "orders"]).await?;
    let proven = ["proven_at", "proven_target", "proven_in_ms"].map(|key| shown[key].clone());
    ensure!(proven.iter().all(|value| !value.is_null()), "{shown}");
    Ok(proven)
}

/// No claim, no branch and no file.
async fn nothing_is_left(stack: &Stack) -> Result<()> {
    let (bus, instance) = (stack.bus().await?, InstanceName::new("orders")?);
    let claimed = async || -> Option<RunningDrill> {
        let document = bus.instances().get(&instance).await.ok()??;
        document.0.running_drill
    };
    wait_until("the claim to be given back", PATIENCE, async || {
        claimed().await.is_none()
    })
    .await?;
    let branches = stack.zektor_ok(&["branch", "list", "orders"]).await?;
    let branches = branches["branches"].as_array().context("branches")?.len();
    ensure!(branches == 1, "{branches} branches");
    let drills = stack.directory().join("compute/.drills");
    let left = std::fs::read_dir(drills)?.filter_map(Result::ok);
    let left: Vec<DrillId> = left
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

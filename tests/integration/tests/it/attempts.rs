//! Who waits for a backup is told why an attempt came to nothing, while it is tried again.

use std::time::Duration;

use anyhow::{Result, ensure};
use bus::{Bus, Sequence};
use events::{subject, topology};
use futures::StreamExt as _;
use integration::Stack;
use testkit::postgres::{Postgres, StopMode};
use testkit::wait_until;

const DEADLINE: Duration = Duration::from_secs(60);

async fn attempts(bus: &Bus) -> usize {
    let begun = vec![subject::events_of("backup.started")];
    match bus.history(begun, Sequence::NONE, topology::EVENTS).await {
        Ok(begun) => begun.count().await,
        Err(_away) => 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_says_why_an_attempt_came_to_nothing() -> Result<()> {
    let mut postgres = Postgres::builder().start().await?;
    let stack = Stack::builder().start().await?;
    stack.register("shop", &postgres).await?;
    postgres.stop(StopMode::Fast).await?;
    let create = ["backup", "create", "shop", "--wait"];
    let created = stack.zektor(&create);
    let bus = stack.bus().await?;
    let again = async {
        wait_until("it was tried twice", DEADLINE, async || {
            attempts(&bus).await >= 2
        })
        .await?;
        postgres.start_again().await
    };
    let (created, again) = tokio::join!(created, again);
    again?;
    let created = created?;
    ensure!(
        created.code == 0 && created.json["status"] == "completed",
        "{created:?}"
    );
    let second = "attempt 2, since the one before came to nothing (cannot connect to postgresql at";
    ensure!(created.stderr.contains(second), "{created:?}");
    ensure!(created.stderr.contains("Connection refused"), "{created:?}");
    Ok(())
}

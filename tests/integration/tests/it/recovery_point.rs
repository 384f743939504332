//! The source and its disk are gone in the middle of its work: what is lost is at most what was written since the last
//! flush of the open segment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{DIGEST, Ledger, Stack, rounds};
use pg_replication::{ConnectionSettings, SqlConnection};
use testkit::postgres::Postgres;

use crate::exactness::text;

/// The default: `ZEKTOR_WAL_FLUSH_INTERVAL`.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// What a flush itself may take, on a busy machine.
const FLUSH_TAKES: Duration = Duration::from_secs(3);

/// `ZEKTOR_TEST_KILLS` times; twice unless it is set.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_destroyed_under_load_loses_at_most_the_flush_interval() -> Result<()> {
    let flush = format!("{}s", FLUSH_INTERVAL.as_secs());
    let stack = Stack::builder()
        .env("ZEKTOR_WAL_FLUSH_INTERVAL", flush)
        .start()
        .await?;
    let witness = Postgres::builder().start().await?;
    let mut lost = Vec::new();
    for round in 0..rounds("ZEKTOR_TEST_KILLS", 2) {
        lost.push(destroyed(&stack, &witness, round).await?);
    }
    let worst = lost.iter().max().context("no round")?;
    println!("lost, in milliseconds of commits: {lost:?}");
    ensure!(
        u128::from(*worst) <= (FLUSH_INTERVAL + FLUSH_TAKES).as_millis(),
        "{lost:?}"
    );
    Ok(())
}

/// Milliseconds from the last commit that came back to the last one that was confirmed.
async fn destroyed(stack: &Stack, witness: &Postgres, round: usize) -> Result<u64> {
    let instance = format!("doomed-{round}");
    let mut source = Postgres::builder()
        .setting("track_commit_timestamp", "on")
        .start()
        .await?;
    let mut ledger = Ledger::create(&source).await?;
    stack.register(&instance, &source).await?;
    let _backup = stack.back_up(&instance).await?;
    let settings = ConnectionSettings::parse(&source.dsn())?;
    let mut bulk = SqlConnection::connect(&settings).await?;
    let _rows = bulk.query("CREATE TABLE bulk (n int, text text)").await?;
    let (dies_after, load) = (Duration::from_millis(9000 + 700 * round as u64), async {
        loop {
            let fill = "INSERT INTO bulk SELECT n, md5(n::text) FROM generate_series(1, 5000) n";
            if bulk.query(fill).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let writing = async { while ledger.write(1).await.is_ok() {} };
    let killing = async {
        tokio::time::sleep(dies_after).await;
        source.kill9().await?;
        std::fs::remove_dir_all(source.data_directory())?;
        anyhow::Ok(())
    };
    let (killed, (), ()) = tokio::join!(killing, writing, load);
    killed?;

    let restored = stack
        .zektor_ok(&["restore", &instance, "--latest", "--as", "saved", "--wait"])
        .await?;
    let uri = text(&restored, "connection_uri")?;
    let rows = witness.psql_as(&uri, DIGEST).await?;
    let points = ledger.points();
    // The commit that the kill cut off may be there without having been confirmed.
    let at = points.iter().rposition(|point| point.digest == rows);
    let confirmed = points.last().context("no commit")?;
    let unconfirmed = witness
        .psql_as(&uri, "SELECT max(id) FROM ledger")
        .await?
        .parse::<u64>()?
        > confirmed.number;
    let _gone = stack
        .zektor_ok(&["branch", "delete", &instance, "saved", "--wait"])
        .await?;
    if unconfirmed {
        return Ok(0);
    }
    let last = &points[at.with_context(|| format!("{rows} was never a state of the source"))?];
    let lost = confirmed.committed_at - last.committed_at;
    Ok(u64::try_from(lost.num_milliseconds())?)
}

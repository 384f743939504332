//! Three in the morning: a table is dropped among hundreds of transactions, found by name, and brought back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use integration::{PATIENCE, Stack};
use pg_replication::{ConnectionSettings, SqlConnection};
use serde_json::Value;
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::exactness::text;

const SESSIONS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_dropped_among_200_concurrent_transactions_comes_back_whole() -> Result<()> {
    let source = Postgres::builder()
        .setting("max_connections", "250")
        .start()
        .await?;
    let tables = "CREATE TABLE orders (id bigserial PRIMARY KEY, who int NOT NULL, note text); \
                  CREATE TABLE visits (id bigserial PRIMARY KEY, who int NOT NULL)";
    let _output = source.psql(tables).await?;
    let stack = Stack::builder().start().await?;
    stack.register("shop", &source).await?;
    let _backup = stack.back_up("shop").await?;

    let (stop, ordered) = (AtomicBool::new(false), AtomicU64::new(0));
    let sessions = (0..SESSIONS).map(|who| buy(&source, who, &stop, &ordered));
    let (sessions, dropped) = tokio::join!(try_join_all(sessions), async {
        // Everybody is at work before the table goes, and after it.
        let busy = async || ordered.load(Ordering::Relaxed) > 2 * SESSIONS as u64;
        wait_until("orders to be placed", PATIENCE, busy).await?;
        let xid = source
            .psql("BEGIN; DROP TABLE orders; SELECT txid_current(); COMMIT")
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.store(true, Ordering::Relaxed);
        xid
    });
    let (_sessions, xid) = (sessions?, dropped?);
    let placed = ordered.load(Ordering::Relaxed);

    let moments = stack
        .zektor_ok(&["moments", "shop", "--only", "drops"])
        .await?;
    let dropped = of_relation(&moments, "public.orders").context("not found by name")?;
    ensure!(dropped["kind"] == "drop", "{dropped}");
    ensure!(
        dropped["xid"].as_u64() == xid.parse().ok(),
        "{xid}: {dropped}"
    );
    let to = text(dropped, "restore_to")?;
    let flag = if to.contains('/') { "--lsn" } else { "--time" };
    let restored = stack
        .zektor_ok(&["restore", "shop", flag, &to, "--as", "rescue", "--wait"])
        .await?;
    let uri = text(&restored, "connection_uri")?;
    // Every order that was confirmed to somebody held a lock that the drop had to wait for.
    let rows = source.psql_as(&uri, "SELECT count(*) FROM orders").await?;
    ensure!(rows == placed.to_string(), "{rows} orders, {placed} placed");
    // The position does too, and it is the same moment.
    let lsn = text(dropped, "restore_lsn")?;
    let by_lsn = stack
        .zektor_ok(&["restore", "shop", "--lsn", &lsn, "--as", "again", "--wait"])
        .await?;
    ensure!(
        by_lsn["last_commit_at"] == restored["last_commit_at"],
        "{by_lsn} {restored}"
    );
    Ok(())
}

/// Orders and visits until `stop`; once the table is gone, visits only.
async fn buy(source: &Postgres, who: usize, stop: &AtomicBool, ordered: &AtomicU64) -> Result<()> {
    let settings = ConnectionSettings::parse(&source.dsn())?;
    let mut connection = SqlConnection::connect(&settings).await?;
    let mut there = true;
    while !stop.load(Ordering::Relaxed) {
        if there {
            let order = format!("INSERT INTO orders (who, note) VALUES ({who}, repeat('x', 100))");
            there = connection.query(&order).await.is_ok();
            let _before = ordered.fetch_add(u64::from(there), Ordering::Relaxed);
        }
        let visit = format!("INSERT INTO visits (who) VALUES ({who})");
        let _rows = connection.query(&visit).await?;
    }
    Ok(())
}

fn of_relation<'a>(answer: &'a Value, relation: &str) -> Option<&'a Value> {
    let moments = answer["moments"].as_array()?;
    moments.iter().find(|moment| moment["relation"] == relation)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_lose_data_is_a_moment_and_comes_back() -> Result<()> {
    let source = Postgres::builder().start().await?;
    let tables = "CREATE TABLE emptied AS SELECT n FROM generate_series(1, 500) n; \
                  CREATE TABLE deleted AS SELECT n FROM generate_series(1, 5000) n; \
                  CREATE TABLE updated AS SELECT n, 0 AS price FROM generate_series(1, 3000) n; \
                  CREATE DATABASE side";
    let _output = source.psql(&tables.replace("; ", ";\n")).await?;
    let side = source.dsn_for("postgres", source.password(), "side");
    let _output = source
        .psql_as(&side, "CREATE TABLE inside AS SELECT 1 AS n")
        .await?;
    let stack = Stack::builder().start().await?;
    stack.register("shop", &source).await?;
    let _backup = stack.back_up("shop").await?;
    for loss in [
        "TRUNCATE emptied",
        "DELETE FROM deleted",
        "UPDATE updated SET price = 1",
        "VACUUM FULL updated",
        "DROP DATABASE side",
    ] {
        let _output = source.psql(loss).await?;
    }
    let answer = stack.zektor_ok(&["moments", "shop"]).await?;
    let expected = [
        (
            "truncate",
            "public.emptied",
            None,
            "SELECT count(*) FROM emptied",
            "500",
        ),
        (
            "delete",
            "public.deleted",
            Some(5000),
            "SELECT count(*) FROM deleted",
            "5000",
        ),
        (
            "update",
            "public.updated",
            Some(3000),
            "SELECT sum(price) FROM updated",
            "0",
        ),
        (
            "rewrite",
            "public.updated",
            None,
            "SELECT sum(price) FROM updated",
            "3000",
        ),
        (
            "drop_database",
            "side",
            None,
            "SELECT count(*) FROM inside",
            "1",
        ),
    ];
    for (number, (kind, relation, rows, query, before)) in expected.into_iter().enumerate() {
        let moments = answer["moments"].as_array().context("no moments")?;
        let moment = moments
            .iter()
            .find(|moment| {
                let name = moment["relation"].as_str().unwrap_or_default();
                moment["kind"] == kind && name.ends_with(relation)
            })
            .with_context(|| format!("no {kind} of {relation}: {answer}"))?;
        ensure!(moment["rows"].as_u64() == rows, "{moment}");
        let (to, branch) = (text(moment, "restore_to")?, format!("b{number}"));
        let flag = if to.contains('/') { "--lsn" } else { "--time" };
        let restored = stack
            .zektor_ok(&["restore", "shop", flag, &to, "--as", &branch, "--wait"])
            .await?;
        let mut uri = text(&restored, "connection_uri")?;
        if kind == "drop_database" {
            let (server, _database) = uri.rsplit_once('/').context("no database in the URI")?;
            uri = format!("{server}/side");
        }
        let found = source.psql_as(&uri, query).await?;
        ensure!(found == before, "{kind}: {found}, not {before}; {moment}");
        let _gone = stack
            .zektor_ok(&["branch", "delete", "shop", &branch, "--wait"])
            .await?;
    }
    Ok(())
}

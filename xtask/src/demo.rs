//! The main job, played on a real PostgreSQL: a database is protected, a mistake is made, the moment before
//! it comes back as a branch.
//!
//! It talks to Zektor only through the `zektor` command and to PostgreSQL only through `psql`, as a user
//! would, and ends well only if the restored rows are the lost ones, all of them.

mod cluster;
mod stage;
mod zektor;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use provision::{Tool, Tools};

use self::cluster::Cluster;
use self::stage::Stage;
use self::zektor::Zektor;
use crate::say::say;
use crate::{setup, workspace};

/// What may be said about the demo.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave everything running afterwards.
    #[arg(long)]
    keep: bool,
}

/// Everything of `orders`, in order, as a count and a digest.
const DIGEST: &str =
    "SELECT count(*) || ' rows, ' || md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o";

/// Plays the story.
pub(crate) fn run(options: Options) -> Result<()> {
    let begin = Instant::now();
    setup::install(&[Tool::NatsServer, Tool::Postgres18])?;
    say("Building (some minutes the first time)");
    workspace::cargo(&["build", "--quiet", "--workspace", "--bins"])?;
    let stage = Stage::new()?;
    let outcome = play(&stage);
    match (&outcome, options.keep) {
        (Ok(_), true) => stage.keep_and_tell(),
        (Ok(_), false) => say("Taking everything down (use --keep to look around)"),
        (Err(_), _) => say(&format!(
            "The demo failed. Logs: {}",
            stage.logs().display()
        )),
    }
    if !options.keep {
        stage.take_down(outcome.is_ok());
    }
    outcome?;
    say(&format!(
        "The data came back, all of it, exactly. {:.0} s in all.",
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn play(stage: &Stage) -> Result<()> {
    let tools = Tools::from_environment()?;
    let postgres = tools
        .find(Tool::Postgres18)
        .map_err(|missing| anyhow::anyhow!(missing.hint))?;

    say("\n1. A PostgreSQL with changing data");
    let source = Cluster::start(&postgres, stage)?;
    let _ = source.sql(
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
         customer int NOT NULL, total numeric(10,2) NOT NULL, placed_at timestamptz NOT NULL DEFAULT now()); \
         INSERT INTO orders (customer, total) SELECT n % 997, n * 1.17 FROM generate_series(1, 50000) n",
    )?;
    source.write_in_the_background()?;
    say(&format!(
        "   {}, and an application that places orders",
        source.version()?
    ));

    say("\n2. Zektor, and the database registered");
    let zektor = Zektor::up(stage)?;
    let added = zektor.json(&["instance", "add", "shop", "--dsn", &source.uri()])?;
    say(&format!(
        "   instance shop: system identifier {}",
        field(&added, "system_identifier")
    ));

    say("\n3. A base backup, while orders are placed");
    let backup = zektor.json(&["backup", "create", "shop", "--name", "demo", "--wait"])?;
    say(&format!(
        "   {} of data stored as {}, LSN {} to {}",
        mebibytes(&backup["logical_bytes"]),
        mebibytes(&backup["size_bytes"]),
        field(&backup, "start_lsn"),
        field(&backup, "stop_lsn"),
    ));

    say("\n4. More orders, and then a mistake");
    let _ = source.wait_for_orders(200)?;
    source.pause_writing()?;
    let before = source.sql(DIGEST)?;
    say(&format!("   {before}"));
    let deleted = source.sql(
        "WITH gone AS (DELETE FROM orders WHERE total > 1000 RETURNING 1) SELECT count(*) FROM gone",
    )?;
    say(&format!(
        "   DELETE FROM orders WHERE total > 1000  -- oh no, {deleted} rows"
    ));
    source.resume_writing()?;
    let orders_before_restore = source.wait_for_orders(50)?;

    say("\n5. When exactly was it?");
    let moment = find(&zektor, &deleted)?;

    say("\n6. The moment before it, as a new branch");
    say(
        "   (the demo sets ZEKTOR_RESTORE_MIN_TARGET_AGE=0s: its moment is seconds old, the rule is two minutes)",
    );
    let target = [
        "restore",
        "shop",
        "--time",
        &moment,
        "--as",
        "before-delete",
    ];
    zektor.run(&[&target[..], &["--dry-run"]].concat())?;
    let restored = zektor.json(&[&target[..], &["--wait"]].concat())?;
    let uri = field(&restored, "connection_uri");
    say(&format!(
        "   branch before-delete after {} ms, last commit in it {}",
        restored["duration_ms"],
        field(&restored, "last_commit_at")
    ));

    say("\n7. The proof");
    let after = source.sql_at(&uri, DIGEST)?;
    say(&format!("   before the mistake: {before}"));
    say(&format!("   in the branch:      {after}"));
    ensure!(
        before == after,
        "the branch does not hold what was there before the mistake"
    );
    prove_source_untouched(&source, orders_before_restore, &deleted)?;
    say(&format!("   the branch's connection string: {uri}"));
    Ok(())
}

/// The source went on: every order placed since is there, and nothing that was deleted has come back.
fn prove_source_untouched(source: &Cluster, orders_before: u64, deleted: &str) -> Result<()> {
    source.pause_writing()?;
    let high = source.sql("SELECT count(*) FROM orders WHERE total > 1000")?;
    let placed = source.placed()?;
    let present: u64 = source.sql("SELECT count(*) FROM orders")?.parse()?;
    let deleted: u64 = deleted.parse()?;
    ensure!(high == "0", "rows came back in the source");
    ensure!(placed >= orders_before, "orders were lost in the source");
    ensure!(
        present + deleted == placed,
        "{present} + {deleted} orders, but {placed} were placed"
    );
    say(&format!(
        "   the source is untouched: {present} orders, {deleted} deleted, {placed} placed in all"
    ));
    Ok(())
}

/// Asks for the moments as a person would, and takes the one at which so many rows were deleted.
fn find(zektor: &Zektor, deleted: &str) -> Result<String> {
    zektor.run(&["moments", "shop"])?;
    let answer = zektor.json(&["moments", "shop"])?;
    let moments = answer["moments"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: u64 = deleted.parse()?;
    let mistake = moments
        .iter()
        .find(|moment| moment["kind"] == "delete" && moment["rows"] == rows)
        .with_context(|| format!("the moment was not found: {answer}"))?;
    ensure!(
        mistake["relation"] == "public.orders",
        "the table's name was not found: {mistake}"
    );
    Ok(field(mistake, "restore_to"))
}

fn field(answer: &serde_json::Value, name: &str) -> String {
    answer[name]
        .as_str()
        .map_or_else(|| answer[name].to_string(), str::to_owned)
}

fn mebibytes(bytes: &serde_json::Value) -> String {
    bytes.as_u64().map_or_else(
        || "?".to_owned(),
        |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    )
}

/// A directory of the demo's own, that the unprivileged user of PostgreSQL can enter.
fn directory() -> Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("zektor-demo-{}", std::process::id()));
    if directory.exists() {
        bail!("{} exists; remove it", directory.display());
    }
    std::fs::create_dir(&directory)?;
    Ok(directory)
}

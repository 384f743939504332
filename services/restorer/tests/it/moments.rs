//! What was dropped, when, and the restore to just before it; random times against PostgreSQL's own recovery.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, Result};
use events::event::BackupSummary;
use events::moments::{Moment, MomentKind, MomentsQuestion};
use events::plan::{RestoreAnswer, RestoreQuestion};
use events::window::WindowQuestion;
use events::{BranchName, ClusterSize, RestoreTarget, Timestamp};
use pg_format::Lsn;
use repository::Target;
use testkit::postgres::{PgVersion, Postgres};

use crate::world::{World, instance, server_user};

fn moments_question() -> MomentsQuestion {
    MomentsQuestion {
        instance: instance(),
        branch: BranchName::main(),
        from: None,
        to: None,
        only_drops: true,
        limit: None,
    }
}

/// As `zektor restore` takes it.
fn target(restore_to: &str) -> Result<RestoreTarget> {
    Ok(match restore_to.parse::<Lsn>() {
        Ok(lsn) => RestoreTarget::Lsn { lsn },
        Err(_) => RestoreTarget::Time {
            at: restore_to.parse::<Timestamp>()?,
        },
    })
}

/// Sessions side by side: rows, rollbacks, savepoints, and prepared transactions that end later.
async fn workload(source: &Postgres, sessions: i32, rounds: i32) -> Result<()> {
    let session = |number: i32| {
        let mut script = String::new();
        for round in 0..rounds {
            let id = 100_000 + number * 1_000 + round;
            let gid = format!("g{number}_{round}");
            script.push_str(&match (number + round) % 5 {
                0 => format!("BEGIN; INSERT INTO t VALUES ({id}); ROLLBACK;\n"),
                1 => format!(
                    "BEGIN; INSERT INTO t VALUES ({id}); PREPARE TRANSACTION '{gid}';\n\
                     SELECT pg_sleep(0.003);\nCOMMIT PREPARED '{gid}';\n"
                ),
                2 => format!(
                    "BEGIN; SAVEPOINT a; INSERT INTO t VALUES ({id}); ROLLBACK TO a; \
                     INSERT INTO t VALUES ({id}); COMMIT;\n"
                ),
                3 => format!(
                    "BEGIN; INSERT INTO t VALUES ({id}); PREPARE TRANSACTION '{gid}';\n\
                     ROLLBACK PREPARED '{gid}';\n"
                ),
                _ => format!("INSERT INTO t VALUES ({id});\n"),
            });
        }
        script
    };
    let scripts: Vec<String> = (0..sessions).map(session).collect();
    let running = scripts.iter().map(|script| source.psql(script));
    for ended in futures::future::join_all(running).await {
        let _ = ended?;
    }
    Ok(())
}

/// What of the database a restore must bring back: rows, and what is prepared.
const CONTENT: &str = "SELECT (SELECT md5(string_agg(id::text, ',' ORDER BY id)) || ' ' || count(*) FROM t) || ' ' \
     || (SELECT coalesce(string_agg(gid, ',' ORDER BY gid), '') FROM pg_prepared_xacts)";

/// PostgreSQL's own recovery to a time, with the same base backup and the WAL of the source.
async fn oracle(
    world: &World,
    base: &BackupSummary,
    at: Timestamp,
    place: &Path,
) -> Result<String> {
    let reader = world.writer.reader();
    let manifest = reader.manifest(base.backup_id).await?;
    let data = place.join("data");
    let target = Target {
        data_directory: data.clone(),
        tablespaces: BTreeMap::new(),
        other_tablespaces: Some(place.join("spaces")),
        owner: None,
    };
    let _ = reader.materialise(&manifest, &target, 4, &|_| {}).await?;
    let wal = world.source.data_directory().join("pg_wal");
    let socket = place.join("run");
    fs::create_dir(&socket)?;
    let conf = format!(
        "listen_addresses = ''\nunix_socket_directories = '{}'\nport = 54321\nmax_prepared_transactions = 100\n\
         max_connections = 200\nmax_worker_processes = 32\nmax_wal_senders = 20\nfsync = off\n\
         restore_command = 'cp {}/%f %p'\nrecovery_target_time = '{}'\nrecovery_target_timeline = '1'\n\
         recovery_target_action = 'promote'\n",
        socket.display(),
        wal.display(),
        at.format("%Y-%m-%d %H:%M:%S%.6f+00"),
    );
    fs::write(data.join("postgresql.conf"), conf)?;
    fs::write(data.join("pg_hba.conf"), "local all all trust\n")?;
    fs::write(data.join("postgresql.auto.conf"), "")?;
    fs::write(data.join("recovery.signal"), "")?;
    let log = place.join("log");
    if let Some(uid) = server_user() {
        own(place, uid)?;
    }
    let control = |action: &str| -> Result<std::process::Command> {
        let mut command = world.source.command("pg_ctl")?;
        let _ = command.arg(action).arg("--pgdata").arg(&data);
        Ok(command)
    };
    let mut start = control("start")?;
    let _ = start.args(["--wait", "--log"]).arg(&log);
    let _ = start.stdout(std::process::Stdio::null());
    let started = tokio::task::spawn_blocking(move || start.status()).await??;
    anyhow::ensure!(started.success(), "{}", fs::read_to_string(&log)?);
    let encoded = socket.display().to_string().replace('/', "%2F");
    let uri = format!("postgres://postgres@{encoded}:54321/postgres");
    let promoted = testkit::wait_until(
        "the oracle to be promoted",
        crate::world::PATIENCE,
        async || {
            let asked = world
                .source
                .psql_as(&uri, "SELECT pg_is_in_recovery()")
                .await;
            asked.is_ok_and(|answer| answer == "f")
        },
    );
    let content = match promoted.await {
        Ok(()) => world.source.psql_as(&uri, CONTENT).await,
        Err(error) => Err(error),
    };
    let mut stop = control("stop")?;
    let _ = stop
        .args(["--mode", "immediate"])
        .stdout(std::process::Stdio::null());
    let _ = tokio::task::spawn_blocking(move || stop.status()).await??;
    content.with_context(|| fs::read_to_string(&log).unwrap_or_default())
}

fn own(path: &Path, uid: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid))?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), uid)?;
        }
        chown(path, Some(uid), Some(uid))?;
    }
    Ok(())
}

async fn preview(world: &World, target: RestoreTarget) -> RestoreAnswer {
    let question = RestoreQuestion {
        instance: instance(),
        source_branch: BranchName::main(),
        branch: None,
        target,
        size: ClusterSize::Dev,
    };
    world.restorer.answer(question).await
}

async fn random_targets(version: PgVersion, targets: u64) -> Result<()> {
    let world = World::prepared(version).await?;
    let base = world.back_up().await?;
    workload(&world.source, 6, 30).await?;
    // Archived at the end of it, so that the oracle finds every file whole.
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(11..=11).await?;
    let position = world.archive().await?;
    let first = base.backed_up_at.timestamp_micros();
    let span = position.proven_at.timestamp_micros() - first;
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(version.major());
    let mut compared = 0;
    for number in 0..targets {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = first + (seed % u64::try_from(span)?) as i64;
        let at = chrono::DateTime::from_timestamp_micros(at).context("no time")?;
        let RestoreAnswer::Possible(preview) = preview(&world, RestoreTarget::Time { at }).await
        else {
            anyhow::bail!("{at} is refused");
        };
        let branch = format!("b{number}");
        let finished = world.restore(&branch, RestoreTarget::Time { at }).await?;
        let got = world.ask(&finished, CONTENT).await?;
        world.remove(&branch).await?;
        let predicted = preview.plan.last_commit.map(|commit| commit.at);
        assert_eq!(finished.summary.last_commit_at, predicted, "{at}");
        assert_eq!(finished.summary.stop_lsn, preview.plan.end_lsn, "{at}");
        let place = world.source.directory(&format!("oracle-{number}"))?;
        let expected = oracle(&world, &base, at, &place).await;
        match expected {
            Ok(expected) => {
                assert_eq!(got, expected, "{at}");
                compared += 1;
            }
            // Where nothing later is archived PostgreSQL alone refuses.
            Err(error) => {
                let text = format!("{error:#}");
                assert!(text.contains("recovery ended before configured"), "{text}");
            }
        }
    }
    assert!(compared > 0, "nothing was compared");
    Ok(())
}

#[tokio::test]
async fn random_times_are_what_postgres_makes_of_them_on_15() -> Result<()> {
    random_targets(PgVersion::V15, 4).await
}

#[tokio::test]
async fn random_times_are_what_postgres_makes_of_them_on_18() -> Result<()> {
    random_targets(PgVersion::V18, 4).await
}

async fn found(world: &World, kind: MomentKind) -> Result<Moment> {
    let found = world.restorer.moments(&moments_question()).await?;
    assert!(found.unread.is_empty(), "{:?}", found.unread);
    assert!(
        found
            .buckets
            .iter()
            .map(|bucket| bucket.commits)
            .sum::<u64>()
            > 0
    );
    let mut wanted = found.moments.iter().filter(|moment| moment.kind == kind);
    let moment = wanted.next().with_context(|| format!("{found:?}"))?.clone();
    Ok(moment)
}

#[tokio::test]
async fn a_table_dropped_among_concurrent_transactions_comes_back() -> Result<()> {
    let world = World::prepared(PgVersion::V18).await?;
    let source = &world.source;
    let _ = source
        .psql("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        .await?;
    let _ = world.back_up().await?;
    let _ = source
        .psql("INSERT INTO orders SELECT n, repeat('x', 3000) FROM generate_series(1, 500) n")
        .await?;
    let dropping = async {
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
        let _ = source
            .psql("INSERT INTO orders VALUES (501, 'last')")
            .await?;
        source.psql("DROP TABLE orders").await
    };
    let (worked, dropped) = tokio::join!(workload(source, 10, 20), dropping);
    worked?;
    let _ = dropped?;
    world.rows(11..=12).await?;
    let _ = world.archive().await?;
    let moment = found(&world, MomentKind::Drop).await?;
    let finished = world.restore("before", target(&moment.restore_to)?).await?;
    let rows = "SELECT count(*) || ' ' || max(note) FILTER (WHERE id = 501) FROM orders";
    assert_eq!(world.ask(&finished, rows).await?, "501 last");
    world.remove("before").await?;
    // By position, and just after it.
    let lsn = RestoreTarget::Lsn {
        lsn: moment.restore_lsn,
    };
    let finished = world.restore("position", lsn).await?;
    assert_eq!(world.ask(&finished, rows).await?, "501 last");
    world.remove("position").await?;
    let after = RestoreTarget::Transaction { xid: moment.xid };
    let finished = world.restore("after", after).await?;
    let there = "SELECT count(*) FROM pg_class WHERE relname = 'orders'";
    assert_eq!(world.ask(&finished, there).await?, "0");
    assert_eq!(finished.summary.last_commit_at, Some(moment.at));
    Ok(())
}

#[tokio::test]
async fn a_database_dropped_comes_back_and_a_drop_right_after_the_backup_too() -> Result<()> {
    let world = World::prepared(PgVersion::V15).await?;
    let source = &world.source;
    let _ = source.psql("CREATE DATABASE shop").await?;
    let _ = source.psql("CREATE TABLE early (id int)").await?;
    let shop = |finished: &restorer::outcome::FinishedBranch| -> Result<String> {
        let uri = world.uri(finished)?;
        let (front, _) = uri.rsplit_once('/').context("no database")?;
        Ok(format!("{front}/shop"))
    };
    let _ = world.back_up().await?;
    // The very first transaction end after the backup.
    let _ = source.psql("DROP TABLE early").await?;
    let _ = source.psql("DROP DATABASE shop").await?;
    world.rows(11..=12).await?;
    let _ = world.archive().await?;
    let dropped = found(&world, MomentKind::Drop).await?;
    let finished = world.restore("early", target(&dropped.restore_to)?).await?;
    assert_eq!(
        world.ask(&finished, "SELECT count(*) FROM early").await?,
        "0"
    );
    world.remove("early").await?;
    let lsn = dropped.restore_lsn;
    let finished = world.restore("lsn", RestoreTarget::Lsn { lsn }).await?;
    assert_eq!(
        world.ask(&finished, "SELECT count(*) FROM early").await?,
        "0"
    );
    world.remove("lsn").await?;
    let dropped = found(&world, MomentKind::DropDatabase).await?;
    let finished = world.restore("shop", target(&dropped.restore_to)?).await?;
    let asked = source.psql_as(&shop(&finished)?, "SELECT 1").await?;
    assert_eq!(asked, "1");
    Ok(())
}

/// The first value of this form that a refusal names.
fn named<T: std::str::FromStr>(refusal: &events::plan::RestoreRefusal) -> Option<T> {
    let text = format!("{} {}", refusal.message, refusal.hint);
    let (_, nearest) = text.split_once("restorable")?;
    let mut words =
        nearest.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')'));
    words.find_map(|word| word.parse().ok())
}

#[tokio::test]
async fn what_a_refusal_names_is_accepted() -> Result<()> {
    let world = World::prepared(PgVersion::V15).await?;
    let base = world.back_up().await?;
    world.rows(11..=15).await?;
    let _ = world
        .source
        .psql("SELECT pg_create_restore_point('noon')")
        .await?;
    let aborted: u32 = world.source.psql("SELECT txid_current()").await?.parse()?;
    let aborted = aborted + 1;
    let roll_back = "BEGIN; INSERT INTO t VALUES (99); ROLLBACK";
    let _ = world.source.psql(roll_back).await?;
    world.rows(16..=16).await?;
    let position = world.archive().await?;
    let refused = async |target: RestoreTarget| match preview(&world, target.clone()).await {
        RestoreAnswer::Refused(refusal) => Ok(refusal),
        other => anyhow::bail!("{target:?}: {other:?}"),
    };
    let second = chrono::TimeDelta::seconds(1);
    for at in [
        base.backed_up_at - second,
        position.proven_at + second,
        position.proven_at + second * 1_000_000,
    ] {
        let refusal = refused(RestoreTarget::Time { at }).await?;
        let nearest = named::<Timestamp>(&refusal).with_context(|| format!("{refusal:?}"))?;
        let answer = preview(&world, RestoreTarget::Time { at: nearest }).await;
        assert!(matches!(answer, RestoreAnswer::Possible(_)), "{answer:?}");
    }
    for lsn in [Lsn(0), Lsn(position.lsn.0 + 1)] {
        let refusal = refused(RestoreTarget::Lsn { lsn }).await?;
        let nearest = named::<Lsn>(&refusal).with_context(|| format!("{refusal:?}"))?;
        let answer = preview(&world, RestoreTarget::Lsn { lsn: nearest }).await;
        assert!(matches!(answer, RestoreAnswer::Possible(_)), "{answer:?}");
    }
    let name = "nonn".to_owned();
    let refusal = refused(RestoreTarget::RestorePoint { name }).await?;
    assert!(refusal.hint.contains("\"noon\""), "{refusal:?}");
    let unknown = RestoreTarget::Transaction { xid: aborted + 99 };
    let refusal = refused(unknown).await?;
    assert!(refusal.message.contains("no transaction"), "{refusal:?}");
    let refusal = refused(RestoreTarget::Transaction { xid: aborted }).await?;
    assert!(refusal.message.contains("rolled back"), "{refusal:?}");
    let window = WindowQuestion {
        instance: instance(),
        branch: BranchName::main(),
    };
    let window = world.restorer.window(&window).await?;
    assert_eq!(window.earliest, Some(base.backed_up_at));
    assert_eq!(window.latest, Some(position.proven_at));
    for at in [window.earliest, window.latest].into_iter().flatten() {
        let answer = preview(&world, RestoreTarget::Time { at }).await;
        assert!(matches!(answer, RestoreAnswer::Possible(_)), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_was_prepared_before_a_drop_is_there_by_time_and_by_position() -> Result<()> {
    let world = World::prepared(PgVersion::V15).await?;
    let source = &world.source;
    let _ = source.psql("CREATE TABLE gone (id int)").await?;
    let _ = source.psql("CREATE TABLE twopc (id int)").await?;
    let _ = world.back_up().await?;
    world.rows(11..=12).await?;
    let prepare = "BEGIN; INSERT INTO t VALUES (90); PREPARE TRANSACTION 'p1'";
    let _ = source.psql(prepare).await?;
    let _ = source.psql("DROP TABLE gone").await?;
    let _ = source.psql("COMMIT PREPARED 'p1'").await?;
    let prepare = "BEGIN; DROP TABLE twopc; PREPARE TRANSACTION 'it''s'";
    let _ = source.psql(prepare).await?;
    let _ = source.psql("COMMIT PREPARED 'it''s'").await?;
    world.rows(13..=14).await?;
    let _ = world.archive().await?;
    let found = world.restorer.moments(&moments_question()).await?;
    let [gone, twopc] = &found.moments[..] else {
        anyhow::bail!("{found:?}");
    };
    let detail = gone.detail.as_deref().unwrap_or_default();
    assert!(!detail.contains("prepared"), "{detail}");
    let prepared = "SELECT coalesce(string_agg(gid, ','), '') FROM pg_prepared_xacts";
    let lsn = RestoreTarget::Lsn {
        lsn: gone.restore_lsn,
    };
    for (branch, target) in [("time", target(&gone.restore_to)?), ("position", lsn)] {
        let finished = world.restore(branch, target).await?;
        assert_eq!(world.ask(&finished, prepared).await?, "p1", "{branch}");
        world.remove(branch).await?;
    }
    // The drop itself was prepared, and is so just before its end: that is told before, in the dry run, and after.
    let detail = twopc.detail.as_deref().unwrap_or_default();
    assert!(detail.contains("was prepared before"), "{detail}");
    let target = target(&twopc.restore_to)?;
    let RestoreAnswer::Possible(preview) = preview(&world, target.clone()).await else {
        anyhow::bail!("{} is refused", twopc.restore_to);
    };
    let told = |checks: &[events::plan::PlanCheck]| {
        let mut checks = checks.iter();
        let told = checks.find(|check| check.name == "prepared_transactions");
        told.map(|check| check.detail.clone()).unwrap_or_default()
    };
    assert!(told(&preview.checks).contains("was prepared before"));
    let finished = world.restore("drop", target).await?;
    assert_eq!(world.ask(&finished, prepared).await?, "it's");
    let told = told(&finished.summary.checks);
    assert!(told.contains("ROLLBACK PREPARED 'it''s'"), "{told}");
    Ok(())
}

//! Drills of real servers: what they show, what they find, and that nothing of them stays.

mod sandbox;
mod subscriber;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bus::{Outgoing, Progress, Sequence};
use events::document::{DrillCheck, RunningDrill};
use events::event::{
    DrillCheckResult, DrillFailed, DrillRequested, DrillStep, DrillSummary, Event, FailureCause,
    RefusalCode,
};
use events::{BranchName, DrillId, MessageId, RestoreTarget, Trigger};
use restorer::attempt::Ending;
use restorer::compute::{Compute as _, ServerState};
use restorer::drill::{DrillRules, Drills, fence_of};
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;
use testkit::wait_until;
use uuid::Uuid;

use crate::damage;
use crate::full::Full;
use crate::scheduler;
use crate::world::{PATIENCE, World, alive, instance};

fn drills(world: &World) -> Arc<Drills> {
    Arc::new(Drills {
        restorer: Arc::clone(&world.restorer),
        rules: DrillRules {
            check_timeout: Duration::from_secs(5),
            temp_bytes: Some(64 << 20),
            ..DrillRules::default()
        },
    })
}

fn check(name: &str, sql: &str) -> DrillCheck {
    DrillCheck {
        name: name.to_owned(),
        database: None,
        sql: sql.to_owned(),
    }
}

/// Claims and requests a drill, as the scheduler does.
async fn request(world: &World, checks: Vec<DrillCheck>) -> Result<DrillRequested> {
    let request = DrillRequested {
        drill_id: DrillId(Uuid::now_v7()),
        instance: instance(),
        branch: BranchName::main(),
        trigger: Trigger::Manual,
        checks,
        requested_at: SystemClock.now(),
    };
    let claim = RunningDrill {
        drill_id: request.drill_id,
        branch: request.branch.clone(),
        since: request.requested_at,
    };
    let bus = &world.restorer.bus;
    scheduler::change(bus, |document| document.running_drill = Some(claim.clone())).await?;
    let event = Event::DrillRequested(request.clone());
    let id = MessageId::new(format!("drill.requested:{}", request.drill_id));
    let event = Outgoing::new(event, id, request.requested_at);
    let _ = bus
        .publish_expecting(event, &fence_of(&request), Sequence::NONE)
        .await?;
    Ok(request)
}

async fn last(world: &World, request: &DrillRequested) -> Result<Event> {
    let last = world.restorer.bus.last_on(&fence_of(request)).await?;
    Ok(last.context("nothing was said")?.envelope.message)
}

async fn run(world: &World, request: &DrillRequested) -> Result<Event> {
    let (drills, progress) = (drills(world), Progress::default());
    let ending = Box::pin(drills.rehearse(request, &progress, true));
    let ending = tokio::time::timeout(PATIENCE, ending).await?;
    assert_eq!(ending, Ending::Done);
    nothing_is_left(world).await?;
    last(world, request).await
}

async fn completed(world: &World, checks: Vec<DrillCheck>) -> Result<DrillSummary> {
    let request = request(world, checks).await?;
    match run(world, &request).await? {
        Event::DrillCompleted(completed) => Ok(completed.summary),
        other => anyhow::bail!("{other:?}"),
    }
}

async fn failed(world: &World, checks: Vec<DrillCheck>) -> Result<DrillFailed> {
    let request = request(world, checks).await?;
    match run(world, &request).await? {
        Event::DrillFailed(failed) => Ok(failed),
        other => anyhow::bail!("{other:?}"),
    }
}

/// No file, no server, no lock, no branch, and nothing in the repository beside the source's.
async fn nothing_is_left(world: &World) -> Result<()> {
    let directory = world.compute.directory();
    let in_drills = std::fs::read_dir(directory.join(".drills")).map_or(0, Iterator::count);
    assert_eq!(in_drills, 0);
    let locks = std::fs::read_dir(directory.join(".locks"));
    let locks = locks.into_iter().flatten().filter_map(Result::ok);
    let of_drills = locks.filter(|lock| lock.file_name().to_string_lossy().starts_with(".drills"));
    assert_eq!(of_drills.count(), 0);
    assert_eq!(servers_below(&directory.join(".drills")), Vec::<u32>::new());
    let document = world.restorer.bus.instances().get(&instance()).await?;
    let (document, _) = document.context("no document")?;
    let drill = |name: &BranchName| *name != BranchName::main() && name.as_str() != "b";
    assert!(!document.branches.keys().any(drill));
    Ok(())
}

/// Processes that work somewhere below a directory.
fn servers_below(directory: &std::path::Path) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let works = std::fs::read_link(format!("/proc/{pid}/cwd"));
        works.is_ok_and(|works| works.starts_with(directory))
    })
    .collect()
}

fn result<'a>(checks: &'a [DrillCheckResult], name: &str) -> &'a DrillCheckResult {
    let found = checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {checks:?}"))
}

async fn a_drill_proves_a_moment(version: PgVersion) -> Result<()> {
    let world = World::new(version).await?;
    let _ = world.source.psql("CREATE DATABASE other").await?;
    let backup = world.back_up().await?;
    for n in 0..5 {
        world.rows(11 + n * 10..=20 + n * 10).await?;
    }
    let position = world.archive().await?;
    let mut elsewhere = check("the other database", "SELECT current_database() = 'other'");
    elsewhere.database = Some("other".to_owned());
    let checks = vec![
        check("rows", "SELECT count(*) BETWEEN 10 AND 60, 'of t' FROM t;"),
        check("none is fine", "SELECT false WHERE false"),
        check(
            "every row",
            "WITH all_of_it AS (SELECT id, id FROM t) SELECT * FROM all_of_it",
        ),
        check(
            "same",
            "SELECT (SELECT count(*) FROM t) - (SELECT count(*) FROM elsewhere) IN (0, 1)",
        ),
        elsewhere,
    ];
    let begun = std::time::Instant::now();
    let summary = completed(&world, checks).await?;
    let took = begun.elapsed();
    assert_eq!(summary.backup_id, backup.backup_id);
    assert!(summary.target >= backup.backed_up_at - chrono::TimeDelta::seconds(1));
    assert!(summary.target <= position.proven_at, "{summary:?}");
    assert_eq!(summary.checks.len(), 6);
    for check in &summary.checks {
        assert!(check.passed && !check.skipped, "{check:?}");
    }
    assert!(
        result(&summary.checks, "pg_amcheck")
            .detail
            .contains("databases")
    );
    // There may be none between the backup's start and the moment.
    let last = summary.last_commit;
    assert!(last.is_none_or(|last| last.at <= summary.target));
    assert!(summary.restore_ms <= summary.duration_ms);
    for phase in [
        "plan",
        "materialise",
        "recover",
        "open",
        "amcheck",
        "checks",
        "tear_down",
    ] {
        assert!(summary.phases.contains_key(phase), "{phase}");
    }
    // A restore beside it goes the same way.
    let begun = std::time::Instant::now();
    let at = summary.target;
    let finished = world.restore("b", RestoreTarget::Time { at }).await?;
    assert!(last.is_none_or(|last| finished.summary.last_commit_at == Some(last.at)));
    let restore_ms = begun.elapsed().as_millis();
    // A drill does what a restore does, behind everything else, and some looks more.
    assert!(
        u128::from(summary.restore_ms) < 10 * restore_ms + 5_000,
        "{took:?} {restore_ms} ms"
    );
    Ok(())
}

#[tokio::test]
async fn a_drill_proves_a_moment_on_15() -> Result<()> {
    a_drill_proves_a_moment(PgVersion::V15).await
}

#[tokio::test]
async fn a_drill_proves_a_moment_on_18() -> Result<()> {
    a_drill_proves_a_moment(PgVersion::V18).await
}

#[tokio::test]
async fn checks_that_do_not_hold_are_told_by_name() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let checks = vec![
        check("fine", "SELECT count(*) > 0 FROM t"),
        check("no rows at night", "SELECT count(*) = 0 FROM t"),
        check("nothing", "SELECT NULL::int FROM t"),
        check("hidden error", "SELECT true, 1 / (id - id) FROM t"),
        check(
            "writes",
            "WITH gone AS (DELETE FROM t RETURNING id) SELECT id FROM gone",
        ),
        check(
            "programs",
            "SELECT true FROM pg_read_file('postgresql.conf')",
        ),
        check("forever", "SELECT true FROM pg_sleep(60)"),
        check(
            "disk",
            "SELECT count(DISTINCT repeat(md5(n::text), 30)) > 0 FROM generate_series(1, 200000) AS n",
        ),
        check(
            "out of its bounds",
            "SELECT true) AS s OFFSET 0) AS c; COMMIT; SET default_transaction_read_only = off; DELETE FROM t; \
             SELECT * FROM (SELECT * FROM (SELECT true",
        ),
        check("f is a word", "SELECT 'f'"),
    ];
    let failed = failed(&world, checks).await?;
    assert_eq!(
        (failed.step, failed.cause),
        (DrillStep::Checks, FailureCause::Source)
    );
    assert!(failed.message.contains("no rows at night"), "{failed:?}");
    assert!(failed.message.contains("begins with false"), "{failed:?}");
    assert!(failed.target.is_some() && failed.backup_id.is_some());
    let passed = |name: &str| result(&failed.checks, name).passed;
    assert!(passed("fine") && passed("f is a word") && passed("pg_amcheck"));
    for (name, part) in [
        ("nothing", "NULL"),
        ("hidden error", "division by zero"),
        ("writes", ""),
        ("programs", "permission denied"),
        ("forever", "statement timeout"),
        ("disk", "temp_file_limit"),
        ("disk", "ZEKTOR_DRILL_TEMP_LIMIT"),
        ("out of its bounds", ""),
    ] {
        let check = result(&failed.checks, name);
        assert!(!check.passed && check.detail.contains(part), "{check:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_pack_is_found() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let backup = world.back_up().await?;
    let _ = world.archive().await?;
    // A store that cannot be asked proves nothing.
    world.faults.packs.store(true, Ordering::Relaxed);
    let unasked = failed(&world, Vec::new()).await?;
    let (step, cause) = (DrillStep::Materialise, FailureCause::Storage);
    assert_eq!(
        (unasked.step, unasked.cause, unasked.damaged),
        (step, cause, false),
        "{unasked:?}"
    );
    assert_eq!(damage::verdict(&world, &backup).await?, None);
    world.faults.packs.store(false, Ordering::Relaxed);

    let _ = damage::flip(&world, &backup).await?;
    let failed = failed(&world, Vec::new()).await?;
    assert_eq!(
        (failed.step, failed.cause, failed.damaged),
        (step, cause, true),
        "{failed:?}"
    );
    assert_eq!(failed.backup_id, Some(backup.backup_id));
    assert!(failed.hint.contains("marked as damaged"), "{failed:?}");
    let found = damage::verdict(&world, &backup).await?;
    let found = found.context("no verdict")?;
    assert!(!found.sound && found.command_id.0 == failed.drill_id.0);
    Ok(())
}

#[tokio::test]
async fn damaged_tables_are_found() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    // A page of the table is overwritten behind the server's back, and backed up as it is.
    let file = world
        .source
        .psql("CHECKPOINT; SELECT pg_relation_filepath('t')")
        .await?;
    let file = world.source.data_directory().join(file.trim());
    let mut page = std::fs::read(&file)?;
    // The line pointers begin behind the page's header of 24 bytes (`PageHeaderData`).
    page[24..32].fill(0x5a);
    std::fs::write(&file, page)?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let failed = failed(&world, vec![check("never asked", "SELECT true")]).await?;
    assert_eq!(
        (failed.step, failed.cause),
        (DrillStep::Amcheck, FailureCause::Source)
    );
    assert!(failed.message.contains("pg_amcheck"), "{failed:?}");
    assert_eq!(failed.checks.len(), 1);
    Ok(())
}

/// The build of 16 that is tested with comes without contrib.
#[tokio::test]
async fn without_amcheck_the_drill_says_so_and_goes_on() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V16).await?;
    let available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'";
    if world.source.psql(available).await? != "0" {
        return Ok(());
    }
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let summary = completed(&world, vec![check("asked", "SELECT true")]).await?;
    let amcheck = result(&summary.checks, "pg_amcheck");
    assert!(amcheck.skipped && !amcheck.passed, "{amcheck:?}");
    assert!(amcheck.detail.starts_with("not run"), "{amcheck:?}");
    assert!(result(&summary.checks, "asked").passed);
    Ok(())
}

#[tokio::test]
async fn killed_in_the_middle_the_next_one_does_it() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let request = request(&world, vec![check("slow", "SELECT true FROM pg_sleep(3)")]).await?;
    let (killed, asked) = (drills(&world), request.clone());
    let task = tokio::spawn(async move {
        Box::pin(killed.rehearse(&asked, &Progress::default(), false)).await
    });
    let site = world
        .compute
        .drill_site(&instance(), &BranchName::main(), request.drill_id);
    wait_until("a server of the drill", PATIENCE, async || {
        let state = world.compute.state(&site).await;
        state.is_ok_and(|state| state != ServerState::Down)
    })
    .await?;
    // As kill -9 does it: nothing is cleaned up, the server goes on.
    task.abort();
    let _ = task.await;
    let [server] = servers_of(&site)[..] else {
        anyhow::bail!("no server");
    };
    assert!(alive(server));
    let Event::DrillStarted(first) = last(&world, &request).await? else {
        anyhow::bail!("not started");
    };
    let Event::DrillCompleted(completed) = run(&world, &request).await? else {
        anyhow::bail!("not completed");
    };
    assert_eq!(completed.summary.target, first.target, "the moment is kept");
    assert!(!alive(server));
    // Once more: it is over, and nothing moves.
    let before = last(&world, &request).await?;
    assert_eq!(run(&world, &request).await?, before);
    Ok(())
}

fn servers_of(site: &restorer::site::Site) -> Vec<u32> {
    let file = std::fs::read_to_string(site.data().join("postmaster.pid")).unwrap_or_default();
    let pid = file.lines().next().and_then(|pid| pid.parse().ok());
    pid.into_iter().collect()
}

#[tokio::test]
async fn what_a_dead_restorer_left_is_removed() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let asked = request(&world, vec![check("slow", "SELECT true FROM pg_sleep(3)")]).await?;
    let (killed, of_task) = (drills(&world), asked.clone());
    let task = tokio::spawn(async move {
        Box::pin(killed.rehearse(&of_task, &Progress::default(), false)).await
    });
    let site = world
        .compute
        .drill_site(&instance(), &BranchName::main(), asked.drill_id);
    wait_until("an open server of the drill", PATIENCE, async || {
        matches!(world.compute.state(&site).await, Ok(ServerState::Ready))
    })
    .await?;
    // One that is being done is left alone.
    drills(&world).remove_leftovers().await?;
    assert!(site.data().exists() && !task.is_finished());
    task.abort();
    let _ = task.await;
    drills(&world).remove_leftovers().await?;
    nothing_is_left(&world).await
}

#[tokio::test]
async fn a_drill_that_was_taken_over_stops() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let slow = vec![check("slow", "SELECT true FROM pg_sleep(4)")];
    let asked = request(&world, slow).await?;
    let (first, of_task) = (drills(&world), asked.clone());
    let task = tokio::spawn(async move {
        Box::pin(first.rehearse(&of_task, &Progress::default(), false)).await
    });
    wait_until("the beginning", PATIENCE, async || {
        matches!(last(&world, &asked).await, Ok(Event::DrillStarted(_)))
    })
    .await?;
    // Delivered again while the first is at it.
    let Event::DrillCompleted(_) = run(&world, &asked).await? else {
        anyhow::bail!("not completed");
    };
    let ending = tokio::time::timeout(PATIENCE, task).await??;
    assert!(
        matches!(ending, Ending::Left { .. } | Ending::Done),
        "{ending:?}"
    );
    nothing_is_left(&world).await
}

/// It is no failure of anything, and nobody is alarmed.
#[tokio::test]
async fn without_a_backup_a_drill_is_refused() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V18).await?;
    for archived in [false, true] {
        if archived {
            let _ = world.archive().await?;
        }
        let request = request(&world, Vec::new()).await?;
        let refused = match run(&world, &request).await? {
            Event::DrillRefused(refused) => refused,
            other => anyhow::bail!("{other:?}"),
        };
        assert_eq!(refused.code, RefusalCode::OutsideWindow);
        assert!(refused.hint.contains("zektor backup create"), "{refused:?}");
    }
    Ok(())
}

//! Killed in the middle, delivered twice, and a store that fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use bus::{Bus, Progress};
use events::RestoreTarget;
use events::event::{
    Event, FailureCause, RestoreFailed, RestorePhase, RestoreProgressed, RestoreRequested,
};
use pg_format::{Lsn, SegmentName, WalSegmentSize};
use restorer::attempt::Ending;
use restorer::compute::{Compute as _, ServerState};
use restorer::restorer::{Memory, Restorer};
use testkit::postgres::PgVersion;
use testkit::wait_until;

use crate::copy;
use crate::world::{PATIENCE, World, alive};

/// Enough WAL that recovery asks for several segments.
async fn long_history(world: &World) -> Result<()> {
    let _ = world.back_up().await?;
    for step in 1..=4 {
        world.rows(step * 10 + 1..=step * 10 + 10).await?;
        let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    }
    world.rows(51..=55).await?;
    let _ = world.archive().await?;
    Ok(())
}

#[tokio::test]
async fn a_store_that_fails_makes_recovery_wait_and_not_end() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    long_history(&world).await?;
    world.faults.wal.store(true, Ordering::Relaxed);
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let (restorer, asked) = (Arc::clone(&world.restorer), request.clone());
    let task = tokio::spawn(async move {
        Box::pin(restorer.handle(&asked, &Progress::default(), false)).await
    });
    wait_until("the store to have failed often", PATIENCE, async || {
        world.faults.failed.load(Ordering::Relaxed) > 12
    })
    .await?;
    assert_ne!(
        world.compute.state(&world.site("b")).await?,
        ServerState::Ready
    );
    assert!(!task.is_finished());
    world.faults.wal.store(false, Ordering::Relaxed);
    assert_eq!(tokio::time::timeout(PATIENCE, task).await??, Ending::Done);
    assert!(matches!(
        world.last(&request).await?,
        Event::RestoreCompleted(_)
    ));
    assert_eq!(world.count(&world.finished("b")?).await?, 55);
    Ok(())
}

#[tokio::test]
async fn killed_in_the_middle_and_delivered_again() -> Result<()> {
    let world = World::new(PgVersion::V15).await?;
    long_history(&world).await?;
    world.faults.wal.store(true, Ordering::Relaxed);
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let (restorer, asked) = (Arc::clone(&world.restorer), request.clone());
    let task = tokio::spawn(async move {
        Box::pin(restorer.handle(&asked, &Progress::default(), false)).await
    });
    wait_until("a server that recovers", PATIENCE, async || {
        let state = world.compute.state(&world.site("b")).await;
        state.is_ok_and(|state| state != ServerState::Down)
    })
    .await?;
    // As kill -9 does it: nothing is cleaned up, the server goes on.
    task.abort();
    let _ = task.await;
    let leftover = world.postmaster("b").unwrap();
    assert!(alive(leftover));
    world.faults.wal.store(false, Ordering::Relaxed);
    let progress = Progress::default();
    let again = world.restorer.handle(&request, &progress, false);
    assert_eq!(
        tokio::time::timeout(PATIENCE, Box::pin(again)).await?,
        Ending::Done
    );
    assert!(!alive(leftover));
    let finished = world.finished("b")?;
    assert_eq!(world.count(&finished).await?, 55);
    // Once more: it is over, and nothing moves.
    let server = world.postmaster("b");
    let again = world.restorer.handle(&request, &progress, false);
    assert_eq!(Box::pin(again).await, Ending::Done);
    assert_eq!(
        (world.postmaster("b"), world.finished("b")?),
        (server, finished)
    );
    Ok(())
}

#[tokio::test]
async fn a_finished_branch_is_only_announced() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let request = world.request("b", RestoreTarget::Latest);
    let _ = world.run(&request).await?;
    let (finished, server) = (world.finished("b")?, world.postmaster("b"));
    // The same restore on a bus that has heard nothing of its end.
    let bus = Bus::in_memory();
    world.describe_source(&bus).await?;
    crate::scheduler::claim(&bus, &request.branch, request.restore_id).await?;
    crate::scheduler::play(&bus, &world.over);
    let restorer = Restorer {
        bus: bus.clone(),
        repository: world.restorer.repository.clone(),
        compute: Arc::clone(&world.restorer.compute),
        key: Arc::clone(&world.restorer.key),
        clock: Arc::clone(&world.restorer.clock),
        policy: world.restorer.policy,
        name: "another".to_owned(),
        parallelism: 1,
        drain: world.drain.clone(),
        memory: Memory::default(),
    };
    let ending = Box::pin(restorer.handle(&request, &Progress::default(), false)).await;
    assert_eq!(ending, Ending::Done);
    let last = bus
        .last_on(&restorer::voice::fence_of(&request))
        .await?
        .unwrap();
    match last.envelope.message {
        Event::RestoreCompleted(completed) => assert_eq!(completed.summary, finished.summary),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        (world.finished("b")?, world.postmaster("b")),
        (finished, server)
    );
    // Another restore into the same name is refused.
    let request = world.request("b", RestoreTarget::Latest);
    assert!(matches!(
        world.run(&request).await?,
        Event::RestoreRefused(_)
    ));
    assert_eq!(world.postmaster("b"), server);
    Ok(())
}

#[tokio::test]
async fn a_drain_ends_a_restore_and_leaves_nothing() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    long_history(&world).await?;
    world.faults.wal.store(true, Ordering::Relaxed);
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let (restorer, asked) = (Arc::clone(&world.restorer), request.clone());
    let task =
        tokio::spawn(
            async move { Box::pin(restorer.handle(&asked, &Progress::default(), true)).await },
        );
    wait_until("a server that recovers", PATIENCE, async || {
        world
            .compute
            .state(&world.site("b"))
            .await
            .is_ok_and(|state| state != ServerState::Down)
    })
    .await?;
    let server = world.postmaster("b").unwrap();
    world.drain.cancel();
    let ending = tokio::time::timeout(PATIENCE, task).await??;
    assert!(matches!(ending, Ending::Again { .. }), "{ending:?}");
    assert!(!alive(server));
    // Nothing but the plan, for the next attempt; a restore that nobody wants any more leaves not even that.
    let left: Vec<_> = std::fs::read_dir(world.root_of("b"))?.collect::<Result<_, _>>()?;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].path(), world.site("b").plan_file());
    crate::scheduler::forget(&world.restorer.bus, &request.branch).await?;
    world.restorer.reconcile().await?;
    assert!(!world.root_of("b").exists());
    Ok(())
}

/// Every path below a directory.
fn paths(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(paths(&entry.path())?);
        }
        let _ = found.insert(entry.path());
    }
    Ok(found)
}

async fn a_later_tablespace(version: PgVersion) -> Result<()> {
    let world = World::new(version).await?;
    let _ = world.back_up().await?;
    world.rows(11..=15).await?;
    let before = copy::clock(&world.source).await?;
    world.rows(16..=17).await?;
    // Recovery reads ahead (`recovery_prefetch`), but not so far.
    let much = "CREATE TABLE much AS SELECT generate_series(1, 50000)";
    let _ = world.source.psql(much).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    let late = world.source.directory("late")?;
    let create = format!("CREATE TABLESPACE late LOCATION '{}'", late.display());
    let _ = world.source.psql(&create).await?;
    let fill =
        "CREATE TABLE inside (id int) TABLESPACE late; INSERT INTO inside VALUES (1); CHECKPOINT";
    let _ = world.source.psql(fill).await?;
    world.rows(18..=20).await?;
    let _ = world.archive().await?;
    let there = paths(&late)?;

    let latest = world.request("latest", RestoreTarget::Latest);
    match world.run(&latest).await? {
        Event::RestoreFailed(failed) => {
            assert_eq!(failed.cause, FailureCause::Wal);
            let location = late.display().to_string();
            assert!(failed.message.contains(&location), "{}", failed.message);
        }
        other => panic!("{other:?}"),
    }
    assert!(!world.root_of("latest").exists());
    assert_eq!(paths(&late)?, there);
    assert_eq!(world.source.psql("SELECT id FROM inside").await?, "1");
    let finished = world
        .restore("before", RestoreTarget::Time { at: before })
        .await?;
    assert_eq!(world.count(&finished).await?, 15);
    assert_eq!(paths(&late)?, there);
    Ok(())
}

#[tokio::test]
async fn a_tablespace_made_after_the_backup_is_left_alone_on_15() -> Result<()> {
    a_later_tablespace(PgVersion::V15).await
}

#[tokio::test]
async fn a_tablespace_made_after_the_backup_is_left_alone_on_18() -> Result<()> {
    a_later_tablespace(PgVersion::V18).await
}

#[tokio::test]
async fn wal_that_cannot_be_read_is_not_the_end_of_wal() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let before = copy::clock(&world.source).await?;
    world.rows(16..=20).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(21..=25).await?;
    let lsn = "SELECT pg_current_wal_insert_lsn()";
    let lsn: Lsn = world.source.psql(lsn).await?.parse()?;
    world.rows(26..=30).await?;
    let name = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let name = world.source.psql(name).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(31..=40).await?;
    let position = copy::archive_without(&world.source, &world.writer, Some(&name)).await?;
    // Its digest fits, its content does not.
    let size = WalSegmentSize::DEFAULT;
    let file = world.source.data_directory().join("pg_wal").join(&name);
    let mut raw = std::fs::read(file)?;
    raw[usize::try_from(size.offset_in_segment(lsn))? + 40] ^= 1;
    let name = SegmentName::parse(&name, size)?;
    let _ = world.writer.put_segment(name, raw.into()).await?;

    let at = position.proven_at;
    for (branch, target, says) in [
        ("latest", RestoreTarget::Latest, "damaged"),
        ("idle", RestoreTarget::Time { at }, "gap"),
    ] {
        match world.run(&world.request(branch, target)).await? {
            Event::RestoreRefused(refused) => {
                assert!(refused.message.contains(says), "{}", refused.message);
            }
            other => panic!("{other:?}"),
        }
        assert!(!world.root_of(branch).exists());
    }
    let finished = world
        .restore("before", RestoreTarget::Time { at: before })
        .await?;
    assert_eq!(world.count(&finished).await?, 15);
    let id = first.backup_id;
    let finished = world
        .restore(
            "first",
            RestoreTarget::Backup {
                id,
                even_damaged: false,
            },
        )
        .await?;
    assert_eq!(world.count(&finished).await?, 10);
    Ok(())
}

/// How an attempt ends when this is said on its fence while it recovers.
async fn overtaken_by(event: impl FnOnce(&RestoreRequested) -> Event) -> Result<Ending> {
    let world = World::new(PgVersion::V18).await?;
    long_history(&world).await?;
    world.faults.wal.store(true, Ordering::Relaxed);
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let (restorer, asked) = (Arc::clone(&world.restorer), request.clone());
    let task = tokio::spawn(async move {
        Box::pin(restorer.handle(&asked, &Progress::default(), false)).await
    });
    wait_until("a server that recovers", PATIENCE, async || {
        let state = world.compute.state(&world.site("b")).await;
        state.is_ok_and(|state| state != ServerState::Down)
    })
    .await?;
    let outgoing = restorer::voice::outgoing(&request, event(&request), world.restorer.clock.now());
    let _ = world.restorer.bus.publish(outgoing).await?;
    Ok(tokio::time::timeout(PATIENCE, task).await??)
}

#[tokio::test]
async fn a_superseded_attempt_leaves_the_request_to_its_successor() -> Result<()> {
    let progressed = |request: &RestoreRequested| {
        Event::RestoreProgressed(RestoreProgressed {
            restore_id: request.restore_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            phase: RestorePhase::Recover,
            done_bytes: 1,
            total_bytes: 2,
        })
    };
    let ending = overtaken_by(progressed).await?;
    assert!(matches!(ending, Ending::Left { .. }), "{ending:?}");
    let failed = |request: &RestoreRequested| {
        Event::RestoreFailed(RestoreFailed {
            restore_id: request.restore_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            cause: FailureCause::Wal,
            message: String::new(),
            hint: String::new(),
            failed_at: request.requested_at,
        })
    };
    assert_eq!(overtaken_by(failed).await?, Ending::Done);
    Ok(())
}

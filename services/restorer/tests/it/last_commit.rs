//! Branches into which nobody wrote between the base backup and the target: their last commit, where recovery stops, and
//! what can be asked for at all while the backup is young.

use std::time::Duration;

use anyhow::{Context as _, Result};
use events::plan::{RestoreAnswer, RestorePreview, RestoreQuestion};
use events::{BranchName, ClusterSize, RestoreTarget};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use restorer::restorer::Restorer;
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;

use crate::world::{World, instance};

async fn answer(restorer: &Restorer, target: RestoreTarget) -> RestoreAnswer {
    let question = RestoreQuestion {
        instance: instance(),
        source_branch: BranchName::main(),
        branch: None,
        target,
        size: ClusterSize::Dev,
    };
    restorer.answer(question).await
}

async fn preview(world: &World, target: RestoreTarget) -> Result<RestorePreview> {
    match answer(&world.restorer, target).await {
        RestoreAnswer::Possible(preview) => Ok(preview),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Writes a row into both tables; the transaction.
async fn write(world: &World, id: i32) -> Result<u32> {
    let sql = format!(
        "BEGIN; INSERT INTO t VALUES ({id}); INSERT INTO elsewhere VALUES ({id}); \
         SELECT 'xid ' || pg_current_xact_id(); COMMIT"
    );
    let said = world.source.psql(&sql).await?;
    let xid = said.lines().find_map(|line| line.strip_prefix("xid "));
    Ok(xid.context(said.clone())?.parse()?)
}

/// Goes on to another segment, with nothing that commits.
async fn next_segment(world: &World) -> Result<()> {
    let point = "SELECT pg_create_restore_point('next'); SELECT pg_switch_wal()";
    world.source.psql(point).await.map(drop)
}

async fn the_last_commit_is_told_and_proven(version: PgVersion, segments: u32) -> Result<()> {
    let world = World::new(version).await?;
    let xid = write(&world, 11).await?;
    for _ in 0..segments {
        next_segment(&world).await?;
    }
    let backup = world.back_up().await?;
    let _ = world.archive().await?;
    let targets = [
        RestoreTarget::Latest,
        RestoreTarget::Time {
            at: backup.backed_up_at,
        },
        RestoreTarget::Backup {
            id: backup.backup_id,
            even_damaged: false,
        },
    ];
    for (branch, target) in ["a", "b", "c"].into_iter().zip(targets) {
        let preview = preview(&world, target.clone()).await?;
        let last = preview.plan.last_commit.context("no last commit")?;
        assert_eq!(last.xid, xid, "{target:?}");
        assert!(last.lsn < backup.start_lsn, "{target:?}");
        let told = preview.checks.iter().find(|check| check.name == "target");
        let told = &told.context("no target")?.detail;
        assert!(told.contains(&format!("transaction {xid}")), "{told}");
        let finished = world.restore(branch, target.clone()).await?;
        assert_eq!(world.count(&finished).await?, 11);
        assert_eq!(finished.summary.last_commit_at, Some(last.at), "{target:?}");
        // What the dry run shows as `stop_lsn`.
        let (forked, foretold) = (finished.summary.stop_lsn, preview.fork_lsn);
        assert_eq!(Some(forked), foretold, "{target:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_last_commit_is_told_and_proven_in_the_segment_of_the_backup() -> Result<()> {
    the_last_commit_is_told_and_proven(PgVersion::V18, 0).await
}

#[tokio::test]
async fn the_last_commit_is_told_and_proven_some_segments_before_the_backup() -> Result<()> {
    the_last_commit_is_told_and_proven(PgVersion::V15, 7).await
}

#[tokio::test]
async fn where_the_archive_does_not_know_it_says_so() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V18).await?;
    let _ = write(&world, 11).await?;
    next_segment(&world).await?;
    let backup = world.back_up().await?;
    let _ = world.archive().await?;
    let wal = world.stored.list(Some(&Path::from("v1/orders/main/wal")));
    let wal: Vec<_> = futures::TryStreamExt::try_collect(wal).await?;
    let first = pg_format::SegmentName::containing(
        backup.timeline,
        backup.start_lsn,
        backup.wal_segment_size,
    );
    for object in wal.into_iter().map(|object| object.location) {
        let older = |name: &str| name.len() == 24 && *name < *first.to_string();
        if object.filename().is_some_and(older) {
            world.stored.delete(&object).await?;
        }
    }
    let preview = preview(&world, RestoreTarget::Latest).await?;
    assert_eq!(preview.plan.last_commit, None);
    let told = preview
        .checks
        .iter()
        .find(|check| check.name == "last_commit");
    let told = &told.context("nothing is said")?.detail;
    let since = first.start(backup.wal_segment_size);
    assert!(told.contains(&format!("from {since} to")), "{told}");
    let finished = world.restore("a", RestoreTarget::Latest).await?;
    assert_eq!(world.count(&finished).await?, 11);
    assert_eq!(finished.summary.last_commit_at, None);
    Ok(())
}

#[tokio::test]
async fn a_young_branch_names_no_time_that_is_refused() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V18).await?;
    let backup = world.back_up().await?;
    let _ = world.archive().await?;
    let mut patient = world.another("patient", Vec::new())?;
    patient.policy.min_target_age = Duration::from_secs(120);
    let at = SystemClock.now();
    let said = match answer(&patient, RestoreTarget::Time { at }).await {
        RestoreAnswer::Refused(refusal) => format!("{}; {}", refusal.message, refusal.hint),
        other => anyhow::bail!("{other:?}"),
    };
    let first = backup.backed_up_at;
    for named in [first, first + chrono::TimeDelta::seconds(120)] {
        let named = events::envelope::rfc3339(named);
        assert!(said.contains(&named), "{said} has no {named}");
    }
    assert!(said.contains("no time can be restored yet"), "{said}");
    let works = [
        RestoreTarget::Latest,
        RestoreTarget::Lsn {
            lsn: backup.stop_lsn,
        },
        RestoreTarget::Backup {
            id: backup.backup_id,
            even_damaged: false,
        },
    ];
    for target in works {
        match answer(&patient, target).await {
            RestoreAnswer::Possible(preview) => assert_eq!(preview.latest, None),
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(())
}

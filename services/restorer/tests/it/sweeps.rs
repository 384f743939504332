//! A branch of which something is being deleted: for whoever asks or restores it is gone already, and what is only
//! marked is there.

use anyhow::{Context as _, Result};
use bus::Decision;
use events::document::{Sweep, WalStretch};
use events::event::{BackupSummary, Event, RefusalCode};
use events::mark::{BackupMark, DeletedBy, Deletion, Verification};
use events::moments::MomentsQuestion;
use events::plan::{RestoreAnswer, RestoreQuestion, RestoreRefusal};
use events::window::WindowQuestion;
use events::{BranchName, ClusterSize, InstanceDocument, RestoreTarget, SweepId, Timestamp};
use pg_format::WalSegmentSize;
use repository::PutMark;
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;
use uuid::Uuid;

use crate::copy;
use crate::world::{World, instance};

/// Puts a sweep of main into the document, or takes it out.
async fn sweep(world: &World, sweep: Option<Sweep>) -> Result<()> {
    let instances = world.restorer.bus.instances();
    let put = |document: Option<&InstanceDocument>| {
        let Some(mut document) = document.cloned() else {
            return Decision::Keep(());
        };
        document.sweeps.clear();
        let sweep = sweep.clone().map(|sweep| (BranchName::main(), sweep));
        document.sweeps.extend(sweep);
        Decision::Put(Box::new(document), ())
    };
    Ok(instances.update(&instance(), put).await?)
}

/// The first backup, and the WAL that only it needs.
fn of(first: &BackupSummary, second: &BackupSummary) -> Sweep {
    let floor = |lsn| WalSegmentSize::DEFAULT.floor(lsn);
    Sweep {
        sweep_id: SweepId(Uuid::now_v7()),
        asked_at: SystemClock.now(),
        backups: vec![first.backup_id],
        wal: vec![WalStretch {
            timeline: first.timeline,
            from_lsn: floor(first.start_lsn),
            to_lsn: floor(second.start_lsn),
        }],
        histories: Vec::new(),
        leftovers: Vec::new(),
        hollow: false,
        purge: false,
        withdrawn_at: None,
    }
}

async fn preview(world: &World, target: RestoreTarget) -> Result<RestoreRefusal> {
    let question = RestoreQuestion {
        instance: instance(),
        source_branch: BranchName::main(),
        branch: None,
        target,
        size: ClusterSize::Dev,
    };
    match world.restorer.answer(question).await {
        RestoreAnswer::Refused(refusal) => Ok(refusal),
        other => anyhow::bail!("{other:?}"),
    }
}

async fn earliest(world: &World) -> Result<Option<Timestamp>> {
    let question = WindowQuestion {
        instance: instance(),
        branch: BranchName::main(),
    };
    Ok(world.restorer.window(&question).await?.earliest)
}

async fn drops(world: &World) -> Result<usize> {
    let question = MomentsQuestion {
        instance: instance(),
        branch: BranchName::main(),
        from: None,
        to: None,
        only_drops: true,
        limit: None,
    };
    Ok(world.restorer.moments(&question).await?.moments.len())
}

#[tokio::test]
async fn what_is_being_deleted_is_gone_and_what_is_marked_is_there() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.source.psql("CREATE TABLE early (id int)").await?;
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let between = copy::clock(&world.source).await?;
    let _ = world.source.psql("DROP TABLE early").await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(16..=20).await?;
    let second = world.back_up().await?;
    world.rows(21..=25).await?;
    let _ = world.archive().await?;
    let swept = of(&first, &second);
    let stretch = swept.wal.first().context("no wal")?;
    anyhow::ensure!(stretch.from_lsn < stretch.to_lsn, "{stretch:?}");
    assert_eq!(earliest(&world).await?, Some(first.backed_up_at));
    assert_eq!(drops(&world).await?, 1);

    sweep(&world, Some(swept)).await?;
    assert_eq!(earliest(&world).await?, Some(second.backed_up_at));
    assert_eq!(drops(&world).await?, 0, "it cannot be undone any more");
    let refusal = preview(&world, RestoreTarget::Time { at: between }).await?;
    assert_eq!(refusal.code, RefusalCode::OutsideWindow, "{refusal:?}");
    let backup = RestoreTarget::Backup {
        id: first.backup_id,
        even_damaged: false,
    };
    let refusal = preview(&world, backup.clone()).await?;
    assert!(refusal.message.contains("is being deleted"), "{refusal:?}");
    let request = world.request("b", backup.clone());
    match world.run(&request).await? {
        Event::RestoreRefused(refused) => {
            assert!(refused.message.contains("is being deleted"), "{refused:?}");
        }
        other => anyhow::bail!("{other:?}"),
    }
    let finished = world.restore("c", RestoreTarget::Latest).await?;
    assert_eq!(finished.summary.backup_id, second.backup_id);
    assert_eq!(world.count(&finished).await?, 25);
    world.remove("c").await?;

    // Withdrawn: the backup is marked still, and everything with it can be restored.
    sweep(&world, None).await?;
    let read = world.writer.mark(first.backup_id).await?;
    let marked = BackupMark {
        deletion: Some(Deletion {
            by: DeletedBy::Retention,
            asked_at: SystemClock.now(),
            delete_after: SystemClock.now(),
        }),
        ..BackupMark::default()
    };
    let put = world
        .writer
        .put_mark(first.backup_id, &marked, &read)
        .await?;
    assert!(matches!(put, PutMark::Written(_)));
    assert_eq!(earliest(&world).await?, Some(first.backed_up_at));
    for (branch, target, rows) in [
        ("d", backup, 10),
        ("e", RestoreTarget::Time { at: between }, 15),
    ] {
        let finished = world.restore(branch, target).await?;
        assert_eq!(finished.summary.backup_id, first.backup_id, "{branch}");
        assert_eq!(world.count(&finished).await?, rows, "{branch}");
        world.remove(branch).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_was_found_damaged_is_no_beginning_while_there_is_a_sound_one() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let second = world.back_up().await?;
    world.rows(16..=20).await?;
    let _ = world.archive().await?;
    let found = async |backup: &BackupSummary, sound| {
        let read = world.writer.mark(backup.backup_id).await?;
        let mark = BackupMark {
            verified: Some(Verification {
                sound,
                at: SystemClock.now(),
            }),
            ..BackupMark::default()
        };
        let put = world
            .writer
            .put_mark(backup.backup_id, &mark, &read)
            .await?;
        assert!(matches!(put, PutMark::Written(_)));
        anyhow::Ok(())
    };
    found(&second, false).await?;
    let finished = world.restore("a", RestoreTarget::Latest).await?;
    assert_eq!(finished.summary.backup_id, first.backup_id);
    assert_eq!(world.count(&finished).await?, 20);
    world.remove("a").await?;
    found(&second, true).await?;
    found(&first, false).await?;
    assert_eq!(earliest(&world).await?, Some(second.backed_up_at));
    // Better than none.
    found(&second, false).await?;
    assert_eq!(earliest(&world).await?, Some(first.backed_up_at));
    Ok(())
}

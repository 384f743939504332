//! Restores and windows where a verification has found a backup damaged.

use anyhow::Result;
use events::RestoreTarget;
use events::event::{BackupSummary, Event, RefusalCode};
use events::mark::{BackupMark, Verification};
use events::plan::{CheckState, RestoreAnswer, RestoreQuestion};
use events::window::WindowQuestion;
use events::{BackupId, BranchName, ClusterSize};
use repository::PutMark;
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;

use crate::copy;
use crate::world::{World, instance};

async fn verified(world: &World, backup: &BackupSummary, sound: bool) -> Result<()> {
    let read = world.writer.mark(backup.backup_id).await?;
    let at = SystemClock.now();
    let mark = BackupMark {
        verified: Some(Verification { sound, at }),
        ..BackupMark::default()
    };
    let put = world.writer.put_mark(backup.backup_id, &mark, &read);
    assert!(matches!(put.await?, PutMark::Written(_)));
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

fn end_of(backup: &BackupSummary, even_damaged: bool) -> RestoreTarget {
    RestoreTarget::Backup {
        id: backup.backup_id,
        even_damaged,
    }
}

async fn asked(world: &World, backup: &BackupSummary) -> RestoreAnswer {
    preview(world, end_of(backup, false)).await
}

/// The base of what is planned, and the warning about its damage.
async fn planned(world: &World, target: RestoreTarget) -> Result<(BackupId, Option<String>)> {
    match preview(world, target).await {
        RestoreAnswer::Possible(preview) => {
            let mut checks = preview.checks.into_iter();
            let told = checks.find(|check| check.name == "damaged_backup");
            if let Some(told) = &told {
                assert_eq!(told.state, CheckState::Warning);
            }
            Ok((preview.plan.backup_id, told.map(|told| told.detail)))
        }
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test]
async fn a_damaged_backup_is_refused_with_the_nearest_sound_one() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let second = world.back_up().await?;
    world.rows(16..=20).await?;
    let third = world.back_up().await?;
    let _ = world.archive().await?;
    verified(&world, &third, false).await?;
    let RestoreAnswer::Refused(refused) = asked(&world, &third).await else {
        anyhow::bail!("not refused");
    };
    assert_eq!(refused.code, RefusalCode::UnsuitableSource);
    assert!(refused.message.contains("found damaged"), "{refused:?}");
    let named = second.backup_id.to_string();
    assert!(refused.hint.contains(&named), "{refused:?}");
    assert!(refused.hint.contains("--even-damaged"), "{refused:?}");
    let target = end_of(&third, false);
    let Event::RestoreRefused(event) = world.run(&world.request("b", target)).await? else {
        anyhow::bail!("not refused");
    };
    assert_eq!((event.message, event.hint), (refused.message, refused.hint));
    // One that cannot be restored itself is nothing to name.
    verified(&world, &second, false).await?;
    let RestoreAnswer::Refused(refused) = asked(&world, &third).await else {
        anyhow::bail!("not refused");
    };
    assert!(refused.hint.contains(&first.backup_id.to_string()));

    let question = WindowQuestion {
        instance: instance(),
        branch: BranchName::main(),
    };
    let report = world.restorer.window_report(&question).await?;
    assert_eq!(report.window.earliest_backup_id, Some(first.backup_id));
    let damaged: Vec<_> = report.damaged.iter().map(|one| one.backup_id).collect();
    assert_eq!(damaged, [second.backup_id, third.backup_id]);
    assert_eq!(report.min_target_age_secs, Some(0));

    // Somebody may have nothing better.
    verified(&world, &first, false).await?;
    let (_, told) = planned(&world, end_of(&third, false)).await?;
    assert!(told.is_some_and(|told| told.contains("no sound one")));
    let target = end_of(&third, false);
    let finished = world.restore("b", target).await?;
    assert_eq!(world.count(&finished).await?, 20);
    // Mended.
    verified(&world, &third, true).await?;
    assert!(matches!(
        asked(&world, &third).await,
        RestoreAnswer::Possible(_)
    ));
    Ok(())
}

#[tokio::test]
async fn somebody_may_insist_on_a_damaged_backup() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let second = world.back_up().await?;
    let _ = world.archive().await?;
    verified(&world, &second, false).await?;
    assert!(matches!(
        asked(&world, &second).await,
        RestoreAnswer::Refused(_)
    ));
    let insisting = end_of(&second, true);
    let (base, told) = planned(&world, insisting.clone()).await?;
    assert_eq!(base, second.backup_id);
    let named = first.backup_id.to_string();
    assert!(
        told.as_ref().is_some_and(|told| told.contains(&named)),
        "{told:?}"
    );
    // What was found is not in a chunk that a restore needs.
    let finished = world.restore("b", insisting).await?;
    assert_eq!(world.count(&finished).await?, 15);
    Ok(())
}

#[tokio::test]
async fn a_damaged_backup_is_planned_with_where_no_sound_one_leads() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let at = copy::clock(&world.source).await?;
    world.rows(16..=20).await?;
    let second = world.back_up().await?;
    world.rows(21..=25).await?;
    let _ = world.archive().await?;
    let time = RestoreTarget::Time { at };

    // Both lead to the end: the sound one is taken, and there is nothing to tell.
    verified(&world, &second, false).await?;
    let latest = planned(&world, RestoreTarget::Latest).await?;
    assert_eq!(latest, (first.backup_id, None));

    verified(&world, &second, true).await?;
    verified(&world, &first, false).await?;
    let latest = planned(&world, RestoreTarget::Latest).await?;
    assert_eq!(latest, (second.backup_id, None));
    let (base, told) = planned(&world, time.clone()).await?;
    assert_eq!(base, first.backup_id);
    assert!(told.is_some_and(|told| told.contains("found damaged")));
    let finished = world.restore("b", time).await?;
    assert_eq!(world.count(&finished).await?, 15);

    // What nothing leads to is refused with what is sound.
    let before = RestoreTarget::Time {
        at: first.started_at - chrono::TimeDelta::hours(1),
    };
    let RestoreAnswer::Refused(refused) = preview(&world, before).await else {
        anyhow::bail!("not refused");
    };
    let sound = events::envelope::rfc3339(second.backed_up_at);
    assert!(format!("{refused:?}").contains(&sound), "{refused:?}");
    Ok(())
}

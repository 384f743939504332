//! Restores and windows where a verification has found a backup damaged.

use anyhow::Result;
use events::RestoreTarget;
use events::event::{BackupSummary, Event, RefusalCode};
use events::mark::{BackupMark, Verification};
use events::plan::{CheckState, RestoreAnswer, RestoreQuestion};
use events::window::WindowQuestion;
use events::{BranchName, ClusterSize};
use repository::PutMark;
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;

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

async fn asked(world: &World, backup: &BackupSummary) -> RestoreAnswer {
    let question = RestoreQuestion {
        instance: instance(),
        source_branch: BranchName::main(),
        branch: None,
        target: RestoreTarget::Backup {
            id: backup.backup_id,
        },
        size: ClusterSize::Dev,
    };
    world.restorer.answer(question).await
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
    let target = RestoreTarget::Backup {
        id: third.backup_id,
    };
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
    let RestoreAnswer::Possible(preview) = asked(&world, &third).await else {
        anyhow::bail!("refused");
    };
    let check = preview.checks.iter();
    let mut check = check.filter(|check| check.name == "damaged_backup");
    let check = check.next().expect("a check");
    assert_eq!(check.state, CheckState::Warning);
    let target = RestoreTarget::Backup {
        id: third.backup_id,
    };
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

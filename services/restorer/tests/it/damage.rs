//! Restores that come upon damage that nobody knew of: it is known from then on, and gone round.

mod wal;

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use bus::Outgoing;
use events::event::{
    BackupExpired, BackupSummary, BackupVerified, Event, FailureCause, RestoreStarted,
};
use events::mark::{BackupMark, Verification};
use events::plan::CheckState;
use events::{CommandId, MessageId, RestoreTarget, SweepId, subject};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use repository::{PutMark, RepositoryError};
use restorer::voice::fence_of;
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;
use uuid::Uuid;

use crate::world::{World, instance};

/// A pack of a backup.
pub(crate) async fn pack_of(world: &World, backup: &BackupSummary) -> Result<Path> {
    let prefix = format!("v1/orders/main/packs/{}", backup.backup_id);
    let packs = world.stored.list(Some(&Path::from(prefix)));
    let packs: Vec<_> = futures::TryStreamExt::try_collect(packs).await?;
    let mut packs = packs.into_iter().map(|pack| pack.location);
    let pack = packs.find(|pack| !pack.as_ref().contains("index"));
    pack.context("no pack")
}

/// One byte of a pack is not what was stored; its key.
pub(crate) async fn flip(world: &World, backup: &BackupSummary) -> Result<Path> {
    let pack = pack_of(world, backup).await?;
    let mut bytes = world.stored.get(&pack).await?.bytes().await?.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x01;
    let _ = world.stored.put(&pack, bytes.into()).await?;
    Ok(pack)
}

/// What was last said of a backup.
async fn said(world: &World, backup: &BackupSummary) -> Result<Option<Event>> {
    let fence = subject::backup_fence(&instance(), &backup.branch, backup.backup_id);
    let last = world.restorer.bus.last_on(&fence).await?;
    Ok(last.map(|last| last.envelope.message))
}

/// The verdict that a restore or drill has given.
pub(crate) async fn verdict(
    world: &World,
    backup: &BackupSummary,
) -> Result<Option<BackupVerified>> {
    Ok(match said(world, backup).await? {
        Some(Event::BackupVerified(verified)) => Some(verified),
        _ => None,
    })
}

/// Keeps the verdict beside the manifest, as the scheduler does.
async fn keep(world: &World, found: &BackupVerified) -> Result<()> {
    let read = world.writer.mark(found.backup_id).await?;
    let mark = BackupMark {
        verified: Some(Verification {
            sound: found.sound,
            at: found.verified_at,
        }),
        ..read.mark.clone()
    };
    let put = world.writer.put_mark(found.backup_id, &mark, &read).await?;
    assert!(matches!(put, PutMark::Written(_)));
    Ok(())
}

/// Two backups of which both lead to the end, and 20 rows.
async fn two_backups(world: &World) -> Result<(BackupSummary, BackupSummary)> {
    let first = world.back_up().await?;
    world.rows(11..=15).await?;
    let second = world.back_up().await?;
    world.rows(16..=20).await?;
    let _ = world.archive().await?;
    Ok((first, second))
}

fn end_of(backup: &BackupSummary) -> RestoreTarget {
    RestoreTarget::Backup {
        id: backup.backup_id,
        even_damaged: false,
    }
}

#[tokio::test]
async fn what_a_restore_finds_damaged_it_goes_round_and_makes_known() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let (first, second) = two_backups(&world).await?;
    let pack = flip(&world, &second).await?;
    let request = world.request("b", RestoreTarget::Latest);
    let ended = world.run(&request).await?;
    let Event::RestoreCompleted(completed) = ended else {
        anyhow::bail!("{ended:?}");
    };
    let summary = completed.summary;
    assert_eq!(summary.backup_id, first.backup_id);
    assert_eq!(world.count(&world.finished("b")?).await?, 20);
    // It is told, in what is said at last and on the way there.
    let damaged = second.backup_id.to_string();
    let told = summary
        .checks
        .iter()
        .find(|check| check.name == "damaged_backup");
    let told = told.context("nothing is told")?;
    assert!(
        told.state == CheckState::Warning && told.detail.contains(&damaged),
        "{told:?}"
    );
    let begun = fence_of(&request).replace("restore.*", "restore.started");
    let begun = world
        .restorer
        .bus
        .last_on(&begun)
        .await?
        .context("not begun")?;
    let Event::RestoreStarted(RestoreStarted {
        plan, passed_over, ..
    }) = begun.envelope.message
    else {
        anyhow::bail!("not begun");
    };
    assert_eq!(
        (plan.backup_id, passed_over),
        (first.backup_id, vec![second.backup_id])
    );

    // From now on it counts as damaged, with what is wrong.
    let found = verdict(&world, &second).await?.context("no verdict")?;
    assert!(
        !found.sound && found.command_id.0 == request.restore_id.0,
        "{found:?}"
    );
    let named = found
        .problems
        .iter()
        .any(|problem| problem.contains(pack.as_ref()));
    assert!(named, "{found:?}");
    assert_eq!(said(&world, &first).await?, None);
    keep(&world, &found).await?;
    let finished = world.restore("c", RestoreTarget::Latest).await?;
    assert_eq!(finished.summary.backup_id, first.backup_id);
    assert!(
        finished
            .summary
            .checks
            .iter()
            .all(|check| check.name != "damaged_backup")
    );
    assert_eq!(world.count(&finished).await?, 20);
    assert_eq!(verdict(&world, &second).await?, Some(found));
    Ok(())
}

#[tokio::test]
async fn a_pack_that_is_missing_is_damage_and_whoever_asked_for_the_backup_hears_what_to_do()
-> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let (first, second) = two_backups(&world).await?;
    let pack = pack_of(&world, &second).await?;
    world.stored.delete(&pack).await?;
    let ended = world.run(&world.request("b", end_of(&second))).await?;
    let Event::RestoreFailed(failed) = ended else {
        anyhow::bail!("{ended:?}");
    };
    assert_eq!(failed.cause, FailureCause::Storage);
    let named = format!("backup {} is damaged: ", second.backup_id);
    assert!(failed.message.starts_with(&named), "{failed:?}");
    assert!(failed.message.contains(pack.as_ref()), "{failed:?}");
    assert!(failed.hint.contains("marked as damaged"), "{failed:?}");
    assert!(failed.hint.contains("--latest"), "{failed:?}");
    assert!(!world.root_of("b").exists());
    let found = verdict(&world, &second).await?.context("no verdict")?;
    assert!(!found.sound);

    // Of one that is known it is not told again, and where nothing else leads the restore fails.
    keep(&world, &found).await?;
    let _ = flip(&world, &first).await?;
    let ended = world
        .run(&world.request("b", RestoreTarget::Latest))
        .await?;
    let Event::RestoreFailed(failed) = ended else {
        anyhow::bail!("{ended:?}");
    };
    assert!(failed.hint.contains("no other backup leads"), "{failed:?}");
    assert!(verdict(&world, &first).await?.is_some());
    assert_eq!(verdict(&world, &second).await?, Some(found));
    Ok(())
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_marks_nothing() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let (first, second) = two_backups(&world).await?;
    let _ = flip(&world, &second).await?;
    world.faults.packs.store(true, Ordering::Relaxed);
    let ended = world
        .run(&world.request("b", RestoreTarget::Latest))
        .await?;
    let Event::RestoreFailed(failed) = ended else {
        anyhow::bail!("{ended:?}");
    };
    assert!(world.faults.failed.load(Ordering::Relaxed) > 0);
    assert_eq!(failed.cause, FailureCause::Storage);
    assert!(!failed.message.contains("damaged"), "{failed:?}");
    for backup in [&first, &second] {
        assert_eq!(said(&world, backup).await?, None);
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_has_lost_everything_marks_nothing() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let (_, second) = two_backups(&world).await?;
    let manifest = world.writer.manifest(second.backup_id).await?;
    // Another disk where the repository was, or none.
    let everything = world.stored.list(None);
    let everything: Vec<_> = futures::TryStreamExt::try_collect(everything).await?;
    let pack = pack_of(&world, &second).await?;
    for object in everything {
        world.stored.delete(&object.location).await?;
    }
    let error = RepositoryError::Absent {
        key: pack.to_string(),
    };
    let by = CommandId(Uuid::now_v7());
    let judged = world.restorer.judged(by, &manifest, error).await;
    assert!(!judged.is_damage(), "{judged:?}");
    assert_eq!(said(&world, &second).await?, None);
    Ok(())
}

#[tokio::test]
async fn of_a_backup_that_is_let_go_nothing_is_told() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let backup = world.back_up().await?;
    let manifest = world.writer.manifest(backup.backup_id).await?;
    let pack = flip(&world, &backup).await?;
    let expired = Event::BackupExpired(BackupExpired {
        backup_id: backup.backup_id,
        instance: instance(),
        branch: backup.branch.clone(),
        sweep_id: SweepId(Uuid::now_v7()),
        expired_at: SystemClock.now(),
    });
    let id = MessageId::new(Uuid::now_v7().to_string());
    let outgoing = Outgoing::new(expired.clone(), id, SystemClock.now());
    let _ = world.restorer.bus.publish(outgoing).await?;
    let error = RepositoryError::Corrupt {
        key: pack.to_string(),
        reason: "a test".to_owned(),
    };
    let by = CommandId(Uuid::now_v7());
    let judged = world.restorer.judged(by, &manifest, error).await;
    assert!(judged.is_damage(), "{judged:?}");
    assert_eq!(said(&world, &backup).await?, Some(expired));
    Ok(())
}

//! What a verification has found of the backups in the repository, as far as it concerns a plan. Pure.
//!
//! What must stay true: a damaged backup is a plan's base only where there is nothing better or somebody insists on it, and
//! never without a word.

use events::BackupId;
use events::envelope::rfc3339;
use events::event::{BackupSummary, RefusalCode};
use events::plan::PlanCheck;

use super::target::plan_backup;
use super::{Archive, Known, Refusal, Unplanned, warning};

/// Why a backup that was found damaged is not restored by its id: there is a sound one, which is named.
pub(super) fn refused(archive: &Archive, known: &Known, id: BackupId) -> Option<Refusal> {
    let found = found_damaged(archive, id)?;
    let wanted = archive.backups.iter().find(|one| one.backup_id == id)?;
    let sound = nearest_sound(archive, known, wanted)?;
    let hint = format!(
        "the nearest sound one is {}, which ended at {}: restore it with --backup; if the store was mended since, \
         `zektor backup verify` says so, and the damaged one can be restored again; to try it as it is: --even-damaged",
        sound.backup_id,
        rfc3339(sound.backed_up_at)
    );
    let message = format!("backup {id} {found}");
    Some(Refusal::new(RefusalCode::UnsuitableSource, message, hint))
}

/// What somebody should know who restores from a damaged backup all the same.
pub(super) fn told(archive: &Archive, known: &Known, base: &BackupSummary) -> Option<PlanCheck> {
    let id = base.backup_id;
    let found = found_damaged(archive, id)?;
    let instead = match nearest_sound(archive, known, base) {
        Some(sound) => {
            let at = rfc3339(sound.backed_up_at);
            format!(
                "; the nearest sound one is {}, which ended at {at}",
                sound.backup_id
            )
        }
        None => ", and there is no sound one instead".to_owned(),
    };
    let detail = format!(
        "backup {id} {found}{instead}: the restore fails where it meets the damage; see `zektor backup show`, and take a \
         new backup"
    );
    Some(warning("damaged_backup", detail))
}

fn found_damaged(archive: &Archive, id: BackupId) -> Option<String> {
    let verified = archive.marks.of(id).verified;
    let found = verified.filter(|verified| !verified.sound)?;
    let at = rfc3339(found.at);
    Some(format!("was found damaged in the repository at {at}"))
}

/// Of those that can be restored on their own.
fn nearest_sound<'a>(
    archive: &'a Archive,
    known: &Known,
    wanted: &BackupSummary,
) -> Option<&'a BackupSummary> {
    let damaged = archive.damaged();
    let sound = |one: &&BackupSummary| !damaged.iter().any(|bad| bad.backup_id == one.backup_id);
    let mut others: Vec<&BackupSummary> = archive.backups.iter().filter(sound).collect();
    others.sort_by_key(|one| {
        let apart = (one.backed_up_at - wanted.backed_up_at).abs();
        (apart, one.backup_id)
    });
    others.into_iter().find(|one| {
        let planned = plan_backup(archive, known, one.backup_id);
        !matches!(planned, Err(Unplanned::Refused(_)))
    })
}

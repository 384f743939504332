//! What is stored of backups that have no manifest, and what is known of those backups.
//!
//! What must stay true: whoever may still write a manifest is under way, and what nobody let go may come back, also when
//! nobody knows of it any more. The store says how long nothing was written, by its own clock.

use std::collections::BTreeSet;

use events::{BackupId, BranchName, InstanceName, Timestamp, subject};
use repository::archive::Archive;
use retention::{Ended, LEFTOVER_AGE, Leftover};

use crate::commands::World;
use crate::refusal::Unfinished;

/// Of the backups that have packs: those that have no manifest, and that no manifest names.
pub(super) async fn find(
    world: &World,
    (instance, branch): (&InstanceName, &BranchName),
    archive: &Archive,
    with_packs: Vec<BackupId>,
    (now, taken): (Timestamp, &BTreeSet<BackupId>),
) -> Result<Vec<Leftover>, Unfinished> {
    let manifests = archive.backups.iter().map(|backup| backup.backup_id);
    let named = archive.refers_to.values().flatten().copied();
    let known: BTreeSet<BackupId> = manifests
        .chain(named)
        .chain(archive.unreadable.iter().copied())
        .collect();
    let writer = world.repository.writer(instance, branch);
    let (mut leftovers, mut ahead) = (Vec::new(), None);
    for backup in with_packs.into_iter().filter(|one| !known.contains(one)) {
        let Some(stored) = writer.stored_packs(backup).await? else {
            continue;
        };
        let mut last_written = stored.last_written;
        // Only what looks old is worth the question.
        if now - last_written >= LEFTOVER_AGE {
            let by_store = match ahead {
                Some(ahead) => ahead,
                None => writer.store_clock().await? - now,
            };
            ahead = Some(by_store);
            last_written = last_written
                .checked_sub_signed(by_store)
                .unwrap_or(last_written);
        }
        // A slot that cannot be read may be anybody's.
        let nobody = BackupId(uuid::Uuid::nil());
        let ended = match taken.contains(&backup) || taken.contains(&nobody) {
            true => Ended::UnderWay,
            false => {
                let fence = subject::backup_fence(instance, branch, backup);
                let last = world.bus.last_on(&fence).await?;
                let last = last.map(|last| last.envelope.message);
                let mark = archive.marks.of(backup);
                let readable = !archive.marks.unreadable.contains(&backup);
                Ended::of(last.as_ref(), readable.then_some(&mark), now)
            }
        };
        leftovers.push(Leftover {
            backup_id: backup,
            stored_bytes: stored.bytes,
            last_written,
            ended,
        });
    }
    Ok(leftovers)
}

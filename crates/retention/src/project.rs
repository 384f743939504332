//! A look into the future.

use std::collections::{BTreeMap, BTreeSet};

use events::mark::{DeletedBy, Deletion};
use events::{BackupId, Timestamp};

use crate::judge::{Branch, later};
use crate::stored::{Backup, Stored};

/// The same branch at a later moment, if no backup is added and nobody asks for anything: what expires is marked at
/// once, what is going on has ended.
///
/// What will be gone by then is still in it: the plan for it says that it is to be deleted. So is the WAL.
#[must_use]
pub fn project(stored: &Stored, at: Timestamp) -> Stored {
    if at <= stored.now {
        return stored.clone();
    }
    let marks = marks(stored);
    let mut later = stored.clone();
    later.now = at;
    later.readers.clear();
    later.running.clear();
    // Whether a backup that is under way becomes one is not known: what it stores is not foretold to go.
    for backup in &mut later.backups {
        let mark = marks.get(&backup.id).filter(|mark| mark.asked_at <= at);
        backup.deletion = backup.deletion.or(mark.copied());
    }
    later
}

/// The marks that retention will set, each at its earliest moment.
fn marks(stored: &Stored) -> BTreeMap<BackupId, Deletion> {
    // What stays does not depend on the moment: the newest stays the newest, and only what is older goes. Nor does what
    // stands in for a damaged one, which goes after the damaged one's promise.
    let branch = Branch::of(stored);
    let mut named_by: BTreeMap<BackupId, Vec<BackupId>> = BTreeMap::new();
    for backup in &stored.backups {
        for name in &backup.refers_to {
            named_by.entry(*name).or_default().push(backup.id);
        }
    }
    let mut marks = BTreeMap::new();
    // When each goes; nothing when it stays or, as in the plan, what names it is not newer.
    let mut gone: BTreeMap<BackupId, Option<Timestamp>> = BTreeMap::new();
    for backup in branch.newest_first() {
        let named_by = named_by.get(&backup.id).into_iter().flatten();
        let free = named_by.map(|name| gone.get(name).copied().flatten());
        let free = free.chain([Some(stored.now)]);
        let stood_in = branch.stands_in_until(backup, &gone);
        let free = free.chain([stood_in.map(|until| until.unwrap_or(stored.now))]);
        let free = free.collect::<Option<BTreeSet<_>>>();
        let free = free.and_then(|free| free.last().copied());
        let free = free.filter(|_| branch.guards(backup).is_empty());
        let mark = mark(backup, free, stored);
        let due = mark.as_ref().and_then(|mark| backup.due(mark));
        let _ = gone.insert(backup.id, free.zip(due).map(|(free, due)| free.max(due)));
        marks.extend(mark.map(|mark| (backup.id, mark)));
    }
    marks
}

/// The mark that a backup has or will get, from when on nothing but its retention is in the way.
fn mark(backup: &Backup, free: Option<Timestamp>, stored: &Stored) -> Option<Deletion> {
    if backup.deletion.is_some() {
        return backup.deletion;
    }
    let asked_at = backup.expires_at?.max(free?);
    Some(Deletion {
        by: DeletedBy::Retention,
        asked_at,
        delete_after: later(asked_at, stored.grace),
    })
}

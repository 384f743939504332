//! What backups leave over that never became one, or whose deletion was broken off: packs that no manifest names.
//!
//! What must stay true: nothing goes that a backup may still need, though it should be committed later than anybody
//! thinks. So it goes only when the backup is over *and* nothing was written for much longer than a worker can be
//! between its last pack and its manifest; whoever deletes it looks for the manifest again.

use chrono::TimeDelta;
use events::mark::{BackupMark, DeletedBy};
use events::{BackupId, Event, Timestamp};

use crate::judge::later;
use crate::reason::Reason;
use crate::stored::{Ended, Leftover, Stored};

/// So long after the last object of it was written, what is left of a backup that is over goes.
pub const LEFTOVER_AGE: TimeDelta = TimeDelta::hours(48);

/// What becomes of what a backup left over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftoverVerdict {
    /// What there is.
    pub leftover: Leftover,
    /// What becomes of it.
    pub fate: LeftoverFate,
}

/// What becomes of what a backup left over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftoverFate {
    /// It goes then.
    Wait {
        /// When.
        until: Timestamp,
    },
    /// It is to be deleted now.
    Delete,
    /// It would be, and something is in the way.
    Postponed {
        /// What; never empty.
        why: Vec<Reason>,
    },
    /// The backup is not over.
    UnderWay,
    /// Its manifest is missing, and may come back.
    Stays,
}

impl Ended {
    /// What is known of a backup that has no manifest: by the last that was said of it, and by its mark, which is empty
    /// when there is none and absent when it cannot be read.
    ///
    /// Of each backup something was said before anything of it was stored. When nothing is known any more, that was too
    /// long ago or what was said is lost, and the backup may have been completed.
    #[must_use]
    pub fn of(last: Option<&Event>, mark: Option<&BackupMark>, now: Timestamp) -> Self {
        let Some(mark) = mark else {
            return Ended::ManifestLost;
        };
        match last {
            Some(Event::BackupFailed(_) | Event::BackupExpired(_)) => Ended::Over,
            Some(
                Event::BackupQueued(_)
                | Event::BackupRequested(_)
                | Event::BackupStarted(_)
                | Event::BackupProgressed(_),
            ) => Ended::UnderWay,
            // A deletion that was broken off after the manifest has left the mark that it was due by.
            _ if was_let_go(mark, now) => Ended::Over,
            _ => Ended::ManifestLost,
        }
    }
}

fn was_let_go(mark: &BackupMark, now: Timestamp) -> bool {
    let Some(deletion) = mark.deletion.filter(|_| mark.hold.is_none()) else {
        return false;
    };
    // Somebody may want it for longer than the retention that marked it.
    let until = mark.expiry.map(|expiry| expiry.expires_at);
    let is_kept = until.is_some_and(|until| until.is_none_or(|until| now < until));
    now >= deletion.delete_after && (deletion.by == DeletedBy::User || !is_kept)
}

pub(crate) fn verdicts(stored: &Stored, in_the_way: &[Reason]) -> Vec<LeftoverVerdict> {
    let verdict = |leftover: &Leftover| LeftoverVerdict {
        leftover: *leftover,
        fate: fate(stored, leftover, in_the_way),
    };
    let mut verdicts: Vec<_> = stored.leftovers.iter().map(verdict).collect();
    verdicts.sort_by_key(|verdict| verdict.leftover.backup_id);
    verdicts
}

fn fate(stored: &Stored, leftover: &Leftover, in_the_way: &[Reason]) -> LeftoverFate {
    let id: BackupId = leftover.backup_id;
    let named = |backup: &crate::Backup| backup.id == id || backup.refers_to.contains(&id);
    let runs = stored.running.iter().any(|running| running.id == id);
    if runs || stored.backups.iter().any(named) {
        return LeftoverFate::UnderWay;
    }
    match leftover.ended {
        Ended::UnderWay => return LeftoverFate::UnderWay,
        Ended::ManifestLost => return LeftoverFate::Stays,
        Ended::Over => {}
    }
    let until = later(leftover.last_written, LEFTOVER_AGE);
    if stored.now < until {
        return LeftoverFate::Wait { until };
    }
    let why: Vec<Reason> = in_the_way.to_vec();
    match why.is_empty() {
        true => LeftoverFate::Delete,
        false => LeftoverFate::Postponed { why },
    }
}

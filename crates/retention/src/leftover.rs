//! What backups leave over that never became one, or whose deletion was broken off: packs that no manifest names.
//!
//! What must stay true: nothing goes that a backup may still need, though it should be committed later than anybody
//! thinks. So it goes only when the backup is over *and* nothing was written for much longer than a worker can be
//! between its last pack and its manifest; whoever deletes it looks for the manifest again.

use chrono::TimeDelta;
use events::{BackupId, Timestamp};

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

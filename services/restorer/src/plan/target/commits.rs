//! The last commit that a branch will hold, wherever in the archived WAL it is. Pure.
//!
//! What was committed before the base began is in its files, and in no WAL that is replayed. The WAL before the base tells
//! of it as long as it is archived; it is looked through backwards, the newest segments first, up to the first commit.
//!
//! What must stay true: what is named is the last one. Nothing is looked for behind WAL that is missing or damaged.

use events::event::{BackupSummary, PlannedCommit};
use events::plan::PlanCheck;
use pg_format::Lsn;
use wal_index::{Commit, Target};

use super::Ground;
use crate::plan::{Unplanned, passed, timestamp};

/// Before a base, no more WAL than this is looked through: a server that writes so much commits something.
const MOST_LOOKED_THROUGH: u64 = 16 << 30;
/// The first step back, in segments; each is four times as long as the one before.
const FIRST_STEP: u64 = 1;
const LONGEST_STEP: u64 = 64;

/// The last commit before the end of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) enum LastCommit {
    /// This one.
    Known(Commit),
    /// It is older than this, from where on the archive tells of none.
    Before(Lsn),
}

impl LastCommit {
    pub(super) fn known(self) -> Option<PlannedCommit> {
        match self {
            LastCommit::Known(commit) => Some(PlannedCommit {
                at: timestamp(commit.time),
                lsn: commit.lsn,
                xid: commit.xid,
            }),
            LastCommit::Before(_) => None,
        }
    }

    /// What is to be said where it is not known.
    pub(super) fn told(self, end: Lsn) -> Option<PlanCheck> {
        let LastCommit::Before(since) = self else {
            return None;
        };
        let detail = format!(
            "no transaction committed in the archived wal from {since} to {end}: all that is in the branch was committed \
             before, and the archive does not tell when"
        );
        Some(passed("last_commit", detail))
    }
}

impl Ground<'_> {
    /// The last commit before `end` in a branch that is made of `base`.
    pub(super) fn last_commit(
        &self,
        base: &BackupSummary,
        end: Lsn,
    ) -> Result<LastCommit, Unplanned> {
        let replayed = base.start_lsn..end;
        let found = self.known(self.wal.resolve(Target::Latest, &replayed))?;
        if let Some(commit) = found.last_commit {
            return Ok(LastCommit::Known(commit));
        }
        let size = base.wal_segment_size;
        let most = Lsn(base.start_lsn.0.saturating_sub(MOST_LOOKED_THROUGH));
        let floor = self.path.begin(base).max(size.floor(most));
        let (mut reached, mut step) = (base.start_lsn, FIRST_STEP);
        while reached > floor {
            let back = size.segment_ending_at(reached).saturating_sub(step - 1);
            let from = size.start_of(back).max(floor);
            let _: Lsn = self.known(self.wal.indexed_to(from, reached))?;
            // All the way each time: a record may lie across the border of two steps.
            let before = self.wal.indexed_from(base.start_lsn).max(from)..base.start_lsn;
            let found = self.known(self.wal.resolve(Target::Latest, &before))?;
            match found.last_commit {
                Some(commit) => return Ok(LastCommit::Known(commit)),
                None if before.start > from => return Ok(LastCommit::Before(before.start)),
                None => (reached, step) = (from, (step * 4).min(LONGEST_STEP)),
            }
        }
        Ok(LastCommit::Before(floor.min(base.start_lsn)))
    }
}

//! What one sweep takes of a plan, and whether a later plan lets it.

use events::document::{Sweep, WalStretch};
use events::{BackupId, SweepId};

use super::{Decision, Plan, WalFate};
use crate::leftover::LeftoverFate;

/// One sweep deletes at most so many backups, stretches of WAL and history files, each: it is written into the
/// instance's document. The next round takes the rest.
const MOST_AT_ONCE: usize = 500;

impl Plan {
    /// The backups to be deleted now, in the order in which they may be: none before those that name its packs.
    pub fn deletions(&self) -> impl Iterator<Item = BackupId> {
        let going = self.backups.iter();
        let going = going.filter(|verdict| verdict.decision == Decision::Delete);
        going.map(|verdict| verdict.backup_id)
    }

    /// The WAL to be deleted now, once all of [`Self::deletions`] are.
    pub fn pruned(&self) -> impl Iterator<Item = WalStretch> {
        let going = self.wal.iter();
        let going = going.filter(|verdict| verdict.fate == WalFate::Prune);
        going.map(|verdict| WalStretch {
            timeline: verdict.timeline,
            from_lsn: verdict.from_lsn,
            to_lsn: verdict.to_lsn,
        })
    }

    /// The backups whose leftovers are to be deleted now.
    pub fn leftovers_going(&self) -> impl Iterator<Item = BackupId> {
        let going = self.leftovers.iter();
        let going = going.filter(|verdict| verdict.fate == LeftoverFate::Delete);
        going.map(|verdict| verdict.leftover.backup_id)
    }

    /// What is to be deleted now, as far as one sweep takes it: no WAL before the last backup, no history file before
    /// the last WAL. `None` when nothing is.
    #[must_use]
    pub fn sweep(&self, sweep_id: SweepId) -> Option<Sweep> {
        let backups: Vec<_> = self.deletions().take(MOST_AT_ONCE).collect();
        let mut wal = Vec::new();
        if backups.len() < MOST_AT_ONCE {
            wal.extend(self.pruned().take(MOST_AT_ONCE));
        }
        let mut histories = Vec::new();
        if backups.len() < MOST_AT_ONCE && wal.len() < MOST_AT_ONCE {
            let going = self.histories.iter().filter(|verdict| verdict.goes);
            histories.extend(going.map(|verdict| verdict.timeline).take(MOST_AT_ONCE));
        }
        let leftovers: Vec<_> = self.leftovers_going().take(MOST_AT_ONCE).collect();
        let nothing = backups.is_empty() && wal.is_empty() && histories.is_empty();
        let nothing = nothing && leftovers.is_empty();
        (!nothing).then_some(Sweep {
            sweep_id,
            asked_at: self.now,
            backups,
            wal,
            histories,
            leftovers,
            hollow: false,
            purge: false,
            withdrawn_at: None,
        })
    }

    /// Whether all of a sweep that is there still may go by this plan, whatever plan the sweep was made of.
    #[must_use]
    pub fn lets_go(&self, sweep: &Sweep) -> bool {
        let backups = self
            .backups
            .iter()
            .all(|one| one.decision == Decision::Delete || !sweep.backups.contains(&one.backup_id));
        let wal = self.wal.iter().all(|one| {
            let swept = |stretch: &WalStretch| {
                stretch.timeline == one.timeline
                    && stretch.from_lsn < one.to_lsn
                    && one.from_lsn < stretch.to_lsn
            };
            one.fate == WalFate::Prune || !sweep.wal.iter().any(swept)
        });
        let leftovers = self.leftovers.iter().all(|one| {
            let listed = sweep.leftovers.contains(&one.leftover.backup_id);
            one.fate == LeftoverFate::Delete || !listed
        });
        // A manifest that has come meanwhile is one of those of the plan.
        let mut committed = self.backups.iter().map(|one| one.backup_id);
        let leftovers = leftovers && !committed.any(|id| sweep.leftovers.contains(&id));
        let mut histories = self.histories.iter();
        backups
            && wal
            && leftovers
            && histories.all(|one| one.goes || !sweep.histories.contains(&one.timeline))
    }
}

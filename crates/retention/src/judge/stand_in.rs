//! Which backup stands in for a damaged one.
//!
//! A restore leaves a damaged backup out, so a moment that it promises is reached from the nearest older sound one, by
//! the WAL from there on. While the promise runs, both stay, whatever their own retention says.

use std::collections::BTreeMap;

use events::{BackupId, Timestamp};

use super::{Branch, Span, later};
use crate::plan::Class;
use crate::reason::Reason;
use crate::stored::Backup;

/// Of each damaged backup whose promise may run: the time from which on it certainly does not.
///
/// They are added from the newest to the oldest; each is newer than what stands in for it.
#[derive(Default)]
pub(super) struct Promises(BTreeMap<BackupId, Option<Timestamp>>);

impl Promises {
    pub(super) fn add(&mut self, one: &super::Judged<'_>, until: Option<Timestamp>) {
        if one.backup.damaged && one.stays() && one.is_pitr() {
            let _ = self.0.insert(one.backup.id, until);
        }
    }

    /// Why a backup stays that stands in for these.
    pub(super) fn guard(&self, damaged: &[BackupId]) -> Option<Reason> {
        let running = damaged
            .iter()
            .filter_map(|id| Some((*id, *self.0.get(id)?)));
        let longest = running.max_by_key(|(id, until)| (until.is_none(), *until, *id));
        longest.map(|(damaged, until)| Reason::StandsIn { damaged, until })
    }
}

impl Branch<'_> {
    /// The damaged backups that each backup stands in for, promised or not.
    pub(super) fn find_stand_ins(&self) -> BTreeMap<BackupId, Vec<BackupId>> {
        let mut found: BTreeMap<BackupId, Vec<BackupId>> = BTreeMap::new();
        for (index, backup) in self.backups.iter().enumerate() {
            let promised = || self.own_class(backup) != Class::Standalone;
            if backup.damaged
                && promised()
                && let Some(id) = self.stand_in(backup, index + 1)
            {
                found.entry(id).or_default().push(backup.id);
            }
        }
        found
    }

    /// The nearest sound backup from `older` on, if every byte from its start to the end of the damaged one is there:
    /// over a gap no older one leads either.
    fn stand_in(&self, damaged: &Backup, older: usize) -> Option<BackupId> {
        let sound = self.backups.iter().zip(&self.whole).skip(older);
        let sound = sound.filter(|(one, whole)| **whole && !one.damaged);
        let leading = sound.filter(|(one, _)| {
            one.stop_lsn <= damaged.stop_lsn
                && self
                    .tree
                    .leads_to(one.timeline, one.stop_lsn, damaged.timeline)
        });
        let (nearest, _) = leading.max_by_key(|(one, _)| (one.start_lsn, one.backed_up_at))?;
        let way = Span {
            start: nearest.start_lsn,
            ..Span::of(damaged)
        };
        // How a timeline without a history came to be is not known, nor so which WAL is the way.
        let unknown = !self.tree.is_known(damaged.timeline);
        (unknown || self.is_there(way)).then_some(nearest.id)
    }

    /// When the last promise that a backup stands in for is over, if each damaged backup goes at the time that `gone`
    /// has of it; the outer `None` when that is not known.
    pub(crate) fn stands_in_until(
        &self,
        backup: &Backup,
        gone: &BTreeMap<BackupId, Option<Timestamp>>,
    ) -> Option<Option<Timestamp>> {
        let damaged = self.stands_in_for.get(&backup.id);
        let mut last = None;
        for id in damaged.into_iter().flatten() {
            let damaged = self.backups.iter().find(|one| one.id == *id)?;
            let over = damaged.wal_until.map(|end| later(end, self.stored.grace));
            let gone = gone.get(id).copied().flatten();
            last = last.max(Some(over.into_iter().chain(gone).min()?));
        }
        Some(last)
    }
}

//! The history that a plan follows, and which backups and which WAL are there along it. Pure.

use std::ops::Range;

use events::Timestamp;
use events::event::BackupSummary;
use pg_format::{Lsn, TimelineHistory, TimelineId};
use repository::archive::Archive;
use repository::{GapProof, WalPosition, wal_stretches};

use super::Refusal;

/// A history of the branch up to an end, with the backups on it.
pub(super) struct Path<'a> {
    pub(super) history: TimelineHistory,
    /// Nothing is known to be complete beyond.
    pub(super) end: Lsn,
    /// The backups that end on it, the first to end first.
    pub(super) bases: Vec<&'a BackupSummary>,
    /// The archived WAL along it.
    stretches: Vec<Range<Lsn>>,
    /// What was proven before gaps.
    proofs: Vec<GapProof>,
}

/// How far WAL goes without a gap from a base's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the end of the path, here.
    Whole(Lsn),
    /// The gap begins here.
    Until(Lsn),
}

impl Reach {
    /// Where it ends.
    pub(super) fn lsn(self) -> Lsn {
        match self {
            Reach::Whole(lsn) | Reach::Until(lsn) => lsn,
        }
    }
}

impl<'a> Path<'a> {
    /// The path to `end` on `timeline`.
    pub(super) fn to(
        archive: &'a Archive,
        timeline: TimelineId,
        end: Lsn,
    ) -> Result<Self, Refusal> {
        let history = history_of(archive, timeline)?;
        let on_path = |backup: &&BackupSummary| {
            let left = history.switch_point(backup.timeline);
            let ends_on_it = left.is_none_or(|left| backup.stop_lsn <= left);
            history.contains(backup.timeline) && ends_on_it && backup.stop_lsn <= end
        };
        let mut bases: Vec<_> = archive.backups.iter().filter(on_path).collect();
        bases.sort_by_key(|base| (base.stop_lsn, base.backup_id));
        let stretches = match archive.backups.first() {
            Some(any) => {
                let size = any.wal_segment_size;
                wal_stretches(&archive.objects, &history, size, &archive.open)
            }
            None => Vec::new(),
        };
        Ok(Path {
            proofs: archive.proofs_before_gaps(&history),
            history,
            end,
            bases,
            stretches,
        })
    }

    /// The path to where the archive is now: to its position, or the end of a backup beyond, whose WAL is there before
    /// the position is written. The restorable window ends there too.
    pub(super) fn to_now(archive: &'a Archive, position: &WalPosition) -> Result<Self, Refusal> {
        let mut path = Self::to(archive, position.timeline, Lsn(u64::MAX))?;
        let backed_up = path.usable().map(|base| base.stop_lsn).max();
        let end = backed_up.map_or(position.lsn, |stop| stop.max(position.lsn));
        path.bases.retain(|base| base.stop_lsn <= end);
        path.end = end;
        Ok(path)
    }

    /// The last stretch that does not begin behind a base's start.
    fn stretch(&self, base: &BackupSummary) -> Option<&Range<Lsn>> {
        let begun = |one: &Range<Lsn>| one.start <= base.start_lsn;
        let after = self.stretches.partition_point(begun);
        self.stretches.get(after.checked_sub(1)?)
    }

    /// Where the WAL that goes on without a gap to a base's start begins.
    pub(super) fn begin(&self, base: &BackupSummary) -> Lsn {
        let there = self.stretch(base).filter(|one| one.end > base.start_lsn);
        there.map_or(base.start_lsn, |one| one.start)
    }

    /// Up to when whatever was committed is known to lie before a gap that begins at `gap`, if that was proven at `from` or
    /// later.
    pub(super) fn proven_between(&self, from: Lsn, gap: Lsn) -> Option<Timestamp> {
        let proofs = self.proofs.iter();
        let there = proofs.filter(|proof| (from..=gap).contains(&proof.lsn));
        there.map(|proof| proof.at).max()
    }

    /// How far WAL goes from a base's start.
    pub(super) fn reach(&self, base: &BackupSummary) -> Reach {
        let there = self.stretch(base);
        let end = there.map_or(base.start_lsn, |one| one.end.max(base.start_lsn));
        if end >= self.end {
            Reach::Whole(self.end)
        } else {
            Reach::Until(end)
        }
    }

    /// The bases that can be restored at all: their own WAL is there.
    pub(super) fn usable(&self) -> impl DoubleEndedIterator<Item = &'a BackupSummary> {
        let whole = |base: &&BackupSummary| self.reach(base).lsn() >= base.stop_lsn;
        self.bases.iter().copied().filter(whole)
    }

    /// The first base that can be restored and begins at `lsn` or later.
    pub(super) fn next_usable(&self, lsn: Lsn) -> Option<&'a BackupSummary> {
        self.usable().find(|base| base.start_lsn >= lsn)
    }
}

/// The history of a timeline.
pub(super) fn history_of(
    archive: &Archive,
    timeline: TimelineId,
) -> Result<TimelineHistory, Refusal> {
    match archive.histories.get(&timeline) {
        Some(history) => Ok(history.clone()),
        None if timeline == TimelineId(1) => Ok(TimelineHistory::root(timeline)),
        None => Err(Refusal::no_history(timeline)),
    }
}

//! From when to when a branch can be restored, and what cannot be in between. [`window`] is pure; `commits` looks up
//! what it asks for.
//!
//! What must stay true:
//!
//! - A moment is only promised when a backup ends before it and every byte of WAL from that backup's start on is
//!   archived, along the history of the timeline that is archived now. A backup on a timeline that was abandoned opens
//!   nothing, whatever it can be restored to by its id.
//! - The window begins with a backup whose WAL is kept; one that is kept alone is no beginning of it.
//! - Where WAL is missing the promise ends, whatever lies beyond, until the end of the next backup that began beyond.
//! - `latest` is never later than what is known: the position's proof, the end of a backup, or the last commit before
//!   the WAL ends.

mod commits;

use std::cmp::Reverse;
use std::ops::Range;

use events::Timestamp;
use events::event::BackupSummary;
use events::window::{Window, WindowGap};
use pg_format::{Lsn, TimelineHistory, TimelineId};

use crate::archive::Archive;
use crate::wal_stretches;

/// The restorable window of a branch.
///
/// `last_commit_before(timeline, lsn)` is the time of the last commit in the WAL that ends at `lsn`, where the next byte
/// of that timeline is missing; `None` when it is not known. Only asked for the gaps of the window.
///
/// A backup is restorable on its own when its own WAL, start to stop, is archived: it is then the moment
/// `backed_up_at`, even if WAL after it is missing. Without a position (nothing was archived, or the object is
/// damaged) only the backups count, on the timeline of the newest.
pub fn window(
    archive: &Archive,
    last_commit_before: &dyn Fn(TimelineId, Lsn) -> Option<Timestamp>,
) -> Window {
    let timeline = archive.position.as_ref().map(|position| position.timeline);
    let mut window = Window {
        timeline,
        ..Window::default()
    };
    let Some(path) = Path::of(archive) else {
        return window;
    };
    let islands = path.promised(path.islands());
    let Some(first) = islands.first() else {
        return window;
    };
    window.earliest = Some(first.first().backed_up_at);
    window.earliest_backup_id = Some(first.first().backup_id);
    for (number, island) in islands.iter().enumerate() {
        let next = islands.get(number + 1);
        let until = next.map_or(path.end, |next| next.wal.start);
        let mut missing = path.missing(island.reach, until);
        if next.is_none() {
            missing.extend(path.known_beyond_the_end());
        }
        let mut latest = path.latest_of(island);
        if !missing.is_empty() {
            let timeline = path.history.timeline_at(island.reach);
            latest = latest.max(last_commit_before(timeline, island.reach));
        }
        window.latest = latest;
        window.latest_lsn = Some(island.reach);
        window
            .gaps
            .extend(missing.into_iter().map(|missing| WindowGap {
                from: latest,
                restorable_again_at: next.map(|next| next.first().backed_up_at),
                ..missing
            }));
    }
    window.complete = window.gaps.is_empty();
    window
}

/// The history that leads to where the archive is now, and what is there along it.
struct Path<'a> {
    archive: &'a Archive,
    history: TimelineHistory,
    stretches: Vec<Range<Lsn>>,
    /// The backups on it whose own WAL is there, the first to end first.
    bases: Vec<&'a BackupSummary>,
    /// Whatever lies beyond is not proven to be there.
    end: Lsn,
}

/// Moments that can all be restored: from the first backup's end to `reach`.
struct Island<'a> {
    /// In the order of their ends; never empty.
    bases: Vec<&'a BackupSummary>,
    /// The stretch of WAL they are in.
    wal: Range<Lsn>,
    /// Where it ends, at most the path's end.
    reach: Lsn,
}

impl<'a> Island<'a> {
    fn first(&self) -> &'a BackupSummary {
        self.bases[0]
    }
}

impl<'a> Path<'a> {
    /// `None` when the history is not known, or nothing was ever backed up.
    fn of(archive: &'a Archive) -> Option<Self> {
        let newest = || {
            let backups = archive.backups.iter();
            backups.max_by_key(|backup| (backup.timeline, backup.stop_lsn))
        };
        let timeline = match &archive.position {
            Some(position) => position.timeline,
            None => newest()?.timeline,
        };
        let history = archive.history(timeline)?;
        let size = archive.backups.first()?.wal_segment_size;
        let stretches = wal_stretches(&archive.objects, &history, size, &archive.open);
        let mut path = Path {
            archive,
            history,
            stretches,
            bases: Vec::new(),
            end: Lsn::INVALID,
        };
        let usable = |backup: &&BackupSummary| path.is_usable(backup);
        let mut bases: Vec<_> = archive.backups.iter().filter(usable).collect();
        bases.sort_by_key(|base| (base.stop_lsn, base.backup_id));
        path.bases = bases;
        let proven = archive.position.as_ref().map(|position| position.lsn);
        let backed_up = path.bases.last().map(|base| base.stop_lsn);
        path.end = proven.max(backed_up)?;
        Some(path)
    }

    /// Without what stands before the first backup whose WAL is kept from its start on: backups that were meant to be
    /// restored alone are no beginning of the window, and that WAL between them was let go of is no gap in it.
    fn promised(&self, mut islands: Vec<Island<'a>>) -> Vec<Island<'a>> {
        let proven = self.archive.position.as_ref();
        let now = proven.map(|position| position.proven_at);
        let now = now.max(self.bases.last().map(|base| base.backed_up_at));
        let kept = |base: &&BackupSummary| {
            let over = base
                .wal_until
                .zip(now)
                .is_some_and(|(until, now)| until <= now);
            !over
        };
        let alone = |island: &Island<'_>| !island.bases.iter().any(kept);
        let before = islands.iter().take_while(|island| alone(island)).count();
        islands.split_off(before.min(islands.len().saturating_sub(1)))
    }

    fn is_usable(&self, backup: &BackupSummary) -> bool {
        let left = self.history.switch_point(backup.timeline);
        let on_path = self.history.contains(backup.timeline)
            && left.is_none_or(|left| backup.stop_lsn <= left);
        let whole = self
            .stretch_at(backup.start_lsn)
            .is_some_and(|stretch| stretch.end >= backup.stop_lsn);
        on_path && whole
    }

    fn stretch_at(&self, lsn: Lsn) -> Option<&Range<Lsn>> {
        let after = self.stretches.partition_point(|one| one.start <= lsn);
        let stretch = self.stretches.get(after.checked_sub(1)?)?;
        (lsn < stretch.end).then_some(stretch)
    }

    fn islands(&self) -> Vec<Island<'a>> {
        let mut islands: Vec<Island<'a>> = Vec::new();
        for base in &self.bases {
            let Some(wal) = self.stretch_at(base.start_lsn) else {
                continue;
            };
            match islands.last_mut() {
                Some(island) if island.wal == *wal => island.bases.push(base),
                _ => islands.push(Island {
                    bases: vec![base],
                    reach: wal.end.min(self.end),
                    wal: wal.clone(),
                }),
            }
        }
        islands
    }

    /// The latest moment of an island that is known without looking into WAL.
    fn latest_of(&self, island: &Island<'_>) -> Option<Timestamp> {
        let position = self.archive.position.as_ref();
        let proof = position
            .filter(|position| (island.first().stop_lsn..=island.reach).contains(&position.lsn));
        let proof = proof.map(|position| position.proven_at);
        let before_gaps = self.archive.proofs_before_gaps(&self.history);
        let before_gap = before_gaps
            .iter()
            .filter(|proof| (island.first().stop_lsn..=island.reach).contains(&proof.lsn))
            .map(|proof| proof.at);
        let backups = island.bases.iter().map(|base| base.backed_up_at);
        backups.chain(proof).chain(before_gap).max()
    }

    /// What is missing from `from`, where a stretch ends, up to `until`.
    fn missing(&self, mut from: Lsn, until: Lsn) -> Vec<WindowGap> {
        let mut missing = Vec::new();
        let next = self.stretches.partition_point(|one| one.end <= from);
        let mut later = self.stretches[next..].iter();
        while from < until {
            let next = later.next();
            missing.push(self.gap(from, next.map(|next| next.start)));
            from = next.map_or(until, |next| next.end);
        }
        missing
    }

    /// What the archiver knows to be missing behind everything that is there.
    fn known_beyond_the_end(&self) -> Option<WindowGap> {
        let gaps = self.archive.gaps.iter();
        let beyond = gaps.filter(|gap| {
            let left = self.history.switch_point(gap.timeline);
            self.history.contains(gap.timeline)
                && left.is_none_or(|left| gap.from_lsn < left)
                && gap.from_lsn >= self.end
        });
        let first = beyond.min_by_key(|gap| (gap.from_lsn, Reverse(gap.to_lsn)))?;
        Some(WindowGap {
            timeline: first.timeline,
            ..self.gap(first.from_lsn, Some(first.to_lsn))
        })
    }

    fn gap(&self, from_lsn: Lsn, to_lsn: Option<Lsn>) -> WindowGap {
        WindowGap {
            timeline: self.history.timeline_at(from_lsn),
            from_lsn,
            to_lsn,
            from: None,
            restorable_again_at: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

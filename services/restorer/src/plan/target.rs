//! From a target to the record that recovery stops after. Pure.
//!
//! PostgreSQL stops at a time before the first transaction end that is later, counted from where redo begins
//! (`recoveryStopsBefore`, PostgreSQL `src/backend/access/transam/xlogrecovery.c`). Times do not rise strictly with the
//! LSN, so that end, *R*, is looked for in the WAL's order. The branch is the same when recovery stops right after *L*,
//! the last transaction end before R; what lies between them has no effect, but for two things. A transaction that was
//! prepared there outlives the server, so it is replayed. The files of a database go away when the record of
//! `DROP DATABASE` is replayed, before its commit, so that record is not.

mod commits;
mod times;

use std::ops::Range;

use events::event::BackupSummary;
use events::plan::PlanCheck;
use events::{BackupId, RestoreTarget, Timestamp};
use pg_format::wal::{WalLevel, page_magic};
use pg_format::{Lsn, TimelineHistory};
use repository::archive::Archive;
use wal_index::Target;

use super::known::{KnownWal, Missing, Place};
use super::path::{Path, Reach, history_of};
use super::{Known, Plan, Prediction, Refusal, Stop, Unplanned, passed, timestamp, warning};

pub(super) use times::Nearest;

/// What a transaction that ends later is in a branch.
pub(crate) const STILL_PREPARED: &str = "it is prepared in the branch and holds its locks until somebody ends it there, \
     see pg_prepared_xacts";

/// Plans for a target that is not too young.
pub(super) fn plan(
    archive: &Archive,
    known: &Known,
    target: &RestoreTarget,
) -> Result<Plan, Unplanned> {
    if let RestoreTarget::Backup { id, .. } = target {
        return plan_backup(archive, known, *id);
    }
    let unknown = KnownWal::default();
    let ground = Ground::now(archive, known, &unknown)?;
    match target {
        RestoreTarget::Time { at } => ground.time(*at),
        RestoreTarget::Lsn { lsn } => ground.lsn(*lsn),
        RestoreTarget::RestorePoint { name } => ground.restore_point(name),
        RestoreTarget::Transaction { xid } => ground.transaction(*xid),
        RestoreTarget::Backup { .. } | RestoreTarget::Latest => ground.latest(),
    }
}

/// The latest time up to `at` that can be restored, and if that is not `at`, the next one.
pub(super) fn nearest_time(
    archive: &Archive,
    known: &Known,
    at: Timestamp,
) -> Result<Nearest, Unplanned> {
    let unknown = KnownWal::default();
    Ground::now(archive, known, &unknown)?.nearest_time(at)
}

/// The first consistent moment: where the backup's own WAL ends.
pub(super) fn plan_backup(
    archive: &Archive,
    known: &Known,
    id: BackupId,
) -> Result<Plan, Unplanned> {
    let Some(backup) = archive.backups.iter().find(|backup| backup.backup_id == id) else {
        return Err(Refusal::unknown_backup(id, &archive.backups).into());
    };
    let unknown = KnownWal::default();
    let current = archive.position.as_ref().map(|position| position.timeline);
    let mut refused = None;
    for timeline in current.into_iter().chain([backup.timeline]) {
        let path = match Path::to(archive, timeline, backup.stop_lsn) {
            Ok(path) => path,
            Err(refusal) => {
                refused = Some(refusal);
                continue;
            }
        };
        if !path.bases.iter().any(|base| base.backup_id == id) {
            continue;
        }
        let reach = path.reach(backup);
        if let Reach::Until(gap) = reach {
            refused = Some(Refusal::backup_without_wal(backup, gap));
            continue;
        }
        let wal = known.get(&timeline).unwrap_or(&unknown);
        return Ground { path, wal }.consistent(backup);
    }
    let own = history_of(archive, backup.timeline);
    let lost = || Refusal::backup_without_wal(backup, backup.start_lsn);
    Err(own.err().or(refused).unwrap_or_else(lost).into())
}

/// A path, and what is known of the WAL along it.
struct Ground<'a> {
    path: Path<'a>,
    wal: &'a KnownWal,
}

/// A base, and the WAL from its start on that can be read.
struct Leg<'a> {
    base: &'a BackupSummary,
    /// Readable WAL, from the base's start.
    wal: Range<Lsn>,
    /// It goes to the end of the path.
    whole: bool,
}

impl<'a> Ground<'a> {
    /// The path to where the archive is now, with something on it that can be restored.
    fn now(archive: &'a Archive, known: &'a Known, unknown: &'a KnownWal) -> Result<Self, Refusal> {
        let position = archive
            .position
            .as_ref()
            .ok_or_else(Refusal::nothing_archived)?;
        let path = Path::to_now(archive, position)?;
        if path.usable().next().is_none() {
            return Err(match path.bases.last() {
                Some(base) => Refusal::backup_without_wal(base, path.reach(base).lsn()),
                None => Refusal::no_backup_on(position.timeline),
            });
        }
        let wal = known.get(&position.timeline).unwrap_or(unknown);
        Ok(Ground { path, wal })
    }

    /// Turns what the WAL does not answer yet into what the shell is told.
    fn known<T>(&self, answer: Result<T, Missing>) -> Result<T, Unplanned> {
        answer.map_err(|missing| Unplanned::Needs {
            history: self.history().clone(),
            missing,
        })
    }

    fn history(&self) -> &TimelineHistory {
        &self.path.history
    }

    fn leg(&self, base: &'a BackupSummary) -> Result<Leg<'a>, Unplanned> {
        let reach = self.path.reach(base);
        let end = self.known(self.wal.indexed_to(base.start_lsn, reach.lsn()))?;
        Ok(Leg {
            base,
            wal: base.start_lsn..end,
            whole: matches!(reach, Reach::Whole(whole) if whole == end),
        })
    }

    fn earliest(&self) -> Option<&'a BackupSummary> {
        self.path.usable().next()
    }

    fn lsn(&self, lsn: Lsn) -> Result<Plan, Unplanned> {
        if lsn > self.path.end {
            return Err(Refusal::lsn_not_archived(lsn, self.path.end).into());
        }
        let ended = |base: &&BackupSummary| base.stop_lsn <= lsn;
        let Some(base) = self.path.usable().rfind(ended) else {
            return self.lsn_before_consistency(lsn);
        };
        readable(base)?;
        let leg = self.leg(base)?;
        let from = lsn..leg.wal.end;
        if lsn < leg.wal.end
            && let Some(record) = self.known(self.wal.first_record(&from))?
        {
            return self.planned(base, Some(record));
        }
        if leg.whole {
            return self.everything(&leg);
        }
        let last = self.known(self.wal.last_record(&leg.wal))?;
        let nearest = last.map_or(base.stop_lsn, |record| record.start);
        Err(Refusal::lsn_in_gap(lsn, leg.wal.end, nearest).into())
    }

    /// Before the first backup's end there is still its content, if nothing ended in between.
    fn lsn_before_consistency(&self, lsn: Lsn) -> Result<Plan, Unplanned> {
        let Some(base) = self.earliest() else {
            return Err(Refusal::no_backup_on(self.history().timeline()).into());
        };
        let refused = Refusal::lsn_before_first_backup(lsn, base.stop_lsn);
        if lsn < base.start_lsn || readable(base).is_err() {
            return Err(refused.into());
        }
        let leg = self.leg(base)?;
        let after = lsn.saturating_add(1)..base.stop_lsn;
        if leg.wal.end < base.stop_lsn {
            return Err(refused.into());
        }
        let ended = self.known(self.wal.resolve(Target::Latest, &after))?;
        let prepared = self.known(self.wal.last_prepared(&after))?;
        if ended.last.is_some() || prepared.is_some() {
            return Err(refused.into());
        }
        self.consistent(base)
    }

    fn restore_point(&self, name: &str) -> Result<Plan, Unplanned> {
        /// `MAXFNAMELEN`, PostgreSQL `src/include/access/xlog_internal.h`, less the terminating zero.
        const LONGEST_NAME: usize = 63;
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['\0', '\n', '\r']) {
            return Err(Refusal::not_a_restore_point(name).into());
        }
        let all = self.all()?;
        let mut first = None;
        let mut from = all.start;
        // The first of the name that can be restored; one before every backup is there to be named in the refusal.
        while let Some(point) = self.wal.restore_point(name, from..all.end) {
            if self.base_for(point).is_some() {
                return self.at(point);
            }
            from = point.end;
            first = first.or(Some(point));
        }
        match first {
            Some(point) => self.at(point),
            None => {
                let known = self.wal.restore_points(all.clone());
                Err(Refusal::unknown_restore_point(name, &known).into())
            }
        }
    }

    fn transaction(&self, xid: u32) -> Result<Plan, Unplanned> {
        let all = self.all()?;
        match self.known(self.wal.end_of(xid, &all))? {
            Some(end) if end.committed => self.at(Place {
                start: end.lsn,
                end: end.end,
            }),
            Some(end) => Err(Refusal::rolled_back(xid, timestamp(end.time)).into()),
            None => {
                let from = self.wal.indexed_from(all.end)..all.end;
                let last = self
                    .known(self.wal.resolve(Target::Latest, &from))?
                    .last_commit;
                Err(Refusal::unknown_transaction(xid, last.map(|last| last.xid)).into())
            }
        }
    }

    /// All of the WAL from the first base on; its index is there, perhaps with holes.
    fn all(&self) -> Result<Range<Lsn>, Unplanned> {
        let Some(first) = self.earliest() else {
            return Err(Refusal::no_backup_on(self.history().timeline()).into());
        };
        readable(first)?;
        let starts = self.path.usable().map(|base| base.start_lsn);
        let start = starts.min().unwrap_or(first.start_lsn);
        let _ = self.known(self.wal.indexed_to(start, self.path.end))?;
        Ok(start..self.path.end)
    }

    /// The newest base from which a record can be reached.
    fn base_for(&self, record: Place) -> Option<&'a BackupSummary> {
        let reaches = |base: &&BackupSummary| {
            base.stop_lsn <= record.end && self.path.reach(base).lsn() >= record.end
        };
        self.path.usable().rfind(reaches)
    }

    /// Stops right after a record that is known to be there.
    fn at(&self, record: Place) -> Result<Plan, Unplanned> {
        if let Some(base) = self.base_for(record) {
            return self.planned(base, Some(record));
        }
        let Some(first) = self.earliest() else {
            return Err(Refusal::no_backup_on(self.history().timeline()).into());
        };
        if record.end < first.stop_lsn {
            let refusal = Refusal::lsn_before_first_backup(record.start, first.stop_lsn);
            return Err(refusal.into());
        }
        let again = self.path.next_usable(record.start);
        Err(Refusal::behind_a_gap(record.start, again).into())
    }

    fn latest(&self) -> Result<Plan, Unplanned> {
        let Some(base) = self.path.usable().next_back() else {
            return Err(Refusal::no_backup_on(self.history().timeline()).into());
        };
        if let Reach::Until(gap) = self.path.reach(base) {
            let nearest = match readable(base) {
                Ok(()) => {
                    let leg = self.leg(base)?;
                    self.known(self.wal.last_record(&leg.wal))?
                }
                Err(_) => None,
            };
            let nearest = nearest.map_or(base.stop_lsn, |record| record.start);
            return Err(Refusal::gap_before_latest(base, gap, nearest).into());
        }
        if readable(base).is_err() {
            return Ok(self.unpredicted(base, self.path.end));
        }
        let leg = self.leg(base)?;
        if !leg.whole {
            let last = self.known(self.wal.last_record(&leg.wal))?;
            let nearest = last.map_or(base.stop_lsn, |record| record.start);
            return Err(Refusal::gap_before_latest(base, leg.wal.end, nearest).into());
        }
        self.everything(&leg)
    }

    /// Up to the last record of a leg that goes to the end of the path.
    fn everything(&self, leg: &Leg<'a>) -> Result<Plan, Unplanned> {
        let last = self.known(self.wal.last_record(&leg.wal))?;
        self.planned(leg.base, last)
    }

    /// Up to just before the transaction end at `end`.
    fn before_end(&self, base: &'a BackupSummary, end: Lsn) -> Result<Plan, Unplanned> {
        let mut plan = self.before(base, end)?;
        if self.known(self.wal.ends_prepared(end))? {
            let detail =
                format!("the transaction that ends at {end} was prepared before: {STILL_PREPARED}");
            plan.notes.push(warning("prepared_transactions", detail));
        }
        Ok(plan)
    }

    /// Up to the last transaction end before `bound`, and what outlives a server behind it.
    fn before(&self, base: &'a BackupSummary, bound: Lsn) -> Result<Plan, Unplanned> {
        let replayed = base.start_lsn..bound;
        let last = self
            .known(self.wal.resolve(Target::Latest, &replayed))?
            .last;
        let last = last.map(|last| Place {
            start: last.lsn,
            end: last.end,
        });
        let from = last.map_or(base.stop_lsn, |last| last.end.max(base.stop_lsn));
        let prepared = self.known(self.wal.outlives(from, bound))?;
        self.planned(base, prepared.or(last))
    }

    /// Where the backup is consistent.
    fn consistent(&self, base: &'a BackupSummary) -> Result<Plan, Unplanned> {
        if readable(base).is_err() {
            return Ok(self.unpredicted(base, base.stop_lsn));
        }
        let indexed = self.known(self.wal.indexed_to(base.start_lsn, base.stop_lsn))?;
        if indexed < base.stop_lsn {
            return Err(Refusal::backup_without_wal(base, indexed).into());
        }
        self.planned(base, None)
    }

    /// Stops after `record`, or where the backup is consistent if that is later.
    fn planned(&self, base: &'a BackupSummary, record: Option<Place>) -> Result<Plan, Unplanned> {
        let record = record.filter(|record| record.end > base.stop_lsn);
        let (stop, end_lsn, through) = match record {
            Some(Place { start, end }) => (Stop::Lsn(start), end, start.saturating_add(1)),
            None => (Stop::EndOfWal, base.stop_lsn, base.stop_lsn),
        };
        let replayed = base.start_lsn..end_lsn;
        // An older base's index may not have been needed to find the record.
        let _ = self.known(self.wal.indexed_to(base.start_lsn, end_lsn))?;
        let mut changes = self.wal.parameter_changes(replayed.clone());
        let minimal = changes.find(|(_, changed)| changed.wal_level == WalLevel::Minimal);
        if let Some((lsn, _)) = minimal {
            return Err(Refusal::minimal_wal(lsn).into());
        }
        // A server that stops at a record does not note the time of that record itself.
        let noted = base.start_lsn..record.map_or(end_lsn, |record| record.start);
        let last_noted = self.known(self.wal.resolve(Target::Latest, &noted))?.last;
        let last_commit = self.last_commit(base, end_lsn)?;
        let mut plan = self.unpredicted(base, end_lsn);
        plan.stop = stop;
        if let Some(record) = record {
            plan.fork_lsn = self.wal.goes_on(record, base.wal_segment_size);
        }
        plan.prediction = Some(Prediction {
            last_noted: last_noted.map(|end| timestamp(end.time)),
            last_commit: last_commit.known(),
        });
        plan.notes.extend(last_commit.told(end_lsn));
        plan.notes.extend(self.settings_changes(&replayed));
        plan.half_dropped = self.wal.dropped_without_commit(replayed, through);
        Ok(plan)
    }

    /// The source's settings changed on the way: recovery raises its own as it meets them.
    fn settings_changes(&self, replayed: &Range<Lsn>) -> Option<PlanCheck> {
        let changes = self.wal.parameter_changes(replayed.clone());
        let (lsn, last) = changes.last()?;
        let settings = last.settings;
        let detail = format!(
            "the source changed its settings on the way, last at {lsn}: max_connections {}, max_worker_processes {}, \
             max_wal_senders {}, max_prepared_transactions {}, max_locks_per_transaction {}; recovery raises its own \
             where it must",
            settings.max_connections,
            settings.max_worker_processes,
            settings.max_wal_senders,
            settings.max_prepared_transactions,
            settings.max_locks_per_transaction
        );
        Some(passed("settings_changes", detail))
    }

    /// To the end of WAL that cannot be looked into.
    fn unpredicted(&self, base: &BackupSummary, end_lsn: Lsn) -> Plan {
        Plan {
            backup: base.clone(),
            history: self.history().clone(),
            end_lsn,
            fork_lsn: end_lsn,
            stop: Stop::EndOfWal,
            prediction: None,
            half_dropped: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// Whether the WAL of a backup's server can be read.
fn readable(base: &BackupSummary) -> Result<(), Refusal> {
    let major = base.server_version / 10_000;
    match page_magic(major) {
        Some(_) => Ok(()),
        None => Err(Refusal::unreadable_wal(major)),
    }
}

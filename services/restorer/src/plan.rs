//! Decides what a restore will do, from what the repository says. Pure.
//!
//! What must stay true:
//!
//! - The base backup *ends* before the target (recovery cannot stop before it is consistent).
//! - WAL is archived without a gap from the base's start to the plan's end, and recovery is given nothing
//!   beyond that end.
//! - The timeline is pinned to a number.
//! - What cannot succeed is refused here, in a second, with the nearest target that would work.

mod refusal;
mod stored;

use std::time::Duration;

use events::event::{BackupSummary, RestorePlan};
use events::plan::{CheckState, PlanCheck};
use events::{BackupId, RestoreTarget, Timestamp};
use pg_format::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};
use repository::archive::Archive;
use repository::{WalCoverage, WalPosition, wal_coverage};

pub use refusal::Refusal;
pub use stored::StoredPlan;

use crate::served::ServedWal;

/// Rules of the operator.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A target time must be at least so old.
    pub min_target_age: Duration,
}

/// What recovery is told to stop at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Before the first transaction end later than this.
    Time(Timestamp),
    /// After the first record that begins here or later.
    Lsn(Lsn),
    /// At the first restore point of this name.
    RestorePoint(String),
    /// Where the served WAL ends.
    EndOfWal,
}

/// What a restore will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The base backup.
    pub backup: BackupSummary,
    /// The pinned timeline and its ancestors.
    pub history: TimelineHistory,
    /// Nothing from here on is served to recovery.
    pub end_lsn: Lsn,
    /// What recovery is told.
    pub stop: Stop,
    /// True when the archive is not proven to reach the target: then the end of the served WAL is not the
    /// target's content, and a recovery that runs out of WAL has failed.
    pub must_reach: bool,
}

impl Plan {
    /// The WAL that recovery may be given.
    #[must_use]
    pub fn served(&self) -> ServedWal {
        let size = self.backup.wal_segment_size;
        ServedWal::new(
            self.history.clone(),
            size,
            self.backup.start_lsn,
            self.end_lsn,
        )
    }

    /// Bytes that recovery may have to replay.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        let end = match self.stop {
            Stop::Lsn(lsn) => lsn.min(self.end_lsn),
            _ => self.end_lsn,
        };
        end.bytes_since(self.backup.start_lsn)
    }

    /// The plan as events tell it.
    #[must_use]
    pub fn summary(&self) -> RestorePlan {
        RestorePlan {
            backup_id: self.backup.backup_id,
            timeline: self.history.timeline(),
            start_lsn: self.backup.start_lsn,
            end_lsn: self.end_lsn,
            logical_bytes: self.backup.logical_bytes,
            wal_bytes: self.wal_bytes(),
            stop_lsn: None,
            last_commit: None,
        }
    }

    /// A guess, in milliseconds: 100 MB/s of files, 30 MB/s of replay, and what every restore needs.
    #[must_use]
    pub fn estimated_ms(&self) -> u64 {
        const FIXED_MS: u64 = 5_000;
        FIXED_MS + self.backup.logical_bytes / 100_000 + self.wal_bytes() / 30_000
    }

    /// What was looked at.
    #[must_use]
    pub fn checks(&self) -> Vec<PlanCheck> {
        let backup = &self.backup;
        let mut checks = vec![
            passed(
                "base_backup",
                format!(
                    "backup {} ended at {} ({})",
                    backup.backup_id,
                    events::envelope::rfc3339(backup.backed_up_at),
                    backup.stop_lsn
                ),
            ),
            passed(
                "wal",
                format!(
                    "archived without a gap from {} to {}",
                    backup.start_lsn, self.end_lsn
                ),
            ),
            passed("timeline", format!("pinned to {}", self.history.timeline())),
        ];
        if !backup.damaged_pages.is_empty() {
            checks.push(PlanCheck {
                name: "damaged_pages".to_owned(),
                state: CheckState::Warning,
                detail: format!(
                    "{} pages had a wrong checksum on the source when the backup was taken",
                    backup.damaged_pages.len()
                ),
            });
        }
        if self.must_reach {
            checks.push(PlanCheck {
                name: "wal_gap".to_owned(),
                state: CheckState::Warning,
                detail: format!(
                    "the archive has a gap from {} on; a target that lies in it fails",
                    self.end_lsn
                ),
            });
        }
        checks
    }
}

/// A passed check.
#[must_use]
pub fn passed(name: &str, detail: String) -> PlanCheck {
    PlanCheck {
        name: name.to_owned(),
        state: CheckState::Passed,
        detail,
    }
}

/// The latest moment that could be asked for now; `None` when nothing was archived yet.
#[must_use]
pub fn latest_restorable(archive: &Archive, now: Timestamp, policy: Policy) -> Option<Timestamp> {
    let age = chrono::TimeDelta::from_std(policy.min_target_age).unwrap_or_default();
    archive
        .position
        .as_ref()
        .map(|position| position.proven_at.min(now - age))
}

/// Decides what a restore to `target` will do.
///
/// # Errors
/// A [`Refusal`], with the nearest target that would work.
pub fn plan(
    archive: &Archive,
    target: &RestoreTarget,
    now: Timestamp,
    policy: Policy,
) -> Result<Plan, Refusal> {
    if archive.backups.is_empty() {
        return Err(Refusal::no_backup());
    }
    if let RestoreTarget::Backup { id } = target {
        return plan_backup(archive, *id);
    }
    let position = archive
        .position
        .as_ref()
        .ok_or_else(Refusal::nothing_archived)?;
    let path = Path::along(archive, position)?;
    match target {
        RestoreTarget::Backup { id } => plan_backup(archive, *id),
        RestoreTarget::Time { at } => plan_time(&path, *at, now, policy),
        RestoreTarget::Lsn { lsn } => plan_lsn(&path, *lsn),
        RestoreTarget::Latest => {
            let base = path
                .newest(|_| true)
                .ok_or_else(|| Refusal::no_backup_on(position.timeline))?;
            match path.reach(base) {
                Reach::Whole => Ok(path.plan(base, position.lsn, Stop::EndOfWal, false)),
                Reach::Until(gap) => Err(Refusal::gap_before_latest(base, gap)),
            }
        }
        RestoreTarget::RestorePoint { name } => plan_restore_point(&path, name),
        // Becomes possible with the commit-time index.
        RestoreTarget::Transaction { .. } => Err(Refusal::nothing_archived()),
    }
}

/// The branch's history that leads to where its archive is now.
struct Path<'a> {
    archive: &'a Archive,
    history: TimelineHistory,
    end: Lsn,
    /// The backups on it that end before `end`.
    bases: Vec<&'a BackupSummary>,
}

/// How far WAL goes without a gap from a base's start.
enum Reach {
    /// To the end of the path.
    Whole,
    /// The gap begins here.
    Until(Lsn),
}

impl<'a> Path<'a> {
    fn along(archive: &'a Archive, position: &WalPosition) -> Result<Self, Refusal> {
        let history = history_of(archive, position.timeline)?;
        let bases = archive
            .backups
            .iter()
            .filter(|backup| on_path(&history, backup) && backup.stop_lsn <= position.lsn);
        Ok(Path {
            archive,
            bases: bases.collect(),
            history,
            end: position.lsn,
        })
    }

    fn newest(&self, wanted: impl Fn(&BackupSummary) -> bool) -> Option<&'a BackupSummary> {
        let bases = self.bases.iter().copied().filter(|base| wanted(base));
        bases.max_by_key(|base| (base.stop_lsn, base.backup_id))
    }

    fn reach(&self, base: &BackupSummary) -> Reach {
        match covered(self.archive, &self.history, base, self.end) {
            None => Reach::Whole,
            Some(gap) => Reach::Until(gap),
        }
    }

    fn plan(&self, base: &BackupSummary, end_lsn: Lsn, stop: Stop, must_reach: bool) -> Plan {
        Plan {
            backup: base.clone(),
            history: self.history.clone(),
            end_lsn,
            stop,
            must_reach,
        }
    }
}

fn plan_time(
    path: &Path<'_>,
    at: Timestamp,
    now: Timestamp,
    policy: Policy,
) -> Result<Plan, Refusal> {
    let latest =
        latest_restorable(path.archive, now, policy).ok_or_else(Refusal::nothing_archived)?;
    let age = chrono::TimeDelta::from_std(policy.min_target_age).unwrap_or_default();
    if now - at < age {
        return Err(Refusal::too_young(at, latest, policy.min_target_age));
    }
    if at > latest {
        return Err(Refusal::not_archived_yet(at, latest));
    }
    let Some(base) = path.newest(|base| base.backed_up_at <= at) else {
        let earliest = path.bases.iter().map(|base| base.backed_up_at).min();
        return Err(match earliest {
            Some(earliest) => Refusal::before_first_backup(at, earliest),
            None => Refusal::no_backup_on(path.history.timeline()),
        });
    };
    let gap = match path.reach(base) {
        Reach::Whole => return Ok(path.plan(base, path.end, Stop::Time(at), false)),
        Reach::Until(gap) => gap,
    };
    // Without an index nobody knows the times in WAL. But the last segment before the gap was stored after
    // everything in it had happened: a target later than that is in the gap or behind it.
    let stored = stored_before(path.archive, base.wal_segment_size, gap);
    let in_the_gap = stored.is_none_or(|stored| at > stored + CLOCK_SKEW);
    if gap <= base.stop_lsn || in_the_gap {
        return Err(Refusal::time_in_gap(at, base, gap));
    }
    Ok(path.plan(base, gap, Stop::Time(at), true))
}

/// How far the clocks of the object store and of the source may be apart.
const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::minutes(5);

fn plan_lsn(path: &Path<'_>, lsn: Lsn) -> Result<Plan, Refusal> {
    if lsn > path.end {
        return Err(Refusal::lsn_not_archived(lsn, path.end));
    }
    let Some(base) = path.newest(|base| base.stop_lsn <= lsn) else {
        return Err(match path.bases.iter().map(|base| base.stop_lsn).min() {
            Some(earliest) => Refusal::lsn_before_first_backup(lsn, earliest),
            None => Refusal::no_backup_on(path.history.timeline()),
        });
    };
    match path.reach(base) {
        Reach::Whole => Ok(path.plan(base, path.end, Stop::Lsn(lsn), false)),
        Reach::Until(gap) if lsn < gap => Ok(path.plan(base, gap, Stop::Lsn(lsn), true)),
        Reach::Until(gap) => Err(Refusal::lsn_in_gap(lsn, gap)),
    }
}

/// Where a restore point lies is only known when recovery meets it, so everything that is archived is
/// searched, from the oldest backup with unbroken WAL: the *first* of the name counts.
fn plan_restore_point(path: &Path<'_>, name: &str) -> Result<Plan, Refusal> {
    /// `MAXFNAMELEN`, PostgreSQL `src/include/access/xlog_internal.h`, less the terminating zero.
    const LONGEST_NAME: usize = 63;
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['\0', '\n', '\r']) {
        return Err(Refusal::not_a_restore_point(name));
    }
    let mut bases = path.bases.clone();
    bases.sort_by_key(|base| (base.stop_lsn, base.backup_id));
    let base = bases
        .into_iter()
        .find(|base| matches!(path.reach(base), Reach::Whole));
    let Some(base) = base else {
        return Err(Refusal::no_backup_on(path.history.timeline()));
    };
    Ok(path.plan(base, path.end, Stop::RestorePoint(name.to_owned()), true))
}

/// The first consistent moment. Nothing beyond the backup's end is served, so that is where WAL ends; the
/// server itself refuses to go on if that is not enough. (`recovery_target = 'immediate'` stops only when it
/// sees a further record.)
fn plan_backup(archive: &Archive, id: BackupId) -> Result<Plan, Refusal> {
    let Some(backup) = archive.backups.iter().find(|backup| backup.backup_id == id) else {
        return Err(Refusal::unknown_backup(id, &archive.backups));
    };
    let current = archive.position.as_ref().and_then(|position| {
        history_of(archive, position.timeline)
            .ok()
            .filter(|history| on_path(history, backup))
    });
    let own = history_of(archive, backup.timeline);
    let mut gap = None;
    for history in current.into_iter().chain(own.as_ref().ok().cloned()) {
        match covered(archive, &history, backup, backup.stop_lsn) {
            None => {
                let (backup, end_lsn) = (backup.clone(), backup.stop_lsn);
                let stop = Stop::EndOfWal;
                return Ok(Plan {
                    backup,
                    history,
                    end_lsn,
                    stop,
                    must_reach: false,
                });
            }
            Some(missing) => gap = Some(missing),
        }
    }
    match (gap, own) {
        (Some(gap), _) => Err(Refusal::backup_without_wal(backup, gap)),
        (None, Err(refusal)) => Err(refusal),
        (None, Ok(_)) => Err(Refusal::backup_without_wal(backup, backup.start_lsn)),
    }
}

fn history_of(archive: &Archive, timeline: TimelineId) -> Result<TimelineHistory, Refusal> {
    match archive.histories.get(&timeline) {
        Some(history) => Ok(history.clone()),
        None if timeline == TimelineId(1) => Ok(TimelineHistory::root(timeline)),
        None => Err(Refusal::no_history(timeline)),
    }
}

/// Whether a backup ends on this path, before the path leaves its timeline.
fn on_path(history: &TimelineHistory, backup: &BackupSummary) -> bool {
    let left = history.switch_point(backup.timeline);
    history.contains(backup.timeline) && left.is_none_or(|left| backup.stop_lsn <= left)
}

/// Where WAL is missing from the base's start up to `end`; `None` if nowhere.
fn covered(
    archive: &Archive,
    history: &TimelineHistory,
    base: &BackupSummary,
    end: Lsn,
) -> Option<Lsn> {
    let size = base.wal_segment_size;
    let (objects, open) = (&archive.objects, &archive.open);
    match wal_coverage(objects, history, size, base.start_lsn, end, open) {
        WalCoverage::Complete => None,
        WalCoverage::Missing { first } => Some(first.start(size).max(base.start_lsn)),
    }
}

/// When the last segment that ends at or before `gap` was stored, by the store's clock.
fn stored_before(archive: &Archive, size: WalSegmentSize, gap: Lsn) -> Option<Timestamp> {
    let segments = archive
        .objects
        .iter()
        .filter_map(|object| match object.kind {
            repository::WalObjectKind::Segment(name) if name.end(size) <= gap => {
                Some((name.number(size), object.last_modified))
            }
            _ => None,
        });
    segments.max().map(|(_, stored)| stored)
}

#[cfg(test)]
mod tests;

//! Decides what a restore will do, from what the repository says. Pure.
//!
//! What must stay true:
//!
//! - The base backup *ends* before the target (recovery cannot stop before it is consistent).
//! - The target is a record on a numbered timeline: recovery stops right after it, and is given nothing beyond its end.
//!   Only where the branch is to be what the backup is at its end does recovery get no target.
//! - What the branch will hold is known before: the last transaction end that will be replayed, the last commit.
//! - What cannot succeed is refused here, in a second, with the nearest target that would work.
//!
//! The index of the WAL and the records around the target are needed to decide. [`plan`] says what is missing
//! ([`Unplanned::Needs`]); the shell adds it to [`Known`] and asks again.

mod damage;
mod known;
mod not_yet;
mod path;
mod refusal;
mod stored;
mod target;
mod way_back;

use std::collections::BTreeMap;
use std::time::Duration;

use events::event::{BackupSummary, PlannedCommit, RestorePlan};
use events::plan::{CheckState, PlanCheck};
use events::{RestoreTarget, Timestamp};
use pg_format::{Lsn, PgTimestamp, TimelineHistory, TimelineId};
pub use repository::archive::Archive;

pub use known::{KnownWal, Missing, Place, Stretch};
pub use refusal::Refusal;
pub use stored::StoredPlan;
pub(crate) use target::STILL_PREPARED;
pub use way_back::{WayBack, WaysBack};

use crate::served::ServedWal;

/// Rules of the operator.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A target time must be at least so old.
    pub min_target_age: Duration,
    /// What must be free beside the files, for spooled and replayed WAL and what a starting server writes.
    pub room_bytes: u64,
}

/// What is known of the WAL along histories, by the timeline each leads to.
pub type Known = BTreeMap<TimelineId, KnownWal>;

/// There is no plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Unplanned {
    /// There cannot be one.
    Refused(Refusal),
    /// Something must be read first.
    Needs {
        /// The history along which.
        history: TimelineHistory,
        /// What.
        missing: Missing,
    },
}

impl From<Refusal> for Unplanned {
    fn from(refusal: Refusal) -> Self {
        Unplanned::Refused(refusal)
    }
}

/// What recovery is told to stop at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// After the record that begins here.
    Lsn(Lsn),
    /// Where the served WAL ends.
    EndOfWal,
}

/// What a recovery must come out with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Prediction {
    /// The time of the last transaction end that the server notes, commit or not; `None` if there is none. It does
    /// not note that of the record it stops at (`recoveryStopsAfter`, PostgreSQL
    /// `src/backend/access/transam/xlogrecovery.c`); that one is proven by where the branch leaves the history.
    pub last_noted: Option<Timestamp>,
    /// The last commit that is in the branch, also of before the base; `None` where the archive does not know it.
    pub last_commit: Option<PlannedCommit>,
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
    /// Where the branch leaves the history: the end, or behind a record that switches segments the next segment.
    pub fork_lsn: Lsn,
    /// What recovery is told.
    pub stop: Stop,
    /// What it must come out with; `None` where the WAL cannot be looked into.
    pub prediction: Option<Prediction>,
    /// Databases whose files go away although the commit of their drop is not replayed, and where.
    pub half_dropped: Vec<(u32, Lsn)>,
    /// What somebody should know.
    pub notes: Vec<PlanCheck>,
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
        self.end_lsn.bytes_since(self.backup.start_lsn)
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
            stop_lsn: match self.stop {
                Stop::Lsn(lsn) => Some(lsn),
                Stop::EndOfWal => None,
            },
            last_commit: self.prediction.and_then(|known| known.last_commit),
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
            self.target_check(),
        ];
        if !backup.damaged_pages.is_empty() {
            let detail = format!(
                "{} pages had a wrong checksum on the source when the backup was taken",
                backup.damaged_pages.len()
            );
            checks.push(warning("damaged_pages", detail));
        }
        checks.extend(self.notes.iter().cloned());
        checks
    }

    /// Where recovery stops, and what is the last thing in the branch.
    fn target_check(&self) -> PlanCheck {
        let stop = match self.stop {
            Stop::Lsn(lsn) => format!("recovery stops right after the record at {lsn}"),
            Stop::EndOfWal => format!(
                "recovery ends where the wal it is given does, at {}",
                self.end_lsn
            ),
        };
        match self.prediction {
            None => warning(
                "target",
                format!("{stop}; the wal cannot be looked into, so its last commit is not known"),
            ),
            Some(Prediction {
                last_commit: None, ..
            }) => passed("target", stop),
            Some(Prediction {
                last_commit: Some(last),
                ..
            }) => {
                let at = events::envelope::rfc3339(last.at);
                let detail = format!(
                    "{stop}; the last commit in the branch is transaction {} of {at}",
                    last.xid
                );
                passed("target", detail)
            }
        }
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

/// A check that somebody should know of.
#[must_use]
pub fn warning(name: &str, detail: String) -> PlanCheck {
    PlanCheck {
        name: name.to_owned(),
        state: CheckState::Warning,
        detail,
    }
}

/// No later moment can be asked for now; `None` when nothing was archived yet. Whether that one can: [`latest`].
#[must_use]
pub fn latest_restorable(archive: &Archive, now: Timestamp, policy: Policy) -> Option<Timestamp> {
    let age = chrono::TimeDelta::from_std(policy.min_target_age).unwrap_or_default();
    let position = archive.position.as_ref()?;
    let path = path::Path::to_now(archive, position).ok();
    let backed_up = path.and_then(|path| path.usable().map(|base| base.backed_up_at).max());
    let latest = backed_up.map_or(position.proven_at, |at| at.max(position.proven_at));
    Some(latest.min(now - age))
}

/// The latest moment that can be asked for now; `None` when none can be yet.
///
/// # Errors
/// As [`plan`].
pub fn latest(
    archive: &Archive,
    known: &Known,
    now: Timestamp,
    policy: Policy,
) -> Result<Option<Timestamp>, Unplanned> {
    let bound = latest_restorable(archive, now, policy).ok_or_else(Refusal::nothing_archived)?;
    Ok(match target::nearest_time(archive, known, bound)? {
        target::Nearest::Before { latest, .. } => Some(latest),
        target::Nearest::After(_) => None,
    })
}

/// Decides what a restore to `target` will do.
///
/// # Errors
/// A [`Refusal`], with the nearest target that would work; or what must be known first.
pub fn plan(
    archive: &Archive,
    known: &Known,
    target: &RestoreTarget,
    now: Timestamp,
    policy: Policy,
) -> Result<Plan, Unplanned> {
    if archive.backups.is_empty() {
        return Err(Refusal::no_backup().into());
    }
    if let RestoreTarget::Time { at } = target {
        let bound =
            latest_restorable(archive, now, policy).ok_or_else(Refusal::nothing_archived)?;
        if let Some(reason) = not_yet::Reason::of(*at, now, bound, policy) {
            let nearest = target::nearest_time(archive, known, bound)?;
            return Err(not_yet::refusal(*at, reason, nearest, policy).into());
        }
    }
    if let RestoreTarget::Backup {
        id,
        even_damaged: false,
    } = target
        && let Some(refusal) = damage::refused(archive, known, *id)
    {
        return Err(refusal.into());
    }
    let mut plan = target::plan(archive, known, target)?;
    plan.notes
        .extend(damage::told(archive, known, &plan.backup));
    let proven_at = archive.position.as_ref().map(|position| position.proven_at);
    if let (RestoreTarget::Time { at }, Some(proven_at)) = (target, proven_at)
        && *at > proven_at
    {
        let detail = format!(
            "the archive is proven complete up to {}; what committed behind {} before the target is not in the branch",
            events::envelope::rfc3339(proven_at),
            plan.end_lsn
        );
        plan.notes.push(warning("not_proven", detail));
    }
    Ok(plan)
}

/// A server's time in the form of events.
pub(crate) fn timestamp(time: PgTimestamp) -> Timestamp {
    chrono::DateTime::from_timestamp_micros(time.to_unix_micros()).unwrap_or_default()
}

/// A time as the server compares it: what is finer than its microseconds is cut off.
pub(crate) fn pg_time(time: Timestamp) -> PgTimestamp {
    PgTimestamp::from_unix_micros(time.timestamp_micros())
}

#[cfg(test)]
mod tests;

//! From a time to a plan, and where there is none, to the nearest times that have one. Pure.

use events::Timestamp;
use events::event::BackupSummary;
use pg_format::Lsn;
use wal_index::Target;

use super::{Ground, Leg, readable};
use crate::plan::{Plan, Refusal, Unplanned, pg_time, timestamp, warning};

/// Times that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum Nearest {
    /// The latest up to the one that was asked about, and the first after it if something is missing in between.
    Before {
        /// The latest.
        latest: Timestamp,
        /// The first after it.
        next: Option<Timestamp>,
    },
    /// None up to there; this is the first.
    After(Timestamp),
}

/// A time that cannot be restored.
struct NoTime {
    refusal: Refusal,
    /// The latest before it that can.
    before: Option<Timestamp>,
    /// The first after it that can.
    after: Option<Timestamp>,
}

impl Ground<'_> {
    pub(super) fn time(&self, at: Timestamp) -> Result<Plan, Unplanned> {
        self.at_time(at)?.map_err(|no| no.refusal.into())
    }

    /// The latest time up to `at` that can be restored, and if that is not `at`, the next one.
    pub(super) fn nearest_time(&self, at: Timestamp) -> Result<Nearest, Unplanned> {
        match self.at_time(at)? {
            Ok(_) => Ok(Nearest::Before {
                latest: at,
                next: None,
            }),
            Err(NoTime {
                before: Some(latest),
                after: next,
                ..
            }) => Ok(Nearest::Before { latest, next }),
            Err(NoTime {
                after: Some(first), ..
            }) => Ok(Nearest::After(first)),
            Err(NoTime { refusal, .. }) => Err(refusal.into()),
        }
    }

    fn at_time(&self, at: Timestamp) -> Result<Result<Plan, NoTime>, Unplanned> {
        let not_later = |base: &&BackupSummary| base.backed_up_at <= at;
        let mut refused = None;
        for base in self.path.usable().filter(not_later).rev() {
            readable(base)?;
            let leg = self.leg(base)?;
            if leg.wal.end < base.stop_lsn {
                refused = Some(NoTime {
                    refusal: Refusal::backup_without_wal(base, leg.wal.end),
                    before: None,
                    after: None,
                });
                continue;
            }
            let found = self.known(self.wal.resolve(Target::Time(pg_time(at)), &leg.wal))?;
            match found.next {
                Some(later) if later.lsn < base.stop_lsn => {
                    let before = base.start_lsn..base.stop_lsn;
                    let latest = self.known(self.wal.latest_time(&before))?;
                    let nearest = latest.map_or(base.backed_up_at, timestamp);
                    refused = Some(NoTime {
                        refusal: Refusal::before_consistency(at, base, nearest),
                        before: None,
                        after: Some(nearest),
                    });
                }
                Some(later) => return self.before_end(base, later.lsn).map(Ok),
                None if leg.whole => return self.before(base, leg.wal.end).map(Ok),
                None => return self.time_at_a_gap(&leg, at),
            }
        }
        match (
            refused,
            self.path.usable().map(|base| base.backed_up_at).min(),
        ) {
            (Some(refused), _) => Ok(Err(refused)),
            (None, Some(earliest)) => Ok(Err(NoTime {
                refusal: Refusal::before_first_backup(at, earliest),
                before: None,
                after: Some(earliest),
            })),
            (None, None) => Err(Refusal::no_backup_on(self.history().timeline()).into()),
        }
    }

    /// No transaction before the gap ended later than `at`. What was proven to be there by then decides, or the last of
    /// those transactions: up to it, that is all that can be said.
    fn time_at_a_gap(
        &self,
        leg: &Leg<'_>,
        at: Timestamp,
    ) -> Result<Result<Plan, NoTime>, Unplanned> {
        let proven = self.path.proven_between(leg.base.stop_lsn, leg.wal.end);
        if proven.is_some_and(|proven| at <= proven) {
            return self.before(leg.base, leg.wal.end).map(Ok);
        }
        let before = self
            .last_time_before_gap(leg)?
            .max(proven.unwrap_or(leg.base.backed_up_at));
        if at > before {
            let again = self.path.next_usable(leg.wal.end);
            let again = again.map(|base| base.backed_up_at);
            return Ok(Err(NoTime {
                refusal: Refusal::time_in_gap(at, leg.wal.end, before, again),
                before: Some(before),
                after: again,
            }));
        }
        let mut plan = self.before(leg.base, leg.wal.end)?;
        plan.notes.push(warning("wal_gap", cut_off(leg.wal.end)));
        Ok(Ok(plan))
    }

    /// The window ends there, as far as nothing was proven.
    fn last_time_before_gap(&self, leg: &Leg<'_>) -> Result<Timestamp, Unplanned> {
        let latest = self.known(self.wal.latest_time(&leg.wal))?;
        let own = leg.base.backed_up_at;
        let before_it = self.path.usable();
        let before_it = before_it.filter(|base| base.stop_lsn <= leg.wal.end);
        let backed_up = before_it.map(|base| base.backed_up_at).max();
        Ok(own
            .max(backed_up.unwrap_or(own))
            .max(latest.map_or(own, timestamp)))
    }
}

fn cut_off(gap: Lsn) -> String {
    format!(
        "wal is missing from {gap} on: what committed there at that very time is not in the branch"
    )
}

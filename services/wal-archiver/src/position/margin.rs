//! How much earlier than the server's clock a proof is made, learned from the commits that came late.
//!
//! It has no bound that could be known beforehand: a process can sleep between taking its commit's time and
//! inserting the record. So it begins with nothing, and what was seen is kept for a while.

use std::time::Duration;

use pg_format::PgTimestamp;
use tokio::time::Instant;

use crate::proof::{Claim, CommitTime};
use crate::status::BranchStatus;

/// What came late once will again, for so long.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Beyond this it was not a late insertion but a clock that was set back, and no margin helps.
const WIDEST_MICROS: u64 = 120_000_000;
/// A clock that was set back makes every commit a violation: they are counted, and told of this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What proofs subtract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Margin {
    micros: u64,
    until: Option<Instant>,
}

impl Margin {
    /// So much would have been needed.
    pub(crate) fn widen(&mut self, needed_micros: u64, now: Instant) {
        let micros = self.at(now).micros.max(needed_micros);
        self.micros = micros.min(WIDEST_MICROS);
        self.until = Some(now + KEPT_FOR);
    }

    /// What is left of it.
    #[must_use]
    pub(crate) fn at(self, now: Instant) -> Margin {
        if self.until.is_some_and(|until| now < until) {
            self
        } else {
            Margin::default()
        }
    }

    /// In microseconds.
    #[must_use]
    pub(crate) fn micros(self) -> u64 {
        self.micros
    }

    /// A moment, this much earlier.
    #[must_use]
    pub(crate) fn before(self, moment: PgTimestamp) -> PgTimestamp {
        let micros = i64::try_from(self.micros).unwrap_or(i64::MAX);
        PgTimestamp(moment.0.saturating_sub(micros))
    }
}

/// Counts violations, and tells of them without drowning the log.
#[derive(Debug, Default)]
pub(super) struct Violations {
    told: Option<Instant>,
    untold: u64,
}

impl Violations {
    pub(super) fn note(
        &mut self,
        status: &BranchStatus,
        said: Claim,
        commit: CommitTime,
        now: Instant,
    ) {
        let mut margin = Margin::default();
        status.update(|seen| {
            seen.proof_violations += 1;
            margin = seen.margin;
        });
        if self.told.is_some_and(|told| now - told < TOLD_EVERY) {
            self.untold += 1;
            return;
        }
        self.told = Some(now);
        tracing::warn!(
            said_lsn = %said.lsn, said_at = %said.at, commit_lsn = %commit.lsn, commit_time = %commit.time,
            margin_micros = margin.micros(), others = std::mem::take(&mut self.untold),
            "a commit came that was said to be in the archive already; later proofs keep a distance"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_margin_is_kept_for_a_while() {
        let mut margin = Margin::default();
        let now = Instant::now();
        margin.widen(700, now);
        assert_eq!(margin.at(now).before(PgTimestamp(1_000)), PgTimestamp(300));
        margin.widen(200, now);
        assert_eq!(margin.at(now).micros(), 700, "wide enough for that");
        assert_eq!(margin.at(now + KEPT_FOR).micros(), 0);
        margin.widen(50, now + KEPT_FOR);
        assert_eq!(margin.at(now + KEPT_FOR).micros(), 50);
        margin.widen(u64::MAX, now);
        assert_eq!(margin.at(now).micros(), WIDEST_MICROS);
    }
}

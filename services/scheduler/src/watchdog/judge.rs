//! Whether a backup is stuck. Pure.

use std::time::Duration;

use chrono::TimeDelta;
use events::PoolName;

use crate::config::SchedulerConfig;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) start: Duration,
    pub(super) silence: Duration,
    pub(super) whole: Duration,
}

impl Limits {
    pub(super) fn of(config: &SchedulerConfig) -> Self {
        Limits {
            start: config.backup_start_deadline,
            silence: config.backup_silence,
            whole: config.backup_deadline,
        }
    }
}

/// Where a backup stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No worker has begun.
    Waiting,
    /// One has.
    Working,
}

/// What one process saw of a backup.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) stage: Stage,
    /// For how long nothing was said, of it or, where it may wait for its turn, by any worker of its pool; by the
    /// monotonic clock.
    pub(super) unchanged: Duration,
    /// For how long this process has known it, since the wall clock was last set; by the monotonic clock.
    pub(super) watched: Duration,
    /// Since it has the slot, by the wall clock.
    pub(super) age: TimeDelta,
}

/// Why a backup is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stuck {
    /// No worker began it.
    NotBegun(Duration),
    /// Nothing was heard of it.
    Silent(Duration),
    /// It takes too long.
    TooLong(Duration),
}

/// Whether it is to be given up, and why. A wall clock that was set alone gives nothing up: the process must have
/// watched for as long as a silence may last.
pub(super) fn stuck(observed: &Observed, limits: &Limits) -> Option<Stuck> {
    let old = observed.age.to_std().is_ok_and(|age| age >= limits.whole);
    let too_old = old && observed.watched >= limits.silence.min(limits.whole);
    match observed.stage {
        Stage::Waiting if observed.unchanged >= limits.start => Some(Stuck::NotBegun(limits.start)),
        Stage::Working if observed.unchanged >= limits.silence => {
            Some(Stuck::Silent(limits.silence))
        }
        Stage::Waiting if too_old => Some(Stuck::NotBegun(limits.whole)),
        Stage::Working if too_old => Some(Stuck::TooLong(limits.whole)),
        Stage::Waiting | Stage::Working => None,
    }
}

impl Stuck {
    pub(super) fn message(&self) -> String {
        match self {
            Stuck::NotBegun(limit) => format!(
                "no worker began the backup within {}",
                humantime_serde::re::humantime::format_duration(*limit)
            ),
            Stuck::Silent(limit) => format!(
                "nothing was heard of the backup for {}",
                humantime_serde::re::humantime::format_duration(*limit)
            ),
            Stuck::TooLong(limit) => format!(
                "the backup took longer than {}",
                humantime_serde::re::humantime::format_duration(*limit)
            ),
        }
    }

    /// Of the pool that the backup was asked of, where that is known.
    pub(super) fn hint(&self, pool: Option<&PoolName>) -> String {
        let hint = match self {
            Stuck::NotBegun(_) => {
                let pool = match pool {
                    Some(pool) => format!("pool {pool}"),
                    None => "the instance's pool".to_owned(),
                };
                return format!(
                    "Check that a backup worker runs that serves {pool} (ZEKTOR_WORKER_POOLS); \
                     ZEKTOR_BACKUP_START_DEADLINE is how long is waited."
                );
            }
            Stuck::Silent(_) => {
                "See the log of the backup worker; ZEKTOR_BACKUP_SILENCE is how long is waited for a sign of life."
            }
            Stuck::TooLong(_) => {
                "Check the source's and the store's throughput and the limits of rate; ZEKTOR_BACKUP_DEADLINE is how long a backup may take."
            }
        };
        hint.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeDelta;

    use super::{Limits, Observed, Stage, Stuck, stuck};

    const MINUTE: Duration = Duration::from_secs(60);
    const LIMITS: Limits = Limits {
        start: MINUTE.saturating_mul(60),
        silence: MINUTE.saturating_mul(15),
        whole: MINUTE.saturating_mul(24 * 60),
    };

    fn check(stage: Stage, unchanged: u32, watched: u32, age: i64, expected: Option<Stuck>) {
        let observed = Observed {
            stage,
            unchanged: MINUTE * unchanged,
            watched: MINUTE * watched,
            age: TimeDelta::minutes(age),
        };
        assert_eq!(stuck(&observed, &LIMITS), expected, "{observed:?}");
    }

    #[test]
    fn each_stage_has_its_limit() {
        let (waiting, working) = (Stage::Waiting, Stage::Working);
        check(waiting, 59, 59, 59, None);
        check(waiting, 60, 60, 60, Some(Stuck::NotBegun(LIMITS.start)));
        check(working, 14, 59, 59, None);
        check(working, 15, 15, 15, Some(Stuck::Silent(LIMITS.silence)));
        // It speaks, but for more than a day.
        check(working, 0, 1439, 1439, None);
        check(working, 0, 1440, 1440, Some(Stuck::TooLong(LIMITS.whole)));
    }

    #[test]
    fn a_clock_that_was_set_ends_nothing_by_itself() {
        check(Stage::Working, 0, 1, 100_000, None);
        check(Stage::Waiting, 0, 1, 100_000, None);
        check(Stage::Working, 0, 1, -100_000, None);
        let after_a_while = Some(Stuck::TooLong(LIMITS.whole));
        check(Stage::Working, 0, 15, 100_000, after_a_while);
    }

    #[test]
    fn a_queue_that_moves_is_waited_for() {
        check(Stage::Waiting, 5, 1439, 1439, None);
        // But not for ever.
        let too_long = Some(Stuck::NotBegun(LIMITS.whole));
        check(Stage::Waiting, 5, 1440, 1440, too_long);
    }
}

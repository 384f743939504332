//! Thresholds.

use chrono::TimeDelta;

/// From when on something needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// So many backups in a row must fail; at least 1.
    pub failures: u32,
    /// A backup is not overdue before this, whatever its schedule.
    pub overdue: TimeDelta,
    /// The archive may be so far behind its server.
    pub lag: TimeDelta,
    /// A backup, or a day of WAL, may store so many times what those before it did.
    pub growth_factor: u32,
    /// A backup, or a day of WAL, that stores less is never too large.
    pub growth_bytes: u64,
    /// What stands is told again after so long; never when absent.
    pub remind: Option<TimeDelta>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            failures: 2,
            // A day, and two hours for a night that was longer than usual.
            overdue: TimeDelta::hours(26),
            lag: TimeDelta::minutes(5),
            growth_factor: 3,
            growth_bytes: 1 << 30,
            remind: Some(TimeDelta::days(1)),
        }
    }
}

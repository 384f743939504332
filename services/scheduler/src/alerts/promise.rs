//! What the schedules of a branch promise: a backup at least every so often, kept for so long.
//!
//! The same at every look and in every replica, whatever the month and the clock: a promise that seems to change begins
//! anew, and nothing would ever be overdue.

use ::alerts::{Fact, Promised};
use calendar::Calendar;
use chrono::TimeDelta;
use events::document::{Branch, Schedule};
use events::{BranchName, InstanceDocument, ScheduleId, Timestamp};

use super::Watch;

/// Fires that are looked at: enough for hours of working days to show their weekend.
const FIRES: usize = 120;
/// Different schedules that are remembered.
const REMEMBERED: usize = 50_000;
/// Months are as long as they are from here on.
const A_JANUARY: Timestamp = Timestamp::UNIX_EPOCH;

impl Watch {
    /// The promises of the schedules in force, and that a restored branch has a backup at all.
    pub(super) fn promise(&self, document: &InstanceDocument, branch: &BranchName) -> Fact {
        let in_force = |schedule: &&Schedule| schedule.branch == *branch && !schedule.paused;
        let promised = document.schedules.iter().filter(in_force);
        let promised = promised.filter_map(|schedule| {
            Some(Promised {
                schedule: schedule.id,
                name: schedule.name.clone(),
                every: self.interval(schedule)?,
                kept: schedule.retention.expires_at(A_JANUARY) - A_JANUARY,
                since: schedule.created_at,
            })
        });
        // The first backup of a restored branch is asked for by no schedule.
        let active = document.branches.get(branch).and_then(Branch::active);
        let first = active.and_then(|active| {
            let origin = active.origin.as_ref()?;
            Some(Promised {
                schedule: ScheduleId(origin.restore_id.0),
                name: format!("first backup of {branch}"),
                every: TimeDelta::zero(),
                kept: TimeDelta::zero(),
                since: active.created_at,
            })
        });
        Fact::Promised(promised.chain(first).collect())
    }

    fn interval(&self, schedule: &Schedule) -> Option<TimeDelta> {
        let from = schedule.created_at;
        let key = (schedule.cron.clone(), schedule.timezone.clone(), from);
        let lock = || {
            self.intervals
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some(known) = lock().get(&key) {
            return *known;
        }
        let interval = longest_pause(&schedule.cron, &schedule.timezone, from);
        let mut intervals = lock();
        if intervals.len() >= REMEMBERED {
            intervals.clear();
        }
        let _ = intervals.insert(key, interval);
        interval
    }
}

/// The longest time between two fires: a schedule of working days promises nothing for the weekend.
fn longest_pause(cron: &str, timezone: &str, now: Timestamp) -> Option<TimeDelta> {
    let fires = Calendar::parse(cron, timezone).ok()?.upcoming(now, FIRES);
    fires.windows(2).map(|pair| pair[1] - pair[0]).max()
}

#[cfg(test)]
mod tests {
    use super::longest_pause;

    #[test]
    fn weekends_count() {
        let now = "2026-03-02T00:00:00Z".parse().unwrap();
        for (cron, hours) in [
            ("0 * * * *", 1),
            ("0 2 * * *", 24),
            ("0 2 * * 1-5", 72),
            ("0 9-17 * * 1-5", 64),
            ("0 2 1 * *", 31 * 24),
        ] {
            let longest = longest_pause(cron, "UTC", now).unwrap();
            assert_eq!(longest.num_hours(), hours, "{cron}");
        }
        assert!(longest_pause("nonsense", "UTC", now).is_none());
    }
}

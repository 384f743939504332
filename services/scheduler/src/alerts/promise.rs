//! What the schedules of a branch promise: a backup at least every so often.

use ::alerts::Fact;
use calendar::Calendar;
use chrono::TimeDelta;
use events::document::Schedule;
use events::{BranchName, InstanceDocument, Timestamp};

use super::Watch;

/// Fires that are looked at: enough for hours of working days to show their weekend.
const FIRES: usize = 120;
/// Different expressions that are remembered.
const REMEMBERED: usize = 50_000;

impl Watch {
    /// The promise of the schedules in force, and since when the oldest of them exists.
    pub(super) fn promise(
        &self,
        document: &InstanceDocument,
        branch: &BranchName,
        now: Timestamp,
    ) -> (Fact, Option<Timestamp>) {
        let in_force = |schedule: &&Schedule| schedule.branch == *branch && !schedule.paused;
        let schedules = || document.schedules.iter().filter(in_force);
        let shortest = schedules()
            .filter_map(|schedule| self.interval(schedule, now))
            .min();
        let since = schedules().map(|schedule| schedule.created_at).min();
        (Fact::Promised(shortest), since)
    }

    fn interval(&self, schedule: &Schedule, now: Timestamp) -> Option<TimeDelta> {
        let key = (schedule.cron.clone(), schedule.timezone.clone());
        let lock = || {
            self.intervals
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some(known) = lock().get(&key) {
            return *known;
        }
        let interval = longest_pause(&schedule.cron, &schedule.timezone, now);
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

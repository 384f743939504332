//! When a schedule fires: its calendar, from the moment on at which it was made. Pure: the time is an argument.

use std::sync::Arc;

use calendar::{Calendar, CalendarError};
use chrono::TimeDelta;
use events::{Timestamp, document::Schedule};

/// A schedule that cannot be computed.
#[derive(Debug, thiserror::Error)]
#[error("schedule {name:?} cannot be read; correct its expression or its time zone")]
pub(crate) struct UnreadableSchedule {
    name: String,
    #[source]
    source: CalendarError,
}

/// What says that it was made further ahead of now was made by a clock that was ahead, and waits for nothing: one that
/// never fires would be worse than one that fires for a time before it was made.
const AHEAD: TimeDelta = TimeDelta::hours(1);

/// Whether a fire is one of what was made at `created_at`.
pub(crate) fn counts(fire: Timestamp, created_at: Timestamp, now: Timestamp) -> bool {
    fire > created_at || is_ahead(created_at, now)
}

/// After which moment the next fire is looked for.
pub(crate) fn count_from(created_at: Timestamp, now: Timestamp) -> Timestamp {
    match is_ahead(created_at, now) {
        true => now,
        false => now.max(created_at),
    }
}

fn is_ahead(created_at: Timestamp, now: Timestamp) -> bool {
    created_at - now > AHEAD
}

/// The fires of one schedule.
#[derive(Debug, Clone)]
pub(crate) struct Fires {
    calendar: Arc<Calendar>,
    created_at: Timestamp,
}

impl Fires {
    pub(crate) fn of(schedule: &Schedule) -> Result<Self, UnreadableSchedule> {
        let calendar = Calendar::parse(&schedule.cron, &schedule.timezone);
        let calendar = calendar.map_err(|source| UnreadableSchedule {
            name: schedule.name.clone(),
            source,
        })?;
        Ok(Fires::on(Arc::new(calendar), schedule.created_at))
    }

    /// The fires of a calendar after `created_at`.
    pub(crate) fn on(calendar: Arc<Calendar>, created_at: Timestamp) -> Self {
        Fires {
            calendar,
            created_at,
        }
    }

    /// The latest fire that is due at `now`: not after it, and after the schedule was made. After a long
    /// downtime this is one catch-up, not one for every fire that was missed.
    pub(crate) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let latest = self.calendar.latest_at_or_before(now)?;
        counts(latest, self.created_at, now).then_some(latest)
    }

    /// The first fire after `now`.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let from = count_from(self.created_at, now);
        self.calendar.next_after(from)
    }
}

#[cfg(test)]
mod tests {
    use events::{Timestamp, document::Schedule, example};

    use super::Fires;

    fn fires(cron: &str, created_at: &str) -> Fires {
        let schedule = Schedule {
            cron: cron.to_owned(),
            created_at: created_at.parse().unwrap(),
            ..example::schedule()
        };
        Fires::of(&schedule).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_fire_is_due_from_its_moment_on() {
        let daily = fires("17 2 * * *", "2026-01-01T00:00:00Z");
        assert_eq!(daily.due(at("2026-01-01T02:16:59.999Z")), None);
        let first = Some(at("2026-01-01T02:17:00Z"));
        assert_eq!(daily.due(at("2026-01-01T02:17:00Z")), first);
        assert_eq!(daily.due(at("2026-01-01T02:17:00.5Z")), first);
        assert_eq!(daily.due(at("2026-01-02T02:16:59Z")), first);
        assert_eq!(
            daily.next(at("2026-01-01T02:17:00Z")),
            Some(at("2026-01-02T02:17:00Z"))
        );
    }

    #[test]
    fn a_week_of_downtime_is_one_catch_up() {
        let daily = fires("17 2 * * *", "2026-01-01T00:00:00Z");
        assert_eq!(
            daily.due(at("2026-01-08T12:00:00Z")),
            Some(at("2026-01-08T02:17:00Z"))
        );
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_made_fires_all_the_same() {
        let daily = fires("17 2 * * *", "2027-01-01T12:00:00Z");
        let last = Some(at("2026-01-01T02:17:00Z"));
        assert_eq!(daily.due(at("2026-01-01T13:00:00Z")), last);
        let next = Some(at("2026-01-02T02:17:00Z"));
        assert_eq!(daily.next(at("2026-01-01T13:00:00Z")), next);
        // Clocks differ a little: that is no reason to fire for the time before.
        let hourly = fires("0 * * * *", "2026-01-01T12:30:00Z");
        assert_eq!(hourly.due(at("2026-01-01T12:00:01Z")), None);
        let next = Some(at("2026-01-01T13:00:00Z"));
        assert_eq!(hourly.next(at("2026-01-01T11:59:59Z")), next);
    }

    #[test]
    fn nothing_before_the_schedule_was_made_counts() {
        let daily = fires("17 2 * * *", "2026-01-01T12:00:00Z");
        assert_eq!(daily.due(at("2026-01-01T13:00:00Z")), None);
        assert_eq!(
            daily.next(at("2026-01-01T11:59:00Z")),
            Some(at("2026-01-02T02:17:00Z"))
        );
    }
}

//! When a schedule fires. Pure: the time is an argument.
//!
//! This stage knows schedules in UTC; time zones, with their gaps and folds, come with custom schedules.

use std::str::FromStr;

use chrono::TimeDelta;
use cron::Schedule as Cron;
use events::{InstanceName, Timestamp, document::Schedule};
use sha2::{Digest, Sha256};

/// A schedule that cannot be computed.
#[derive(Debug, thiserror::Error)]
#[error("schedule {name:?} has the cron expression {cron:?}, which cannot be read")]
pub(crate) struct UnreadableCron {
    name: String,
    cron: String,
    #[source]
    source: cron::error::Error,
}

/// The fires of one schedule.
#[derive(Debug, Clone)]
pub(crate) struct Fires {
    cron: Cron,
    created_at: Timestamp,
}

impl Fires {
    pub(crate) fn of(schedule: &Schedule) -> Result<Self, UnreadableCron> {
        // The crate wants seconds; ours have none and fire on the minute.
        let cron =
            Cron::from_str(&format!("0 {}", schedule.cron)).map_err(|source| UnreadableCron {
                name: schedule.name.clone(),
                cron: schedule.cron.clone(),
                source,
            })?;
        Ok(Fires {
            cron,
            created_at: schedule.created_at,
        })
    }

    /// The latest fire that is due at `now`: not after it, and after the schedule was made. After a long
    /// downtime this is one catch-up, not one for every fire that was missed.
    pub(crate) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let just_after = now.checked_add_signed(TimeDelta::seconds(1))?;
        let latest = self
            .cron
            .after(&just_after)
            .rev()
            .find(|fire| *fire <= now)?;
        (latest > self.created_at).then_some(latest)
    }

    /// The first fire after `now`.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.cron.after(&now.max(self.created_at)).next()
    }
}

/// The daily cron expression of an instance's default schedule: a minute of the night (00:00 to 05:59 UTC)
/// that depends on the name alone, so that ten thousand instances do not begin at once.
pub(crate) fn default_cron(instance: &InstanceName) -> String {
    let digest = Sha256::digest(instance.as_str().as_bytes());
    let minute = u16::from_be_bytes([digest[0], digest[1]]) % (6 * 60);
    format!("{} {} * * *", minute % 60, minute / 60)
}

#[cfg(test)]
mod tests {
    use events::{Timestamp, document::Schedule, example};

    use super::{Fires, default_cron};

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
    fn nothing_before_the_schedule_was_made_counts() {
        let daily = fires("17 2 * * *", "2026-01-01T12:00:00Z");
        assert_eq!(daily.due(at("2026-01-01T13:00:00Z")), None);
        assert_eq!(
            daily.next(at("2026-01-01T00:00:00Z")),
            Some(at("2026-01-02T02:17:00Z"))
        );
    }

    #[test]
    fn default_schedules_are_spread_over_the_night() {
        let crons: std::collections::BTreeSet<String> = (0..1000)
            .map(|n| default_cron(&events::InstanceName::new(format!("db{n}")).unwrap()))
            .collect();
        assert!(
            crons.len() > 300,
            "{} different minutes for 1000 instances",
            crons.len()
        );
        for cron in crons {
            assert!(
                fires(&cron, "2026-01-01T00:00:00Z")
                    .next(at("2026-01-01T00:00:00Z"))
                    .is_some()
            );
        }
    }
}

//! What the schedules of a branch promise, and since when they do.

use events::{ScheduleId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fact::Promised;
use crate::recent::{is_ahead, past};

/// More than an instance may have.
const PROMISES: usize = 64;

/// By schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Promises(Vec<Promise>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Promise {
    pub(crate) schedule: ScheduleId,
    pub(crate) name: String,
    /// The longest time between two backups; 0 for one at all.
    pub(crate) secs: i64,
    pub(crate) kept_secs: i64,
    pub(crate) since: Timestamp,
}

impl Promise {
    /// Whether one backup keeps it for good.
    pub(crate) fn is_once(&self) -> bool {
        self.secs == 0
    }
}

impl Promises {
    /// Takes all that is promised from `at` on.
    pub(crate) fn take(&mut self, at: Timestamp, mut promised: Vec<Promised>) {
        promised.sort_by_key(|one| one.schedule);
        promised.truncate(PROMISES);
        let before = std::mem::take(&mut self.0);
        let kept = |one: Promised| {
            let (secs, kept_secs) = (one.every.num_seconds(), one.kept.num_seconds());
            let known = before.iter().find(|known| known.schedule == one.schedule);
            // A clock that was ahead made it: it is in force, and has been since it was first seen at the latest.
            let made = (!is_ahead(one.since, at)).then_some(one.since);
            let since = known.map_or(made.unwrap_or(at), |known| {
                // Backups that were fit for the old promise must not be overdue by the new one at once.
                let is_more = secs < known.secs || kept_secs > known.kept_secs;
                let changed = if is_more { at } else { known.since };
                known.since.max(made.unwrap_or(known.since)).max(changed)
            });
            Promise {
                schedule: one.schedule,
                name: one.name,
                secs,
                kept_secs,
                since,
            }
        };
        self.0 = promised.into_iter().map(kept).collect();
    }

    /// Takes back what a clock that was ahead has said.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        for promise in &mut self.0 {
            promise.since = past(promise.since, now);
        }
    }

    /// Whether no schedule in force promises anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Promise::is_once)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Promise> {
        self.0.iter()
    }
}

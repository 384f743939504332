//! When a backup of each length of keeping was last completed: those of a year among many of a day.

use events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::recent::{is_ahead, past};

/// More lengths than schedules have.
const LENGTHS: usize = 16;

/// The newest completed backups, without those that are neither newer nor kept longer than another: oldest, and kept
/// longest, first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Kept(Vec<(Timestamp, i64)>);

impl Kept {
    /// Takes a backup that is kept for so many seconds, until it is deleted when absent.
    pub(crate) fn take(&mut self, at: Timestamp, secs: Option<i64>) {
        let secs = secs.unwrap_or(i64::MAX);
        let better = |(other, kept): &(Timestamp, i64)| *other >= at && *kept >= secs;
        if self.0.iter().any(better) {
            return;
        }
        self.0.retain(|(other, kept)| *other > at || *kept > secs);
        let place = self.0.partition_point(|(other, _)| *other < at);
        self.0.insert(place, (at, secs));
        if self.0.len() > LENGTHS {
            let _ = self.0.remove(0);
        }
    }

    /// Takes back what a clock that was ahead has said.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        if self.0.iter().any(|(at, _)| is_ahead(*at, now)) {
            for (at, secs) in std::mem::take(&mut self.0) {
                self.take(past(at, now), Some(secs));
            }
        }
    }

    /// When one that is kept for at least so many seconds was last completed.
    pub(crate) fn last_for(&self, secs: i64) -> Option<Timestamp> {
        let long = self.0.iter().filter(|(_, kept)| *kept >= secs);
        long.map(|(at, _)| *at).max()
    }
}

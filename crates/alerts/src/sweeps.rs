//! What retention, or a person, has let go of: it explains why less can be restored than before.

use chrono::TimeDelta;
use events::{SweepId, Timestamp};
use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::recent::past;

/// Sweeps of a branch that are remembered; it has one at a time.
const SWEEPS: usize = 16;
/// More timelines than one sweep has WAL of.
const TIMELINES: usize = 16;
/// What it has deleted may be seen a little later.
const SEEN_LATER: TimeDelta = TimeDelta::hours(1);

/// The newest sweeps, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sweeps(Vec<Sweep>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sweep {
    id: SweepId,
    asked_at: Timestamp,
    /// Where its stretches of WAL end.
    wal: Vec<(TimelineId, Lsn)>,
    /// When it was said to be done, and how much is gone.
    done: Option<(Timestamp, u64)>,
}

impl Sweeps {
    /// Takes one that was asked for; whether its backups go.
    pub(crate) fn ask(
        &mut self,
        id: SweepId,
        at: Timestamp,
        mut wal: Vec<(TimelineId, Lsn)>,
    ) -> bool {
        wal.truncate(TIMELINES);
        let Some(mut known) = self.known(id, at) else {
            return false;
        };
        (known.asked_at, known.wal) = (at, wal);
        let is_withdrawn = known.done.is_some_and(|(_, objects)| objects == 0);
        self.put(known);
        !is_withdrawn
    }

    /// Takes the end of one; when it was asked for, if it was withdrawn and has taken nothing.
    pub(crate) fn end(&mut self, id: SweepId, at: Timestamp, objects: u64) -> Option<Timestamp> {
        // Heard before it was heard that it was asked for, perhaps.
        let mut known = self.known(id, at)?;
        let (_, objects) = *known.done.get_or_insert((at, objects));
        let asked_at = known.asked_at;
        self.put(known);
        (objects == 0).then_some(asked_at)
    }

    /// Takes a sweep out of the list; a new one if it is not there, and none if it may have been there before.
    fn known(&mut self, id: SweepId, asked_at: Timestamp) -> Option<Sweep> {
        if let Some(index) = self.0.iter().position(|known| known.id == id) {
            return Some(self.0.remove(index));
        }
        let is_old = self.0.len() >= SWEEPS && self.0[0].asked_at >= asked_at;
        (!is_old).then_some(Sweep {
            id,
            asked_at,
            wal: Vec::new(),
            done: None,
        })
    }

    fn put(&mut self, sweep: Sweep) {
        let place = |one: &Sweep| (one.asked_at, one.id);
        let index = self.0.partition_point(|other| place(other) < place(&sweep));
        self.0.insert(index, sweep);
        if self.0.len() > SWEEPS {
            drop(self.0.remove(0));
        }
    }

    pub(crate) fn settle(&mut self, now: Timestamp) {
        for sweep in &mut self.0 {
            sweep.asked_at = past(sweep.asked_at, now);
            if let Some((at, _)) = &mut sweep.done {
                *at = past(*at, now);
            }
        }
    }

    /// Whether one that was at work until shortly before `seen_at` takes WAL behind the start of a backup, or behind
    /// nobody knows what. Older WAL goes all the time, and takes nothing from who begins behind it.
    pub(crate) fn take_wal_behind(
        &self,
        start: Option<(TimelineId, Lsn)>,
        (seen_at, until): (Timestamp, Timestamp),
    ) -> bool {
        // There is one at a time: that of another the end is not known says nothing.
        let last = self.0.last().map(|last| last.id);
        self.0.iter().any(|sweep| {
            let at_work = sweep.asked_at <= until
                && match sweep.done {
                    Some((at, objects)) => objects > 0 && at >= seen_at - SEEN_LATER,
                    None => Some(sweep.id) == last,
                };
            let mut behind = sweep.wal.iter();
            at_work && behind.any(|end| start.is_none_or(|start| *end > start))
        })
    }
}

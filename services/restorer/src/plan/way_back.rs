//! What to give to a restore to come out just before something. Pure.
//!
//! What must stay true: what is given is accepted, and leads exactly there. A time is given only where the planner
//! makes of it what it makes of the position.

use events::Timestamp;
use events::event::BackupSummary;
use pg_format::Lsn;
use repository::archive::Archive;
use wal_index::Before;

use super::known::Place;
use super::path::Path;
use super::{Policy, Refusal, latest_restorable, timestamp};

/// Where to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayBack {
    /// A position, to be included.
    pub lsn: Lsn,
    /// The time that leads to the same, where there is one.
    pub time: Option<Timestamp>,
    /// Why it is refused, if it is.
    pub refused: Option<String>,
}

/// The ways to the moments of an archive.
pub struct WaysBack<'a> {
    path: Path<'a>,
    latest: Option<Timestamp>,
}

impl<'a> WaysBack<'a> {
    /// The ways along the history that is archived now.
    ///
    /// # Errors
    /// Nothing is archived, or the history is not there.
    pub fn new(archive: &'a Archive, now: Timestamp, policy: Policy) -> Result<Self, Refusal> {
        let position = archive
            .position
            .as_ref()
            .ok_or_else(Refusal::nothing_archived)?;
        Ok(WaysBack {
            path: Path::to_now(archive, position)?,
            latest: latest_restorable(archive, now, policy),
        })
    }

    /// The first backup that can be restored.
    #[must_use]
    pub fn first(&self) -> Option<&'a BackupSummary> {
        self.path.usable().next()
    }

    /// The way to just before the record at `before`. `last` is the last record that must be replayed for it: the last
    /// transaction end before it, or what was prepared behind that; `way`, as a target, leads there if replay begins
    /// anywhere before.
    #[must_use]
    pub fn to(&self, before: Lsn, last: Option<Place>, way: Option<Before>) -> WayBack {
        let ended = last.map_or(Lsn::INVALID, |last| last.end);
        let reaches = |lsn: Lsn| {
            let mut bases = self.path.usable();
            bases.rfind(|base| base.stop_lsn <= lsn && self.path.reach(base).lsn() >= lsn)
        };
        if reaches(ended).is_some() {
            return WayBack {
                lsn: last.map_or(ended, |last| last.start),
                time: way.and_then(|way| self.time(before, way)),
                refused: None,
            };
        }
        // Nothing ended between the first backup's end and there: it is what the backup is.
        let first = self.path.usable().next();
        match first.filter(|first| reaches(before).is_some() && ended <= first.stop_lsn) {
            Some(first) => WayBack {
                lsn: last.map_or(first.start_lsn, |last| last.start.max(first.start_lsn)),
                time: way.and_then(|way| self.time(before, way)),
                refused: None,
            },
            None => WayBack {
                lsn: last.map_or(before, |last| last.start),
                time: None,
                refused: Some(match first {
                    Some(first) if before < first.stop_lsn => format!(
                        "it lies before the end of the first backup, {}, and cannot be restored",
                        events::envelope::rfc3339(first.backed_up_at)
                    ),
                    _ => "it lies in or behind a gap of the archived wal, and cannot be restored"
                        .to_owned(),
                }),
            },
        }
    }

    /// The time, if the planner takes it and the base it then takes is consistent by then.
    fn time(&self, before: Lsn, way: Before) -> Option<Timestamp> {
        let time = timestamp(way.time?);
        let mut bases = self.path.usable();
        let base = bases.rfind(|base| base.backed_up_at <= time)?;
        let leads_there = self.latest.is_some_and(|latest| time <= latest)
            && base.stop_lsn <= before
            && self.path.reach(base).lsn() > before;
        leads_there.then_some(time)
    }
}

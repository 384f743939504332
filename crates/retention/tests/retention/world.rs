//! A branch whose clock counts hours and whose WAL counts quarters of a segment.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta};
use events::mark::{DeletedBy, Deletion, Hold};
use events::{BackupId, Timestamp};
use pg_format::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};
use retention::{Backup, HistoryFile, Plan, Reader, Stored, WalFile, WalFileKind};

const QUARTER: u64 = 1 << 18;
pub(crate) const GRACE: u64 = 24;

pub(crate) fn size() -> WalSegmentSize {
    WalSegmentSize::new(4 * QUARTER).unwrap()
}

pub(crate) fn lsn(quarter: u64) -> Lsn {
    Lsn(quarter * QUARTER)
}

pub(crate) fn at(hour: u64) -> Timestamp {
    DateTime::UNIX_EPOCH + TimeDelta::hours(i64::try_from(hour).unwrap())
}

pub(crate) fn hour(time: Timestamp) -> u64 {
    u64::try_from(time.timestamp() / 3600).unwrap()
}

pub(crate) fn id(number: usize) -> BackupId {
    BackupId(uuid::Uuid::from_u128(number as u128))
}

/// A timeline as it came to be, not as its history file tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) parent: Option<u32>,
    /// In quarters.
    pub(crate) fork: u64,
    /// Where its WAL ends.
    pub(crate) end: u64,
}

/// Objects of WAL: how many quarters of each segment.
pub(crate) type Files = BTreeMap<(u32, u64), u64>;

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) hour: u64,
    pub(crate) live: bool,
    pub(crate) lines: BTreeMap<u32, Line>,
    pub(crate) current: u32,
    pub(crate) files: Files,
    /// As if nothing had ever been deleted.
    pub(crate) ever: Files,
    pub(crate) histories: BTreeSet<u32>,
    pub(crate) backups: BTreeMap<BackupId, Backup>,
    pub(crate) made: BTreeMap<BackupId, Backup>,
    pub(crate) reading: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        let first = Line {
            parent: None,
            fork: 0,
            end: 0,
        };
        World {
            hour: 0,
            live: true,
            lines: BTreeMap::from([(1, first)]),
            current: 1,
            files: Files::new(),
            ever: Files::new(),
            histories: BTreeSet::new(),
            backups: BTreeMap::new(),
            made: BTreeMap::new(),
            reading: false,
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.lines[&self.current].end
    }

    fn store(&mut self, timeline: u32, number: u64, quarters: u64) {
        let _ = self.files.insert((timeline, number), quarters);
        let _ = self.ever.insert((timeline, number), quarters);
    }

    /// WAL is written and archived.
    pub(crate) fn write(&mut self, quarters: u64) {
        let from = self.position();
        let to = from + quarters;
        for number in from / 4..to.div_ceil(4) {
            self.store(self.current, number, (to - number * 4).min(4));
        }
        self.lines.get_mut(&self.current).unwrap().end = to;
    }

    pub(crate) fn switch(&mut self) {
        let open = self.position() % 4;
        self.write((4 - open) % 4);
    }

    /// A segment never came. Not one of a backup that is complete: such a backup waits for its WAL.
    pub(crate) fn lose(&mut self, back: u64) {
        let number = (self.position() / 4).saturating_sub(back);
        let stops = self.made.values().map(|backup| backup.stop_lsn);
        if stops.max().is_none_or(|stop| lsn(number * 4) >= stop) {
            let _ = self.files.remove(&(self.current, number));
            let _ = self.ever.remove(&(self.current, number));
        }
    }

    /// Nor did the first segment that began after `begun`, though that was to be a backup's.
    pub(crate) fn lose_within(&mut self, begun: u64) {
        let number = begun.div_ceil(4);
        let _ = self.files.remove(&(self.current, number));
        let _ = self.ever.remove(&(self.current, number));
    }

    /// A promotion after which the open segment of the old timeline is nowhere but in the first of the new one.
    pub(crate) fn tear(&mut self, quarters: u64) {
        let open = (self.current, self.position() / 4);
        self.promote(0);
        self.write(quarters);
        let _ = self.files.remove(&open);
        let _ = self.ever.remove(&open);
    }

    /// The newest `lost` quarters were not on the standby.
    pub(crate) fn promote(&mut self, lost: u64) {
        let line = self.lines[&self.current];
        let fork = line.end.saturating_sub(lost).max(line.fork);
        let parent = Some(self.current);
        self.current = self.lines.keys().max().unwrap() + 1;
        let child = Line {
            parent,
            fork,
            end: fork,
        };
        let _ = self.lines.insert(self.current, child);
        let _ = self.histories.insert(self.current);
    }

    pub(crate) fn backup(
        &mut self,
        name: &str,
        keep: Option<u64>,
        wal: Option<u64>,
        quarters: u64,
    ) -> BackupId {
        let start = self.position();
        self.write(quarters);
        let id = id(self.made.len() + 1);
        let backup = Backup {
            id,
            name: name.to_owned(),
            timeline: TimelineId(self.current),
            start_lsn: lsn(start),
            stop_lsn: lsn(start + quarters),
            backed_up_at: at(self.hour),
            expires_at: keep.map(|hours| at(self.hour + hours)),
            wal_until: wal.map(|hours| at(self.hour + hours)),
            stored_bytes: 1000,
            damaged: false,
            hold: None,
            deletion: None,
            refers_to: Vec::new(),
        };
        let _ = self.made.insert(id, backup.clone());
        let _ = self.backups.insert(id, backup);
        id
    }

    pub(crate) fn change(&mut self, id: BackupId, change: impl Fn(&mut Backup)) {
        if let Some(backup) = self.backups.get_mut(&id) {
            change(backup);
            let _ = self.made.insert(id, backup.clone());
        }
    }

    pub(crate) fn hold(&mut self, id: BackupId) {
        let since = at(self.hour);
        self.change(id, |backup| {
            let reason = None;
            backup.hold = Some(Hold { reason, since });
        });
    }

    pub(crate) fn delete(&mut self, id: BackupId) {
        let asked_at = at(self.hour);
        let delete_after = at(self.hour + GRACE);
        self.change(id, |backup| {
            backup.deletion = Some(Deletion {
                by: DeletedBy::User,
                asked_at,
                delete_after,
            });
        });
    }

    pub(crate) fn undelete(&mut self, id: BackupId) {
        let now = at(self.hour);
        self.change(id, |backup| {
            if backup.deletion.take().is_some() && backup.expires_at.is_some_and(|end| end <= now) {
                backup.expires_at = None;
            }
        });
    }

    /// As the server writes it.
    pub(crate) fn history(&self, timeline: u32) -> TimelineHistory {
        let line = self.lines[&timeline];
        match line.parent {
            None => TimelineHistory::root(TimelineId(timeline)),
            Some(parent) => {
                let parent = self.history(parent);
                let forked = parent.fork(TimelineId(timeline), lsn(line.fork), "x");
                forked.unwrap()
            }
        }
    }

    pub(crate) fn stored(&self) -> Stored {
        let wal = self.files.iter().map(|(&(timeline, number), &quarters)| {
            let kind = match quarters {
                4 => WalFileKind::Complete,
                _ => WalFileKind::Partial {
                    raw_bytes: quarters * QUARTER,
                },
            };
            WalFile {
                timeline: TimelineId(timeline),
                number,
                kind,
                stored_bytes: 1,
            }
        });
        let histories = self.histories.iter().map(|&timeline| HistoryFile {
            timeline: TimelineId(timeline),
            history: Some(self.history(timeline)),
            stored_bytes: 0,
        });
        let reader = || Reader {
            what: "a restore".to_owned(),
        };
        Stored {
            now: at(self.hour),
            grace: TimeDelta::hours(GRACE as i64),
            live: self.live,
            segment_size: size(),
            archived_timeline: Some(TimelineId(self.current)),
            backups: self.backups.values().cloned().collect(),
            wal: wal.collect(),
            history_files: histories.collect(),
            readers: self.reading.then(reader).into_iter().collect(),
            running: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    /// What a plan says is done; a crash leaves everything after the first `steps` undone.
    pub(crate) fn apply(&mut self, plan: &Plan, steps: usize) {
        let mut left = steps;
        let mut step = || {
            left = left.saturating_sub(1);
            left > 0
        };
        for (id, deletion) in plan.marks() {
            if !step() {
                return;
            }
            self.change(id, |backup| backup.deletion = Some(deletion));
        }
        let sweep = plan.sweep(events::SweepId(uuid::Uuid::nil()));
        let Some(sweep) = sweep else { return };
        for id in sweep.backups {
            if !step() {
                return;
            }
            let _ = self.backups.remove(&id);
        }
        for wal in sweep.wal {
            let numbers = size().segment_of(wal.from_lsn)..size().segment_of(wal.to_lsn);
            for number in numbers {
                if !step() {
                    return;
                }
                let _ = self.files.remove(&(wal.timeline.0, number));
            }
        }
        for timeline in sweep.histories {
            if !step() {
                return;
            }
            let _ = self.histories.remove(&timeline.0);
        }
    }

    pub(crate) fn round(&mut self) -> Plan {
        let plan = retention::plan(&self.stored());
        self.apply(&plan, usize::MAX);
        plan
    }
}

//! A branch whose clock counts hours and whose WAL counts quarters of a segment.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta};
use events::document::Sweep;
use events::mark::{DeletedBy, Deletion, Hold};
use events::{BackupId, Timestamp};
use pg_format::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};
use retention::{
    Backup, Ended, HistoryFile, Leftover, Plan, Reader, RunningBackup, Stored, WalFile, WalFileKind,
};

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

fn leftover((id, (since, ended)): (&BackupId, &(u64, Ended))) -> Leftover {
    Leftover {
        backup_id: *id,
        stored_bytes: 1,
        last_written: at(*since),
        ended: *ended,
    }
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
    /// A backup that is being taken, where it begins, and whether that is known.
    pub(crate) running: Option<(BackupId, u64, bool)>,
    /// What is stored of backups without a manifest, since when, and what is known of them.
    pub(crate) leftovers: BTreeMap<BackupId, (u64, Ended)>,
    /// What a worker was asked to delete.
    pub(crate) asked: Option<Sweep>,
    /// So many hours the source's clock is ahead, and whether a backup was ever stamped by a wrong one.
    pub(crate) ahead: i64,
    pub(crate) wrong: bool,
    ids: usize,
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
            running: None,
            leftovers: BTreeMap::new(),
            asked: None,
            ahead: 0,
            wrong: false,
            ids: 0,
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
        let id = self.next_id();
        self.complete((id, start), name, (keep, wal), quarters)
    }

    pub(crate) fn next_id(&mut self) -> BackupId {
        self.ids += 1;
        id(self.ids)
    }

    /// A backup that began at `start` ends after so many quarters more. Its stamp is by the source's clock, what is
    /// promised by the later one.
    pub(crate) fn complete(
        &mut self,
        (id, start): (BackupId, u64),
        name: &str,
        (keep, wal): (Option<u64>, Option<u64>),
        quarters: u64,
    ) -> BackupId {
        self.write(quarters);
        let stamp = self.hour.saturating_add_signed(self.ahead);
        let from = stamp.max(self.hour);
        self.wrong |= stamp != self.hour;
        let stop = self.position();
        let backup = Backup {
            id,
            name: name.to_owned(),
            timeline: TimelineId(self.current),
            start_lsn: lsn(start),
            stop_lsn: lsn(stop),
            backed_up_at: at(stamp),
            expires_at: keep.map(|hours| at(from + hours)),
            wal_until: wal.map(|hours| at(from + hours)),
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
            running: self.running.iter().map(|one| self.begun(*one)).collect(),
            leftovers: self.leftovers.iter().map(leftover).collect(),
        }
    }

    fn begun(&self, (id, start, known): (BackupId, u64, bool)) -> RunningBackup {
        RunningBackup {
            id,
            start: known.then_some((TimelineId(self.current), lsn(start))),
        }
    }

    /// A worker does what it was asked for, as far as it comes; the plan has nothing to say.
    pub(crate) fn carry_out(&mut self, steps: usize) {
        if let Some(sweep) = self.asked.take() {
            let done = self.sweep(&sweep, steps);
            self.asked = (!done).then_some(sweep);
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
        if let Some(sweep) = sweep {
            let _done = self.sweep(&sweep, left);
        }
    }

    /// Whether all of it was done.
    fn sweep(&mut self, sweep: &Sweep, steps: usize) -> bool {
        let mut left = steps;
        let mut step = || {
            left = left.saturating_sub(1);
            left > 0
        };
        for id in &sweep.backups {
            if !step() {
                return false;
            }
            let _ = self.backups.remove(id);
        }
        for wal in &sweep.wal {
            let numbers = size().segment_of(wal.from_lsn)..size().segment_of(wal.to_lsn);
            for number in numbers {
                if !step() {
                    return false;
                }
                let _ = self.files.remove(&(wal.timeline.0, number));
            }
        }
        for timeline in &sweep.histories {
            if !step() {
                return false;
            }
            let _ = self.histories.remove(&timeline.0);
        }
        for id in &sweep.leftovers {
            if !step() {
                return false;
            }
            let (since, ended) = self.leftovers.remove(id).unwrap();
            assert!(ended == Ended::Over && self.hour - since >= 48, "{id:?}");
        }
        true
    }

    pub(crate) fn round(&mut self) -> Plan {
        let plan = retention::plan(&self.stored());
        self.apply(&plan, usize::MAX);
        plan
    }
}

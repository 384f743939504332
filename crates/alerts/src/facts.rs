//! What is known of a branch: everything that the rules look at, and nothing that they do not.

use chrono::TimeDelta;
use events::event::{FailureCause, GapCause};
use events::{BackupId, BackupType, Timestamp};
use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::fact::{Completed, Fact, FailedDrill, Gap};
use crate::kept::Kept;
use crate::promises::Promises;
use crate::recent::{Dated, insert, is_ahead, past};
use crate::sweeps::Sweeps;

mod noted;

pub(crate) use noted::{At, Failure, Lag, Marked, Reach, Shrunk, Skipped, Slot, Verdict};

/// Completed backups that are remembered: enough for a median of each kind.
const COMPLETED: usize = 24;
const FAILED: usize = 8;
const GAPS: usize = 64;
const LET_GO: usize = 64;
const VERDICTS: usize = 64;
const MARKED: usize = 64;
/// Days of WAL: one that is judged, the one before it, and a week to compare them with.
const WAL_DAYS: usize = 9;
/// What was wrong longer ago than this, when a branch is first heard of, is not news: a new installation of the rules
/// reads a year of events.
const NEWS: TimeDelta = TimeDelta::days(1);
/// A rule about the archive's lag wants to see it twice.
const LOOKS: usize = 2;

/// The facts about one branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// What was wrong before this is not news.
    pub(crate) floor: Timestamp,
    #[serde(default)]
    pub(crate) completed: Vec<At<Completed>>,
    /// Since the last completed one, the newest of them.
    #[serde(default)]
    pub(crate) failed: Vec<At<Failure>>,
    #[serde(default)]
    pub(crate) verdicts: Vec<At<Verdict>>,
    /// The last that was wanted of a backup: whether it is to go.
    #[serde(default)]
    pub(crate) marked: Vec<At<Marked>>,
    #[serde(default)]
    pub(crate) let_go: Vec<At<Option<BackupId>>>,
    #[serde(default)]
    pub(crate) sweeps: Sweeps,
    #[serde(default)]
    pub(crate) window: Option<At<Reach>>,
    #[serde(default)]
    pub(crate) shrunk: Option<Shrunk>,
    #[serde(default)]
    pub(crate) gaps: Vec<At<Gap>>,
    #[serde(default)]
    pub(crate) slot: Option<At<Slot>>,
    #[serde(default)]
    pub(crate) drill: Option<At<Option<FailedDrill>>>,
    #[serde(default)]
    pub(crate) lag: Vec<At<Lag>>,
    #[serde(default)]
    pub(crate) promises: Promises,
    #[serde(default)]
    pub(crate) kept: Kept,
    #[serde(default)]
    pub(crate) skipped: Option<At<Skipped>>,
    #[serde(default)]
    pub(crate) wal_days: Vec<At<u64>>,
    /// Whether the server runs, and since when it does or does not. Nobody has said anything when absent.
    #[serde(default)]
    pub(crate) running: Option<At<bool>>,
}

impl Facts {
    pub(crate) fn new(now: Timestamp) -> Self {
        Facts {
            floor: now - NEWS,
            completed: Vec::new(),
            failed: Vec::new(),
            verdicts: Vec::new(),
            marked: Vec::new(),
            let_go: Vec::new(),
            sweeps: Sweeps::default(),
            window: None,
            shrunk: None,
            gaps: Vec::new(),
            slot: None,
            drill: None,
            lag: Vec::new(),
            promises: Promises::default(),
            kept: Kept::default(),
            skipped: None,
            wal_days: Vec::new(),
            running: None,
        }
    }

    /// Takes a fact that became true at `at`, and is known `now`. What is known already, or older than what would replace
    /// it, changes nothing.
    pub(crate) fn take(&mut self, at: Timestamp, fact: Fact, now: Timestamp) {
        // Whoever's clock was ahead: what it said may not outlast what is heard from now on.
        let at = past(at, now);
        // What was good long ago is worth knowing; what was bad then has been seen by somebody, or is over.
        let stale = at < self.floor.min(now - NEWS);
        match fact {
            Fact::BackupCompleted(completed) => self.take_completed(at, completed),
            Fact::Promised(promised) => self.promises.take(at, promised),
            Fact::WalStored(days) => self.take_wal_days(&days, now),
            Fact::ServerStopped => newest(&mut self.running, At { at, what: false }),
            Fact::ServerStarted => newest(&mut self.running, At { at, what: true }),
            Fact::BackupMarked { backup_id, to_go } => {
                let what = Marked { backup_id, to_go };
                self.take_mark(At { at, what });
            }
            _ if stale => {}
            // Nothing is wrong; that a backup is missing because of it is told when it is.
            Fact::BackupFailed {
                cause: FailureCause::Cancelled,
                ..
            } => {}
            Fact::BackupFailed {
                backup_id,
                cause,
                message,
                hint,
            } => {
                let failure = Failure {
                    backup_id,
                    cause,
                    message,
                    hint,
                };
                self.take_failure(At { at, what: failure });
            }
            Fact::BackupVerified { backup_id, problem } => {
                self.take_verdict(At {
                    at,
                    what: Verdict { backup_id, problem },
                });
            }
            Fact::LetGo { backup_id } => self.take_let_go(at, &[backup_id]),
            Fact::SweepAsked {
                sweep_id,
                backups,
                wal,
            } => {
                if self.sweeps.ask(sweep_id, at, wal) {
                    self.take_let_go(at, &backups);
                }
            }
            Fact::Swept { sweep_id, objects } => {
                if let Some(asked_at) = self.sweeps.end(sweep_id, at, objects) {
                    self.let_go.retain(|gone| gone.at != asked_at);
                }
            }
            Fact::WindowChanged { earliest, backup } => {
                self.take_window(At {
                    at,
                    what: Reach { earliest, backup },
                });
            }
            Fact::GapDetected(gap) => {
                // One that is older than all backups that are remembered was judged when they were completed.
                let old = self.completed.len() == COMPLETED
                    && Some(at) < self.completed.first().map(|c| c.at);
                let known = |other: &At<Gap>| {
                    (other.what.timeline, other.what.from_lsn) == (gap.timeline, gap.from_lsn)
                };
                if !old && !self.gaps.iter().any(known) && !self.is_closed(&gap, at) {
                    let _ = insert(&mut self.gaps, At { at, what: gap }, GAPS);
                }
            }
            Fact::SlotRisk { level, message } => {
                newest(
                    &mut self.slot,
                    At {
                        at,
                        what: Slot { level, message },
                    },
                );
            }
            Fact::DrillEnded { failed, .. } => newest(&mut self.drill, At { at, what: failed }),
            Fact::FireSkipped { schedule, reason } => {
                let what = Skipped { schedule, reason };
                newest(&mut self.skipped, At { at, what });
            }
            Fact::LagSeen { lag, error } => {
                let secs = lag.num_seconds();
                let _ = insert(
                    &mut self.lag,
                    At {
                        at,
                        what: Lag { secs, error },
                    },
                    LOOKS,
                );
            }
        }
    }

    /// Takes back what clocks that were ahead have said: of this state's keeper, or of whom it believed. Without that, one
    /// completed backup of next year would hide every failure until then.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        settle_all(&mut self.completed, now);
        settle_all(&mut self.failed, now);
        settle_all(&mut self.verdicts, now);
        settle_all(&mut self.marked, now);
        settle_all(&mut self.let_go, now);
        self.sweeps.settle(now);
        settle_all(&mut self.gaps, now);
        settle_all(&mut self.lag, now);
        self.wal_days.retain(|day| !is_ahead(day.at, now));
        settle_one(&mut self.window, now);
        settle_one(&mut self.slot, now);
        settle_one(&mut self.drill, now);
        settle_one(&mut self.skipped, now);
        settle_one(&mut self.running, now);
        if let Some(shrunk) = &mut self.shrunk {
            shrunk.seen_at = past(shrunk.seen_at, now);
        }
        self.kept.settle(now);
        self.promises.settle(now);
    }

    fn take_wal_days(&mut self, days: &[(Timestamp, u64)], now: Timestamp) {
        for (day, bytes) in days.iter().filter(|(day, _)| !is_ahead(*day, now)) {
            match self.wal_days.iter_mut().find(|known| known.at == *day) {
                // What was pruned since was stored all the same.
                Some(known) => known.what = known.what.max(*bytes),
                None => {
                    let (at, what) = (*day, *bytes);
                    let _ = insert(&mut self.wal_days, At { at, what }, WAL_DAYS);
                }
            }
        }
    }

    fn take_completed(&mut self, at: Timestamp, completed: Completed) {
        // It may be announced twice, at two times, by two workers.
        let known = |other: &At<Completed>| other.what.backup_id == completed.backup_id;
        if self.completed.iter().any(known) {
            return;
        }
        self.kept.take(at, completed.kept_secs);
        if !insert(
            &mut self.completed,
            At {
                at,
                what: completed,
            },
            COMPLETED,
        ) {
            return;
        }
        let last = self.last_completed_at();
        self.failed.retain(|failure| Some(failure.at) > last);
        let gaps = std::mem::take(&mut self.gaps);
        self.gaps = gaps
            .into_iter()
            .filter(|gap| !self.is_closed(&gap.what, gap.at))
            .collect();
    }

    fn take_failure(&mut self, failure: At<Failure>) {
        let known = |other: &At<Failure>| other.what.backup_id == failure.what.backup_id;
        if Some(failure.at) > self.last_completed_at() && !self.failed.iter().any(known) {
            let _ = insert(&mut self.failed, failure, FAILED);
        }
    }

    fn take_verdict(&mut self, verdict: At<Verdict>) {
        // Whenever it was read: while a backup goes, reading it finds that something is missing, and nobody would
        // take that back.
        let gone = |gone: &At<Option<BackupId>>| gone.what == Some(verdict.what.backup_id);
        if self.let_go.iter().any(gone) {
            return;
        }
        let same = |other: &At<Verdict>| other.what.backup_id == verdict.what.backup_id;
        match self.verdicts.iter().position(same) {
            Some(index) if self.verdicts[index].at >= verdict.at => {}
            Some(index) => {
                drop(self.verdicts.remove(index));
                let _ = insert(&mut self.verdicts, verdict, VERDICTS);
            }
            None => {
                let _ = insert(&mut self.verdicts, verdict, VERDICTS);
            }
        }
    }

    fn take_mark(&mut self, mark: At<Marked>) {
        let same = |other: &At<Marked>| other.what.backup_id == mark.what.backup_id;
        if let Some(index) = self.marked.iter().position(same) {
            if self.marked[index].at >= mark.at {
                return;
            }
            let _before = self.marked.remove(index);
        }
        let _ = insert(&mut self.marked, mark, MARKED);
    }

    /// Whether somebody, or retention, wants a backup to go: it is there still, and nobody relies on it.
    pub(crate) fn is_to_go(&self, backup: BackupId) -> bool {
        let mut marked = self.marked.iter();
        marked.any(|one| one.what.backup_id == backup && one.what.to_go)
    }

    fn take_let_go(&mut self, at: Timestamp, backups: &[BackupId]) {
        for backup_id in backups {
            let _ = insert(
                &mut self.let_go,
                At {
                    at,
                    what: Some(*backup_id),
                },
                LET_GO,
            );
            self.verdicts
                .retain(|verdict| verdict.what.backup_id != *backup_id);
        }
    }

    fn take_window(&mut self, now: At<Reach>) {
        if self
            .window
            .as_ref()
            .is_some_and(|before| before.at >= now.at)
        {
            return;
        }
        let before = self.window.replace(now.clone());
        // A loss that nobody has come over yet goes on; one that is over is forgotten.
        let standing = self
            .shrunk
            .take()
            .filter(|shrunk| !self.is_over(shrunk, now.at));
        self.shrunk = match (standing, before.map(|before| before.what)) {
            (Some(standing), _) => Some(standing),
            (
                None,
                Some(Reach {
                    earliest: Some(reached),
                    backup,
                }),
            ) if now.what.earliest.is_none_or(|earliest| earliest > reached) => Some(Shrunk {
                seen_at: now.at,
                reached,
                backup,
            }),
            _ => None,
        };
    }

    /// Whether a backup is known that begins behind a gap, found at `found`. WAL that was damaged long after it was archived
    /// has such backups already; somebody is to hear of it all the same.
    fn is_closed(&self, gap: &Gap, found: Timestamp) -> bool {
        let anew = gap.cause == GapCause::Damaged;
        self.completed.iter().any(|At { at, what }| {
            let behind = what.start_lsn >= gap.to_lsn && what.timeline >= gap.timeline;
            behind && (!anew || *at > found)
        })
    }

    /// Where replay of a backup begins, if it is remembered.
    pub(crate) fn start_of(&self, backup: BackupId) -> Option<(TimelineId, Lsn)> {
        let mut completed = self.completed.iter();
        let found = completed.find(|one| one.what.backup_id == backup)?;
        Some((found.what.timeline, found.what.start_lsn))
    }

    pub(crate) fn last_completed_at(&self) -> Option<Timestamp> {
        self.completed.last().map(|completed| completed.at)
    }

    /// Whether somebody stopped the server by hand.
    pub(crate) fn is_stopped(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.what)
    }

    /// Since when the server runs, if somebody started it.
    pub(crate) fn runs_since(&self) -> Option<Timestamp> {
        let running = self.running.as_ref().filter(|running| running.what);
        running.map(|running| running.at)
    }

    /// The looks at the archive since the server runs. It is behind by no more than the server has run.
    pub(crate) fn looks(&self) -> Vec<At<Lag>> {
        let since = self.running.as_ref().map(|running| running.at);
        let looks = self.lag.iter().filter(|look| Some(look.at) >= since);
        let counted = looks.cloned().map(|mut look| {
            if let Some(since) = since {
                look.what.secs = look.what.secs.min((look.at - since).num_seconds());
            }
            look
        });
        counted.collect()
    }

    /// When a backup that is kept for so long was last completed.
    pub(crate) fn last_kept_for(&self, secs: i64) -> Option<Timestamp> {
        let remembered = self
            .completed
            .iter()
            .filter(|At { what, .. }| what.kept_secs.is_none_or(|kept| kept >= secs));
        let last = remembered.map(|completed| completed.at).max();
        last.max(self.kept.last_for(secs))
    }

    /// The newest completed backup, and what up to seven of its kind before it have stored.
    pub(crate) fn sizes(&self) -> Option<(&At<Completed>, Vec<u64>)> {
        let newest = self.completed.last()?;
        let kind: BackupType = newest.what.backup_type;
        let before = self.completed.iter().rev().skip(1);
        let same = before.filter(|other| other.what.backup_type == kind);
        Some((
            newest,
            same.take(7).map(|other| other.what.stored_bytes).collect(),
        ))
    }
}

fn settle_one<T>(place: &mut Option<At<T>>, now: Timestamp) {
    if let Some(known) = place {
        known.at = past(known.at, now);
    }
}

fn settle_all<T>(list: &mut Vec<At<T>>, now: Timestamp)
where
    At<T>: Dated,
{
    // The newest is the last one.
    if list.last().is_some_and(|last| is_ahead(last.at, now)) {
        for known in list.iter_mut() {
            known.at = past(known.at, now);
        }
        list.sort_by_key(Dated::place);
        list.dedup_by_key(|known| known.place());
    }
}

fn newest<T>(place: &mut Option<At<T>>, fact: At<T>) {
    if place.as_ref().is_none_or(|before| before.at < fact.at) {
        *place = Some(fact);
    }
}

//! What is known of every branch at this moment: for questions, metrics and the announcer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use events::position::ArchiverPosition;
use events::window::Window;
use events::{BranchName, InstanceName, Timestamp};
use pg_format::{Lsn, PgTimestamp, TimelineId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::haste::Haste;
use crate::position::Margin;
use crate::relations::RelationDesk;
use crate::slot_risk::{ReleaseDesk, SlotSeen};

/// A branch of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BranchKey {
    /// The instance.
    pub(crate) instance: InstanceName,
    /// The branch.
    pub(crate) branch: BranchName,
}

impl std::fmt::Display for BranchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.instance, self.branch)
    }
}

/// How far the archive may be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainEnd {
    /// The timeline that is streamed.
    pub(crate) timeline: TimelineId,
    /// Every segment before this is stored.
    pub(crate) lsn: Lsn,
}

/// A proof is never ahead of the clock that it was made with; messages that overtake each other may look so.
const SET_BACK_MICROS: i64 = 2_000_000;

/// What was seen of a branch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// The timeline that is streamed.
    pub(crate) timeline: Option<TimelineId>,
    /// Durable up to here, `.partial` included.
    pub(crate) archived_lsn: Option<Lsn>,
    /// How far the server's WAL goes.
    pub(crate) server_lsn: Option<Lsn>,
    /// The server's clock as last heard.
    pub(crate) server_clock: Option<PgTimestamp>,
    /// The archive is complete as of this moment of the server's clock.
    pub(crate) proven_at: Option<PgTimestamp>,
    /// Whether WAL is being received.
    pub(crate) streaming: bool,
    /// What is in the way.
    pub(crate) error: Option<String>,
    /// The complete segments so far.
    pub(crate) chain_end: Option<ChainEnd>,
    /// Complete segments stored by this process.
    pub(crate) segments: u64,
    /// Their bytes in the repository.
    pub(crate) stored_bytes: u64,
    /// When the last WAL object was stored, by our clock.
    pub(crate) last_stored_at: Option<Timestamp>,
    /// Commits that came after they were said to be in the archive.
    pub(crate) proof_violations: u64,
    /// What the slot holds back, as it was measured last.
    pub(crate) slot: Option<SlotSeen>,
    /// What can be restored, as it was seen last.
    pub(crate) window: Option<Window>,
    /// What proofs subtract, because of what came late.
    pub(crate) margin: Margin,
}

impl Observed {
    /// Nothing later is proven until the server's clock is past what was proven: otherwise a proof would hold for moments
    /// that came twice.
    fn clock_set_back(&self) -> Option<String> {
        let (proven, clock) = self.proven_at.zip(self.server_clock)?;
        let micros = proven.0.checked_sub(clock.0)?;
        if micros < SET_BACK_MICROS {
            return None;
        }
        let seconds = micros / 1_000_000;
        Some(format!(
            "the server's clock went back: it is {seconds} s behind the moment up to which the archive is proven complete; \
             everything is archived, but the latest restorable time stands still until the clock is past it"
        ))
    }
}

/// What was seen of one branch, shared.
#[derive(Debug, Default)]
pub(crate) struct BranchStatus {
    seen: Mutex<Observed>,
    /// Who wants a proof at once.
    pub(crate) haste: Haste,
    /// Which names of relations are to be read.
    pub(crate) relations: RelationDesk,
    /// Whether the slot is to be released.
    pub(crate) release_desk: ReleaseDesk,
    /// Something may have changed what can be restored.
    pub(crate) window_news: Notify,
}

impl BranchStatus {
    /// Changes what was seen.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.lock());
    }

    /// A copy of what was seen.
    #[must_use]
    pub(crate) fn observed(&self) -> Observed {
        self.lock().clone()
    }

    /// What proofs subtract now.
    #[must_use]
    pub(crate) fn margin(&self, now: Instant) -> Margin {
        self.lock().margin.at(now)
    }

    /// The answer to a question.
    #[must_use]
    pub(crate) fn position(&self) -> ArchiverPosition {
        let seen = self.lock();
        let behind = |proven: PgTimestamp, clock: PgTimestamp| {
            let micros = clock.0.saturating_sub(proven.0).max(0);
            std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64()
        };
        ArchiverPosition {
            timeline: seen.timeline,
            archived_lsn: seen.archived_lsn,
            server_lsn: seen.server_lsn,
            lag_bytes: seen
                .archived_lsn
                .zip(seen.server_lsn)
                .map(|(a, s)| s.bytes_since(a)),
            lag_seconds: seen
                .proven_at
                .zip(seen.server_clock)
                .map(|(p, c)| behind(p, c)),
            proven_at: seen.proven_at.and_then(moment),
            streaming: seen.streaming,
            error: seen.error.clone().or_else(|| seen.clock_set_back()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The branches of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statuses(Arc<Mutex<BTreeMap<BranchKey, Arc<BranchStatus>>>>);

impl Statuses {
    /// The status of a branch, made when it is new.
    #[must_use]
    pub(crate) fn of(&self, key: &BranchKey) -> Arc<BranchStatus> {
        Arc::clone(self.lock().entry(key.clone()).or_default())
    }

    /// The status of a branch that is ours.
    #[must_use]
    pub(crate) fn find(&self, key: &BranchKey) -> Option<Arc<BranchStatus>> {
        self.lock().get(key).map(Arc::clone)
    }

    /// The branch is not ours any more.
    pub(crate) fn forget(&self, key: &BranchKey) {
        let _ = self.lock().remove(key);
    }

    /// All of them.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<(BranchKey, Arc<BranchStatus>)> {
        self.lock()
            .iter()
            .map(|(key, status)| (key.clone(), Arc::clone(status)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BranchKey, Arc<BranchStatus>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server's clock as a moment; `None` outside of what a calendar holds.
#[must_use]
pub(crate) fn moment(at: PgTimestamp) -> Option<Timestamp> {
    chrono::DateTime::from_timestamp_micros(at.to_unix_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_is_told_until_it_is_past_the_proof() {
        let status = BranchStatus::default();
        let told = |clock: i64| {
            status.update(|seen| seen.server_clock = Some(PgTimestamp(clock)));
            status.position().error
        };
        status.update(|seen| seen.proven_at = Some(PgTimestamp(3_600_000_000)));
        let error = told(0).unwrap();
        assert!(error.contains("clock went back: it is 3600 s"), "{error}");
        assert_eq!(told(3_599_000_000), None);
        assert_eq!(told(3_601_000_000), None);
        status.update(|seen| seen.error = Some("in the way".to_owned()));
        assert_eq!(told(0).as_deref(), Some("in the way"));
    }
}

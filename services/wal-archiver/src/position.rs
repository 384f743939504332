//! Keeps the `wal/position` object: how far the archive is proven complete, and at which moment.
//!
//! What must stay true: the position never goes back along the server's history, never says more than is
//! stored, and is written at most once in a flush interval.

mod margin;
mod reach;
#[cfg(test)]
mod tests;

use std::time::Duration;

use pg_format::{Lsn, PgTimestamp, SegmentName, TimelineHistory, TimelineId};
use repository::WalPosition;
use tokio::time::Instant;

use crate::error::ArchiveError;
use crate::proof::{Claim, CommitTime, Proof, Verdict};
use crate::session::{BranchContext, refuse_old_primary};
use crate::start_point::{StartPoint, StartReason};
use crate::status::moment;
pub(crate) use margin::Margin;
use margin::Violations;
use reach::{Place, Reach};

/// What the position object is to say.
pub(crate) struct PositionKeeper {
    branch: BranchContext,
    chain_first: SegmentName,
    start: Place,
    reach: Reach,
    proof: Proof,
    /// As it is in the repository, or on its way there.
    written: Option<WalPosition>,
    last_write: Option<Instant>,
    interval: Duration,
    violations: Violations,
    /// The timeline that the server is on.
    server: TimelineId,
}

impl PositionKeeper {
    /// Goes on from what is stored, as far as a server with this `history` went that way.
    #[must_use]
    pub(crate) fn new(
        branch: &BranchContext,
        stored: Option<WalPosition>,
        start: &StartPoint,
        history: &TimelineHistory,
    ) -> Self {
        let begin = Place::new(start.timeline, start.lsn);
        let resumed = stored.as_ref().and_then(|stored| {
            let place = Place::new(stored.timeline, stored.lsn);
            Reach::resume(begin, place, stored.proven_at, history)
        });
        if resumed.is_none() {
            forget_seen(branch);
        }
        let said = stored.as_ref().filter(|_| resumed.is_some());
        let said = said.map(|said| {
            let at = PgTimestamp::from_unix_micros(said.proven_at.timestamp_micros());
            let (lsn, clock) = (said.lsn, at);
            Claim { lsn, clock, at }
        });
        PositionKeeper {
            branch: branch.clone(),
            chain_first: start.chain_first,
            start: begin,
            reach: resumed.unwrap_or_else(|| Reach::begin(begin)),
            proof: Proof::after(said),
            written: stored,
            last_write: None,
            interval: branch.config.wal_flush_interval,
            violations: Violations::default(),
            server: history.timeline(),
        }
    }

    /// Records where the chain begins, before anything of it is stored: later segments of a chain may be
    /// stored before its first one, and a crash then must not hide that the first is missing.
    ///
    /// # Errors
    /// As the repository's; and a server that does not know the timeline that was followed replaces nothing.
    pub(crate) async fn record_start(&mut self, reason: StartReason) -> Result<(), ArchiveError> {
        refuse_old_primary(self.server, None, self.written.as_ref())?;
        if reason == StartReason::Archive && self.written.is_some() {
            return Ok(());
        }
        // A new chain, after a gap too: what was stored before is no part of it.
        self.reach = Reach::begin(self.start);
        self.proof = Proof::default();
        forget_seen(&self.branch);
        self.record_now().await
    }

    /// Writes the position at once: which timeline was followed must be known before more of it is stored.
    ///
    /// # Errors
    /// As the repository's.
    pub(crate) async fn record_now(&mut self) -> Result<(), ArchiveError> {
        let position = self.wanted();
        let uploader = &self.branch.uploader;
        uploader
            .patiently(|| uploader.writer().put_wal_position(&position))
            .await?;
        self.written = Some(position);
        Ok(())
    }

    /// Everything before `switch_lsn` is stored, and streaming goes on with the timeline that begins there.
    pub(crate) fn follow(&mut self, timeline: TimelineId, switch_lsn: Lsn) {
        if !self.reach.follow(timeline, switch_lsn) {
            forget_seen(&self.branch);
        }
        // Claims were made about the timeline before.
        self.proof = Proof::default();
    }

    /// The archive is durable up to here; true if that proves a later moment.
    pub(crate) fn durable(&mut self, lsn: Lsn) -> bool {
        self.reach.durable(lsn);
        let advanced = self.proof.durable(self.reach.durable_end());
        self.note_proof();
        advanced
    }

    /// The server's flush position after its clock had shown `clock`; true if that proves a later moment.
    pub(crate) fn claim(&mut self, lsn: Lsn, clock: PgTimestamp) -> bool {
        let now = Instant::now();
        let at = self.branch.status.margin(now).before(clock);
        let claim = Claim { lsn, clock, at };
        let claimed = self.proof.claim(claim, self.reach.durable_end());
        if let Some(needed) = claimed.lowered {
            self.widen(needed, now);
        }
        self.note_proof();
        claimed.advanced
    }

    /// A commit came in the stream: is it one that was said to be in the archive already?
    pub(crate) fn committed(&mut self, commit: CommitTime) {
        match self.proof.commit(commit) {
            Verdict::Agrees => {}
            Verdict::Lowered { needed } => self.widen(needed, Instant::now()),
            Verdict::Violated { said, needed } => {
                let now = Instant::now();
                self.widen(needed, now);
                self.violations.note(&self.branch.status, said, commit, now);
            }
        }
    }

    fn widen(&self, needed: u64, now: Instant) {
        let status = &self.branch.status;
        status.update(|seen| seen.margin.widen(needed, now));
    }

    fn note_proof(&mut self) {
        if let Some(proven) = self.proof.proven() {
            self.branch
                .status
                .update(|seen| seen.proven_at = seen.proven_at.max(Some(proven)));
            if let Some(at) = moment(proven) {
                self.reach.proves(at);
            }
        }
    }

    /// The position to write now, if one is due. It counts as written; see [`Self::failed`].
    pub(crate) fn due(&mut self, now: Instant) -> Option<WalPosition> {
        let soon = self
            .last_write
            .is_some_and(|last| now - last < self.interval);
        if soon { None } else { self.due_now(now) }
    }

    /// The position to write now, whenever the last one was written.
    pub(crate) fn due_now(&mut self, now: Instant) -> Option<WalPosition> {
        let wanted = self.wanted();
        let same = self.written.as_ref().is_some_and(|written| {
            let parts = |p: &WalPosition| (p.timeline, p.lsn, p.proven_at);
            parts(written) == parts(&wanted) && written.first_segment == wanted.first_segment
        });
        if same {
            return None;
        }
        self.last_write = Some(now);
        self.written = Some(wanted.clone());
        Some(wanted)
    }

    /// Whether the last written position proves what a claim made at `at` can prove.
    pub(crate) fn proves(&self, at: PgTimestamp) -> bool {
        let margin = self.branch.status.margin(Instant::now());
        let written = self.written.as_ref().map(|written| written.proven_at);
        moment(margin.before(at)).is_some_and(|at| written >= Some(at))
    }

    /// A write failed: what is stored is not known.
    pub(crate) fn failed(&mut self) {
        self.written = None;
    }

    /// The position as it should be written now.
    pub(crate) fn wanted(&self) -> WalPosition {
        // A restarted archiver streams the open segment again; what was stored of it still is.
        let end = self.reach.end();
        WalPosition {
            timeline: end.timeline,
            lsn: end.lsn,
            proven_at: self.reach.proven_at(),
            first_segment: self.chain_first.to_string(),
            updated: self.branch.clock.now(),
        }
    }
}

/// What was shown of the branch is not true of the chain that is streamed now.
fn forget_seen(branch: &BranchContext) {
    branch.status.update(|seen| {
        (seen.archived_lsn, seen.server_lsn, seen.proven_at) = (None, None, None);
    });
}

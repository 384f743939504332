//! Keeps the `wal/position` object: how far the archive is proven complete, and at which moment.
//!
//! What must stay true: the position never goes back on a timeline, never says more than is stored, and
//! is written at most once in a flush interval.

use std::time::Duration;

use events::Timestamp;
use pg_format::{Lsn, SegmentName, TimelineId};
use repository::WalPosition;
use tokio::time::Instant;

use crate::error::ArchiveError;
use crate::proof::{Claim, Proof};
use crate::session::BranchContext;
use crate::start_point::{StartPoint, StartReason};
use crate::status::moment;

/// What the position object is to say.
pub(crate) struct PositionKeeper {
    branch: BranchContext,
    chain_first: SegmentName,
    timeline: TimelineId,
    durable: Lsn,
    proof: Proof,
    proven_at: Timestamp,
    /// As it is in the repository, or on its way there.
    written: Option<WalPosition>,
    /// The last one known to be there; what a restart finds, and not to be gone back from.
    floor: Option<(TimelineId, Lsn)>,
    last_write: Option<Instant>,
    interval: Duration,
}

impl PositionKeeper {
    /// Goes on from what is stored.
    #[must_use]
    pub(crate) fn new(
        branch: &BranchContext,
        stored: Option<WalPosition>,
        start: &StartPoint,
    ) -> Self {
        PositionKeeper {
            branch: branch.clone(),
            chain_first: start.chain_first,
            timeline: start.timeline,
            durable: start.lsn,
            proof: Proof::default(),
            proven_at: stored
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |stored| stored.proven_at),
            floor: stored.as_ref().map(|stored| (stored.timeline, stored.lsn)),
            written: stored,
            last_write: None,
            interval: branch.config.wal_flush_interval,
        }
    }

    /// Records where the chain begins, before anything of it is stored: later segments of a chain may be
    /// stored before its first one, and a crash then must not hide that the first is missing.
    ///
    /// # Errors
    /// As the repository's.
    pub(crate) async fn record_start(
        &mut self,
        start: Lsn,
        timeline: TimelineId,
        reason: StartReason,
    ) -> Result<(), ArchiveError> {
        (self.durable, self.timeline) = (start, timeline);
        if reason == StartReason::Archive && self.written.is_some() {
            return Ok(());
        }
        // A new chain, after a gap too: what was stored before is no part of it.
        self.floor = None;
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
        (self.timeline, self.durable) = (timeline, switch_lsn);
        // The segment that both share is streamed again from its beginning.
        self.floor = Some((timeline, switch_lsn));
        // Claims were made about the timeline before.
        self.proof = Proof::default();
    }

    /// The archive is durable up to here; true if that proves a later moment.
    pub(crate) fn durable(&mut self, lsn: Lsn) -> bool {
        self.durable = lsn;
        let advanced = self.proof.durable(lsn);
        self.note_proof();
        advanced
    }

    /// The server made a claim; true if that proves a later moment.
    pub(crate) fn claim(&mut self, claim: Claim) -> bool {
        let advanced = self.proof.claim(claim, self.durable);
        self.note_proof();
        advanced
    }

    fn note_proof(&mut self) {
        if let Some(proven) = self.proof.proven() {
            self.branch
                .status
                .update(|seen| seen.proven_at = seen.proven_at.max(Some(proven)));
            self.proven_at = self.proven_at.max(moment(proven).unwrap_or(self.proven_at));
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

    /// The moment that the last written position proves.
    pub(crate) fn written_proof(&self) -> Option<Timestamp> {
        self.written.as_ref().map(|written| written.proven_at)
    }

    /// A write failed: what is stored is not known.
    pub(crate) fn failed(&mut self) {
        self.written = None;
    }

    fn wanted(&self) -> WalPosition {
        // A restarted archiver streams the open segment again; what was stored of it still is.
        let floor = self
            .floor
            .filter(|(timeline, _)| *timeline == self.timeline);
        WalPosition {
            timeline: self.timeline,
            lsn: floor.map_or(self.durable, |(_, lsn)| lsn.max(self.durable)),
            proven_at: self.proven_at,
            first_segment: self.chain_first.to_string(),
            updated: self.branch.clock.now(),
        }
    }
}

//! A branch whose server pushes its WAL with `archive_command = 'zektor wal push %p'`: no slot and no stream.
//!
//! What must stay true:
//!
//! - The listing says what is archived; nothing is believed to be there because the server said so.
//! - The position covers the unbroken chain of pushed segments, and a moment of the server's clock only when
//!   everything committed by then lies in that chain.
//! - A segment that never came, with later ones behind it, is a gap that is recorded before the chain goes on. Where the
//!   position was lost, what is not there may have been let go of: the chain begins behind it.

mod chain;
mod gap;
mod late_index;
mod quiet;
mod server;

use std::collections::BTreeSet;
use std::time::Duration;

use pg_format::{Lsn, PgTimestamp, SegmentName};
use repository::{BranchReader, RepositoryError, WalObjectKind, WalPosition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ArchiveError;
use crate::position::PositionKeeper;
use crate::session::{BranchContext, connection_settings, refuse_if_set_back, refuse_old_primary};
use crate::start_point::{ArchivePosition, Evidence, Fork, StartReason, start_point};
use crate::status::ChainEnd;
use chain::Chain;
use gap::MissingSegment;
use late_index::LateIndex;
use quiet::Quiet;
use server::{Observation, Server};

/// While somebody waits for a segment to arrive.
const FAST_LOOK: Duration = Duration::from_millis(200);
/// Before it is believed that something is not in the store.
const LOOKS: u32 = 4;
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Whoever asked has gone by then.
const HURRY_ENDS_AFTER: Duration = Duration::from_secs(30);

/// Watches what is pushed until cancelled, or until the server goes on with another timeline.
///
/// # Errors
/// Whatever ended it; a new session begins with what is stored.
pub(crate) async fn run(
    branch: &BranchContext,
    cancel: &CancellationToken,
) -> Result<(), ArchiveError> {
    let settings = connection_settings(branch)?;
    let server = Server::connect(branch, &settings).await?;
    let mut watch = Watch::begin(branch, server).await?;
    branch.announcer.announce_gaps(&branch.key);
    branch.status.window_news.notify_one();
    branch.status.relations.want_all();
    let mut asks = branch.status.haste.asks();
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            Ok(()) = asks.changed() => {
                let ask = *asks.borrow_and_update();
                let open = branch.status.haste.is_open(ask);
                watch.hurry = open.then(|| Hurry::new(ask)).or(watch.hurry.take());
            }
            () = tokio::time::sleep(pause) => {}
        }
        if watch.look().await? == After::NewTimeline {
            return Ok(());
        }
        pause = match watch.hurry {
            Some(_) => FAST_LOOK,
            None => branch.config.wal_flush_interval,
        };
    }
}

/// What comes after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    AnotherLook,
    NewTimeline,
}

/// Somebody waits for a proof.
struct Hurry {
    ask: u64,
    since: Instant,
    /// The server's clock after they had asked: proving this answers them.
    at: Option<PgTimestamp>,
}

impl Hurry {
    fn new(ask: u64) -> Self {
        Hurry {
            ask,
            since: Instant::now(),
            at: None,
        }
    }
}

struct Watch<'a> {
    branch: &'a BranchContext,
    server: Server,
    chain: Chain,
    /// Nothing is said of an archive in which nothing is.
    position: Option<PositionKeeper>,
    quiet: Quiet,
    index: LateIndex,
    hurry: Option<Hurry>,
    observed_at: Option<Instant>,
    /// WAL of transactions up to here lies beyond the chain, since then.
    behind: Option<(Lsn, Instant)>,
    switched_at: Option<Instant>,
    missing: Option<MissingSegment>,
}

impl<'a> Watch<'a> {
    async fn begin(branch: &'a BranchContext, server: Server) -> Result<Watch<'a>, ArchiveError> {
        let size = branch.branch.wal_segment_size;
        let chain = Chain::new(server.history().clone(), size);
        branch
            .status
            .update(|seen| seen.timeline = Some(server.history().timeline()));
        let mut watch = Watch {
            branch,
            server,
            chain,
            position: None,
            quiet: Quiet::new(size),
            index: LateIndex::default(),
            hurry: None,
            observed_at: None,
            behind: None,
            switched_at: None,
            missing: None,
        };
        watch.list().await?;
        watch.begin_chain().await?;
        Ok(watch)
    }

    async fn look(&mut self) -> Result<After, ArchiveError> {
        self.list().await?;
        if self.position.is_none() {
            self.begin_chain().await?;
        }
        self.advance();
        self.pass_gap().await?;
        if self.observation_is_due() {
            let observation = self.server.observe().await?;
            if observation.timeline != self.server.history().timeline() {
                tracing::info!(timeline = %observation.timeline, "the server goes on with another timeline");
                return Ok(After::NewTimeline);
            }
            self.observed(observation).await?;
        }
        self.write_position().await;
        self.answer_hurry();
        self.index
            .look(self.branch, &mut self.chain, self.server.major());
        Ok(After::AnotherLook)
    }

    /// Sees what has been pushed since the last time.
    async fn list(&mut self) -> Result<(), ArchiveError> {
        let reader = self.branch.uploader.writer().reader();
        let size = self.branch.branch.wal_segment_size;
        let objects = match self.chain.last() {
            Some(last) => {
                let kind = WalObjectKind::Segment(last);
                reader.list_wal_after(size, last.timeline, kind).await?
            }
            None => reader.list_wal(size).await?,
        };
        self.chain.see(&objects);
        Ok(())
    }

    /// Finds where the chain of what is archived ends; nothing if nothing is.
    async fn begin_chain(&mut self) -> Result<(), ArchiveError> {
        let size = self.branch.branch.wal_segment_size;
        let reader = self.branch.uploader.writer().reader();
        let stored = self.stored_position(reader).await?;
        self.refuse_another_way(stored.as_ref()).await?;
        let position = stored.as_ref().and_then(|stored| {
            Some(ArchivePosition {
                timeline: stored.timeline,
                lsn: stored.lsn,
                first_segment: SegmentName::parse(&stored.first_segment, size).ok()?,
            })
        });
        let fork = self.branch.branch.origin.as_ref().map(|origin| Fork {
            lsn: origin.fork_lsn,
            timeline: self.branch.branch.timeline,
        });
        let unpushed = match position {
            Some(_) => BTreeSet::new(),
            None => self.server.unpushed(size).await?,
        };
        let start = start_point(&Evidence {
            segment_size: size,
            history: self.server.history(),
            archived: self.chain.archived(),
            partials: self.chain.partials(),
            position,
            fork,
            slot_restart: None,
            unpushed: Some(&unpushed),
            server_flush: self.server.flush_lsn(),
        });
        if start.reason != StartReason::Archive {
            return Ok(());
        }
        let history = self.server.history();
        let mut keeper = PositionKeeper::new(self.branch, stored, &start, history);
        keeper.record_start(start.reason).await?;
        let _ = keeper.durable(start.lsn);
        tracing::info!(lsn = %start.lsn, "pushed wal is watched");
        self.chain.begin(start.lsn, start.timeline);
        self.position = Some(keeper);
        self.show();
        Ok(())
    }

    /// Refuses a server that the archive does not go on with: it would take the position back to a timeline, or a
    /// place, that was left.
    async fn refuse_another_way(
        &mut self,
        position: Option<&WalPosition>,
    ) -> Result<(), ArchiveError> {
        let timeline = self.server.history().timeline();
        let archived = self.chain.archived().iter().chain(self.chain.partials());
        let newest = archived.map(|name| name.timeline).max();
        refuse_old_primary(timeline, newest, position)?;
        let set_back = refuse_if_set_back(timeline, self.server.flush_lsn(), position);
        match set_back {
            Err(set_back) if !self.server.is_standby().await? => Err(set_back),
            _ => Ok(()),
        }
    }

    /// The stored position. Where segments are it is there too, unless nobody has watched them before: without it, it
    /// would not be known which of them are one chain, so a store that says it is not there is asked again.
    async fn stored_position(
        &self,
        reader: &BranchReader,
    ) -> Result<Option<WalPosition>, ArchiveError> {
        for look in 1..=LOOKS {
            match reader.wal_position().await {
                Ok(position) => return Ok(Some(position)),
                Err(error) if error.is_absent() => {}
                Err(error @ RepositoryError::Corrupt { .. }) => {
                    tracing::error!(%error, "the position is worked out from the segments");
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
            if self.chain.archived().is_empty() {
                break;
            }
            if look < LOOKS {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
        Ok(None)
    }

    /// Goes along what has come.
    fn advance(&mut self) {
        let Some(position) = &mut self.position else {
            return;
        };
        let steps = self.chain.advance();
        for (timeline, switch_lsn) in &steps.switches {
            position.follow(*timeline, *switch_lsn);
        }
        if steps.segments == 0 {
            return;
        }
        let _ = position.durable(self.chain.end());
        self.missing = None;
        let now = self.branch.clock.now();
        self.branch.status.update(|seen| {
            seen.segments += steps.segments;
            seen.stored_bytes += steps.stored_bytes;
            seen.last_stored_at = Some(now);
        });
        self.branch.status.relations.want_all();
        self.index.advanced();
        self.show();
    }

    fn show(&self) {
        let (timeline, lsn) = (self.chain.timeline(), self.chain.end());
        self.branch.status.update(|seen| {
            seen.archived_lsn = Some(lsn);
            seen.chain_end = Some(ChainEnd { timeline, lsn });
        });
        self.branch.announcer.announce(&self.branch.key);
    }

    fn observation_is_due(&self) -> bool {
        let interval = self.branch.config.position_interval;
        let hurried = self.hurry.as_ref().is_some_and(|hurry| hurry.at.is_none());
        hurried || self.observed_at.is_none_or(|at| at.elapsed() >= interval)
    }

    /// What the server says of itself, held against the chain.
    async fn observed(&mut self, seen: Observation) -> Result<(), ArchiveError> {
        self.observed_at = Some(Instant::now());
        let complaint = self.server.complaint().await?;
        self.branch.status.update(|status| {
            status.server_lsn = Some(seen.lsn);
            status.server_clock = Some(seen.clock);
            status.streaming = true;
            status.error = complaint.or_else(|| seen.standby.then(|| server::STANDBY.to_owned()));
        });
        if let Some(hurry) = &mut self.hurry {
            let _ = hurry.at.get_or_insert(seen.clock);
        }
        if seen.standby {
            return Ok(());
        }
        let needed = self.quiet.needed(&seen);
        if let Some(position) = &mut self.position {
            let _ = position.claim(needed, seen.clock);
        }
        let end = self.position.as_ref().map(|_| self.chain.end());
        // A busy server fills its segments by itself, and is never quite caught up with.
        self.behind = self.behind.filter(|(lsn, _)| end < Some(*lsn));
        if end >= Some(needed) {
            return Ok(());
        }
        let (_, since) = *self.behind.get_or_insert_with(|| (needed, Instant::now()));
        let patience = self.branch.config.wal_pushed_switch_after;
        let long = since.elapsed() >= patience
            && self.switched_at.is_none_or(|at| at.elapsed() >= patience);
        if (self.hurry.is_some() || long) && self.server.switch_wal().await? {
            self.switched_at = Some(Instant::now());
        }
        Ok(())
    }

    async fn write_position(&mut self) {
        let Some(position) = &mut self.position else {
            return;
        };
        let now = Instant::now();
        let due = match self.hurry {
            Some(_) => position.due_now(now),
            None => position.due(now),
        };
        let Some(due) = due else { return };
        let writer = self.branch.uploader.writer();
        if let Err(error) = writer.put_wal_position(&due).await {
            let error = service::run::chain(&error);
            tracing::warn!(error, "the position was not written; it will be again");
            position.failed();
        }
    }

    fn answer_hurry(&mut self) {
        let Some(hurry) = self.hurry.take_if(|hurry| {
            let proven = hurry.at.zip(self.position.as_ref());
            let proven = proven.is_some_and(|(at, position)| position.proves(at));
            proven || hurry.since.elapsed() >= HURRY_ENDS_AFTER
        }) else {
            return;
        };
        if hurry.since.elapsed() < HURRY_ENDS_AFTER {
            self.branch.status.haste.answer(hurry.ask);
        }
    }
}

//! One timeline's stream: every byte through the WAL reader, into the spool, into the repository, and
//! only then confirmed.
//!
//! What must stay true:
//!
//! - A byte that the reader refuses is neither spooled nor confirmed.
//! - What is streamed goes on where the archived segment before it ends: the reader reads that one first.
//! - A segment is stored only when the record that crosses its end is valid too, for a restart would begin
//!   behind that record's beginning and could not check it. (A record longer than a segment is not waited for.)
//! - While the store is slow, at most a few complete segments wait on disk; then nothing is read on, and
//!   PostgreSQL keeps the rest. Status updates go on all the while.
//! - A connection that has not been read for long is let go, and what is on its way is still stored. A walsender that
//!   stands in a write cannot end: a server that shuts down waits for it, and so does a checkpoint that takes the slot
//!   away (`InvalidatePossiblyObsoleteSlot`, PostgreSQL `src/backend/replication/slot.c`), until the store is back.
//! - Everything slow runs beside the stream, in [`Task`]s; the loop itself only decides.

mod changes;
mod hurry;
mod pipeline;
mod probe;
mod task;

use std::sync::Arc;
use std::time::Duration;

use pg_format::{Lsn, PgTimestamp, TimelineId, WalSegmentSize};
use pg_replication::{
    ConnectionSettings, PgError, ReplicationConnection, StatusUpdate, WalMessage, WalStream,
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::ArchiveError;
use crate::index::IndexPath;
use crate::position::PositionKeeper;
use crate::segment_spool::SegmentSpool;
use crate::session::{BranchContext, Opening, is_removed};
use crate::status::{BranchStatus, ChainEnd};
use hurry::Hurry;
use pipeline::Pipeline;
use probe::Probe;
use task::{Done, Task};

/// PostgreSQL's `wal_sender_timeout` is a minute by default.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// How long a stream that has failed waits for what is on its way to the store.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// "Can no longer access replication slot": `ReplicationSlotAcquire`, PostgreSQL `src/backend/replication/slot.c`.
const SQLSTATE_NOT_IN_PREREQUISITE_STATE: &str = "55000";
const PING_PAUSE: Duration = Duration::from_millis(100);
/// About five seconds.
const PINGS_UNCONFIRMED: u32 = 50;

/// How a stream ended without a failure.
pub(crate) enum ReceiverEnd {
    /// The branch is not ours any more, or the process drains.
    Cancelled,
    /// The server's timeline goes on elsewhere; everything of this one is stored.
    EndOfTimeline {
        /// The timeline that follows.
        next_timeline: TimelineId,
        /// Where it begins.
        switch_lsn: Lsn,
        /// Ready for the next command.
        connection: Box<ReplicationConnection>,
    },
}

/// Receives one timeline of one branch.
pub(crate) struct Receiver<'a> {
    branch: &'a BranchContext,
    position: &'a mut PositionKeeper,
    settings: &'a ConnectionSettings,
    timeline: TimelineId,
    size: WalSegmentSize,
    /// None once it was let go.
    stream: Option<WalStream>,
    unread_since: Option<Instant>,
    pipeline: Pipeline,
    position_running: bool,
    probe: Probe,
    last_message: Instant,
    last_ping: Option<Instant>,
    /// Times in a row that the server wanted an answer at once.
    pings: u32,
    server_end: Lsn,
    hurry: Option<Hurry>,
    /// Takes "streaming" back when the stream is left.
    _streaming: Streaming,
}

impl<'a> Receiver<'a> {
    /// Starts the stream.
    ///
    /// # Errors
    /// The server refused.
    pub(crate) async fn start(
        branch: &'a BranchContext,
        connection: ReplicationConnection,
        opening: Opening<'a>,
        position: &'a mut PositionKeeper,
    ) -> Result<Receiver<'a>, ArchiveError> {
        let size = branch.branch.wal_segment_size;
        let (timeline, start) = (opening.timeline, opening.start);
        let server_major = connection.server_version().major();
        let pipeline = Pipeline::new(branch, &opening, server_major).await?;
        let slot = events::document::slot_name(&branch.key.instance, &branch.key.branch);
        let stream = connection
            .start_replication(Some(&slot), start, timeline)
            .await
            .map_err(|error| stream_error(error, timeline, start))?;
        branch.index.begin(IndexPath {
            history: opening.own_history,
            server_major,
            archived: opening.archived.clone(),
            start: size.segment_of(start),
        });
        Ok(Receiver {
            branch,
            position,
            settings: opening.settings,
            timeline,
            size,
            stream: Some(stream),
            unread_since: None,
            pipeline,
            position_running: false,
            probe: Probe::default(),
            last_message: Instant::now(),
            last_ping: None,
            pings: 0,
            server_end: Lsn::INVALID,
            hurry: None,
            _streaming: Streaming::begin(&branch.status),
        })
    }

    /// Receives until the timeline ends or the task is cancelled.
    ///
    /// # Errors
    /// The connection, the WAL, or a store that will never take it.
    pub(crate) async fn run(
        mut self,
        cancel: &CancellationToken,
    ) -> Result<ReceiverEnd, ArchiveError> {
        let end = match self.stream(cancel).await {
            Ok(Some((next_timeline, switch_lsn))) => {
                self.finish(next_timeline, switch_lsn, cancel).await
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match end {
            Ok(Some((next_timeline, switch_lsn))) => {
                let stream = self.stream.ok_or(ArchiveError::Unread)?;
                Ok(ReceiverEnd::EndOfTimeline {
                    next_timeline,
                    switch_lsn,
                    connection: Box::new(stream.into_connection()?),
                })
            }
            left => {
                // A put that is dropped half-way may still be done, later than those of the next session.
                self.pipeline.settle(SETTLE_LIMIT).await;
                left.map(|_| ReceiverEnd::Cancelled)
            }
        }
    }

    /// Receives until the timeline ends (`Some`) or the task is cancelled.
    async fn stream(
        &mut self,
        cancel: &CancellationToken,
    ) -> Result<Option<(TimelineId, Lsn)>, ArchiveError> {
        let mut flush = interval(self.branch.config.wal_flush_interval);
        let mut status = interval(STATUS_INTERVAL.min(self.branch.config.wal_receiver_timeout / 3));
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = self.branch.status.haste.asks();
        loop {
            let reading = self.may_read();
            self.let_go_unless(reading)?;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(None),
                Some(done) = self.pipeline.tasks.join_next(), if !self.pipeline.tasks.is_empty() => {
                    self.done(done??).await?;
                    self.hurry_on().await?;
                }
                Ok(()) = asks.changed() => {
                    let ask = *asks.borrow_and_update();
                    let open = self.branch.status.haste.is_open(ask);
                    self.hurry = open.then_some(Hurry { ask, at: None });
                    self.hurry_on().await?;
                }
                _ = flush.tick() => self.flush_tick().await?,
                _ = status.tick() => self.status_tick().await?,
                message = next_of(&mut self.stream), if reading => {
                    let failed = |error| stream_error(error, self.timeline, self.pipeline.ledger.durable_end());
                    let message = message.map_err(failed)?;
                    if let WalMessage::EndOfTimeline { next_timeline, switch_lsn } = message {
                        return Ok(Some((next_timeline, switch_lsn)));
                    }
                    self.message(message).await?;
                }
            }
        }
    }

    fn may_read(&self) -> bool {
        self.pipeline.ledger.uploading() < self.branch.config.wal_segments_in_flight.max(1)
    }

    /// Lets the connection go when it has not been read for long.
    ///
    /// # Errors
    /// All that had come before is stored: there is nothing left to do without a connection.
    fn let_go_unless(&mut self, reading: bool) -> Result<(), ArchiveError> {
        if reading && self.stream.is_some() {
            self.unread_since = None;
            return Ok(());
        }
        let now = Instant::now();
        // Silence is our own doing.
        self.last_message = now;
        let unread = now - *self.unread_since.get_or_insert(now);
        if self.stream.is_some() && unread > self.branch.config.wal_receiver_timeout / 2 {
            tracing::warn!(
                ?unread,
                "the store takes no wal; the connection is let go until it does"
            );
            self.stream = None;
            self.branch.status.update(|seen| seen.streaming = false);
        }
        if self.stream.is_none() && self.pipeline.ledger.uploading() == 0 {
            return Err(ArchiveError::Unread);
        }
        Ok(())
    }

    async fn message(&mut self, message: WalMessage) -> Result<(), ArchiveError> {
        self.last_message = Instant::now();
        let time = match message {
            WalMessage::Data {
                start,
                server_end,
                server_time,
                bytes,
            } => {
                self.heard(server_end, server_time);
                self.pipeline.receive(start, bytes).await?;
                for commit in self.pipeline.commits.drain(..) {
                    self.position.committed(commit);
                }
                if let Some(wanted) = self.pipeline.changes.take() {
                    self.branch.status.relations.want(wanted);
                }
                server_time
            }
            WalMessage::Keepalive {
                server_end,
                server_time,
                reply_requested,
            } => {
                self.heard(server_end, server_time);
                if reply_requested {
                    self.pinged().await?;
                }
                server_time
            }
            WalMessage::EndOfTimeline { .. } => return Ok(()),
        };
        if self.probe.wanted {
            self.begin_probe(time);
        }
        Ok(())
    }

    /// The server wants an answer at once. One that shuts down waits until all it sent is confirmed, and
    /// asks again after every answer: it is neither answered in a hot loop nor held up for ever.
    async fn pinged(&mut self) -> Result<(), ArchiveError> {
        let again = self
            .last_ping
            .is_some_and(|last| last.elapsed() < PING_PAUSE * 10);
        self.pings = if again { self.pings + 1 } else { 1 };
        if self.pings > PINGS_UNCONFIRMED
            && self.pipeline.ledger.durable_end() < self.pipeline.next()
        {
            return Err(ArchiveError::ServerWaits);
        }
        self.pipeline.begin_partial_now();
        if again {
            tokio::time::sleep(PING_PAUSE).await;
        }
        self.last_ping = Some(Instant::now());
        self.send_status(false).await
    }

    fn heard(&mut self, server_end: Lsn, server_time: PgTimestamp) {
        self.server_end = self.server_end.max(server_end);
        let server_end = self.server_end;
        self.branch.status.update(|seen| {
            seen.server_lsn = Some(server_end);
            seen.server_clock = Some(server_time);
        });
    }

    fn begin_position(&mut self) {
        if self.position_running {
            return;
        }
        let due = if self.hurry.is_some() {
            self.position.due_now(Instant::now())
        } else {
            self.position.due(Instant::now())
        };
        if let Some(position) = due {
            self.position_running = true;
            self.pipeline.begin(Task::Position(position));
        }
    }

    async fn done(&mut self, done: Done) -> Result<(), ArchiveError> {
        match done {
            Done::Segment {
                spool,
                stored_bytes,
            } => self.segment_stored(spool, stored_bytes).await?,
            Done::Partial { end } => {
                self.pipeline.partial_done(end);
                let index = &self.branch.index;
                index.following(self.pipeline.open_spool(), self.size);
                self.durable_moved().await?;
            }
            Done::Position { written } => {
                self.position_running = false;
                if written {
                    self.answer_hurry();
                } else {
                    self.position.failed();
                }
            }
            Done::Probe {
                connection,
                answer,
                at,
            } => {
                self.probe.connection = connection;
                self.probe_done(answer, at);
            }
        }
        Ok(())
    }

    async fn segment_stored(
        &mut self,
        spool: SegmentSpool,
        bytes: u64,
    ) -> Result<(), ArchiveError> {
        let name = spool.name();
        let following = self.pipeline.following(&spool);
        self.branch.index.stored(spool, following, self.size);
        let now = self.branch.clock.now();
        self.branch.status.update(|seen| {
            seen.segments += 1;
            seen.stored_bytes += bytes;
            seen.last_stored_at = Some(now);
        });
        if !self.pipeline.ledger.segment_stored(name.number(self.size)) {
            return Ok(());
        }
        let chain_end = ChainEnd {
            timeline: self.timeline,
            lsn: self.pipeline.ledger.complete_end(),
        };
        self.branch
            .index
            .stored_to(self.size.segment_of(chain_end.lsn));
        self.branch
            .status
            .update(|seen| seen.chain_end = Some(chain_end));
        self.branch.announcer.announce(&self.branch.key);
        tracing::debug!(segment = %name, stored_bytes = bytes, "segment archived");
        self.durable_moved().await
    }

    async fn durable_moved(&mut self) -> Result<(), ArchiveError> {
        let durable = self.pipeline.ledger.durable_end();
        self.branch
            .status
            .update(|seen| seen.archived_lsn = seen.archived_lsn.max(Some(durable)));
        if self.position.durable(durable) {
            self.begin_position();
        }
        self.want_probe();
        self.send_status(self.probe.wanted).await
    }

    async fn flush_tick(&mut self) -> Result<(), ArchiveError> {
        self.pipeline.begin_partial();
        self.begin_position();
        let interval = self.branch.config.position_interval;
        if self
            .probe
            .last
            .is_none_or(|last| last.elapsed() >= interval)
        {
            self.probe.wanted = true;
            self.send_status(true).await?;
        }
        Ok(())
    }

    async fn status_tick(&mut self) -> Result<(), ArchiveError> {
        let timeout = self.branch.config.wal_receiver_timeout;
        if self.last_message.elapsed() > timeout {
            return Err(ArchiveError::Silent(timeout));
        }
        self.send_status(true).await
    }

    async fn send_status(&mut self, reply_requested: bool) -> Result<(), ArchiveError> {
        let now = self.branch.clock.now().timestamp_micros();
        let status = StatusUpdate {
            written: self.pipeline.next(),
            flushed: self.pipeline.ledger.durable_end(),
            applied: Lsn::INVALID,
            client_time: PgTimestamp::from_unix_micros(now),
            reply_requested,
        };
        match &mut self.stream {
            Some(stream) => Ok(stream.send_status(status).await?),
            None => Ok(()),
        }
    }

    /// Stores the rest of a timeline that has ended; its last segment stays as a `.partial`.
    async fn finish(
        &mut self,
        next_timeline: TimelineId,
        switch_lsn: Lsn,
        cancel: &CancellationToken,
    ) -> Result<Option<(TimelineId, Lsn)>, ArchiveError> {
        self.pipeline.end();
        while !self.pipeline.is_finished() {
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                Some(done) = self.pipeline.tasks.join_next() => self.done(done??).await?,
            }
        }
        self.branch.index.ended(self.pipeline.open_spool());
        Ok(Some((next_timeline, switch_lsn)))
    }
}

/// While it lives, the branch is shown as streaming.
struct Streaming(Arc<BranchStatus>);

impl Streaming {
    fn begin(status: &Arc<BranchStatus>) -> Self {
        status.update(|seen| {
            seen.streaming = true;
            seen.error = None;
        });
        Streaming(Arc::clone(status))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.update(|seen| seen.streaming = false);
    }
}

/// The next message; none ever comes once the connection was let go.
async fn next_of(stream: &mut Option<WalStream>) -> Result<WalMessage, PgError> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

fn stream_error(error: PgError, timeline: TimelineId, from: Lsn) -> ArchiveError {
    if is_removed(&error) {
        ArchiveError::WalRemoved {
            timeline,
            from,
            source: error,
        }
    } else if error.sqlstate() == Some(SQLSTATE_NOT_IN_PREREQUISITE_STATE) {
        ArchiveError::SlotInvalidated(error)
    } else {
        error.into()
    }
}

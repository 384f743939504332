//! WAL as it is written: the copy-both stream of `START_REPLICATION ... PHYSICAL`.
//!
//! The flush position reported here is what lets the server remove WAL. Report only what is
//! durable where the archive claims it to be.

use bytes::{BufMut, Bytes, BytesMut};
use pg_format::{Lsn, PgTimestamp, TimelineId};
use postgres_protocol::message::frontend;

use crate::error::PgError;
use crate::replication::ReplicationConnection;
use crate::session::{Answer, Session};
use crate::sql::quote_identifier;
use crate::wire::Body;

const DURING: &str = "streaming wal";

/// What a WAL stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalMessage {
    /// A piece of WAL. Pieces follow each other without gaps and respect neither segment nor
    /// record boundaries.
    Data {
        /// Position of the first byte.
        start: Lsn,
        /// End of WAL on the server when it was sent.
        server_end: Lsn,
        /// The server's clock at that time.
        server_time: PgTimestamp,
        /// The WAL. A slice of a read buffer of 1 MiB, which lives as long as any slice of it:
        /// copy what is kept for long.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// End of WAL on the server: on a primary, all WAL up to here was sent before.
        server_end: Lsn,
        /// The server's clock at that time.
        server_time: PgTimestamp,
        /// Answer at once with [`WalStream::send_status`], or the server hangs up (also: a server
        /// that is shutting down waits for the confirmation of everything it sent).
        reply_requested: bool,
    },
    /// The timeline has no more WAL. Both sides have ended the copy;
    /// [`WalStream::into_connection`] gives the connection back.
    EndOfTimeline {
        /// The timeline that follows.
        next_timeline: TimelineId,
        /// Where it branched off: WAL of the old one is valid up to here.
        switch_lsn: Lsn,
    },
}

/// What the receiver tells the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Received up to here.
    pub written: Lsn,
    /// Durable up to here. Moves the slot's restart position: the server may then drop the WAL.
    pub flushed: Lsn,
    /// Applied up to here; an archive applies nothing and says [`Lsn::INVALID`].
    pub applied: Lsn,
    /// Our clock.
    pub client_time: PgTimestamp,
    /// Ask for a keepalive at once: "how far is the server at this moment?".
    pub reply_requested: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Streaming,
    /// Both sides have said CopyDone; the row with the next timeline is due.
    Ending(Option<(TimelineId, Lsn)>),
    Ended(TimelineId, Lsn),
}

/// A running WAL stream.
pub struct WalStream {
    session: Session,
    state: State,
}

impl WalStream {
    pub(crate) async fn start(
        mut session: Session,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<Self, PgError> {
        let slot = slot
            .map(|slot| format!("SLOT {} ", quote_identifier(slot)))
            .unwrap_or_default();
        let command = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        session.send(&command, DURING).await?;
        loop {
            let state = match session.answer(DURING).await? {
                Answer::CopyBoth => State::Streaming,
                // `start` is exactly where the timeline ended: no copy, only the row.
                Answer::Row(row) => State::Ending(Some(next_timeline(&row)?)),
                Answer::Warning(message) => {
                    tracing::warn!(%message, "warning from postgresql");
                    continue;
                }
                Answer::Error(message) => return Err(session.fail(message, DURING).await),
                _ => return Err(PgError::protocol("START_REPLICATION did not start a copy")),
            };
            return Ok(WalStream { session, state });
        }
    }

    /// The next message. Cancel-safe: dropped while it waits (in `select!`), nothing is lost.
    pub async fn next(&mut self) -> Result<WalMessage, PgError> {
        loop {
            if let State::Ended(next_timeline, switch_lsn) = self.state {
                return Ok(WalMessage::EndOfTimeline {
                    next_timeline,
                    switch_lsn,
                });
            }
            // What an abandoned send_status, or our CopyDone, left.
            self.session.wire.flush(DURING).await?;
            let answer = self.session.answer(DURING).await?;
            match (answer, self.state) {
                (Answer::CopyData(body), State::Streaming) => return decode(body),
                (Answer::CopyDone, State::Streaming) => {
                    self.session.wire.queue(|buf| {
                        frontend::copy_done(buf);
                        Ok(())
                    })?;
                    self.state = State::Ending(None);
                }
                (Answer::Row(row), State::Ending(None)) => {
                    self.state = State::Ending(Some(next_timeline(&row)?));
                }
                // One for the copy, one for the command.
                (Answer::Complete, State::Ending(_)) => {}
                // A server that shuts down ends the command and then the connection.
                (Answer::Complete, _) => return Err(PgError::closed(DURING)),
                (Answer::Ready, State::Ending(Some((timeline, switch)))) => {
                    self.state = State::Ended(timeline, switch);
                }
                (Answer::Warning(message), _) => {
                    tracing::warn!(%message, "warning from postgresql");
                }
                (Answer::Error(message), _) => {
                    return Err(PgError::Server(Box::new(message)));
                }
                _ => return Err(PgError::protocol("unexpected message in the wal stream")),
            }
        }
    }

    /// Reports positions. Dropped half-way, the next call of this or of [`WalStream::next`] sends
    /// the rest.
    pub async fn send_status(&mut self, status: StatusUpdate) -> Result<(), PgError> {
        if self.state != State::Streaming {
            return Ok(());
        }
        self.session.wire.flush("reporting positions").await?;
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(status.written.0);
        body.put_u64(status.flushed.0);
        body.put_u64(status.applied.0);
        body.put_i64(status.client_time.0);
        body.put_u8(u8::from(status.reply_requested));
        self.session.wire.queue(|buf| {
            frontend::CopyData::new(body)?.write(buf);
            Ok(())
        })?;
        self.session.wire.flush("reporting positions").await
    }

    /// The connection, ready for the next command; only after [`WalMessage::EndOfTimeline`].
    pub fn into_connection(self) -> Result<ReplicationConnection, PgError> {
        match self.state {
            State::Ended(..) => Ok(ReplicationConnection::from_session(self.session)),
            _ => Err(PgError::protocol("the wal stream has not ended")),
        }
    }
}

fn next_timeline(row: &crate::session::RawRow) -> Result<(TimelineId, Lsn), PgError> {
    Ok((TimelineId(row.parsed(0)?), row.parsed(1)?))
}

fn decode(body: Bytes) -> Result<WalMessage, PgError> {
    let mut body = Body::new(body);
    match body.u8()? {
        b'w' => Ok(WalMessage::Data {
            start: Lsn(body.u64()?),
            server_end: Lsn(body.u64()?),
            server_time: PgTimestamp(body.i64()?),
            bytes: body.rest(),
        }),
        b'k' => Ok(WalMessage::Keepalive {
            server_end: Lsn(body.u64()?),
            server_time: PgTimestamp(body.i64()?),
            reply_requested: body.u8()? != 0,
        }),
        other => Err(PgError::protocol(format!(
            "unknown message {:?} in the wal stream",
            char::from(other)
        ))),
    }
}

//! Sending a command and following what comes of it.
//!
//! The stream's end is noted before the command is sent, so that no outcome can be missed. What belongs to
//! the command names it, or something that belongs to it, as its cause; or it carries the command's id, which
//! is also the id of the backup or restore that was asked for.

mod outage;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use bus::{BusError, From, Outgoing, Sequence, Stored};
use events::{Command, CommandId, Envelope, Event, MessageId, Timestamp, topology};
use futures::{Stream, StreamExt as _};
use tokio::time::Instant;
use uuid::Uuid;

use self::outage::{LOOK_INTERVAL, Outage, forgotten, with_look};
use crate::failure::{Ending, Failure};
use crate::session::Session;

/// From sending a command to its acceptance.
pub(crate) const ACCEPTED_WITHIN: Duration = Duration::from_secs(15);
/// Of a command whose decision takes a connection to a database, or a server's start.
pub(crate) const DONE_WITHIN: Duration = Duration::from_secs(60);

const NOT_TAKEN: &str = "not_taken";

/// A command that was sent, and what comes of it.
pub(crate) struct Sent {
    pub(crate) id: CommandId,
    /// Where the bus is now: the stack may have come back elsewhere.
    pub(crate) session: Session,
    subjects: Vec<String>,
    /// When the stream was made; another one counts anew.
    created: Timestamp,
    /// The last event that was read, whosever it was.
    read: Sequence,
    outage: Outage,
    events: Pin<Box<dyn Stream<Item = Result<Stored<Event>, BusError>> + Send>>,
    /// Ids of the command and of everything seen that came of it. Few: a command's events end.
    ids: BTreeSet<String>,
    /// Empty for a command that is about none.
    instance: String,
    /// The last of its events that was seen.
    pub(crate) seen: Sequence,
}

impl Session {
    /// Sends a command; `nouns` are those of the events that its outcome is told by.
    pub(crate) async fn send(&self, command: Command, nouns: &[&str]) -> Result<Sent, Failure> {
        let id = CommandId(Uuid::now_v7());
        let instance = command.address().into_iter().next().unwrap_or_default();
        let subjects: Vec<String> = nouns
            .iter()
            .map(|noun| format!("zektor.{noun}.*.{instance}.>"))
            .collect();
        let stream = self
            .bus
            .stream_state(topology::EVENTS)
            .await
            .map_err(no_topology)?;
        let from = From::Sequence(stream.last.next().0);
        let events = self.bus.follow(subjects.clone(), from, topology::EVENTS);
        let message_id = MessageId::new(id.to_string());
        let outgoing = Outgoing::new(command, message_id, self.setting.clock.now());
        let _sequence = self.bus.send(outgoing.correlated(id)).await?;
        Ok(Sent {
            id,
            session: self.clone(),
            subjects,
            created: stream.created,
            read: stream.last,
            outage: Outage::none(),
            events: Box::pin(events),
            ids: BTreeSet::from([id.to_string()]),
            instance,
            seen: Sequence::NONE,
        })
    }
}

/// Without its streams, the bus is there and the stack is not.
fn no_topology(error: BusError) -> Failure {
    match error {
        BusError::NotFound { .. } => Failure::new(
            Ending::Unreachable,
            NOT_TAKEN,
            "no service has ever run on this bus",
            "is the scheduler running? see `zektor status`",
        ),
        error => error.into(),
    }
}

impl Sent {
    /// The next event that came of the command. A refusal, or the end of a backup or restore that was given
    /// up, is a failure.
    pub(crate) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let stored = self.stored().await?;
            if !belongs(&stored.envelope, &self.ids) {
                continue;
            }
            let _new = self.ids.insert(stored.envelope.id.to_string());
            self.seen = stored.sequence;
            let event = stored.envelope.message;
            return match failure_of(&event) {
                Some(failure) => Err(failure),
                None => Ok(event),
            };
        }
    }

    /// The next event of whatever command, over outages of the bus.
    async fn stored(&mut self) -> Result<Stored<Event>, Failure> {
        loop {
            let item = tokio::select! {
                item = self.events.next() => item,
                () = tokio::time::sleep(LOOK_INTERVAL) => {
                    Box::pin(self.look()).await?;
                    continue;
                }
            };
            match item {
                Some(Ok(stored)) => {
                    self.read = stored.sequence;
                    return Ok(stored);
                }
                // Written by a newer version; it is nothing that this one could wait for.
                Some(Err(BusError::Undecodable { .. })) => {}
                Some(Err(BusError::StreamRecreated { .. })) => return Err(forgotten()),
                Some(Err(error)) => return Err(error.into()),
                None => return Err(BusError::Disconnected.into()),
            }
        }
    }

    /// Waits until the command is decided: for the first event that `accept` takes.
    pub(crate) async fn until<T>(
        &mut self,
        within: Duration,
        accept: impl Fn(Event) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + within;
        loop {
            let event = tokio::time::timeout_at(deadline, self.next()).await;
            let event = event.map_err(|_elapsed| self.too_late(within))??;
            if let Some(accepted) = accept(event) {
                return Ok(accepted);
            }
        }
    }

    fn too_late(&self, within: Duration) -> Failure {
        let within = within.as_secs();
        if self.seen == Sequence::NONE {
            return self.nobody(within);
        }
        let message = format!("it was begun, but not done within {within} s; it goes on");
        Failure::new(Ending::Failed, "too_late", message, "see `zektor events`")
    }

    /// The command is in the stream; it is not lost, and sent again it would be done twice.
    fn nobody(&self, within: u64) -> Failure {
        let of = match self.instance.as_str() {
            "" => String::new(),
            instance => format!(" --instance {instance}"),
        };
        Failure::new(
            Ending::Unreachable,
            NOT_TAKEN,
            format!(
                "nobody took the command within {within} s; it stays queued, and is done when a scheduler takes it"
            ),
            format!(
                "do not send it again; see whether the scheduler runs with `zektor status`, and what comes of the \
                 command with `zektor events --follow{of}`"
            ),
        )
    }
}

fn belongs(envelope: &Envelope<Event>, ids: &BTreeSet<String>) -> bool {
    let named = [&envelope.causation, &envelope.correlation];
    named.into_iter().flatten().any(|id| ids.contains(id))
}

fn failure_of(event: &Event) -> Option<Failure> {
    match event {
        Event::InstanceRefused(refused)
        | Event::ScheduleRefused(refused)
        | Event::BranchRefused(refused)
        | Event::BackupRefused(refused)
        | Event::DrillRefused(refused)
        | Event::RestoreRefused(refused) => Some(refused.into()),
        Event::BackupFailed(failed) => Some(failed.into()),
        Event::RestoreFailed(failed) => Some(failed.into()),
        _ => None,
    }
}

/// Does `work` unless Ctrl-C comes first; then says that what was asked for goes on, and how to see it.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
    what: &str,
    how: &str,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done.map_err(|failure| with_look(failure, how)),
        _signal = tokio::signal::ctrl_c() => Err(Failure::new(
            Ending::Interrupted,
            "interrupted",
            format!("no longer waiting; {what} goes on"),
            format!("follow it with `{how}`"),
        )),
    }
}

#[cfg(test)]
mod tests;

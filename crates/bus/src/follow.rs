//! Reading a stream in order: followed for ever, or once up to its present end.

use std::time::Duration;

use events::envelope::Family;
use events::{Envelope, Event, Timestamp};
use futures::Stream;

use tokio::time::Instant;

use crate::bus::Retryable;
use crate::transport::{RawStored, Reader, Start};
use crate::{Bus, BusError, Sequence, subjects};

/// Pause before a lost reader is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// When a bounded reading gets nothing for so long it looks whether the rest has expired meanwhile.
const IDLE_CHECK: Duration = Duration::from_secs(2);

/// A message in its stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<M> {
    /// Its place.
    pub sequence: Sequence,
    /// When the server stored it.
    pub time: Timestamp,
    /// The message.
    pub envelope: Envelope<M>,
}

/// Where following begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum From {
    /// At the oldest message.
    Start,
    /// After the newest message.
    New,
    /// At this sequence.
    Sequence(u64),
    /// At the first message stored at or after this moment.
    Time(Timestamp),
}

/// A stream's identity and extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// When it was made. A stream with another time is another stream: its sequences count from 1 again.
    pub created: Timestamp,
    /// The oldest message's sequence.
    pub first: Sequence,
    /// The newest message's sequence, kept even when that message is gone.
    pub last: Sequence,
    /// Messages in it.
    pub messages: u64,
}

/// Whether the workers of a consumer could take more. A consumer that was never made has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Pulls that wait for a delivery: workers that have a place free.
    pub free: usize,
    /// Deliveries that nobody has ended: of a worker that has them, or had them when it died.
    pub in_hand: usize,
    /// Whether the consumer's limit of unacknowledged deliveries holds up what is new, free places or not. What is
    /// delivered again is not held up.
    pub at_limit: bool,
}

impl Bus {
    /// The last event on a subject or wildcard, from the stream that owns it.
    ///
    /// # Errors
    /// [`BusError::Undecodable`] if it cannot be read.
    pub async fn last_on(&self, filter: &str) -> Result<Option<Stored<Event>>, BusError> {
        self.last_raw(filter).await?.map(decode).transpose()
    }

    pub(crate) async fn last_raw(&self, filter: &str) -> Result<Option<RawStored>, BusError> {
        let stream = subjects::stream_of(filter)?;
        self.patiently(|| self.transport.last_on(&stream, filter))
            .await
    }

    /// A stream's identity and extent.
    ///
    /// # Errors
    /// As any call.
    pub async fn stream_state(&self, stream: &str) -> Result<StreamState, BusError> {
        self.patiently(|| self.transport.stream_state(stream)).await
    }

    /// Follows a stream for ever, in order, without gaps or repetitions, over reconnects.
    ///
    /// An [`BusError::Undecodable`] message is an item and following goes on; [`BusError::StreamRecreated`]
    /// is the last item.
    pub fn follow(
        &self,
        filter_subjects: Vec<String>,
        from: From,
        stream: &str,
    ) -> impl Stream<Item = Result<Stored<Event>, BusError>> + Send + Unpin + use<> {
        let start = match from {
            From::Start => Start::Beginning,
            From::New => Start::New,
            From::Sequence(sequence) => Start::Sequence(Sequence(sequence)),
            From::Time(at) => Start::Time(at),
        };
        let follower = Follower::new(self, stream, filter_subjects, start);
        decoded(follower, None)
    }

    /// Reads what a stream holds now, from `from` on, and ends.
    ///
    /// # Errors
    /// If the stream's extent cannot be had. Items are as those of [`Bus::follow`].
    pub async fn history(
        &self,
        filter_subjects: Vec<String>,
        from: Sequence,
        stream: &str,
    ) -> Result<impl Stream<Item = Result<Stored<Event>, BusError>> + Send + Unpin + use<>, BusError>
    {
        let last = self.stream_state(stream).await?.last;
        let start = Start::Sequence(from.max(Sequence(1)));
        let follower = Follower::new(self, stream, filter_subjects, start);
        Ok(decoded(follower, Some(last)))
    }
}

/// Items of `follower`, up to and including `last` if there is an end.
fn decoded(
    follower: Follower,
    last: Option<Sequence>,
) -> impl Stream<Item = Result<Stored<Event>, BusError>> + Send + Unpin {
    Box::pin(futures::stream::unfold(
        Some(follower),
        move |state| async move {
            let mut follower = state?;
            let next = match last {
                None => follower.next().await,
                Some(last) => follower.next_until(last).await.transpose()?,
            };
            match next {
                Ok(stored) => Some((decode(stored), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        },
    ))
}

pub(crate) fn decode<M: Family>(stored: RawStored) -> Result<Stored<M>, BusError> {
    let envelope = Envelope::decode(&stored.message.headers, &stored.message.payload);
    Ok(Stored {
        sequence: stored.sequence,
        time: stored.time,
        envelope: envelope.map_err(|source| BusError::Undecodable {
            sequence: stored.sequence,
            source,
        })?,
    })
}

/// A reader that is opened again, after the last message it got, whenever it ends.
pub(crate) struct Follower {
    bus: Bus,
    stream: String,
    filters: Vec<String>,
    start: Start,
    created: Option<Timestamp>,
    reader: Option<Box<dyn Reader>>,
    /// Nothing is left before the present end, as far as the server said.
    caught_up: bool,
}

impl Follower {
    pub(crate) fn new(bus: &Bus, stream: &str, filters: Vec<String>, start: Start) -> Self {
        Follower {
            bus: bus.clone(),
            stream: stream.to_owned(),
            filters,
            start,
            created: None,
            reader: None,
            caught_up: false,
        }
    }

    /// Waits for the next message; fails only for reasons that waiting does not mend.
    pub(crate) async fn next(&mut self) -> Result<RawStored, BusError> {
        loop {
            let error = match self.try_next().await {
                Ok(stored) => return Ok(stored),
                Err(error) => error,
            };
            self.reader = None;
            if !error.is_transient() || matches!(error, BusError::StreamRecreated { .. }) {
                return Err(error);
            }
            tracing::debug!(
                stream = self.stream,
                error = &error as &dyn std::error::Error,
                "following a stream is interrupted"
            );
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    /// As [`Self::next`], up to `last`; `None` at the end.
    pub(crate) async fn next_until(
        &mut self,
        last: Sequence,
    ) -> Result<Option<RawStored>, BusError> {
        loop {
            let read_all = matches!(self.start, Start::Sequence(next) if next > last);
            if read_all || (self.caught_up && self.reader.is_some()) {
                return Ok(None);
            }
            if self.reader.is_none() {
                self.open_patiently().await?;
                continue;
            }
            if let Ok(next) = tokio::time::timeout(IDLE_CHECK, self.next()).await {
                let stored = next?;
                return Ok((stored.sequence <= last).then_some(stored));
            }
            // What was waited for may have expired: a new reader knows what is left.
            self.reader = None;
        }
    }

    async fn try_next(&mut self) -> Result<RawStored, BusError> {
        if self.reader.is_none() {
            self.open().await?;
        }
        let reader = self.reader.as_mut().ok_or(BusError::Disconnected)?;
        let stored = reader.next().await?;
        self.start = Start::Sequence(stored.sequence.next());
        self.caught_up = stored.pending == 0;
        Ok(stored)
    }

    /// Opens a reader within the bus's patience: whoever reads up to an end waits for an answer.
    async fn open_patiently(&mut self) -> Result<(), BusError> {
        let deadline = Instant::now() + self.bus.patience;
        loop {
            match self.open().await {
                Err(error) if error.worth_another_call() && Instant::now() < deadline => {
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    async fn open(&mut self) -> Result<(), BusError> {
        let transport = &self.bus.transport;
        let state = transport.stream_state(&self.stream).await?;
        if *self.created.get_or_insert(state.created) != state.created {
            return Err(BusError::StreamRecreated {
                stream: self.stream.clone(),
            });
        }
        // "From now on" is said once; a reader that is opened again must not skip what came meanwhile.
        if self.start == Start::New {
            self.start = Start::Sequence(state.last.next());
        }
        let reader = transport
            .read(&self.stream, &self.filters, self.start)
            .await?;
        self.caught_up = reader.pending() == 0;
        self.reader = Some(reader);
        Ok(())
    }
}

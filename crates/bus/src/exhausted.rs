//! Messages that were delivered as often as their consumer allows: NATS says so once, in an advisory that the
//! dead letters keep, and delivers them no more.

use std::sync::Arc;

use events::topology::{ConsumerSpec, EVENTS};
use events::{Envelope, Event, MessageId};
use futures::StreamExt as _;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::transport::RawStored;
use crate::{Bus, BusError, Handler, Sequence, Stored};

/// A message that will not be delivered again though nobody ended it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Exhausted {
    /// The stream that still holds it.
    pub stream: String,
    /// The consumer that gave it up.
    pub consumer: String,
    /// Its place.
    #[serde(rename = "stream_seq")]
    pub sequence: Sequence,
    /// How often it was delivered.
    pub deliveries: u64,
}

impl Bus {
    /// Consumes the advisories that `spec` selects, as [`Bus::consume`] does messages. The envelope's time is
    /// when the server gave the message up.
    ///
    /// # Errors
    /// As [`Bus::consume`].
    pub async fn consume_exhausted(
        &self,
        spec: &ConsumerSpec,
        handler: Arc<dyn Handler<Exhausted>>,
        shutdown: CancellationToken,
    ) -> Result<(), BusError> {
        self.consume_decoding(spec, 1, handler, shutdown, decode)
            .await
    }

    /// The event at a place of the stream of events; `None` if there is none, or no more.
    ///
    /// # Errors
    /// [`BusError::Undecodable`] if it cannot be read.
    pub async fn event_at(&self, sequence: Sequence) -> Result<Option<Stored<Event>>, BusError> {
        if self.stream_state(EVENTS).await?.last < sequence {
            return Ok(None);
        }
        let mut from_there = self.history(Vec::new(), sequence, EVENTS).await?;
        match from_there.next().await.transpose() {
            Ok(stored) => Ok(stored.filter(|stored| stored.sequence == sequence)),
            Err(BusError::Undecodable { sequence: at, .. }) if at != sequence => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An advisory is no message of ours: it has no headers.
fn decode(stored: &RawStored) -> Result<Envelope<Exhausted>, String> {
    let message: Exhausted = serde_json::from_slice(&stored.message.payload)
        .map_err(|error| format!("the advisory cannot be read: {error}"))?;
    let Exhausted {
        stream,
        consumer,
        sequence,
        ..
    } = &message;
    Ok(Envelope {
        id: MessageId::new(format!("exhausted:{consumer}:{stream}:{sequence}")),
        source: "nats".to_owned(),
        time: stored.time,
        correlation: None,
        causation: None,
        traceparent: None,
        tracestate: None,
        message,
    })
}

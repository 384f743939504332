//! Consuming: from a durable consumer through a handler to one of four endings.
//!
//! One pull asks for one message, and only when a slot is free, so that no message waits in memory while
//! its ack wait runs. While the handler works a heartbeat tells the server so, as long as there is
//! progress: see [`Progress`]. What a dead handler leaves behind is delivered again.

mod work;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use events::envelope::Family;
use events::topology::ConsumerSpec;
use events::{Envelope, Timestamp};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::wanted;
use crate::transport::{RawDelivery, Topology};
use crate::{Bus, BusError, Sequence};
use work::{Decode, Work};

/// How long one pull stays open.
const PULL_WAIT: Duration = Duration::from_secs(20);
/// Pause after a pull that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// What handles the messages of a consumer.
#[async_trait]
pub trait Handler<M>: Send + Sync {
    /// Handles one delivery. It may run twice for the same message, at any point, also at the same time.
    async fn handle(&self, delivery: &Delivery<M>) -> Outcome;
}

/// One delivery of a message.
#[derive(Clone, Debug)]
pub struct Delivery<M> {
    /// The message and what travels with it.
    pub envelope: Envelope<M>,
    /// Its place in its stream.
    pub sequence: Sequence,
    /// When the server stored it: the same clock for all publishers, and for every delivery.
    pub stored_at: Timestamp,
    /// The number of this delivery of the message, from 1. A shutdown that gave it back counts too.
    pub attempt: u64,
    /// Whether the server will not deliver it again: a retry now ends in the dead letters.
    pub last_attempt: bool,
    /// Tell it whenever the work gets on.
    pub progress: Progress,
}

/// How a delivery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled; never delivered again.
    Done,
    /// To be delivered again.
    Retry {
        /// Not before this time.
        after: Duration,
        /// For the log.
        reason: String,
    },
    /// Can never be handled: never delivered again, a copy goes to the dead letters.
    Reject {
        /// For the log and for whoever reads the dead letters.
        reason: String,
    },
    /// Somebody else has a later delivery of the same message. The server is told nothing: it knows a
    /// message by its sequence alone, so any word about this delivery would end or hurry the other one.
    Leave {
        /// For the log.
        reason: String,
    },
}

/// Whether the work on a message gets on. Clones are the same.
///
/// The heartbeat is sent every third of the ack wait, but only if there was progress within ten ack waits
/// (five minutes at the usual 30 s). Without it the delivery is given up as if the process had died: the
/// handler's future is dropped and the server delivers the message again. So a handler reports progress
/// whenever bytes flowed or a peer answered, also while it waits for something that takes long.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    /// Says that the work got on.
    pub fn advance(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bus {
    /// Consumes until `shutdown`, then lets what is in hand end within the configured drain deadline; what
    /// has not ended then is given back to the server at once. At most `concurrency` messages are in hand.
    ///
    /// A consumer (or its stream) that the server lacks is made, also when it disappears later.
    ///
    /// # Errors
    /// Only for what waiting does not mend: credentials, an old server, drift.
    pub async fn consume<M: Family + Send + Sync + 'static>(
        &self,
        spec: &ConsumerSpec,
        concurrency: usize,
        handler: Arc<dyn Handler<M>>,
        shutdown: CancellationToken,
    ) -> Result<(), BusError> {
        self.consume_decoding(spec, concurrency, handler, shutdown, work::decode)
            .await
    }

    pub(crate) async fn consume_decoding<M: Send + Sync + 'static>(
        &self,
        spec: &ConsumerSpec,
        concurrency: usize,
        handler: Arc<dyn Handler<M>>,
        shutdown: CancellationToken,
        decode: Decode<M>,
    ) -> Result<(), BusError> {
        let work = Arc::new(Work {
            bus: self.clone(),
            spec: spec.clone(),
            handler,
            decode,
            give_back: CancellationToken::new(),
        });
        let slots = Arc::new(Semaphore::new(concurrency));
        let mut in_hand = JoinSet::new();
        let ended = loop {
            while in_hand.try_join_next().is_some() {}
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, self.next_delivery(spec).await)
            };
            let (slot, delivery) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                next = next => next,
            };
            match delivery {
                Ok(delivery) => {
                    let work = Arc::clone(&work);
                    drop(in_hand.spawn(async move {
                        work.run(delivery).await;
                        drop(slot);
                    }));
                }
                Err(error) => break Err(error),
            }
        };
        let drained = tokio::time::timeout(self.drain_deadline, async {
            while in_hand.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            work.give_back.cancel();
            while in_hand.join_next().await.is_some() {}
        }
        ended
    }

    /// Waits for a delivery; fails only for what waiting does not mend.
    async fn next_delivery(&self, spec: &ConsumerSpec) -> Result<RawDelivery, BusError> {
        loop {
            let error = match self.transport.pull(spec, PULL_WAIT).await {
                Ok(Some(delivery)) => return Ok(delivery),
                Ok(None) => continue,
                Err(error) => error,
            };
            tracing::debug!(
                consumer = &*spec.name,
                error = &error as &dyn std::error::Error,
                "pulling is interrupted"
            );
            let mended = match error {
                BusError::NotFound { .. } => self.make_consumer(spec).await,
                error => Err(error),
            };
            match mended {
                Ok(()) => {}
                Err(error) if error.is_transient() => tokio::time::sleep(FAILURE_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the consumer, and all the rest if its stream is not there either.
    async fn make_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        let only = Topology {
            streams: Vec::new(),
            consumers: vec![spec.clone()],
            buckets: Vec::new(),
        };
        match self.transport.apply(&only).await {
            Err(BusError::NotFound { .. }) => {
                tracing::warn!(
                    stream = spec.stream,
                    "nats has lost its streams; making them anew"
                );
                self.transport.apply(&wanted()).await?;
                self.transport.apply(&only).await
            }
            other => other,
        }
    }
}

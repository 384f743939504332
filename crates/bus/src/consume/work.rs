//! One delivery in hand: decode, handle under a heartbeat, end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use events::Envelope;
use events::envelope::{Family, MESSAGE_ID_HEADER, TRACEPARENT_HEADER, TRACESTATE_HEADER};
use events::topology::ConsumerSpec;
use futures::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Delivery, Handler, Outcome, Progress};
use crate::error::dead_letter_subject;
use crate::transport::{Ack, Acker, PublishError, RawDelivery, RawMessage, RawStored};
use crate::{Bus, BusError, trace};

/// Ack waits without progress after which a delivery is given up.
const STALLED_AFTER: u32 = 10;
/// Pause before a message is delivered again whose handler panicked or whose copy could not be kept.
const MISHAP_PAUSE: Duration = Duration::from_secs(5);
/// Characters of a reason that go into a header.
const REASON_LIMIT: usize = 1000;

/// Reads what was stored; the error is the reason why it cannot be read.
pub(super) type Decode<M> = fn(&RawStored) -> Result<Envelope<M>, String>;

pub(super) fn decode<M: Family>(stored: &RawStored) -> Result<Envelope<M>, String> {
    let message = &stored.message;
    Envelope::decode(&message.headers, &message.payload).map_err(|error| chain(&error))
}

pub(super) struct Work<M> {
    pub(super) bus: Bus,
    pub(super) spec: ConsumerSpec,
    pub(super) handler: Arc<dyn Handler<M>>,
    pub(super) decode: Decode<M>,
    /// Cancelled when there is no more time: deliveries go back to the server.
    pub(super) give_back: CancellationToken,
}

impl<M: Send + Sync + 'static> Work<M> {
    pub(super) async fn run(&self, raw: RawDelivery) {
        let message = &raw.stored.message;
        let span = trace::process_span(
            &self.spec.name,
            &message.subject,
            message.header(TRACEPARENT_HEADER),
            message.header(TRACESTATE_HEADER),
        );
        let _ = span
            .record("messaging.message.id", message.header("ce-id"))
            .record("messaging.nats.sequence", raw.stored.sequence.0)
            .record("messaging.nats.attempt", raw.attempt);
        Box::pin(self.handle(raw).instrument(span)).await;
    }

    async fn handle(&self, raw: RawDelivery) {
        let outcome = match (self.decode)(&raw.stored) {
            Ok(envelope) => {
                let delivery = Delivery {
                    envelope,
                    sequence: raw.stored.sequence,
                    stored_at: raw.stored.time,
                    attempt: raw.attempt,
                    last_attempt: u64::try_from(self.spec.max_deliver)
                        .is_ok_and(|limit| raw.attempt >= limit),
                    progress: Progress::default(),
                };
                self.outcome(&delivery, &*raw.acker).await
            }
            Err(reason) => Some(Outcome::Reject { reason }),
        };
        let Some(outcome) = outcome else {
            tracing::error!(
                consumer = &*self.spec.name,
                sequence = raw.stored.sequence.0,
                "a message was given up because its handling made no progress; it will be delivered again"
            );
            return;
        };
        let ack = match outcome {
            Outcome::Done => Ack::Done,
            Outcome::Retry { after, reason } => {
                tracing::warn!(
                    consumer = &*self.spec.name,
                    sequence = raw.stored.sequence.0,
                    attempt = raw.attempt,
                    reason,
                    "a message will be delivered again"
                );
                Ack::Retry(after)
            }
            Outcome::Reject { reason } => self.bury(&raw, &reason).await,
            Outcome::Leave { reason } => {
                tracing::info!(
                    consumer = &*self.spec.name,
                    sequence = raw.stored.sequence.0,
                    attempt = raw.attempt,
                    reason,
                    "a delivery is left to whoever has the message now"
                );
                return;
            }
        };
        let acked = self.bus.patiently(|| raw.acker.ack(ack)).await;
        if let Err(error) = acked {
            tracing::warn!(
                consumer = &*self.spec.name,
                sequence = raw.stored.sequence.0,
                error = &error as &dyn std::error::Error,
                "a message could not be acknowledged and will be delivered again"
            );
        }
    }

    /// What the handler said; `None` if it made no progress.
    async fn outcome(&self, delivery: &Delivery<M>, acker: &dyn Acker) -> Option<Outcome> {
        let handling = AssertUnwindSafe(self.handler.handle(delivery)).catch_unwind();
        tokio::select! {
            biased;
            handled = handling => Some(handled.unwrap_or_else(|panic| Outcome::Retry {
                after: MISHAP_PAUSE,
                reason: format!("the handler panicked: {}", panic_text(&*panic)),
            })),
            () = self.heartbeat(&delivery.progress, acker) => None,
            () = self.give_back.cancelled() => Some(Outcome::Retry {
                after: Duration::ZERO,
                reason: "this process is shutting down".to_owned(),
            }),
        }
    }

    /// Says that the work goes on, until there is no progress any more.
    async fn heartbeat(&self, progress: &Progress, acker: &dyn Acker) {
        let stalled_after = self.spec.ack_wait * STALLED_AFTER;
        loop {
            tokio::time::sleep(self.spec.ack_wait / 3).await;
            if Instant::now().duration_since(progress.last()) > stalled_after {
                return;
            }
            if let Err(error) = acker.ack(Ack::InProgress).await {
                tracing::warn!(
                    consumer = &*self.spec.name,
                    error = &error as &dyn std::error::Error,
                    "a heartbeat could not be sent"
                );
            }
        }
    }

    /// Keeps a copy in the dead letters; only then may the message end.
    async fn bury(&self, raw: &RawDelivery, reason: &str) -> Ack {
        let (consumer, sequence) = (&*self.spec.name, raw.stored.sequence);
        tracing::error!(
            consumer,
            sequence = sequence.0,
            reason,
            "a message was rejected; a copy is in the dead letters"
        );
        let mut copy = dead_letter(&self.spec, raw, reason);
        let mut kept = self.bus.store(&copy).await;
        if matches!(kept, Err(PublishError::Bus(BusError::TooLarge { .. }))) {
            // The original stays in its stream, where its headers say.
            copy.payload = bytes::Bytes::new();
            kept = self.bus.store(&copy).await;
        }
        match kept {
            Ok(_) => Ack::Terminated,
            Err(error) => {
                tracing::error!(
                    consumer,
                    sequence = sequence.0,
                    ?error,
                    "a rejected message could not be copied to the dead letters and will be delivered again"
                );
                Ack::Retry(MISHAP_PAUSE)
            }
        }
    }
}

fn dead_letter(spec: &ConsumerSpec, raw: &RawDelivery, reason: &str) -> RawMessage {
    let original = &raw.stored.message;
    let sequence = raw.stored.sequence;
    // The server's own headers would be obeyed a second time.
    let mut headers = original.headers.clone();
    headers.retain(|name, _| !name.starts_with("Nats-"));
    let reason: String = reason.chars().take(REASON_LIMIT).collect();
    headers.extend(
        [
            ("zektor-dlq-reason", reason),
            ("zektor-dlq-consumer", spec.name.to_string()),
            ("zektor-dlq-stream", spec.stream.to_owned()),
            ("zektor-dlq-sequence", sequence.to_string()),
            ("zektor-dlq-subject", original.subject.clone()),
            ("zektor-dlq-attempt", raw.attempt.to_string()),
            (
                MESSAGE_ID_HEADER,
                format!("dlq:{}:{}:{sequence}", spec.name, spec.stream),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    RawMessage {
        subject: dead_letter_subject(&spec.name),
        headers,
        payload: original.payload.clone(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, source| {
            format!("{text}: {source}")
        })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

//! Durable consumers: one delivery at a time, so that nothing waits in a buffer while its ack wait runs.

use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use async_nats::{Client, StatusCode, Subscriber};
use async_trait::async_trait;
use events::topology::ConsumerSpec;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::watch;

use super::{NatsTransport, raw, timestamp};
use crate::transport::{Ack, Acker, RawDelivery, RawStored};
use crate::{BusError, Sequence};

/// An open request for messages. Dropping it takes the interest away, so that the server gives the
/// messages to somebody else.
pub(super) struct Pull {
    inbox: Subscriber,
    connections: watch::Receiver<u64>,
    context: jetstream::Context,
    what: String,
    heartbeat: Duration,
}

impl NatsTransport {
    pub(super) async fn pull_one(
        &self,
        spec: &ConsumerSpec,
        wait: Duration,
    ) -> Result<Option<RawDelivery>, BusError> {
        let mut pull = self.open_pull(spec.stream, &spec.name, 1, wait).await?;
        match pull.next().await? {
            Some(message) => deliver(message).map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn open_pull(
        &self,
        stream: &str,
        consumer: &str,
        batch: usize,
        wait: Duration,
    ) -> Result<Pull, BusError> {
        let what = format!("consumer {consumer} of {stream}");
        let client: &Client = self.client()?;
        let connections = self.connections.subscribe();
        let inbox = client.new_inbox();
        let subscriber = client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| BusError::client(&what, error))?;
        let heartbeat = (wait / 4).min(Duration::from_secs(5));
        let request = json!({
            "batch": batch,
            "expires": u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX),
            "idle_heartbeat": u64::try_from(heartbeat.as_nanos()).unwrap_or(u64::MAX),
        });
        client
            .publish_with_reply(
                format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
                inbox,
                request.to_string().into(),
            )
            .await
            .map_err(|error| BusError::client(&what, error))?;
        Ok(Pull {
            inbox: subscriber,
            connections,
            context: jetstream::new(client.clone()),
            what,
            heartbeat,
        })
    }
}

impl Pull {
    /// The next message; `None` when the request has ended.
    pub(super) async fn next(&mut self) -> Result<Option<jetstream::Message>, BusError> {
        loop {
            let message = tokio::select! {
                biased;
                message = self.inbox.next() => message.ok_or(BusError::Disconnected)?,
                // A new connection: the server has forgotten the request.
                _changed = self.connections.changed() => return Err(BusError::Disconnected),
                () = tokio::time::sleep(self.heartbeat * 3) => {
                    return Err(BusError::Timeout { what: self.what.clone(), after: self.heartbeat * 3 });
                }
            };
            let description = || message.description.clone().unwrap_or_default();
            match message.status.unwrap_or(StatusCode::OK) {
                StatusCode::OK => {
                    let context = self.context.clone();
                    return Ok(Some(jetstream::Message { message, context }));
                }
                StatusCode::IDLE_HEARTBEAT => {}
                // The time or the batch is over.
                StatusCode::TIMEOUT | StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::NO_RESPONDERS => {
                    return Err(BusError::NotFound {
                        what: self.what.clone(),
                        description: "no such consumer, or jetstream is not up".to_owned(),
                    });
                }
                status => {
                    let description = description();
                    let what = self.what.clone();
                    return Err(if description.to_lowercase().contains("deleted") {
                        BusError::NotFound { what, description }
                    } else {
                        BusError::Server {
                            what,
                            status: u64::from(status.as_u16()),
                            code: 0,
                            description,
                        }
                    });
                }
            }
        }
    }
}

/// A message of a stream with where it stands there.
pub(super) fn stored(message: &jetstream::Message) -> Result<(RawStored, u64, u64), BusError> {
    let info = message.info().map_err(|error| BusError::Client {
        what: "reading where a message stands".to_owned(),
        source: error,
    })?;
    let stored = RawStored {
        sequence: Sequence(info.stream_sequence),
        time: timestamp(info.published),
        pending: info.pending,
        message: raw(message.message.clone()),
    };
    let delivered = u64::try_from(info.delivered).unwrap_or(1);
    Ok((stored, delivered, info.consumer_sequence))
}

fn deliver(message: jetstream::Message) -> Result<RawDelivery, BusError> {
    let (stored, attempt, _) = stored(&message)?;
    let (_, acker) = message.split();
    Ok(RawDelivery {
        stored,
        attempt,
        acker: Box::new(NatsAcker(acker)),
    })
}

struct NatsAcker(jetstream::message::Acker);

#[async_trait]
impl Acker for NatsAcker {
    async fn ack(&self, ack: Ack) -> Result<(), BusError> {
        let outcome = match ack {
            Ack::InProgress => self.0.ack_with(AckKind::Progress).await,
            Ack::Done => self.0.double_ack().await,
            Ack::Retry(after) => {
                let delay = (!after.is_zero()).then_some(after);
                self.0.double_ack_with(AckKind::Nak(delay)).await
            }
            Ack::Terminated => self.0.double_ack_with(AckKind::Term).await,
        };
        outcome.map_err(|source| BusError::Client {
            what: "acknowledging a message".to_owned(),
            source,
        })
    }
}

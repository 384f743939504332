//! Reading a stream in order, without leaving anything behind: an ephemeral consumer without acks.
//!
//! Order and completeness are checked by the consumer's own count: a gap ends the reader with an error,
//! and whoever follows opens another one after the last message it got.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use async_trait::async_trait;
use events::Timestamp;
use serde_json::json;

use super::NatsTransport;
use super::pull::{Pull, stored};
use crate::transport::{RawStored, Reader, Start};
use crate::{BusError, Sequence};

/// Messages asked for at once; also what may wait in memory.
const BATCH: usize = 256;
/// How long one request for messages stays open.
const WAIT: Duration = Duration::from_secs(20);
/// The server forgets a reader that asked for nothing for so long.
const INACTIVE: Duration = Duration::from_secs(60);

struct NatsReader {
    transport: std::sync::Arc<NatsTransport>,
    stream: String,
    consumer: String,
    pull: Option<(Pull, usize)>,
    last_delivered: u64,
    pending: u64,
}

impl NatsTransport {
    pub(super) async fn open_reader(
        &self,
        stream: &str,
        filters: &[String],
        start: Start,
    ) -> Result<Box<dyn Reader>, BusError> {
        let config = consumer::Config {
            deliver_policy: deliver_policy(start)?,
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            filter_subjects: filters.to_vec(),
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let name = format!("reader-{}", self.client()?.new_inbox().replace('.', "-"));
        let config = consumer::Config {
            name: Some(name.clone()),
            ..config
        };
        let call = format!("CONSUMER.CREATE.{stream}.{name}");
        let request = json!({ "stream_name": stream, "config": config, "action": "create" });
        let info: consumer::Info = self.api(&call, &request).await?;
        Ok(Box::new(NatsReader {
            transport: self.shared()?,
            stream: stream.to_owned(),
            consumer: name,
            pull: None,
            last_delivered: 0,
            pending: info.num_pending,
        }))
    }
}

fn deliver_policy(start: Start) -> Result<DeliverPolicy, BusError> {
    Ok(match start {
        Start::Beginning | Start::Sequence(Sequence(0)) => DeliverPolicy::All,
        Start::New => DeliverPolicy::New,
        Start::LastPerSubject => DeliverPolicy::LastPerSubject,
        Start::Sequence(Sequence(start_sequence)) => {
            DeliverPolicy::ByStartSequence { start_sequence }
        }
        Start::Time(at) => DeliverPolicy::ByStartTime {
            start_time: server_time(at)?,
        },
    })
}

fn server_time(at: Timestamp) -> Result<async_nats::datetime::DateTime, BusError> {
    let nanos =
        i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos());
    async_nats::datetime::from_nanos(nanos).map_err(|source| BusError::Client {
        what: "a time to start from".to_owned(),
        source,
    })
}

#[async_trait]
impl Reader for NatsReader {
    async fn next(&mut self) -> Result<RawStored, BusError> {
        loop {
            let (mut pull, left) = match self.pull.take() {
                Some((pull, left)) if left > 0 => (pull, left),
                _ => {
                    let transport = &self.transport;
                    let pull = transport.open_pull(&self.stream, &self.consumer, BATCH, WAIT);
                    (pull.await?, BATCH)
                }
            };
            let Some(message) = pull.next().await? else {
                continue;
            };
            let (stored, _, delivered) = stored(&message)?;
            if delivered != self.last_delivered + 1 {
                return Err(BusError::Disconnected);
            }
            self.last_delivered = delivered;
            self.pull = Some((pull, left - 1));
            return Ok(stored);
        }
    }

    fn pending(&self) -> u64 {
        self.pending
    }
}

//! The transport that talks to a NATS server.
//!
//! JetStream is asked through its JSON API directly: one place maps the server's errors, and every call
//! has a time limit. What must stay true: nothing is sent to a server older than [`OLDEST_SERVER`], not
//! even after a reconnect to another one.

mod api;
mod pull;
mod question;
mod read;
mod topology;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, HeaderMap, ServerAddr};
use async_trait::async_trait;
use events::Timestamp;
use events::topology::ConsumerSpec;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Credentials;
use crate::transport::{
    AskError, PublishError, Questions, RawDelivery, RawMessage, RawStored, Reader, Receipt, Start,
    Topology, Transport,
};
use crate::{BusConfig, BusError, Places, Sequence, StreamState};

/// Major and minor of the oldest server that is let in: 2.12 has fencing on a wildcard and rejects
/// request fields that it does not know.
const OLDEST_SERVER: (u64, u64) = (2, 12);
/// Longest pause between attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct NatsTransport {
    this: Weak<Self>,
    config: BusConfig,
    client: OnceLock<Client>,
    /// Counts connections; whoever waits for the server asks again when it changes.
    connections: watch::Sender<u64>,
}

impl NatsTransport {
    fn new(config: BusConfig) -> Arc<Self> {
        Arc::new_cyclic(|this| NatsTransport {
            this: Weak::clone(this),
            config,
            client: OnceLock::new(),
            connections: watch::Sender::new(0),
        })
    }

    /// Itself, for a reader that outlives the call.
    fn shared(&self) -> Result<Arc<Self>, BusError> {
        self.this.upgrade().ok_or(BusError::Disconnected)
    }

    /// Connects, waiting for the server until the configuration's deadline.
    pub(crate) async fn connect(config: BusConfig) -> Result<Arc<Self>, BusError> {
        let transport = Self::new(config);
        let (options, servers) = transport.options().await?;
        let config = &transport.config;
        let deadline = Instant::now() + config.connect_deadline;
        let mut pause = Duration::from_millis(50);
        let client = loop {
            let error = match options.clone().connect(servers.clone()).await {
                Ok(client) => break client,
                Err(error) => error,
            };
            let url = config.public_url();
            if matches!(
                error.kind(),
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication
            ) {
                let source = error.into();
                return Err(BusError::Unauthorized { url, source });
            }
            if Instant::now() + pause > deadline {
                return Err(BusError::Unreachable {
                    url,
                    waited: config.connect_deadline,
                    source: error.into(),
                });
            }
            tracing::debug!(
                url,
                error = &error as &dyn std::error::Error,
                "nats is not reached yet"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_PAUSE);
        };
        check_version(&client.server_info().version)?;
        let _ = transport.client.set(client);
        Ok(transport)
    }

    /// Returns at once and connects in the background, for ever.
    pub(crate) fn connect_lazily(config: BusConfig) -> Arc<Self> {
        let transport = Self::new(config);
        let connecting = Arc::clone(&transport);
        drop(tokio::spawn(async move {
            let connected = async {
                let (options, servers) = connecting.options().await?;
                let options = options.retry_on_initial_connect();
                let client = options.connect(servers).await;
                client.map_err(|error| BusError::client("connecting", error))
            };
            match connected.await {
                Ok(client) => drop(connecting.client.set(client)),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "nats cannot be connected to with this configuration"
                ),
            }
        }));
        transport
    }

    async fn options(&self) -> Result<(ConnectOptions, Vec<ServerAddr>), BusError> {
        let config = &self.config;
        let servers = config
            .url
            .split(',')
            .map(|url| url.trim().parse::<ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| BusError::Configuration {
                what: "url",
                source: error.into(),
            })?;
        let connections = self.connections.clone();
        let mut options = ConnectOptions::new()
            .name(&config.name)
            .max_reconnects(None)
            .connection_timeout(config.call_timeout)
            .request_timeout(Some(config.call_timeout))
            .reconnect_delay_callback(|attempts| {
                let doubled = Duration::from_millis(25 << attempts.min(6));
                doubled.min(RECONNECT_PAUSE)
            })
            .event_callback(move |event| {
                if matches!(event, async_nats::Event::Connected) {
                    connections.send_modify(|count| *count += 1);
                }
                std::future::ready(())
            });
        if let Some(path) = &config.root_certificates {
            options = options.add_root_certificates(path.clone());
        }
        options = match config.effective_credentials() {
            None => options,
            Some(Credentials::Token(token)) => options.token(token),
            Some(Credentials::User { name, password }) => options.user_and_password(name, password),
            Some(Credentials::File(path)) => {
                options
                    .credentials_file(&path)
                    .await
                    .map_err(|error| BusError::Configuration {
                        what: "credentials file",
                        source: error.into(),
                    })?
            }
        };
        Ok((options, servers))
    }

    /// The client, if calls can be made now.
    fn client(&self) -> Result<&Client, BusError> {
        let never = || BusError::NeverConnected {
            url: self.config.public_url(),
        };
        let client = self.client.get().ok_or_else(never)?;
        let server = client.try_server_info().ok_or_else(never)?;
        if client.connection_state() != State::Connected {
            return Err(BusError::Disconnected);
        }
        check_version(&server.version)?;
        Ok(client)
    }
}

/// Refuses servers older than [`OLDEST_SERVER`], and those that do not say how old they are.
fn check_version(version: &str) -> Result<(), BusError> {
    let mut numbers = version
        .trim_start_matches('v')
        .split('.')
        .map_while(|number| number.parse::<u64>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST_SERVER => Ok(()),
        _ => Err(BusError::ServerTooOld {
            version: version.to_owned(),
        }),
    }
}

#[derive(Deserialize)]
struct PublishAnswer {
    #[serde(rename = "seq")]
    sequence: u64,
    #[serde(default)]
    duplicate: bool,
}

#[async_trait]
impl Transport for NatsTransport {
    fn ready(&self) -> Result<(), BusError> {
        self.client().map(drop)
    }

    fn max_payload(&self) -> usize {
        self.client.get().map_or(1024 * 1024, Client::max_payload)
    }

    async fn apply(&self, wanted: &Topology) -> Result<(), BusError> {
        self.apply_topology(wanted).await
    }

    async fn publish(&self, message: &RawMessage) -> Result<Receipt, PublishError> {
        // 10071 and 10164 are the two codes of a wrong last sequence.
        let what = format!("publish on {}", message.subject);
        let request = async_nats::Request::new()
            .headers(headers(message))
            .payload(message.payload.clone());
        match self
            .answer::<PublishAnswer>(&what, &message.subject, request)
            .await
        {
            Ok(answer) => Ok(Receipt {
                sequence: Sequence(answer.sequence),
                duplicate: answer.duplicate,
            }),
            Err(BusError::Server {
                code: 10071 | 10164,
                ..
            }) => Err(PublishError::Unexpected),
            Err(error) => Err(PublishError::Bus(error)),
        }
    }

    async fn last_on(&self, stream: &str, filter: &str) -> Result<Option<RawStored>, BusError> {
        self.last_message(stream, filter).await
    }

    async fn stream_state(&self, stream: &str) -> Result<StreamState, BusError> {
        let info = self.stream_info(stream).await?;
        Ok(StreamState {
            created: timestamp(info.created),
            first: Sequence(info.state.first_sequence),
            last: Sequence(info.state.last_sequence),
            messages: info.state.messages,
        })
    }

    async fn pull(
        &self,
        spec: &ConsumerSpec,
        wait: Duration,
    ) -> Result<Option<RawDelivery>, BusError> {
        self.pull_one(spec, wait).await
    }

    /// The server counts pulls that the limit holds up as waiting, too.
    async fn places(&self, spec: &ConsumerSpec) -> Result<Places, BusError> {
        let info = match self.consumer_info(spec.stream, &spec.name).await {
            Err(BusError::NotFound { .. }) => return Ok(Places::default()),
            info => info?,
        };
        let limit = usize::try_from(info.config.max_ack_pending).ok();
        Ok(Places {
            free: info.num_waiting,
            in_hand: info.num_ack_pending,
            at_limit: limit.is_some_and(|limit| info.num_ack_pending >= limit),
        })
    }

    async fn read(
        &self,
        stream: &str,
        filters: &[String],
        start: Start,
    ) -> Result<Box<dyn Reader>, BusError> {
        self.open_reader(stream, filters, start).await
    }

    async fn ask(&self, question: RawMessage, wait: Duration) -> Result<RawMessage, AskError> {
        self.ask_once(question, wait).await
    }

    async fn serve(&self, subject: &str, group: &str) -> Result<Box<dyn Questions>, BusError> {
        self.subscribe(subject, group).await
    }
}

fn headers(message: &RawMessage) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in &message.headers {
        // A line end would begin another header.
        map.insert(name.as_str(), value.replace(['\r', '\n'], " ").as_str());
    }
    map
}

/// The last value of every header; ours have one.
fn plain_headers(map: Option<&HeaderMap>) -> BTreeMap<String, String> {
    map.into_iter()
        .flat_map(|map| map.iter())
        .filter_map(|(name, values)| Some((name.to_string(), values.last()?.to_string())))
        .collect()
}

fn raw(message: async_nats::Message) -> RawMessage {
    RawMessage {
        subject: message.subject.into_string(),
        headers: plain_headers(message.headers.as_ref()),
        payload: message.payload,
    }
}

fn timestamp(at: async_nats::datetime::DateTime) -> Timestamp {
    Timestamp::from_timestamp(at.unix_timestamp(), at.nanosecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! JetStream's JSON API: one call, one mapping of errors.

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind};
use async_nats::{Request, RequestErrorKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{NatsTransport, plain_headers, timestamp};
use crate::transport::{RawMessage, RawStored};
use crate::{BusError, Sequence};

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Error { error: ServerError },
    Ok(T),
}

#[derive(Deserialize)]
struct ServerError {
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// "stream not found" and "consumer not found".
const NOT_FOUND: [u64; 2] = [10059, 10014];

impl NatsTransport {
    /// One request on `subject`, its JSON answer or the server's error.
    pub(super) async fn answer<T: DeserializeOwned>(
        &self,
        what: &str,
        subject: &str,
        request: Request,
    ) -> Result<T, BusError> {
        let client = self.client()?;
        let after = self.config.call_timeout;
        let call = client.send_request(subject.to_owned(), request.timeout(Some(after)));
        // The limit also covers a full queue towards a connection that has just been lost.
        let reply = tokio::time::timeout(after * 2, call)
            .await
            .map_err(|_elapsed| BusError::Timeout {
                what: what.to_owned(),
                after: after * 2,
            })?
            .map_err(|error| match error.kind() {
                RequestErrorKind::TimedOut => BusError::Timeout {
                    what: what.to_owned(),
                    after,
                },
                RequestErrorKind::NoResponders => BusError::NoJetStream {
                    what: what.to_owned(),
                },
                _ => BusError::client(what, error),
            })?;
        match serde_json::from_slice::<Answer<T>>(&reply.payload) {
            Ok(Answer::Ok(answer)) => Ok(answer),
            Ok(Answer::Error { error }) if NOT_FOUND.contains(&error.err_code) => {
                Err(BusError::NotFound {
                    what: what.to_owned(),
                    description: error.description,
                })
            }
            Ok(Answer::Error { error }) => Err(BusError::Server {
                what: what.to_owned(),
                status: error.code,
                code: error.err_code,
                description: error.description,
            }),
            Err(source) => Err(BusError::Unreadable {
                what: format!("the answer to {what}"),
                source,
            }),
        }
    }

    /// One call of the JetStream API, `STREAM.INFO.EVENTS`.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        call: &str,
        payload: &(impl Serialize + Sync),
    ) -> Result<T, BusError> {
        let payload = serde_json::to_vec(payload).map_err(|source| BusError::Encode {
            what: call.to_owned(),
            source,
        })?;
        let request = Request::new().payload(payload.into());
        self.answer(call, &format!("$JS.API.{call}"), request).await
    }

    pub(super) async fn stream_info(&self, stream: &str) -> Result<Info, BusError> {
        self.api(&format!("STREAM.INFO.{stream}"), &serde_json::json!({}))
            .await
    }

    pub(super) async fn consumer_info(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<ConsumerInfo, BusError> {
        let call = format!("CONSUMER.INFO.{stream}.{consumer}");
        self.api(&call, &serde_json::json!({})).await
    }

    /// The last message on `filter`, from the stream's leader: a follower may not have it yet.
    pub(super) async fn last_message(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<Option<RawStored>, BusError> {
        let what = format!("the last message on {filter}");
        let mut context = async_nats::jetstream::new(self.client()?.clone());
        context.set_timeout(self.config.call_timeout);
        let handle = context
            .get_stream_no_info(stream)
            .await
            .map_err(|error| BusError::client(&what, error))?;
        let last = match handle.get_last_raw_message_by_subject(filter).await {
            Ok(last) => last,
            Err(error) => {
                return match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => Ok(None),
                    LastRawMessageErrorKind::JetStream(error)
                        if error.error_code()
                            == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND =>
                    {
                        Err(BusError::NotFound {
                            what,
                            description: error.to_string(),
                        })
                    }
                    _ => Err(BusError::client(what, error)),
                };
            }
        };
        Ok(Some(RawStored {
            sequence: Sequence(last.sequence),
            time: timestamp(last.time),
            pending: 0,
            message: RawMessage {
                subject: last.subject.into_string(),
                headers: plain_headers(Some(&last.headers)),
                payload: last.payload,
            },
        }))
    }
}

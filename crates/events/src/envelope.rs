//! The envelope: CloudEvents in binary mode, one header for each attribute, the payload as it is.
//!
//! Header names follow the CloudEvents NATS binding (`ce-` prefix); correlation and causation are our two
//! extensions; trace context travels as W3C `traceparent` and `tracestate`.

use std::collections::BTreeMap;

use crate::{Command, Event, Timestamp, subject};

/// Header of the de-duplication id.
pub const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";
/// Header of the W3C trace context.
pub const TRACEPARENT_HEADER: &str = "traceparent";
/// Header of the W3C trace state.
pub const TRACESTATE_HEADER: &str = "tracestate";

/// What every CloudEvents type of ours begins with.
const TYPE_PREFIX: &str = "io.zektor.";
/// The released version of every type.
const TYPE_SUFFIX: &str = ".v1";

/// A message's id: unique, and the same when the same fact is published again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(String);

impl MessageId {
    /// An id made by the caller, from a UUID or from what makes the fact unique.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        MessageId(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A family of messages: [`Event`] or [`Command`].
pub trait Family: Sized {
    /// What stands between the prefix and the type name: empty, or `command.`.
    const KIND: &'static str;

    /// The type name, `backup.completed`.
    fn type_name(&self) -> &'static str;
    /// The subject it is published on.
    fn subject(&self) -> String;
    /// The payload.
    ///
    /// # Errors
    /// As serde's.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;
    /// Reads a payload; `None` for a type that this build does not know.
    fn from_json(type_name: &str, payload: &[u8]) -> Option<serde_json::Result<Self>>;
}

impl Family for Event {
    const KIND: &'static str = "";

    fn type_name(&self) -> &'static str {
        Event::type_name(self)
    }

    fn subject(&self) -> String {
        match self {
            Event::BackupRequested(request) => {
                let verb = subject::backup_requested(request.pool.as_ref());
                subject::event(&verb, &self.address())
            }
            _ => subject::event(self.type_name(), &self.address()),
        }
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        Event::to_json(self)
    }

    fn from_json(type_name: &str, payload: &[u8]) -> Option<serde_json::Result<Self>> {
        Event::from_json(type_name, payload)
    }
}

impl Family for Command {
    const KIND: &'static str = "command.";

    fn type_name(&self) -> &'static str {
        Command::type_name(self)
    }

    fn subject(&self) -> String {
        subject::command(self.type_name(), &self.address())
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        Command::to_json(self)
    }

    fn from_json(type_name: &str, payload: &[u8]) -> Option<serde_json::Result<Self>> {
        Command::from_json(type_name, payload)
    }
}

impl Envelope<Event> {
    /// Which request counts, by the last event of a backup that waits for a worker or is being taken: the id of that
    /// message. Any other request of the backup was replaced, and is not to be followed. Unknown when absent.
    #[must_use]
    pub fn backup_request(&self) -> Option<&str> {
        match &self.message {
            Event::BackupRequested(_) => Some(self.id.as_str()),
            // A worker says everything because of the request that it follows.
            Event::BackupStarted(_) | Event::BackupProgressed(_) => self.causation.as_deref(),
            _ => None,
        }
    }
}

/// A message with everything that travels beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<M> {
    /// The message's id; also its de-duplication id.
    pub id: MessageId,
    /// Who says it: the service's name.
    pub source: String,
    /// When it was said.
    pub time: Timestamp,
    /// The backup or restore it belongs to.
    pub correlation: Option<String>,
    /// The message that led to this one.
    pub causation: Option<String>,
    /// W3C `traceparent`.
    pub traceparent: Option<String>,
    /// W3C `tracestate`.
    pub tracestate: Option<String>,
    /// The message.
    pub message: M,
}

/// A message as the bus carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The subject.
    pub subject: String,
    /// The headers.
    pub headers: BTreeMap<String, String>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Bytes on the bus that are not a message of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A header is missing.
    #[error("header {0} is missing")]
    MissingHeader(&'static str),
    /// A header does not have the form of its attribute.
    #[error("header {name} is {value:?}, which is not valid")]
    BadHeader {
        /// The header.
        name: &'static str,
        /// What stood there.
        value: String,
    },
    /// A type that this build does not know: another family, or a newer version.
    #[error("message type {0:?} is not known to this version of zektor")]
    UnknownType(String),
    /// The payload is not of its type's form.
    #[error("the payload of {type_name} cannot be read")]
    Payload {
        /// The type.
        type_name: String,
        /// What was wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl<M: Family> Envelope<M> {
    /// Writes the message down.
    ///
    /// # Errors
    /// As serde's; never for the types of this crate.
    pub fn encode(&self) -> serde_json::Result<Encoded> {
        let type_name = self.message.type_name();
        let ce_type = format!("{TYPE_PREFIX}{}{type_name}{TYPE_SUFFIX}", M::KIND);
        let mut headers = BTreeMap::from([
            ("ce-specversion".to_owned(), "1.0".to_owned()),
            ("ce-id".to_owned(), self.id.to_string()),
            ("ce-type".to_owned(), ce_type.clone()),
            ("ce-source".to_owned(), self.source.clone()),
            ("ce-subject".to_owned(), self.message.subject()),
            ("ce-time".to_owned(), rfc3339(self.time)),
            (
                "ce-datacontenttype".to_owned(),
                "application/json".to_owned(),
            ),
            ("ce-dataschema".to_owned(), format!("{ce_type}.schema.json")),
            (MESSAGE_ID_HEADER.to_owned(), self.id.to_string()),
        ]);
        let optional = [
            ("ce-correlationid", &self.correlation),
            ("ce-causationid", &self.causation),
            (TRACEPARENT_HEADER, &self.traceparent),
            (TRACESTATE_HEADER, &self.tracestate),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                let _ = headers.insert(name.to_owned(), value.clone());
            }
        }
        let payload = self.message.to_json()?;
        Ok(Encoded {
            subject: self.message.subject(),
            headers,
            payload,
        })
    }

    /// Reads a message back.
    ///
    /// # Errors
    /// [`DecodeError`], which tells an unknown type from a damaged one.
    pub fn decode(
        headers: &BTreeMap<String, String>,
        payload: &[u8],
    ) -> Result<Envelope<M>, DecodeError> {
        let need = |name: &'static str| {
            headers
                .get(name)
                .cloned()
                .ok_or(DecodeError::MissingHeader(name))
        };
        let ce_type = need("ce-type")?;
        let type_name = ce_type
            .strip_prefix(TYPE_PREFIX)
            .and_then(|rest| rest.strip_prefix(M::KIND))
            .and_then(|rest| rest.strip_suffix(TYPE_SUFFIX))
            .ok_or_else(|| DecodeError::UnknownType(ce_type.clone()))?;
        let time = need("ce-time")?;
        let message = M::from_json(type_name, payload)
            .ok_or_else(|| DecodeError::UnknownType(ce_type.clone()))?
            .map_err(|source| DecodeError::Payload {
                type_name: type_name.to_owned(),
                source,
            })?;
        Ok(Envelope {
            id: MessageId(need("ce-id")?),
            source: need("ce-source")?,
            time: time.parse().map_err(|_| DecodeError::BadHeader {
                name: "ce-time",
                value: time,
            })?,
            correlation: headers.get("ce-correlationid").cloned(),
            causation: headers.get("ce-causationid").cloned(),
            traceparent: headers.get(TRACEPARENT_HEADER).cloned(),
            tracestate: headers.get(TRACESTATE_HEADER).cloned(),
            message,
        })
    }
}

/// RFC 3339 in UTC with microseconds: how every moment is written.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, Envelope, MessageId};
    use crate::{Command, Event, example};

    fn envelope<M>(message: M) -> Envelope<M> {
        Envelope {
            id: MessageId::new("id-1"),
            source: "test".to_owned(),
            time: example::at(0),
            correlation: Some("c".to_owned()),
            causation: None,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            tracestate: None,
            message,
        }
    }

    #[test]
    fn every_example_survives_the_wire() {
        for event in example::events() {
            let sent = envelope(event);
            let encoded = sent.encode().unwrap();
            let read = Envelope::<Event>::decode(&encoded.headers, &encoded.payload).unwrap();
            assert_eq!(read, sent);
        }
        for command in example::commands() {
            let sent = envelope(command);
            let encoded = sent.encode().unwrap();
            let read = Envelope::<Command>::decode(&encoded.headers, &encoded.payload).unwrap();
            assert_eq!(read, sent);
        }
    }

    #[test]
    fn a_newer_type_is_unknown_and_a_damaged_one_is_not() {
        let mut encoded = envelope(example::events().remove(0)).encode().unwrap();
        let decode = |encoded: &super::Encoded| {
            Envelope::<Event>::decode(&encoded.headers, &encoded.payload).unwrap_err()
        };
        encoded.payload = b"{}".to_vec();
        assert!(matches!(decode(&encoded), DecodeError::Payload { .. }));
        let _ = encoded
            .headers
            .insert("ce-type".into(), "io.zektor.backup.requested.v2".into());
        assert!(matches!(decode(&encoded), DecodeError::UnknownType(_)));
    }
}

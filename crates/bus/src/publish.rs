//! Publishing: envelope, trace headers, size limit, and the expectation of a fence.

use events::envelope::Family;
use events::{Command, Envelope, Event, MessageId, Timestamp};
use tracing::Instrument as _;

use crate::bus::Retryable;
use crate::error::FenceError;
use crate::transport::{EXPECTED_LAST, EXPECTED_LAST_SUBJECT, PublishError, RawMessage, Receipt};
use crate::{Bus, BusError, Sequence, trace};

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing<M> {
    /// The message.
    pub message: M,
    /// Its id. The same fact has the same id, so that publishing it again makes no second one; what is
    /// said under a fence has an id that is unique to the attempt.
    pub id: MessageId,
    /// When it is said.
    pub time: Timestamp,
    /// The backup or restore it belongs to.
    pub correlation: Option<String>,
    /// The message that led to it.
    pub causation: Option<String>,
}

impl<M> Outgoing<M> {
    /// A message that belongs to nothing and follows from nothing.
    #[must_use]
    pub fn new(message: M, id: MessageId, time: Timestamp) -> Self {
        Outgoing {
            message,
            id,
            time,
            correlation: None,
            causation: None,
        }
    }

    /// With the backup or restore it belongs to.
    #[must_use]
    pub fn correlated(mut self, correlation: impl ToString) -> Self {
        self.correlation = Some(correlation.to_string());
        self
    }

    /// With the message that led to it.
    #[must_use]
    pub fn caused_by(mut self, causation: impl ToString) -> Self {
        self.causation = Some(causation.to_string());
        self
    }
}

/// Header of our own: one value for each attempt under a fence, so that an attempt recognises what it has
/// published itself, whatever the message ids are.
pub(crate) const ATTEMPT_HEADER: &str = "zektor-attempt";

/// What must be true of a fence for a message to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Expectation<'a> {
    pub(crate) fence: &'a str,
    pub(crate) last: Sequence,
    /// See [`ATTEMPT_HEADER`].
    pub(crate) attempt: Option<&'a str>,
}

impl Bus {
    /// Publishes an event; returns when the server has stored it. An event with this id that was stored
    /// within the duplicate window counts as this one.
    ///
    /// # Errors
    /// When it was not stored within the configured patience; it may have been stored all the same.
    pub async fn publish(&self, event: Outgoing<Event>) -> Result<Sequence, BusError> {
        self.publish_any(event).await
    }

    /// Sends a command; returns when the server has stored it. A command with this id that was stored within
    /// the duplicate window counts as this one.
    ///
    /// # Errors
    /// When it was not stored within the configured patience; it may have been stored all the same.
    pub async fn send(&self, command: Outgoing<Command>) -> Result<Sequence, BusError> {
        self.publish_any(command).await
    }

    /// Publishes an event if `last` is the last sequence on the wildcard `fence` ([`Sequence::NONE`]:
    /// nothing is there). If an event with this id already stands last there, it counts as this one.
    ///
    /// # Errors
    /// [`FenceError::Lost`] if something else is last there.
    pub async fn publish_expecting(
        &self,
        event: Outgoing<Event>,
        fence: &str,
        last: Sequence,
    ) -> Result<Sequence, FenceError> {
        let expectation = Expectation {
            fence,
            last,
            attempt: None,
        };
        self.publish_under(event, &expectation).await
    }

    async fn publish_any<M: Family>(&self, message: Outgoing<M>) -> Result<Sequence, BusError> {
        let subject = message.message.subject();
        let span = trace::publish_span(&subject, message.id.as_str());
        async {
            let raw = self.encode(message)?;
            match self.store(&raw).await {
                Ok(receipt) => Ok(receipt.sequence),
                Err(PublishError::Bus(error)) => Err(error),
                Err(PublishError::Unexpected) => Err(BusError::Server {
                    what: format!("publish on {subject}"),
                    status: 400,
                    code: 10071,
                    description: "wrong last sequence, though none was expected".to_owned(),
                }),
            }
        }
        .instrument(span)
        .await
    }

    /// Publishes under a fence, and recognises its own message when an answer was lost on the way.
    pub(crate) async fn publish_under(
        &self,
        event: Outgoing<Event>,
        expectation: &Expectation<'_>,
    ) -> Result<Sequence, FenceError> {
        let id = event.id.clone();
        let span = trace::publish_span(&event.message.subject(), id.as_str());
        async {
            let mut raw = self.encode(event)?;
            let mut set = |name: &str, value: String| drop(raw.headers.insert(name.into(), value));
            set(EXPECTED_LAST, expectation.last.to_string());
            set(EXPECTED_LAST_SUBJECT, expectation.fence.to_owned());
            if let Some(attempt) = expectation.attempt {
                set(ATTEMPT_HEADER, attempt.to_owned());
            }
            match self.store(&raw).await {
                Ok(receipt) if !receipt.duplicate => Ok(receipt.sequence),
                Ok(receipt) => self.own_head(&id, expectation, Some(receipt)).await,
                Err(PublishError::Unexpected) => self.own_head(&id, expectation, None).await,
                Err(PublishError::Bus(error)) => Err(error.into()),
            }
        }
        .instrument(span)
        .await
    }

    /// The server did not store the message. Either it is the head of the fence already, because the answer
    /// to an earlier try was lost, or the fence is lost.
    async fn own_head(
        &self,
        id: &MessageId,
        expectation: &Expectation<'_>,
        duplicate: Option<Receipt>,
    ) -> Result<Sequence, FenceError> {
        let head = self.last_raw(expectation.fence).await?;
        let by = head
            .as_ref()
            .and_then(|head| head.message.header(events::envelope::MESSAGE_ID_HEADER))
            .map(MessageId::new);
        let sequence = head.as_ref().map_or(Sequence::NONE, |head| head.sequence);
        let attempt = head
            .as_ref()
            .and_then(|head| head.message.header(ATTEMPT_HEADER));
        let own = by.as_ref() == Some(id)
            && sequence > expectation.last
            && attempt == expectation.attempt;
        match duplicate {
            _ if own => Ok(sequence),
            Some(older) if sequence == expectation.last => Err(BusError::MessageIdReused {
                id: id.clone(),
                sequence: older.sequence,
            }
            .into()),
            _ => Err(FenceError::Lost {
                fence: expectation.fence.to_owned(),
                expected: expectation.last,
                head: sequence,
                by,
            }),
        }
    }

    /// Stores a message, trying again with the same id.
    pub(crate) async fn store(&self, message: &RawMessage) -> Result<Receipt, PublishError> {
        let limit = self.transport.max_payload();
        if message.size() > limit {
            return Err(PublishError::Bus(BusError::TooLarge {
                subject: message.subject.clone(),
                size: message.size(),
                limit,
            }));
        }
        self.patiently(|| self.transport.publish(message)).await
    }

    fn encode<M: Family>(&self, outgoing: Outgoing<M>) -> Result<RawMessage, BusError> {
        let (traceparent, tracestate) = trace::current().unzip();
        let envelope = Envelope {
            id: outgoing.id,
            source: self.source.to_string(),
            time: outgoing.time,
            correlation: outgoing.correlation,
            causation: outgoing.causation,
            traceparent,
            tracestate: tracestate.flatten(),
            message: outgoing.message,
        };
        let encoded = envelope.encode().map_err(|source| BusError::Encode {
            what: format!("message {}", envelope.id),
            source,
        })?;
        Ok(RawMessage {
            subject: encoded.subject,
            headers: encoded.headers,
            payload: encoded.payload.into(),
        })
    }
}

impl Retryable for PublishError {
    fn worth_another_call(&self) -> bool {
        matches!(self, PublishError::Bus(error) if error.worth_another_call())
    }
}

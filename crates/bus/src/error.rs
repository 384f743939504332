//! What can go wrong on the bus, and of which class it is. Services decide what to do about it.

use std::time::Duration;

use events::envelope::DecodeError;
use events::{MessageId, subject};

use crate::{Revision, Sequence};

/// The source of an error that another library made.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// What is to be expected of trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same call may succeed later.
    Transient,
    /// Somebody has to change something outside of this process first.
    Refused,
    /// A defect of Zektor: trying again is of no use.
    Bug,
}

/// A call on the bus that failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No server was reached since the process began.
    #[error("nats at {url} was not reached yet; check that it runs and that the url is right")]
    NeverConnected {
        /// The URL, without credentials.
        url: String,
    },
    /// The server was not reached in the time the configuration gives.
    #[error(
        "nats at {url} could not be reached within {waited:?}; check that it runs and that the url is right"
    )]
    Unreachable {
        /// The URL, without credentials.
        url: String,
        /// How long it was tried.
        waited: Duration,
        /// The last failure.
        #[source]
        source: Source,
    },
    /// The connection is lost; it is being made again.
    #[error("the connection to nats is lost and being made again")]
    Disconnected,
    /// The server does not let us in.
    #[error(
        "nats at {url} refuses the credentials; set user and password, a token or a credentials file that it knows"
    )]
    Unauthorized {
        /// The URL, without credentials.
        url: String,
        /// What the server or the client said.
        #[source]
        source: Source,
    },
    /// The configuration of the connection is not valid.
    #[error("the nats {what} is not valid; correct it in the configuration")]
    Configuration {
        /// The setting.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: Source,
    },
    /// A server that would silently ignore what keeps backups apart.
    #[error(
        "nats server {version} is too old; install 2.12 or newer (debian's 2.9 ignores the header \
         Nats-Expected-Last-Subject-Sequence-Subject, with which two workers could both finish a backup)"
    )]
    ServerTooOld {
        /// What the server says it is.
        version: String,
    },
    /// No answer in time; it may have been done all the same.
    #[error("nats did not answer to {what} within {after:?}")]
    Timeout {
        /// What was asked.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// JetStream does not answer at all, or no stream takes the subject.
    #[error("no jetstream answers to {what}; start nats with jetstream and apply the topology")]
    NoJetStream {
        /// What was asked.
        what: String,
    },
    /// The server has no such stream or consumer.
    #[error("nats lacks what {what} needs ({description}); apply the topology again")]
    NotFound {
        /// What was asked.
        what: String,
        /// The server's words.
        description: String,
    },
    /// The server said no.
    #[error("nats refused {what}: {description} (error {code})")]
    Server {
        /// What was asked.
        what: String,
        /// The status, as in HTTP.
        status: u64,
        /// JetStream's error code.
        code: u64,
        /// The server's words.
        description: String,
    },
    /// The client library failed.
    #[error("{what} failed in the nats client")]
    Client {
        /// What was asked.
        what: String,
        /// The library's error.
        #[source]
        source: Source,
    },
    /// The message is larger than the server takes.
    #[error(
        "the message on {subject} has {size} bytes and nats takes {limit}; large values belong into the repository"
    )]
    TooLarge {
        /// Its subject.
        subject: String,
        /// Payload and headers, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A subject that none of our streams captures.
    #[error("no stream of zektor captures {subject}")]
    NoStream {
        /// The subject or filter.
        subject: String,
    },
    /// What the server has differs from the topology and cannot be changed in place.
    #[error(
        "{kind} {name} exists with {difference}; remove it (its messages are lost) or use another nats account"
    )]
    Drift {
        /// Stream, consumer or bucket.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What differs.
        difference: String,
    },
    /// A message on the bus that this build cannot read.
    #[error("message {sequence} cannot be read")]
    Undecodable {
        /// Its sequence in its stream.
        sequence: Sequence,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A document in a bucket, a question or an answer that this build cannot read.
    #[error("{what} cannot be read")]
    Unreadable {
        /// What it is.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A value could not be written down.
    #[error("{what} cannot be written as json")]
    Encode {
        /// What it is.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The stream was made anew while it was followed: sequences count from 1 again.
    #[error("stream {stream} was made anew; rebuild from its beginning")]
    StreamRecreated {
        /// The stream.
        stream: String,
    },
    /// An older message has the same id, so this one was not stored.
    #[error(
        "message id {id} was used before, at sequence {sequence}; ids on a fence must be unique to the attempt"
    )]
    MessageIdReused {
        /// The id.
        id: MessageId,
        /// Where it was used.
        sequence: Sequence,
    },
    /// A key that cannot be a key.
    #[error("{key:?} is not a valid key of a bucket")]
    InvalidKey {
        /// The key.
        key: String,
    },
}

impl BusError {
    /// What is to be expected of trying again.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            BusError::NeverConnected { .. }
            | BusError::Unreachable { .. }
            | BusError::Disconnected
            | BusError::Timeout { .. }
            | BusError::NoJetStream { .. }
            | BusError::NotFound { .. }
            | BusError::StreamRecreated { .. }
            | BusError::Client { .. } => Class::Transient,
            // 503 and 408 are the server's "not now".
            BusError::Server {
                status: 408 | 409 | 500 | 503,
                ..
            } => Class::Transient,
            BusError::Unauthorized { .. }
            | BusError::Configuration { .. }
            | BusError::ServerTooOld { .. }
            | BusError::Server { .. }
            | BusError::Drift { .. }
            | BusError::Undecodable { .. }
            | BusError::Unreadable { .. } => Class::Refused,
            BusError::TooLarge { .. }
            | BusError::NoStream { .. }
            | BusError::Encode { .. }
            | BusError::MessageIdReused { .. }
            | BusError::InvalidKey { .. } => Class::Bug,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.class() == Class::Transient
    }

    pub(crate) fn client(what: impl Into<String>, source: impl Into<Source>) -> Self {
        BusError::Client {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// A publication under a fence that was not stored.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Somebody else published on the fence since: this attempt has lost its right.
    #[error(
        "{fence} has moved on from {expected} to {head}: another worker took it or it has ended"
    )]
    Lost {
        /// The wildcard.
        fence: String,
        /// The sequence that was expected last.
        expected: Sequence,
        /// The sequence that is last; 0 if nothing is there.
        head: Sequence,
        /// The id of the message that is last.
        by: Option<MessageId>,
    },
    /// The bus failed; whether the message was stored is not known.
    #[error("the bus failed under the fence")]
    Bus(#[from] BusError),
}

impl FenceError {
    /// What is to be expected of trying again; losing a fence is final for this attempt.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            FenceError::Lost { .. } => Class::Refused,
            FenceError::Bus(error) => error.class(),
        }
    }
}

/// A change of a key that was not made.
#[derive(Debug, thiserror::Error)]
pub enum CasError {
    /// Somebody else changed the key since: read it again.
    #[error("key {key} of bucket {bucket} is not at revision {expected} any more")]
    Conflict {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The revision that was expected; 0 for "does not exist".
        expected: Revision,
    },
    /// The bus failed; whether the change was made is not known.
    #[error("the bus failed while a key was changed")]
    Bus(#[from] BusError),
}

/// A question without an answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No service listens on the subject.
    #[error("no service answers on {subject}; check that it runs")]
    NoResponder {
        /// The subject.
        subject: String,
    },
    /// No answer in time.
    #[error(
        "no answer on {subject} within {after:?}; check the logs of the service that serves it"
    )]
    Timeout {
        /// The subject.
        subject: String,
        /// How long was waited.
        after: Duration,
    },
    /// The service understood and said no.
    #[error("{0}")]
    Refused(QueryError),
    /// The bus failed.
    #[error("the bus failed while asking")]
    Bus(#[from] BusError),
}

/// A service's refusal to answer, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{message}")]
pub struct QueryError {
    /// Stable, for programs.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// What can be done.
    #[serde(default)]
    pub hint: String,
}

impl QueryError {
    /// A refusal.
    #[must_use]
    pub fn new(
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        QueryError {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// The subject on which copies of what `consumer` could not handle are kept.
pub(crate) fn dead_letter_subject(consumer: &str) -> String {
    format!("{}.dlq.{consumer}", subject::ROOT)
}

//! What a transport must do: the little of JetStream that everything else here is built on.
//!
//! A transport carries bytes and headers. Expectations (fences, compare-and-set), de-duplication and
//! expiry are asked for with NATS's own headers, so that NATS and the in-memory twin are told the same.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use events::Timestamp;
use events::topology::{BucketSpec, ConsumerSpec, StreamSpec};

use crate::{BusError, Places, Sequence, StreamState};

pub(crate) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
pub(crate) const EXPECTED_LAST_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
pub(crate) const TTL: &str = "Nats-TTL";
pub(crate) const MARKER_REASON: &str = "Nats-Marker-Reason";
pub(crate) const KV_OPERATION: &str = "KV-Operation";

/// A message as the server sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawMessage {
    pub(crate) subject: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) payload: Bytes,
}

impl RawMessage {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Bytes that count against the server's limit, a little more rather than less.
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum();
        self.payload.len() + headers + 16
    }
}

/// A message in a stream.
#[derive(Clone, Debug)]
pub(crate) struct RawStored {
    pub(crate) sequence: Sequence,
    pub(crate) time: Timestamp,
    /// Messages that the reader has yet to get after this one, as far as known.
    pub(crate) pending: u64,
    pub(crate) message: RawMessage,
}

/// The server's answer to a publication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    pub(crate) sequence: Sequence,
    /// Not stored: a message with this id is there already, at that sequence.
    pub(crate) duplicate: bool,
}

/// Why a publication was not stored.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// The expectation does not hold.
    Unexpected,
    /// Anything else.
    Bus(BusError),
}

impl From<BusError> for PublishError {
    fn from(error: BusError) -> Self {
        PublishError::Bus(error)
    }
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    Beginning,
    New,
    Sequence(Sequence),
    Time(Timestamp),
    LastPerSubject,
}

/// How one delivery ends, or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    Done,
    Retry(Duration),
    InProgress,
    Terminated,
}

/// One delivery of a durable consumer.
pub(crate) struct RawDelivery {
    pub(crate) stored: RawStored,
    pub(crate) attempt: u64,
    pub(crate) acker: Box<dyn Acker>,
}

/// Tells the server about one delivery.
#[async_trait]
pub(crate) trait Acker: Send + Sync {
    /// Every kind but `InProgress` returns only when the server has confirmed it.
    async fn ack(&self, ack: Ack) -> Result<(), BusError>;
}

/// A reader of a stream; ends with its connection.
#[async_trait]
pub(crate) trait Reader: Send {
    /// Waits for the next message.
    async fn next(&mut self) -> Result<RawStored, BusError>;
    /// Messages that were waiting when the reader was opened.
    fn pending(&self) -> u64;
}

/// A question as it arrives, and the way back.
pub(crate) struct RawQuestion {
    pub(crate) message: RawMessage,
    pub(crate) replier: Box<dyn Replier>,
}

/// The way back of one question.
#[async_trait]
pub(crate) trait Replier: Send + Sync {
    async fn reply(&self, answer: RawMessage) -> Result<(), BusError>;
}

/// Questions on a subject, over reconnects.
#[async_trait]
pub(crate) trait Questions: Send {
    /// `None` when the transport is gone.
    async fn next(&mut self) -> Option<RawQuestion>;
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    NoResponder,
    Timeout,
    Bus(BusError),
}

/// Everything the server is to have.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub(crate) streams: Vec<StreamSpec>,
    pub(crate) consumers: Vec<ConsumerSpec>,
    pub(crate) buckets: Vec<BucketSpec>,
}

/// NATS, or its twin.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Whether calls can be made now, and why not.
    fn ready(&self) -> Result<(), BusError>;
    /// The largest message, headers included, in bytes.
    fn max_payload(&self) -> usize;
    async fn apply(&self, topology: &Topology) -> Result<(), BusError>;
    async fn publish(&self, message: &RawMessage) -> Result<Receipt, PublishError>;
    async fn last_on(&self, stream: &str, filter: &str) -> Result<Option<RawStored>, BusError>;
    async fn stream_state(&self, stream: &str) -> Result<StreamState, BusError>;
    /// Waits a while for one delivery; `None` when there was none.
    async fn pull(
        &self,
        spec: &ConsumerSpec,
        wait: Duration,
    ) -> Result<Option<RawDelivery>, BusError>;
    async fn places(&self, spec: &ConsumerSpec) -> Result<Places, BusError>;
    async fn read(
        &self,
        stream: &str,
        filters: &[String],
        start: Start,
    ) -> Result<Box<dyn Reader>, BusError>;
    async fn ask(&self, question: RawMessage, wait: Duration) -> Result<RawMessage, AskError>;
    async fn serve(&self, subject: &str, group: &str) -> Result<Box<dyn Questions>, BusError>;
}

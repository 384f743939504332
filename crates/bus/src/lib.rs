//! The bus: JetStream for everything that the services say to each other.
//!
//! Publish, consume with heartbeats, fence, dead letters, desired state by compare-and-set, questions and
//! answers, and trace context on all of it. [`Bus`] talks to NATS or to a twin in memory that keeps the same
//! promises ([`Bus::in_memory`]); one conformance suite holds both to them.
//!
//! What must stay true:
//!
//! - A server that would ignore the fencing header (anything before 2.12) is never used.
//! - A message that cannot be read is never acknowledged silently: it goes to the dead letters.
//! - A call that had no answer may have been done; every retry here carries the same message id.
//! - The bus has no policy: handlers decide how a delivery ends ([`Outcome`]).

mod archiver;
mod bucket;
mod bus;
mod config;
#[cfg(test)]
mod conformance;
mod consume;
mod error;
mod exhausted;
mod fence;
mod follow;
mod instances;
mod memory;
mod nats;
mod publish;
mod query;
mod subjects;
pub mod trace;
mod transport;

pub use bucket::{Bucket, Change};
pub use bus::Bus;
pub use config::{BusConfig, Credentials};
pub use consume::{Delivery, Handler, Outcome, Progress};
pub use error::{BusError, CasError, Class, FenceError, QueryError, RequestError};
pub use exhausted::Exhausted;
pub use fence::Fence;
pub use follow::{From, Places, Stored, StreamState};
pub use instances::{Decision, InstanceChange, Instances, Listing, UpdateError};
pub use publish::Outgoing;

/// A message's place in its stream, from 1; 0 stands for "nothing yet".
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before any message.
    pub const NONE: Sequence = Sequence(0);

    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The version of a key in a bucket; 0 stands for "does not exist".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

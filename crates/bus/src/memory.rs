//! The twin: a server in this process that keeps NATS's promises as far as this crate relies on them.
//!
//! Time is tokio's, so a test that pauses it decides when an ack wait or a lease ends. Everything is kept
//! until the bus is dropped. What the twin does not have: connections that break, and several servers.

mod consumer;
mod question;
mod store;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use events::Timestamp;
use events::topology::ConsumerSpec;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::transport::{
    Ack, Acker, AskError, PublishError, Questions, RawDelivery, RawMessage, RawStored, Reader,
    Receipt, Start, Topology, Transport,
};
use crate::{BusError, Places, Sequence, StreamState};
use question::Board;
use world::World;

/// As NATS's default.
const MAX_PAYLOAD: usize = 1024 * 1024;
/// Nothing waits longer than this without looking again.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

pub(crate) struct MemoryTransport {
    server: Arc<Server>,
    /// Whether whoever asks something lets others go first while the question, and then the answer, is on its way.
    far: bool,
}

/// The state, its clock, and the bell that rings when the state changed.
struct Server {
    world: Mutex<World>,
    board: Board,
    changed: watch::Sender<()>,
    began: (Timestamp, Instant),
    /// Pulls that wait, by the name of their consumer.
    pulls: Mutex<BTreeMap<String, usize>>,
}

/// A pull that is counted while it waits.
struct WaitingPull<'a> {
    server: &'a Server,
    consumer: &'a str,
}

impl<'a> WaitingPull<'a> {
    fn new(server: &'a Server, consumer: &'a str) -> Self {
        *server.pulls().entry(consumer.to_owned()).or_default() += 1;
        WaitingPull { server, consumer }
    }
}

impl Drop for WaitingPull<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.server.pulls().get_mut(self.consumer) {
            *waiting -= 1;
        }
    }
}

impl Server {
    fn pulls(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        let (at, instant) = self.began;
        at + chrono::TimeDelta::from_std(instant.elapsed()).unwrap_or_default()
    }

    /// The world as it is now: what is due has happened.
    fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        if world.tick(self.now()) {
            self.ring();
        }
        world
    }

    fn ring(&self) {
        self.changed.send_modify(|()| {});
    }

    /// Waits until `look` finds something, looking again after every change and whenever something is due.
    async fn wait_for<T>(&self, mut look: impl FnMut(&mut World) -> Option<T>) -> T {
        let mut changes = self.changed.subscribe();
        loop {
            let due = {
                let mut world = self.world();
                if let Some(found) = look(&mut world) {
                    return found;
                }
                world.next_due(self.now())
            };
            let pause = due.map_or(LOOK_AGAIN, |due| {
                (due - self.now()).to_std().unwrap_or_default()
            });
            // Timers count in milliseconds: never look before something is due.
            let pause = pause + Duration::from_millis(1);
            let _changed_or_due = tokio::time::timeout(pause, changes.changed()).await;
        }
    }
}

impl MemoryTransport {
    #[expect(
        clippy::disallowed_methods,
        reason = "a server stamps what it stores with its own clock"
    )]
    pub(crate) fn new(topology: &Topology, far: bool) -> Arc<Self> {
        let now = chrono::Utc::now();
        let mut world = World::default();
        // Cannot fail: streams come before their consumers.
        let _made = world.apply(topology, now);
        Arc::new(MemoryTransport {
            far,
            server: Arc::new(Server {
                world: Mutex::new(world),
                board: Board::default(),
                changed: watch::Sender::new(()),
                began: (now, Instant::now()),
                pulls: Mutex::default(),
            }),
        })
    }
}

impl MemoryTransport {
    async fn on_its_way(&self) {
        if self.far {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn ready(&self) -> Result<(), BusError> {
        Ok(())
    }

    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    async fn apply(&self, topology: &Topology) -> Result<(), BusError> {
        self.server.world().apply(topology, self.server.now())
    }

    async fn publish(&self, message: &RawMessage) -> Result<Receipt, PublishError> {
        self.on_its_way().await;
        let receipt = self.server.world().publish(message, self.server.now());
        self.server.ring();
        self.on_its_way().await;
        receipt
    }

    async fn last_on(&self, stream: &str, filter: &str) -> Result<Option<RawStored>, BusError> {
        self.on_its_way().await;
        let world = self.server.world();
        Ok(world.stream(stream)?.store.last_on(filter).cloned())
    }

    async fn stream_state(&self, stream: &str) -> Result<StreamState, BusError> {
        Ok(self.server.world().stream(stream)?.store.state())
    }

    async fn pull(
        &self,
        spec: &ConsumerSpec,
        wait: Duration,
    ) -> Result<Option<RawDelivery>, BusError> {
        let server = &self.server;
        let _waiting = WaitingPull::new(server, &spec.name);
        let taken = server.wait_for(|world| world.deliver(spec, server.now()).transpose());
        let Ok(taken) = tokio::time::timeout(wait, taken).await else {
            return Ok(None);
        };
        let (stored, attempt) = taken?;
        Ok(Some(RawDelivery {
            attempt,
            acker: Box::new(MemoryAcker {
                server: Arc::clone(server),
                spec: spec.clone(),
                sequence: stored.sequence,
            }),
            stored,
        }))
    }

    async fn places(&self, spec: &ConsumerSpec) -> Result<Places, BusError> {
        let free = self.server.pulls().get(&*spec.name).copied();
        let (in_hand, at_limit) = self.server.world().in_hand(spec)?;
        Ok(Places {
            free: free.unwrap_or_default(),
            in_hand,
            at_limit,
        })
    }

    async fn read(
        &self,
        stream: &str,
        filters: &[String],
        start: Start,
    ) -> Result<Box<dyn Reader>, BusError> {
        let world = self.server.world();
        let store = &world.stream(stream)?.store;
        let (first, next) = store.begin(filters, start);
        let pending = u64::from(!first.is_empty() || store.find(filters, next).is_some());
        Ok(Box::new(MemoryReader {
            server: Arc::clone(&self.server),
            stream: stream.to_owned(),
            filters: filters.to_vec(),
            first,
            next,
            pending,
        }))
    }

    async fn ask(&self, question: RawMessage, wait: Duration) -> Result<RawMessage, AskError> {
        self.server.board.ask(question, wait).await
    }

    async fn serve(&self, subject: &str, group: &str) -> Result<Box<dyn Questions>, BusError> {
        Ok(self.server.board.serve(subject, group))
    }
}

struct MemoryAcker {
    server: Arc<Server>,
    spec: ConsumerSpec,
    sequence: Sequence,
}

#[async_trait]
impl Acker for MemoryAcker {
    async fn ack(&self, ack: Ack) -> Result<(), BusError> {
        let server = &self.server;
        server
            .world()
            .ack(&self.spec, self.sequence, ack, server.now());
        server.ring();
        Ok(())
    }
}

struct MemoryReader {
    server: Arc<Server>,
    stream: String,
    filters: Vec<String>,
    /// What is to be read before everything from `next` on.
    first: VecDeque<Sequence>,
    next: Sequence,
    pending: u64,
}

#[async_trait]
impl Reader for MemoryReader {
    async fn next(&mut self) -> Result<RawStored, BusError> {
        let Self {
            server,
            stream,
            filters,
            first,
            next,
            ..
        } = self;
        server
            .wait_for(|world| {
                let store = match world.stream(stream) {
                    Ok(stream) => &stream.store,
                    Err(error) => return Some(Err(error)),
                };
                let waiting = std::iter::from_fn(|| first.pop_front())
                    .find_map(|sequence| store.get(sequence).cloned());
                let mut stored = match waiting {
                    Some(stored) => stored,
                    None => {
                        let found = store.find(filters, *next)?.clone();
                        *next = found.sequence.next();
                        found
                    }
                };
                let more = !first.is_empty() || store.find(filters, *next).is_some();
                stored.pending = u64::from(more);
                Some(Ok(stored))
            })
            .await
    }

    fn pending(&self) -> u64 {
        self.pending
    }
}

//! The handle that services hold.

use std::sync::Arc;
use std::time::Duration;

use events::topology::{self, ConsumerSpec};
use tokio::time::Instant;

use crate::memory::MemoryTransport;
use crate::nats::NatsTransport;
use crate::transport::{Topology, Transport};
use crate::{BusConfig, BusError, Places};

/// First pause before a call is made again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The bus. Clones share one connection.
#[derive(Clone)]
pub struct Bus {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) source: Arc<str>,
    pub(crate) patience: Duration,
    pub(crate) drain_deadline: Duration,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("source", &self.source)
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Connects, waiting for the server until the configuration's deadline.
    ///
    /// # Errors
    /// When the server is not reached in time, does not let us in, or is older than 2.12.
    pub async fn connect(config: BusConfig) -> Result<Bus, BusError> {
        let transport = NatsTransport::connect(config.clone()).await?;
        Ok(Self::over(transport, &config))
    }

    /// Returns at once and connects in the background, for ever. Until the first connection calls fail with
    /// [`BusError::NeverConnected`]; with a server that is too old they fail with [`BusError::ServerTooOld`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn connect_lazily(config: BusConfig) -> Bus {
        Self::over(NatsTransport::connect_lazily(config.clone()), &config)
    }

    /// A bus of its own in this process, with the topology applied. For tests.
    #[must_use]
    pub fn in_memory() -> Bus {
        let config = BusConfig::new("memory://", "in-memory");
        Self::over(MemoryTransport::new(&wanted(), false), &config)
    }

    /// The same, as far away as a server: whoever asks it something waits, and may be dropped, before it is done and
    /// before it is known to be.
    #[must_use]
    pub fn in_memory_far() -> Bus {
        let config = BusConfig::new("memory://", "in-memory");
        Self::over(MemoryTransport::new(&wanted(), true), &config)
    }

    /// The same bus, on which another service speaks.
    #[must_use]
    pub fn named(&self, source: &str) -> Bus {
        Bus {
            source: source.into(),
            ..self.clone()
        }
    }

    fn over(transport: Arc<dyn Transport>, config: &BusConfig) -> Bus {
        Bus {
            transport,
            source: config.name.as_str().into(),
            patience: config.patience,
            drain_deadline: config.drain_deadline,
        }
    }

    /// Whether calls can be made now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state().is_ok()
    }

    /// Whether calls can be made now, and why not.
    ///
    /// # Errors
    /// What a call would fail with.
    pub fn state(&self) -> Result<(), BusError> {
        self.transport.ready()
    }

    /// Makes the server have the streams, consumers and buckets of [`events::topology`]: creates what is
    /// missing, updates what differs, reads back and compares. Services that start together may all do it.
    ///
    /// # Errors
    /// [`BusError::Drift`] when the server has something that cannot be changed in place.
    pub async fn apply_topology(&self) -> Result<(), BusError> {
        let wanted = wanted();
        self.patiently(|| self.transport.apply(&wanted)).await
    }

    /// As [`Self::apply_topology`], for a consumer that exists only where it is wanted.
    ///
    /// # Errors
    /// [`BusError::Drift`] when the server has one of that name that cannot be changed in place.
    pub async fn apply_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        let wanted = Topology {
            streams: Vec::new(),
            consumers: vec![spec.clone()],
            buckets: Vec::new(),
        };
        self.patiently(|| self.transport.apply(&wanted)).await
    }

    /// The places of a consumer's workers.
    ///
    /// # Errors
    /// As any call.
    pub async fn places(&self, spec: &ConsumerSpec) -> Result<Places, BusError> {
        self.patiently(|| self.transport.places(spec)).await
    }

    /// Makes a call again while it fails for a transient reason, within the configuration's patience.
    /// Before the first connection it fails at once: nobody knows whether there will be one.
    pub(crate) async fn patiently<T, E: Retryable, F>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let deadline = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            match call().await {
                Err(error) if error.worth_another_call() && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }
}

/// Tells errors that may go away by themselves in seconds.
pub(crate) trait Retryable {
    fn worth_another_call(&self) -> bool;
}

impl Retryable for BusError {
    fn worth_another_call(&self) -> bool {
        self.is_transient()
            && !matches!(
                self,
                BusError::NeverConnected { .. } | BusError::StreamRecreated { .. }
            )
    }
}

pub(crate) fn wanted() -> Topology {
    Topology {
        streams: topology::streams(),
        consumers: topology::consumers(),
        buckets: topology::buckets(),
    }
}

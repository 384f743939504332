//! One suite for both transports: what the services rely on, held against NATS and against the twin.
//!
//! A scenario is a function of a [`Bus`] with the topology applied. On the twin time is paused, so that
//! ack waits and leases take no time; on NATS they are real.

mod bucket;
mod consume;
mod exhausted;
mod fence;
mod follow;
mod query;
mod trace;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use events::event::{BackupCompleted, BackupFailed, BackupRequested, BackupStarted};
use events::topology::{ConsumerSpec, EVENTS};
use events::{BackupId, BranchName, Event, MessageId, example, subject};
use testkit::nats::NatsServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Bus, BusConfig, BusError, Delivery, Handler, Outcome, Outgoing};

/// Every scenario on the twin and on a NATS server of its own.
macro_rules! scenarios {
    ($($scenario:ident),+ $(,)?) => {
        mod twin {
            $(
                #[tokio::test(start_paused = true)]
                async fn $scenario() {
                    super::$scenario(crate::Bus::in_memory()).await;
                }
            )+
        }

        mod nats {
            $(
                #[tokio::test]
                async fn $scenario() {
                    let (_server, bus) = crate::conformance::nats().await;
                    super::$scenario(bus).await;
                }
            )+
        }
    };
}
use scenarios;

/// Longer than anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A server with the topology applied.
pub(crate) async fn nats() -> (NatsServer, Bus) {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(config(&server)).await.unwrap();
    bus.apply_topology().await.unwrap();
    (server, bus)
}

pub(crate) fn config(server: &NatsServer) -> BusConfig {
    BusConfig::new(server.url(), "test")
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A backup with an id of its own.
pub(crate) struct Backup(pub(crate) BackupId);

impl Backup {
    pub(crate) fn new() -> Self {
        Backup(BackupId(Uuid::now_v7()))
    }

    pub(crate) fn fence(&self) -> String {
        subject::backup_fence(&example::instance(), &BranchName::main(), self.0)
    }

    fn event(&self, type_name: &str) -> Event {
        let id = self.0;
        let example = example::events()
            .into_iter()
            .find(|event| event.type_name() == type_name);
        match example {
            Some(Event::BackupRequested(event)) => Event::BackupRequested(BackupRequested {
                backup_id: id,
                ..event
            }),
            Some(Event::BackupStarted(event)) => Event::BackupStarted(BackupStarted {
                backup_id: id,
                ..event
            }),
            Some(Event::BackupCompleted(event)) => Event::BackupCompleted(BackupCompleted {
                backup_id: id,
                ..event
            }),
            Some(Event::BackupFailed(event)) => Event::BackupFailed(BackupFailed {
                backup_id: id,
                ..event
            }),
            other => panic!("{other:?}"),
        }
    }

    /// An event of this backup with a fresh message id.
    pub(crate) fn says(&self, type_name: &str) -> Outgoing<Event> {
        self.says_as(type_name, &Uuid::now_v7().to_string())
    }

    pub(crate) fn says_as(&self, type_name: &str, id: &str) -> Outgoing<Event> {
        Outgoing::new(self.event(type_name), MessageId::new(id), example::at(0)).correlated(self.0)
    }
}

/// A consumer of `backup.requested`.
pub(crate) fn consumer(ack_wait: Duration, max_deliver: i64) -> ConsumerSpec {
    ConsumerSpec {
        name: "conformance".into(),
        stream: EVENTS,
        filters: vec![subject::events_of("backup.requested")],
        ack_wait,
        max_deliver,
        max_ack_pending: 100,
        keeps_limit: false,
    }
}

/// A handler made of a function.
struct With<F>(F);

#[async_trait]
impl<M, F, R> Handler<M> for With<F>
where
    M: Clone + Send + Sync + 'static,
    F: Fn(Delivery<M>) -> R + Send + Sync,
    R: Future<Output = Outcome> + Send,
{
    async fn handle(&self, delivery: &Delivery<M>) -> Outcome {
        (self.0)(delivery.clone()).await
    }
}

/// A consumer at work; it stops when this is dropped, as if its process had been killed.
pub(crate) struct Consuming {
    task: JoinHandle<Result<(), BusError>>,
    shutdown: CancellationToken,
}

impl Consuming {
    pub(crate) async fn shut_down(mut self) -> Result<(), BusError> {
        self.shutdown.cancel();
        in_time("a consumer to drain", &mut self.task)
            .await
            .unwrap()
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn consume<M, F, R>(
    bus: &Bus,
    spec: &ConsumerSpec,
    concurrency: usize,
    handle: F,
) -> Consuming
where
    M: events::envelope::Family + Clone + Send + Sync + 'static,
    F: Fn(Delivery<M>) -> R + Send + Sync + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    let shutdown = CancellationToken::new();
    let (bus, spec, token) = (bus.clone(), spec.clone(), shutdown.clone());
    let handler: Arc<dyn Handler<M>> = Arc::new(With(handle));
    Consuming {
        task: tokio::spawn(async move { bus.consume(&spec, concurrency, handler, token).await }),
        shutdown,
    }
}

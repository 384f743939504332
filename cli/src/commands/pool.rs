//! Whether anybody takes the backups of a pool.
//!
//! The bus knows: a worker that has a place free waits for a delivery, one that has none has deliveries in hand. What a
//! worker had in hand when it died counts for a while, too: so of a pool it may be said that it is served when it is not
//! any more, and never the other way round.

use std::time::Duration;

use events::slot::{self, BackupSlot};
use events::{BackupId, BranchName, Event, InstanceName, PoolName, subject, topology};

use crate::session::Session;

/// A worker asks for the next delivery at once, but not in the same moment.
const LOOKS: usize = 4;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Who takes the backups of a pool now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// A worker that has a place free.
    Free,
    /// Workers that all have something in hand.
    Busy,
    /// Nobody.
    Nobody,
}

/// Looks who serves the pool; a bus that does not answer says nothing.
pub(crate) async fn served(session: &Session, pool: Option<&PoolName>) -> Option<Served> {
    let jobs = pool.map_or_else(topology::backup_jobs, topology::backup_jobs_of);
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
        match session.bus.places(&jobs).await {
            Ok(places) if places.free > 0 && !places.at_limit => return Some(Served::Free),
            Ok(places) if places.free + places.in_hand > 0 => return Some(Served::Busy),
            Ok(_) => {}
            Err(_error) => return None,
        }
    }
    Some(Served::Nobody)
}

/// The pool by its name: one without is the default one.
pub(crate) fn called(pool: Option<&PoolName>) -> &str {
    pool.map_or(PoolName::DEFAULT, PoolName::as_str)
}

/// That nobody serves the pool, and what to do.
pub(crate) fn unserved(pool: Option<&PoolName>) -> String {
    let pool = called(pool);
    format!("no worker serves the pool {pool} now; {}", start(pool))
}

fn start(pool: &str) -> String {
    match pool {
        PoolName::DEFAULT => "start a backup worker".to_owned(),
        pool => format!("start one with ZEKTOR_WORKER_POOLS={pool} (docs/workers.md)"),
    }
}

/// What a backup waits for that no worker has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// For a worker.
    Worker {
        /// Of this pool.
        pool: Option<PoolName>,
        /// As far as the bus says.
        served: Option<Served>,
    },
    /// For the end of another backup of the branch.
    End {
        of: BackupId,
        /// The pool and who serves it, if that one waits for a worker.
        unbegun: Option<(Option<PoolName>, Option<Served>)>,
    },
}

impl Waits {
    /// The pool that nobody serves, if that is what keeps it waiting.
    pub(crate) fn for_nobody(&self) -> Option<Option<&PoolName>> {
        match self {
            Waits::Worker { pool, served }
            | Waits::End {
                unbegun: Some((pool, served)),
                ..
            } => (*served == Some(Served::Nobody)).then_some(pool.as_ref()),
            Waits::End { unbegun: None, .. } => None,
        }
    }

    /// For whoever waits with it.
    pub(crate) fn text(&self) -> String {
        match self {
            Waits::Worker { pool, served } => {
                format!("waiting for {}", worker(pool.as_ref(), *served))
            }
            Waits::End { of, unbegun: None } => format!("waiting for the end of backup {of}"),
            Waits::End {
                of,
                unbegun: Some((pool, served)),
            } => {
                let worker = worker(pool.as_ref(), *served);
                format!("waiting for the end of backup {of}, which waits for {worker}")
            }
        }
    }
}

fn worker(pool: Option<&PoolName>, served: Option<Served>) -> String {
    let pool = called(pool);
    let who = match served {
        Some(Served::Nobody) => format!("; none serves it now: {}", start(pool)),
        Some(Served::Busy) => "; all of them are busy".to_owned(),
        Some(Served::Free) | None => String::new(),
    };
    format!("a worker of the pool {pool}{who}")
}

/// What a backup waits for; nothing if a worker has begun it, or nobody knows.
pub(crate) async fn waits(
    session: &Session,
    (instance, branch): (&InstanceName, &BranchName),
    id: BackupId,
) -> Option<Waits> {
    let last = async |id| {
        let fence = subject::backup_fence(instance, branch, id);
        Some(session.bus.last_on(&fence).await.ok()??.envelope.message)
    };
    match last(id).await? {
        Event::BackupRequested(asked) => Some(Waits::Worker {
            served: served(session, asked.pool.as_ref()).await,
            pool: asked.pool,
        }),
        Event::BackupQueued(queued) => {
            // The one that it was queued behind may have ended, and another one have its turn.
            let key = slot::backup_slot(instance, branch);
            let taken = session.bus.bucket(topology::SLOTS).get(&key).await;
            let taken = taken.ok().flatten();
            let taken =
                taken.and_then(|(slot, _)| serde_json::from_slice::<BackupSlot>(&slot).ok());
            let of = taken.map(|slot| slot.backup_id).filter(|of| *of != id);
            let of = of.unwrap_or(queued.behind);
            let unbegun = match last(of).await {
                Some(Event::BackupRequested(asked)) => {
                    let served = served(session, asked.pool.as_ref()).await;
                    Some((asked.pool, served))
                }
                _ => None,
            };
            Some(Waits::End { of, unbegun })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use bus::{Bus, BusConfig, Delivery, Handler, Outcome, Outgoing};
    use events::{BackupId, Event, MessageId, PoolName, example, topology};
    use service::Environment;
    use testkit::nats::NatsServer;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::{Served, Waits, served, unserved};
    use crate::arguments::Global;
    use crate::output::OutputFormat;
    use crate::session::{Session, Setting};

    /// A worker that never ends what it was given.
    struct Works;

    #[async_trait]
    impl Handler<Event> for Works {
        async fn handle(&self, _delivery: &Delivery<Event>) -> Outcome {
            std::future::pending().await
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_serves_a_pool_is_known_from_the_bus() {
        let begun = std::time::Instant::now();
        let server = NatsServer::start().await.unwrap();
        let bus = Bus::connect(BusConfig::new(server.url(), "test"));
        let bus = bus.await.unwrap();
        bus.apply_topology().await.unwrap();
        let global = Global {
            output: OutputFormat::Table,
            nats: None,
            home: Some("/nowhere".into()),
            master_key_file: None,
            wait: true,
        };
        let session = Session {
            bus: bus.clone(),
            stack: None,
            setting: Setting::new(global, Environment::default()).unwrap(),
        };
        let eu = PoolName::new("eu").unwrap();
        let jobs = topology::backup_jobs_of(&eu);
        assert_eq!(served(&session, Some(&eu)).await, Some(Served::Nobody));
        assert_eq!(served(&session, None).await, Some(Served::Nobody));
        eprintln!("A {:?}", begun.elapsed());
        bus.apply_consumer(&jobs).await.unwrap();
        let of_type = |event: &Event| matches!(event, Event::BackupRequested(_));
        let Some(Event::BackupRequested(mut request)) = example::events().into_iter().find(of_type)
        else {
            panic!("there is an example of every type");
        };
        request.pool = Some(eu.clone());
        let event = Event::BackupRequested(request);
        let outgoing = Outgoing::new(event, MessageId::new("one"), example::at(0));
        let _sequence = bus.publish(outgoing).await.unwrap();
        assert_eq!(served(&session, Some(&eu)).await, Some(Served::Nobody));

        eprintln!("B {:?}", begun.elapsed());
        let worker = bus.clone();
        let works = tokio::spawn(async move {
            let shutdown = CancellationToken::new();
            worker.consume(&jobs, 1, Arc::new(Works), shutdown).await
        });
        testkit::wait_until(
            "it is busy",
            std::time::Duration::from_secs(20),
            async || served(&session, Some(&eu)).await == Some(Served::Busy),
        )
        .await
        .unwrap();
        assert_eq!(served(&session, None).await, Some(Served::Nobody));
        eprintln!("B {:?}", begun.elapsed());
        let worker = bus.clone();
        let free = tokio::spawn(async move {
            let jobs = topology::backup_jobs();
            let shutdown = CancellationToken::new();
            worker.consume(&jobs, 1, Arc::new(Works), shutdown).await
        });
        testkit::wait_until(
            "one is free",
            std::time::Duration::from_secs(20),
            async || served(&session, None).await == Some(Served::Free),
        )
        .await
        .unwrap();
        eprintln!("C {:?}", begun.elapsed());
        works.abort();
        free.abort();
    }

    #[test]
    fn who_is_missing_is_said_with_what_to_do() {
        let eu = PoolName::new("eu").ok();
        let worker = |pool: &Option<PoolName>, served| Waits::Worker {
            pool: pool.clone(),
            served,
        };
        let nobody = "a worker of the pool eu; none serves it now: start one with ZEKTOR_WORKER_POOLS=eu (docs/workers.md)";
        let alone = worker(&eu, Some(Served::Nobody));
        assert_eq!(alone.text(), format!("waiting for {nobody}"));
        assert_eq!(alone.for_nobody(), Some(eu.as_ref()));
        let busy = worker(&eu, Some(Served::Busy));
        assert_eq!(
            busy.text(),
            "waiting for a worker of the pool eu; all of them are busy"
        );
        assert_eq!(busy.for_nobody(), None);
        let of_default = worker(&None, Some(Served::Free));
        assert_eq!(
            of_default.text(),
            "waiting for a worker of the pool default"
        );
        let of = BackupId(Uuid::nil());
        let unbegun = Some((eu.clone(), Some(Served::Nobody)));
        let behind = Waits::End { of, unbegun };
        let end = format!("waiting for the end of backup {of}");
        assert_eq!(behind.text(), format!("{end}, which waits for {nobody}"));
        assert_eq!(behind.for_nobody(), Some(eu.as_ref()));
        let unbegun = None;
        assert_eq!(Waits::End { of, unbegun }.text(), end);
        let text = unserved(None);
        assert!(text.ends_with("start a backup worker"), "{text}");
    }
}

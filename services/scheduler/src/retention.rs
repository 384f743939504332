//! Retention, carried out: what crate `retention` decides is marked, and what was marked for the time of grace is swept.
//!
//! Every replica knows when each instance is due: once in each interval, at a moment that comes from the instance's
//! name, and a little after something happened that retention decides by. A key in the slots' bucket says up to when
//! rounds were taken, so that one of the replicas does each. That saves work and nothing else: two rounds at the same
//! time do no harm, because every step is conditional on what it was decided by.
//!
//! What must stay true:
//!
//! - Nothing is deleted but by a sweep that stands in the instance's document, of backups whose marks were read after it
//!   stood there, and while nothing reads the branch. The restorer acts as if what stands there were gone. A sweep that a
//!   worker was asked for is judged again in each round until it is over.
//! - A round of a branch costs one listing, unless something is due or has changed. Then manifests that this replica has
//!   read are not read again, because they never change; marks are.
//! - The rule of the newest backup does not depend on any clock. What is due must be so by this process's clock and by
//!   the object store's, and the time of grace begins by the later of them: one that is wrong takes nothing by itself.

mod explain;
mod hollow;
mod memory;
mod purge;
mod round;
mod stored;
mod sweeps;

#[cfg(test)]
pub(crate) use explain::answer;
pub(crate) use purge::nothing_reads;
pub(crate) use stored::clock::end_of_grace;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{BusError, CasError, From};
use chrono::TimeDelta;
use events::slot::retention_round;
use events::{InstanceName, Timestamp, subject, topology};
use futures::StreamExt as _;
use sha2::Digest as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commands::World;
use crate::retention::memory::Memory;

/// Instances looked at at once; each reads its branches one after another.
const ROUNDS_AT_ONCE: usize = 4;
/// How often it is looked which instances are due.
const LONGEST_TICK: Duration = Duration::from_secs(5);
/// After an event; several that come together make one round.
const LONGEST_SOON: Duration = Duration::from_secs(60);

/// One replica's rounds.
#[derive(Clone)]
pub(crate) struct Rounds {
    pub(crate) world: World,
    pub(crate) memory: Arc<Memory>,
}

/// Goes round until shutdown, and explains.
pub(crate) async fn run(world: &World, shutdown: CancellationToken) -> Result<(), BusError> {
    let rounds = Rounds {
        world: world.clone(),
        memory: Arc::default(),
    };
    let going = async {
        tokio::select! {
            () = rounds.go() => {}
            () = shutdown.cancelled() => {}
        }
        Ok(())
    };
    let ((), ()) = tokio::try_join!(going, explain::serve(world, shutdown.clone()))?;
    Ok(())
}

impl Rounds {
    async fn go(&self) {
        let mut changes = self.world.bus.instances().watch();
        let types = [
            "backup.completed",
            "backup.updated",
            "branch.swept",
            "branch.deleted",
            "restore.completed",
            "restore.failed",
            "drill.completed",
            "drill.failed",
        ];
        let filters = types.map(subject::events_of).to_vec();
        let follow = || {
            self.world
                .bus
                .follow(filters.clone(), From::New, topology::EVENTS)
        };
        let mut news = follow();
        let mut tick = tokio::time::interval(LONGEST_TICK.min(self.interval() / 8));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due: BTreeMap<InstanceName, Timestamp> = BTreeMap::new();
        let (running, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(ROUNDS_AT_ONCE)));
        loop {
            tokio::select! {
                Some(change) = changes.next() => match change.document {
                    Some(document) => {
                        let next = self.next(&change.instance);
                        let at = due.entry(change.instance).or_insert(next);
                        // Nothing is restored with what was withdrawn until that is over.
                        let withdrawn = document.sweeps.values().filter_map(|sweep| sweep.withdrawn_at);
                        for since in withdrawn {
                            *at = (since + sweeps::WITHDRAWN_FOR).min(*at);
                        }
                    }
                    None => {
                        let _ = due.remove(&change.instance);
                        self.memory.forget(&change.instance);
                    }
                },
                stored = news.next() => {
                    let stored = match stored {
                        Some(Ok(stored)) => stored,
                        Some(Err(_)) => continue,
                        // The stream was made anew.
                        None => {
                            news = follow();
                            continue;
                        }
                    };
                    let at = stored.time + delta(self.soon());
                    let address = stored.envelope.message.address();
                    let instance = address.first().and_then(|name| InstanceName::new(name.clone()).ok());
                    if let Some(next) = instance.and_then(|instance| due.get_mut(&instance)) {
                        *next = at.min(*next);
                    }
                }
                _ = tick.tick() => self.begin_due(&mut due, &running, &permits),
            }
        }
    }

    fn begin_due(
        &self,
        due: &mut BTreeMap<InstanceName, Timestamp>,
        running: &TaskTracker,
        permits: &Arc<Semaphore>,
    ) {
        let now = self.world.clock.now();
        for (instance, at) in due {
            // The clock may have been put back.
            if *at > now + delta(self.interval()) {
                *at = self.next(instance);
            }
            if *at > now {
                continue;
            }
            let (rounds, permits) = (self.clone(), Arc::clone(permits));
            let (name, due) = (instance.clone(), *at);
            *at = self.next(instance);
            drop(running.spawn(async move {
                let Ok(_permit) = permits.acquire_owned().await else {
                    return;
                };
                if rounds.claim(&name, due).await {
                    rounds.round(&name).await;
                }
            }));
        }
    }

    /// Whether this round is this replica's. When that cannot be known the next one will do.
    pub(crate) async fn claim(&self, instance: &InstanceName, due: Timestamp) -> bool {
        match self.try_claim(instance, due).await {
            Ok(ours) => ours,
            Err(CasError::Conflict { .. }) => false,
            Err(CasError::Bus(error)) => {
                tracing::warn!(%instance, error = &error as &dyn std::error::Error, "no round of retention");
                false
            }
        }
    }

    async fn try_claim(&self, instance: &InstanceName, due: Timestamp) -> Result<bool, CasError> {
        let (slots, key) = (
            self.world.bus.bucket(topology::SLOTS),
            retention_round(instance),
        );
        let (value, ttl) = (due.to_rfc3339().into_bytes(), self.interval() * 2);
        let taken = slots.get(&key).await.map_err(CasError::Bus)?;
        let Some((taken, revision)) = taken else {
            return slots.create_with_ttl(&key, value, ttl).await.map(|_| true);
        };
        let until = String::from_utf8(taken).ok();
        let until = until.and_then(|text| text.parse::<Timestamp>().ok());
        // A clock that was ahead must not end all rounds until then.
        let ahead = self.world.clock.now() + delta(self.interval());
        if until.is_some_and(|until| until >= due && until <= ahead) {
            return Ok(false);
        }
        slots.renew(&key, value, revision, ttl).await.map(|_| true)
    }

    /// The instance's next regular round: the same moment in every replica.
    fn next(&self, instance: &InstanceName) -> Timestamp {
        let now = self.world.clock.now();
        let interval = i64::try_from(self.interval().as_millis())
            .unwrap_or(i64::MAX)
            .max(1);
        let digest = sha2::Sha256::digest(instance.as_str().as_bytes());
        let spread = digest
            .iter()
            .take(8)
            .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        let spread = i64::try_from(spread >> 1).unwrap_or_default() % interval;
        let since = (now.timestamp_millis() - spread).rem_euclid(interval);
        now + TimeDelta::milliseconds(interval - since)
    }

    fn interval(&self) -> Duration {
        self.world
            .config
            .retention_interval
            .max(Duration::from_secs(1))
    }

    fn soon(&self) -> Duration {
        LONGEST_SOON.min(self.interval() / 8)
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

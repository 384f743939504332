//! Alerts: the rules of the crate `alerts`, fed with what is heard and with the time.
//!
//! Everything that is known of a branch is one value in the bucket [`topology::ALERTS`], changed by compare-and-set, with
//! what is still to be announced in it. So facts and alerts never disagree, any number of replicas may hear and look, and
//! one that dies between writing and publishing leaves its words behind for the next ([`store`]). An announcement goes
//! under the fence of its branch and rule, and its id comes from the state: it is said once, whoever says it.
//!
//! A branch is known by its instance's document alone: no event makes a state for a branch that is not protected, and
//! the round (each minute, [`round`]) closes those of branches that are gone.

mod heard;
mod lag;
mod promise;
mod round;
mod seed;
mod store;
#[cfg(test)]
mod tests;
mod wal;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ::alerts::Settings;
use async_trait::async_trait;
use bus::{Bus, BusError, Delivery, Handler, Outcome};
use chrono::TimeDelta;
use events::{Event, Timestamp, topology};
use repository::Repository;
use service::clock::Clock;
use tokio_util::sync::CancellationToken;

pub(crate) use store::alert_fence;
pub(crate) use wal::tell_wal;

use crate::commands::World;
use crate::refusal::{Unfinished, outcome_of};

/// Events taken at once by one replica.
const CONCURRENT_EVENTS: usize = 8;

/// What the rules need of the world.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) bus: Bus,
    pub(crate) repository: Repository,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    /// Archivers asked for their position in one round.
    pub(crate) lag_looks: usize,
    pub(crate) intervals: Intervals,
}

/// The longest pause between two fires, by expression, time zone and beginning.
pub(crate) type Intervals = Arc<Mutex<HashMap<(String, String, Timestamp), Option<TimeDelta>>>>;

/// Hears and looks until shutdown.
pub(crate) async fn run(watch: Watch, shutdown: CancellationToken) -> Result<(), BusError> {
    let bus = watch.bus.clone();
    let (events, wal) = (topology::alert_events(), topology::alert_wal_events());
    let ears = Arc::new(Ears {
        watch: watch.clone(),
    });
    let other_ears = Arc::<Ears>::clone(&ears);
    let ((), (), ()) = tokio::try_join!(
        bus.consume(&events, CONCURRENT_EVENTS, ears, shutdown.clone()),
        bus.consume(&wal, CONCURRENT_EVENTS, other_ears, shutdown.clone()),
        async {
            round::run(&watch, shutdown.clone()).await;
            Ok(())
        },
    )?;
    Ok(())
}

/// The consumer of facts.
pub(crate) struct Ears {
    pub(crate) watch: Watch,
}

#[async_trait]
impl Handler<Event> for Ears {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        match self.watch.hear(delivery).await {
            Ok(()) => Outcome::Done,
            Err(error) => outcome_of(&error, delivery.attempt),
        }
    }
}

impl Watch {
    pub(crate) fn of(world: &World) -> Self {
        let config = &world.config;
        let span = |time| TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
        Watch {
            bus: world.bus.clone(),
            repository: world.repository.clone(),
            clock: Arc::clone(&world.clock),
            settings: Settings {
                failures: config.alert_backup_failures,
                overdue: span(config.alert_backup_overdue),
                lag: span(config.alert_archive_lag),
                growth_factor: config.alert_growth_factor,
                growth_bytes: config.alert_growth_min_bytes,
                remind: (!config.alert_reminder.is_zero()).then(|| span(config.alert_reminder)),
            },
            lag_looks: config.alert_lag_looks,
            intervals: Intervals::default(),
        }
    }

    async fn hear(&self, delivery: &Delivery<Event>) -> Result<(), Unfinished> {
        match &delivery.envelope.message {
            Event::InstanceRemoved(removed) => self.close_gone(&removed.instance).await,
            Event::BranchDeleted(deleted) => self.close_gone(&deleted.instance).await,
            _ => match heard::of(delivery) {
                Some(heard) => self.take(heard).await,
                None => Ok(()),
            },
        }
    }
}

//! The scheduler: decides whether and when. Registers instances, checks commands against rules, claims names,
//! and turns due schedules into requested backups. Any number of replicas may run.

mod alerts;
mod commands;
mod config;
mod drills;
mod exhausted;
mod fires;
mod firing;
mod gaps;
mod metrics;
mod notify;
mod outcomes;
mod recall;
mod refusal;
mod restoring;
mod retention;
mod schedules;
mod slots;
mod source;
#[cfg(test)]
mod tests;
mod watchdog;

use std::process::ExitCode;
use std::sync::Arc;

use bus::{Bus, BusConfig};
use events::topology;
use repository::{Repository, RetryPolicy};
use service::{Context, MasterKey, ServiceInfo};

use crate::commands::{Commands, World};
use crate::config::SchedulerConfig;
use crate::gaps::Gaps;
use crate::outcomes::Outcomes;

/// Commands decided at once; a slow source must not hold up the others.
const CONCURRENT_COMMANDS: usize = 16;
/// Endings heard at once: a stampede of backups ends as it began.
const CONCURRENT_EVENTS: usize = 8;
/// Gaps looked at at once; one whose repository is slow must not hold up the others.
const CONCURRENT_GAPS: usize = 4;

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "scheduler",
        version: env!("CARGO_PKG_VERSION"),
        about: "Decides whether and when PostgreSQL is backed up and restored",
    };
    service::run(info, work)
}

async fn work(context: Context<SchedulerConfig>) -> anyhow::Result<()> {
    let common = &context.common;
    let channels = notify::Channel::configured(&context.config)?;
    let repository = Repository::open(&common.repository_url, RetryPolicy::default())?;
    let master_key = Arc::new(MasterKey::load(&common.master_key_file)?);
    let bus = Bus::connect(BusConfig::new(&common.nats_url, "zektor-scheduler")).await?;
    bus.apply_topology().await?;
    let checked = bus.clone();
    context.health.check("bus", move || {
        checked.state().map_err(|error| error.to_string())
    });

    let world = World {
        bus: bus.clone(),
        repository,
        master_key,
        clock: Arc::clone(&context.clock),
        config: Arc::new(context.config.clone()),
        slots: Arc::default(),
        looks: Arc::default(),
    };
    let watch = alerts::Watch::of(&world);
    let commands = Arc::new(Commands {
        world: world.clone(),
    });
    let outcomes = Arc::new(Outcomes {
        world: world.clone(),
    });
    let gaps = Arc::new(Gaps {
        world: world.clone(),
    });
    let (command_spec, event_spec) = (topology::scheduler_commands(), topology::scheduler_events());
    let gap_spec = topology::scheduler_gaps();
    let shutdown = &context.shutdown;
    let firing = tokio::spawn(firing::run(world.clone(), shutdown.clone()));
    let watchdog = tokio::spawn(watchdog::run(world.clone(), shutdown.clone()));
    let restoring = tokio::spawn(restoring::run(world.clone(), shutdown.clone()));
    let limits = tokio::spawn(slots::keep_limits(world.clone(), shutdown.clone()));
    let ((), (), (), (), (), (), (), (), ()) = tokio::try_join!(
        bus.consume(
            &command_spec,
            CONCURRENT_COMMANDS,
            commands,
            shutdown.clone()
        ),
        bus.consume(&event_spec, CONCURRENT_EVENTS, outcomes, shutdown.clone()),
        bus.consume(&gap_spec, CONCURRENT_GAPS, gaps, shutdown.clone()),
        schedules::serve(&world, shutdown.clone()),
        exhausted::run(&world, shutdown.clone()),
        retention::run(&world, shutdown.clone()),
        drills::run(&world, shutdown.clone()),
        alerts::run(watch, shutdown.clone()),
        notify::run(
            bus.clone(),
            Arc::clone(&world.clock),
            channels,
            shutdown.clone()
        ),
    )?;
    firing.await?;
    watchdog.await?;
    restoring.await?;
    limits.await?;
    Ok(())
}

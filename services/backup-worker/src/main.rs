//! The backup worker: takes requested base backups into the repository.

mod attempt;
mod config;
mod copy;
mod damage;
mod failure;
mod jobs;
mod metrics;
mod pulse;
mod rate;
mod sweep;
mod takeover;
mod tar_entries;
mod verify;
mod voice;
mod wal_wait;

use std::process::ExitCode;
use std::sync::Arc;

use bus::{Bus, BusConfig, BusError};
use events::{PoolName, topology};
use repository::{Repository, RetryPolicy};
use service::{Context, MasterKey, ServiceInfo};
use tokio_util::sync::CancellationToken;

use crate::attempt::World;
use crate::config::WorkerConfig;
use crate::jobs::Jobs;
use crate::rate::Rates;
use crate::sweep::Sweeps;
use crate::verify::Verifications;

/// Branches of which something is deleted at once; each deletes several objects side by side.
const SWEEPS_AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "backup-worker",
        version: env!("CARGO_PKG_VERSION"),
        about: "Takes base backups of PostgreSQL into the repository",
    };
    service::run(info, work)
}

async fn work(context: Context<WorkerConfig>) -> anyhow::Result<()> {
    let common = &context.common;
    let repository = Repository::open(&common.repository_url, RetryPolicy::default())?;
    let master_key = Arc::new(MasterKey::load(&common.master_key_file)?);
    let bus = Bus::connect(BusConfig::new(&common.nats_url, "zektor-backup-worker")).await?;
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
        worker: common.worker_name.clone(),
        config: context.config.clone(),
        rates: Rates::of(&context.config),
    };
    let verifications = Arc::new(Verifications {
        world: world.clone(),
    });
    let sweeps = Arc::new(Sweeps {
        bus: bus.clone(),
        repository: world.repository.clone(),
        clock: Arc::clone(&world.clock),
    });
    let jobs = Arc::new(Jobs { world });
    let shutdown = &context.shutdown;
    let pools = context.config.pools()?;
    let taking = pools
        .iter()
        .map(|pool| serve(&bus, pool, &context.config, &jobs, shutdown));
    let commands = topology::worker_commands();
    let sweep_spec = topology::sweep_jobs();
    let (_, (), ()) = tokio::try_join!(
        futures::future::try_join_all(taking),
        bus.consume(
            &commands,
            context.config.verify_concurrency.max(1),
            verifications,
            shutdown.clone()
        ),
        bus.consume(&sweep_spec, SWEEPS_AT_ONCE, sweeps, shutdown.clone()),
    )?;
    Ok(())
}

/// Takes the backups of one pool.
async fn serve(
    bus: &Bus,
    pool: &PoolName,
    config: &WorkerConfig,
    jobs: &Arc<Jobs>,
    shutdown: &CancellationToken,
) -> Result<(), BusError> {
    let spec = topology::backup_jobs_of(pool);
    let concurrency = config.backup_concurrency.max(1);
    let jobs = Arc::clone(jobs);
    bus.consume(&spec, concurrency, jobs, shutdown.clone())
        .await
}

//! The backup worker: takes requested base backups into the repository.

mod attempt;
mod config;
mod copy;
mod damage;
mod failure;
mod jobs;
mod takeover;
mod tar_entries;
mod voice;
mod wal_wait;

use std::process::ExitCode;
use std::sync::Arc;

use bus::{Bus, BusConfig};
use repository::{Repository, RetryPolicy};
use service::{Context, MasterKey, ServiceInfo};

use crate::attempt::World;
use crate::config::WorkerConfig;
use crate::jobs::Jobs;

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
    };
    let jobs = Arc::new(Jobs { world });
    let concurrency = context.config.backup_concurrency.max(1);
    let spec = events::topology::backup_jobs();
    bus.consume(&spec, concurrency, jobs, context.shutdown.clone())
        .await?;
    Ok(())
}

//! `zektor-wal-archiver`: see the library.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bus::{Bus, BusConfig};
use repository::{Repository, RetryPolicy};
use service::seal::MasterKey;
use service::{Context, ServiceInfo};
use wal_archiver::{Archiver, ArchiverConfig};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "wal-archiver",
        version: env!("CARGO_PKG_VERSION"),
        about: "Keeps the WAL of every branch in the repository, without a gap",
    };
    service::run(info, archive)
}

async fn archive(context: Context<ArchiverConfig>) -> anyhow::Result<()> {
    let common = &context.common;
    let repository = Repository::open(&common.repository_url, RetryPolicy::default())?;
    let master_key = MasterKey::load(&common.master_key_file)?;
    let spool_directory = context.config.spool_directory(&common.home);
    std::fs::create_dir_all(&spool_directory)
        .with_context(|| format!("the spool {} cannot be made", spool_directory.display()))?;
    // Not awaited: archiving begins with the bus down.
    let bus = Bus::connect_lazily(BusConfig::new(common.nats_url.clone(), "wal-archiver"));
    drop(tokio::spawn(apply_topology(bus.clone())));
    let seen = bus.clone();
    context.health.check("bus", move || {
        seen.state().map_err(|error| error.to_string())
    });
    wal_archiver::check_repository(&context.health, &repository, &context.shutdown);
    let archiver = Archiver {
        config: context.config.clone(),
        name: common.worker_name.clone(),
        spool_directory,
        bus,
        repository,
        master_key: Arc::new(master_key),
        clock: Arc::clone(&context.clock),
    };
    archiver.run(context.shutdown.clone()).await;
    Ok(())
}

/// Makes sure that there is a stream to announce in, whichever service comes first.
async fn apply_topology(bus: Bus) {
    const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
    while let Err(error) = bus.apply_topology().await {
        if !error.is_transient() {
            tracing::error!(%error, "the topology of the bus cannot be applied");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

//! `zektor-catalog`: projects every event into SQL, answers questions, rebuilds itself.
//!
//! Everything here may be thrown away: the streams and the repository make it again.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bus::{Bus, BusConfig};
use repository::{Repository, RetryPolicy};
use service::config::NoSettings;
use service::{Context, ServiceInfo};

use crate::projector::Projector;
use crate::store::Store;

mod answer;
mod metrics;
mod projection;
mod projector;
mod read_ahead;
mod rebuild;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod scenario;
mod store;

const INFO: ServiceInfo = ServiceInfo {
    name: "catalog",
    version: env!("CARGO_PKG_VERSION"),
    about: "Projects every event into SQL, answers questions, rebuilds itself",
};

/// Pause before the topology is applied again, while NATS is not there.
const TOPOLOGY_PAUSE: Duration = Duration::from_secs(1);
/// How often the database is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    service::run(INFO, work)
}

async fn work(context: Context<NoSettings>) -> anyhow::Result<()> {
    let store = Store::open(&context.common.catalog_url).await?;
    let repository = Repository::open(&context.common.repository_url, RetryPolicy::default())
        .context("the repository cannot be opened; check ZEKTOR_REPOSITORY_URL")?;
    let bus = Bus::connect_lazily(BusConfig::new(&context.common.nats_url, "zektor-catalog"));
    register_checks(&context, &bus, &store);
    if !apply_topology(&context, &bus).await? {
        return Ok(());
    }
    let shown = metrics::show(store.clone(), Arc::clone(&context.clock));
    drop(tokio::spawn(
        context.shutdown.clone().run_until_cancelled_owned(shown),
    ));
    let projector = Projector::new(store, bus, repository, Arc::clone(&context.clock));
    let answers = answer::serve(projector.clone(), context.shutdown.clone());
    let (answered, ()) = tokio::join!(answers, projector.run(context.shutdown.clone()));
    answered.context("questions are no longer answered")
}

fn register_checks(context: &Context<NoSettings>, bus: &Bus, store: &Store) {
    let bus = bus.clone();
    context.health.check("bus", move || {
        bus.state().map_err(|error| service::run::chain(&error))
    });
    let (store, shutdown) = (store.clone(), context.shutdown.clone());
    let (health, clock) = (context.health.clone(), Arc::clone(&context.clock));
    drop(tokio::spawn(shutdown.run_until_cancelled_owned(
        async move {
            loop {
                let answers = store
                    .ping()
                    .await
                    .map_err(|error| service::run::chain(&error));
                health.check("database", move || answers.clone());
                clock.sleep(PING_INTERVAL).await;
            }
        },
    )));
}

/// Waits for NATS; whether it came before the shutdown.
async fn apply_topology(context: &Context<NoSettings>, bus: &Bus) -> anyhow::Result<bool> {
    while !context.shutdown.is_cancelled() {
        match bus.apply_topology().await {
            Ok(()) => return Ok(true),
            Err(error) if error.is_transient() => {
                tracing::warn!(error = service::run::chain(&error), "waiting for nats");
            }
            Err(error) => return Err(error).context("the streams cannot be used"),
        }
        let pause = context.clock.sleep(TOPOLOGY_PAUSE);
        let _ = context.shutdown.run_until_cancelled(pause).await;
    }
    Ok(false)
}

//! The restorer's process.

use std::process::ExitCode;
use std::sync::Arc;

use bus::{Bus, BusConfig};
use repository::{Repository, RetryPolicy};
use restorer::compute::{Address, LocalCompute, compute_account, compute_directory};
use restorer::config::RestorerConfig;
use restorer::drill::Drills;
use restorer::handlers::{Jobs, Orders};
use restorer::questions;
use restorer::restorer::{Memory, Restorer};
use service::{Context, MasterKey, ServiceInfo};

/// Orders to stop and start branches that are carried out at the same time.
const ORDERS_AT_ONCE: usize = 4;

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "restorer",
        version: env!("CARGO_PKG_VERSION"),
        about: "Builds branches at a point in time and runs them",
    };
    service::run(info, work)
}

async fn work(context: Context<RestorerConfig>) -> anyhow::Result<()> {
    let (common, config) = (&context.common, &context.config);
    let account = compute_account(&config.compute_user)?;
    let directory = compute_directory(config.compute_dir.clone(), &common.home, account);
    tracing::info!(directory = %directory.display(), "branches are kept here");
    let address = Address {
        listen: config.compute_listen.clone(),
        advertise: config.compute_advertise.clone(),
    };
    let compute = LocalCompute::new(directory, account, config.bin_directories())
        .at(address)
        .with_drill_network(config.drill_network);
    let bus = Bus::connect(BusConfig::new(&common.nats_url, "zektor-restorer")).await?;
    bus.apply_topology().await?;
    let checked = bus.clone();
    context.health.check("bus", move || {
        checked.state().map_err(|error| error.to_string())
    });

    let restorer = Arc::new(Restorer {
        bus: bus.clone(),
        repository: Repository::open(&common.repository_url, RetryPolicy::default())?,
        compute: Arc::new(compute),
        key: Arc::new(MasterKey::load(&common.master_key_file)?),
        clock: Arc::clone(&context.clock),
        policy: config.policy(),
        name: common.worker_name.clone(),
        parallelism: config.restore_parallelism.max(1),
        drain: context.shutdown.clone(),
        memory: Memory::default(),
    });

    let holder = restorer.compute.holder()?;
    let here = events::subject::restorer_holder(&holder);
    let jobs = events::topology::restore_jobs();
    let deletions = events::topology::restorer_deletions();
    let orders = events::topology::restorer_commands();
    let concurrency = config.restore_concurrency.max(1);
    let (jobs_handler, orders_handler) = (
        Arc::new(Jobs(Arc::clone(&restorer))),
        Arc::new(Orders(Arc::clone(&restorer))),
    );
    let shutdown = &context.shutdown;
    let serving = async {
        let deletions_handler = Arc::clone(&jobs_handler);
        let present = move |_, ()| {
            let holder = holder.clone();
            async move { Ok(holder) }
        };
        let ((), (), (), (), ()) = tokio::try_join!(
            bus.serve::<(), String, _, _>(&here, "restorer", present, shutdown.clone()),
            bus.consume(&jobs, concurrency, jobs_handler, shutdown.clone()),
            bus.consume(
                &deletions,
                ORDERS_AT_ONCE,
                deletions_handler,
                shutdown.clone()
            ),
            bus.consume(&orders, ORDERS_AT_ONCE, orders_handler, shutdown.clone()),
            questions::serve(&restorer, shutdown),
        )?;
        anyhow::Ok(())
    };
    // Branches are brought back while others are already being built: each site has its lock.
    let bringing_back = async {
        tokio::select! {
            brought_back = restorer.reconcile() => brought_back?,
            () = shutdown.cancelled() => {}
        }
        anyhow::Ok(())
    };
    let drilling = async {
        let drills = Arc::new(Drills {
            restorer: Arc::clone(&restorer),
            rules: config.drill_rules(),
        });
        let removing = drills.remove_leftovers_until(shutdown);
        if config.drill_concurrency == 0 {
            removing.await;
            return anyhow::Ok(());
        }
        let spec = events::topology::drill_jobs();
        let handler = Arc::clone(&drills);
        let (consumed, ()) = tokio::join!(
            bus.consume(&spec, config.drill_concurrency, handler, shutdown.clone()),
            removing
        );
        anyhow::Ok(consumed?)
    };
    let ended = tokio::try_join!(serving, bringing_back, drilling);
    restorer.stop_servers(config.stop_branches_on_drain).await?;
    ended.map(drop)
}

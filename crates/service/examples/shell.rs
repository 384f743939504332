//! A service that does nothing but live: the process that the tests of the shell start and stop.

use std::process::ExitCode;
use std::time::Duration;

use service::{Context, ServiceInfo};

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Config {
    /// How long its drain takes.
    #[serde(with = "humantime_serde")]
    drain_for: Duration,
    /// Whether it fails at once.
    broken: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            drain_for: Duration::ZERO,
            broken: false,
        }
    }
}

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "shell",
        version: env!("CARGO_PKG_VERSION"),
        about: "Lives until it is told to end",
    };
    service::run(info, |context: Context<Config>| async move {
        if context.config.broken {
            return Err(std::io::Error::other("broken as configured"));
        }
        context.health.check("itself", || Ok(()));
        let meter = opentelemetry::global::meter("shell");
        meter.u64_counter("zektor.shell.lives").build().add(1, &[]);
        tracing::info_span!("live").in_scope(|| tracing::info!("alive"));
        context.shutdown.cancelled().await;
        context.clock.sleep(context.config.drain_for).await;
        Ok(())
    })
}

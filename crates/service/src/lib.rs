//! The shell of every binary: configuration, sealed secrets, clock, telemetry, health, signals, drain.
//!
//! A service's `main` is one call of [`run`]: it gets a [`Context`] with everything that comes from the
//! outside and returns when its [`Context::shutdown`] was cancelled and it has drained. What must stay
//! true: the environment is read here and nowhere else ([`config::Environment`]), the wall clock is read
//! here and nowhere else ([`clock::SystemClock`]), and a secret never reaches a log, an error text or
//! `--print-config`.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use service::{Context, ServiceInfo};
//!
//! #[derive(Clone, serde::Serialize, serde::Deserialize)]
//! struct Config {
//!     #[serde(with = "humantime_serde")]
//!     backup_poll_interval: std::time::Duration, // ZEKTOR_BACKUP_POLL_INTERVAL=5s
//! }
//!
//! impl Default for Config {
//!     fn default() -> Self {
//!         Config { backup_poll_interval: std::time::Duration::from_secs(5) }
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     let info = ServiceInfo { name: "example", version: "0.1.0", about: "shows how it is done" };
//!     service::run(info, |context: Context<Config>| async move {
//!         context.health.check("bus", || Ok(()));
//!         context.shutdown.cancelled().await;
//!         Ok::<(), std::io::Error>(())
//!     })
//! }
//! ```

pub mod clock;
pub mod config;
pub mod health;
pub mod run;
pub mod seal;
pub mod telemetry;

pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{CommonConfig, Environment};
pub use health::Health;
pub use run::{Context, ServiceInfo, run};
pub use seal::MasterKey;

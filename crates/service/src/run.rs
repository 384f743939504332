//! The life of a service process: arguments, configuration, telemetry, health, work, drain, exit.
//!
//! SIGTERM or SIGINT cancels [`Context::shutdown`]; the service then ends what it has in hand. A second
//! signal, or [`crate::CommonConfig::shutdown_timeout`], ends it anyway: every effect may be cut short and
//! happen again, so that is safe. Under a supervisor (`ZEKTOR_SUPERVISED=1`) the end of stdin means that the
//! supervisor died, and drains too. Telemetry is flushed last.
//!
//! Exit codes: 0 done, 1 failed or cut short, 2 wrong arguments or configuration.

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::{self, CommonConfig, Environment, Loaded, Settings};
use crate::health::Health;
use crate::telemetry::Telemetry;

mod stop;

use stop::Stops;

/// A failure of a service, as [`run`] logs it. Made from `anyhow::Error` and every error type.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Blocking work that does not end with the drain is left behind after this.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Who a service is.
#[derive(Clone, Copy, Debug)]
pub struct ServiceInfo {
    /// Its name: `scheduler`. The binary and the telemetry say `zektor-scheduler`.
    pub name: &'static str,
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// What it does, in one sentence, for `--help`.
    pub about: &'static str,
}

/// Everything a service gets from the outside.
#[derive(Clone)]
pub struct Context<C> {
    /// Who it is.
    pub info: ServiceInfo,
    /// What every service is told.
    pub common: CommonConfig,
    /// Its own settings.
    pub config: C,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where it registers its readiness checks.
    pub health: Health,
    /// Cancelled when it is to drain.
    pub shutdown: CancellationToken,
    /// Variables that belong to something it starts, such as the compute of a branch.
    pub environment: Environment,
}

#[derive(Parser)]
struct Arguments {
    /// Read settings from this TOML file, beneath the ZEKTOR_* variables
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the settings that are in force, secrets hidden, and end
    #[arg(long)]
    print_config: bool,
}

/// Runs a service until it has drained. This is all of a `main`.
pub fn run<C, W, F, E>(info: ServiceInfo, work: W) -> ExitCode
where
    C: Settings,
    W: FnOnce(Context<C>) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let arguments = match parse_arguments(info, std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(refused) => refused.exit(),
    };
    let environment = Environment::of_process();
    let loaded = match config::load::<C>(arguments.config.as_deref(), &environment) {
        Ok(loaded) => loaded,
        Err(error) => return complain(info, &error, 2),
    };
    if arguments.print_config {
        let shown = std::io::stdout().write_all(loaded.concealed().as_bytes());
        return ExitCode::from(u8::from(shown.is_err()));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return complain(info, &error, 1),
    };
    let code = runtime.block_on(Box::pin(live(info, loaded, environment, work)));
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    code
}

fn parse_arguments(
    info: ServiceInfo,
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<Arguments, clap::Error> {
    let binary = format!("zektor-{}", info.name);
    let matches = Arguments::command()
        .bin_name(binary.clone())
        .display_name(binary)
        .version(info.version)
        .about(info.about)
        .try_get_matches_from(arguments)?;
    Arguments::from_arg_matches(&matches)
}

/// Before there is telemetry, a sentence on stderr is all there is.
fn complain(info: ServiceInfo, error: &(dyn Error + 'static), code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "zektor-{}: {}", info.name, chain(error));
    ExitCode::from(code)
}

async fn live<C, W, F, E>(
    info: ServiceInfo,
    loaded: Loaded<C>,
    environment: Environment,
    work: W,
) -> ExitCode
where
    C: Settings,
    W: FnOnce(Context<C>) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let Loaded { common, own } = loaded;
    let telemetry =
        match Telemetry::start(info.name, info.version, &common.worker_name, &environment) {
            Ok(telemetry) => telemetry,
            Err(error) => return complain(info, &error, 2),
        };
    let context = Context {
        info,
        config: own,
        clock: Arc::new(SystemClock),
        health: Health::new(telemetry.registry()),
        shutdown: CancellationToken::new(),
        common,
        environment,
    };
    let outcome = serve(context, work).await;
    let code = match &outcome {
        Ok(()) => {
            tracing::info!("ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = chain(error.as_ref()), "ended by a failure");
            ExitCode::FAILURE
        }
    };
    telemetry.flush().await;
    code
}

async fn serve<C, W, F, E>(context: Context<C>, work: W) -> Result<(), BoxError>
where
    C: Settings,
    W: FnOnce(Context<C>) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let stops = Stops::listen(context.environment.get("ZEKTOR_SUPERVISED") == Some("1"))?;
    let port_file = context.environment.get("ZEKTOR_HTTP_PORT_FILE");
    let server = context
        .health
        .serve(
            context.common.http_listen,
            port_file.map(std::path::Path::new),
        )
        .await?;
    tracing::info!(
        service = context.info.name,
        version = context.info.version,
        worker = context.common.worker_name,
        http = %server.address(),
        "started"
    );
    let (health, shutdown) = (context.health.clone(), context.shutdown.clone());
    let drain = Drain {
        timeout: context.common.shutdown_timeout,
        begin: move || {
            health.drain();
            shutdown.cancel();
        },
    };
    drain.drive(Box::pin(work(context)), stops).await
}

/// How a service is brought to its end.
struct Drain<B> {
    timeout: Duration,
    begin: B,
}

impl<B: FnOnce()> Drain<B> {
    /// Polls the work until it ends, drains, or is cut short.
    async fn drive<E: Into<BoxError>>(
        self,
        mut work: Pin<Box<impl Future<Output = Result<(), E>>>>,
        mut stops: Stops,
    ) -> Result<(), BoxError> {
        let reason = tokio::select! {
            outcome = &mut work => return outcome.map_err(Into::into),
            reason = stops.first() => reason,
        };
        tracing::info!(reason, timeout = ?self.timeout, "draining");
        (self.begin)();
        tokio::select! {
            outcome = &mut work => outcome.map_err(Into::into),
            signal = stops.second() => Err(format!("cut short by a second {signal}").into()),
            () = tokio::time::sleep(self.timeout) => Err(format!(
                "the drain took longer than {:?} (ZEKTOR_SHUTDOWN_TIMEOUT) and was cut short",
                self.timeout
            )
            .into()),
        }
    }
}

/// An error and its sources, in one line. A source whose text its parent already ends with is not repeated.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        append(&mut text, source);
        next = source.source();
    }
    text
}

fn append(text: &mut String, source: &dyn Display) {
    let source = source.to_string();
    if !text.ends_with(&source) {
        text.push_str(": ");
        text.push_str(&source);
    }
}

#[cfg(test)]
mod tests;

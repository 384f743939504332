//! The `zektor` command, and the supervisor behind `zektor up`.
//!
//! What must stay true: stdout carries the answer and nothing else; every failure goes through the table in
//! [`failure`]; the environment is read by clap and [`service::Environment`] only.

mod arguments;
mod commands;
mod failure;
mod moment;
mod outcome;
mod output;
mod progress;
mod session;
mod stack;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use service::Environment;
use service::telemetry::Telemetry;

use crate::arguments::{Arguments, Command, is_wal_fetch, wants_json};
use crate::failure::{Ending, Failure};
use crate::output::{OutputFormat, Reply, conclude};
use crate::session::Setting;

/// Blocking work that is left behind at the end.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let fetching = is_wal_fetch(&words);
    if fetching {
        never_absent_by_panic();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refused) => return refuse(&refused, &words, fetching),
    };
    let output = match wants_json(&words) {
        true => OutputFormat::Json,
        false => arguments.global.output,
    };
    if let Some(later) = arguments.command.later() {
        return ExitCode::from(conclude(Err(Failure::not_yet(later)), output));
    }
    // Fails only when a provider is installed already, which is then as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::local("the runtime cannot be started", &error);
            return ExitCode::from(conclude(answer_of(fetching, Err(failure)), output));
        }
    };
    let outcome = runtime.block_on(Box::pin(run(arguments)));
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    ExitCode::from(conclude(answer_of(fetching, outcome), output))
}

/// What went wrong before or beside a fetch must not be taken for "there is no such file" either.
fn answer_of(fetching: bool, outcome: Result<Reply, Failure>) -> Result<Reply, Failure> {
    match fetching {
        true => commands::in_doubt(outcome),
        false => outcome,
    }
}

fn never_absent_by_panic() {
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        said(panic);
        std::process::exit(Ending::InDoubt as i32);
    }));
}

/// Help and version are answers; everything else is a usage error.
fn refuse(refused: &clap::Error, words: &[String], fetching: bool) -> ExitCode {
    if fetching && refused.exit_code() != 0 && refused.print().is_ok() {
        return ExitCode::from(Ending::InDoubt as u8);
    }
    let output = match wants_json(words) {
        true => OutputFormat::Json,
        false => OutputFormat::Table,
    };
    let command = command_of(words);
    let shows_help = refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if refused.exit_code() == 0 || (shows_help && output == OutputFormat::Table) {
        refused.exit();
    }
    let rendered = refused.render().to_string();
    let message = match shows_help || refused.kind() == ErrorKind::MissingSubcommand {
        true => format!("`{command}` is not a whole command"),
        false => one_line(&rendered),
    };
    let mut tips = rendered
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "));
    let hint = match tips.next() {
        Some(tip) => format!("{tip}; see `{command} --help`"),
        None => format!("see `{command} --help`"),
    };
    let failure = Failure::usage(message, hint);
    ExitCode::from(conclude(Err(failure), output))
}

/// The command that was meant, as far as its words are those of one.
fn command_of(words: &[String]) -> String {
    let mut command = Arguments::command();
    let mut known = vec![command.get_name().to_owned()];
    for word in words.iter().skip(1) {
        let Some(next) = command.find_subcommand(word).cloned() else {
            continue;
        };
        known.push(next.get_name().to_owned());
        command = next;
        if !command.has_subcommands() {
            break;
        }
    }
    known.join(" ")
}

/// What clap says in its first paragraph: the error, and below it the arguments it is about.
fn one_line(text: &str) -> String {
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let words: Vec<&str> = paragraph.flat_map(str::split_whitespace).collect();
    let message = words.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    message.to_owned()
}

async fn run(arguments: Arguments) -> Result<Reply, Failure> {
    let environment = Environment::of_process();
    let supervisor = matches!(&arguments.command, Command::Up(up) if up.foreground);
    let telemetry = start_telemetry(&environment, supervisor)?;
    let setting = Setting::new(arguments.global, environment)?;
    let outcome = Box::pin(commands::run(setting, arguments.command)).await;
    telemetry.flush().await;
    outcome
}

/// A command's trace begins here. It logs only if it is told to; the supervisor always does.
fn start_telemetry(environment: &Environment, supervisor: bool) -> Result<Telemetry, Failure> {
    const NAMES: [&str; 11] = [
        "ZEKTOR_LOG",
        "ZEKTOR_LOG_FORMAT",
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
        "OTEL_METRICS_EXPORTER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    ];
    let given = NAMES
        .iter()
        .filter_map(|name| Some((*name, environment.get(name)?)));
    let silent = (!supervisor).then_some(("ZEKTOR_LOG", "off"));
    let effective = Environment::of(silent.into_iter().chain(given));
    let name = if supervisor { "supervisor" } else { "cli" };
    let worker = format!("zektor-{}", std::process::id());
    Telemetry::start(name, env!("CARGO_PKG_VERSION"), &worker, &effective)
        .map_err(|error| Failure::usage(service::run::chain(&error), ""))
}

//! Zektor's own chores: `cargo xtask setup | test | check | schemas | demo`.
//!
//! What they print is for people: short lines, one for each thing done. The exit code is 0 only when
//! everything that was asked for was done and is right.

mod check;
mod demo;
mod orphans;
mod say;
mod schemas;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::say::complain;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Zektor's own chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs the servers that the demo and the tests need; finds them the next time.
    Setup,
    /// Sets up, builds, runs every test and every check.
    Test,
    /// Checks which crate uses which, file sizes and the generated schemas.
    Check {
        /// Also formatting, clippy and cargo-deny.
        #[arg(long)]
        lint: bool,
    },
    /// Writes the schemas, golden examples and the AsyncAPI document into `schemas/`.
    Schemas {
        /// Write nothing; fail when a file is not what the types say.
        #[arg(long)]
        check: bool,
    },
    /// Plays the main job on a real PostgreSQL.
    Demo(demo::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Setup => setup::run(),
        Chore::Test => test::run(),
        Chore::Check { lint } => check::run(lint),
        Chore::Schemas { check: true } => schemas::check(),
        Chore::Schemas { check: false } => schemas::write(),
        Chore::Demo(options) => demo::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

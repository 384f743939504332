//! Zektor's own chores: `cargo xtask setup | test | check | schemas | demo`.

mod say;
mod setup;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Zektor's own chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs the servers that the demo and the tests need.
    Setup,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Setup => setup::run(),
    }
}

//! The main job, played on a real PostgreSQL.

use anyhow::{Result, bail};
use clap::Args;

/// What may be said about the demo.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave everything running afterwards.
    #[arg(long)]
    keep: bool,
}

/// Not written yet.
pub(crate) fn run(Options { keep: _ }: Options) -> Result<()> {
    bail!("the demo comes with a later change")
}

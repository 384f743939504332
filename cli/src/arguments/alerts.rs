//! `zektor alert`: what needs somebody's attention.

use clap::{Args, Subcommand};
use events::InstanceName;

#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// List what needs attention, newest first
    List(AlertList),
    /// Send a test message through every configured channel
    Test,
}

#[derive(Debug, Args)]
pub(crate) struct AlertList {
    /// Of this instance only
    pub(crate) instance: Option<InstanceName>,
    /// What is over, too
    #[arg(long)]
    pub(crate) all: bool,
}

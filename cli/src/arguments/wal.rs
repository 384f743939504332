//! `zektor wal`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use events::{BranchName, InstanceName};

use super::OfBranch;

#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    /// Show how far the archive is, what is missing and what it takes
    Status(OfBranch),
    /// Store a WAL file: for archive_command, as in 'zektor wal push %p --instance shop'
    Push(WalPush),
    /// Write a WAL file out of the archive: for restore_command, as in 'zektor wal fetch %f %p --instance shop'
    Fetch(WalFetch),
}

/// Whose WAL it is.
#[derive(Clone, Debug, Args)]
pub(crate) struct ArchiveOf {
    /// The name it was registered under
    #[arg(long, env = "ZEKTOR_INSTANCE")]
    pub(crate) instance: InstanceName,
    #[arg(long, env = "ZEKTOR_BRANCH", default_value = "main")]
    pub(crate) branch: BranchName,
}

#[derive(Debug, Args)]
pub(crate) struct WalPush {
    /// The file, under the name that PostgreSQL gave it
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) of: ArchiveOf,
}

#[derive(Debug, Args)]
pub(crate) struct WalFetch {
    /// The file's name
    pub(crate) name: String,
    /// Where it is to be
    pub(crate) destination: PathBuf,
    #[command(flatten)]
    pub(crate) of: ArchiveOf,
    /// How long a store that does not answer is asked again, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(crate) patience: u64,
    /// Only whole segments: not what is stored of the open one, filled up with zeros
    #[arg(long)]
    pub(crate) complete: bool,
}

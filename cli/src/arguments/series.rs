//! `zektor series`: how backups and WAL have grown.

use clap::Args;
use events::{BranchName, InstanceName};

#[derive(Debug, Args)]
pub(crate) struct SeriesArguments {
    pub(crate) instance: InstanceName,
    #[arg(long, default_value = "main")]
    pub(crate) branch: BranchName,
    /// Only this [default: all of them]
    #[arg(long, value_enum)]
    pub(crate) metric: Option<Metric>,
    /// From this moment on, with its offset: 2026-03-01T00:00:00Z [default: thirty days before the end]
    #[arg(long, value_name = "RFC3339")]
    pub(crate) from: Option<String>,
    /// Up to this moment [default: now]
    #[arg(long, value_name = "RFC3339")]
    pub(crate) to: Option<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Metric {
    /// WAL that came, went and was stored, by day
    Wal,
    /// What each backup added to the repository
    BackupSize,
    /// How long each backup took
    BackupDuration,
}

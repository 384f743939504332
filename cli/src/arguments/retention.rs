//! `zektor retention explain`.

use clap::{Args, Subcommand};
use events::{BranchName, InstanceName, Timestamp};

use crate::failure::Failure;
use crate::moment;

#[derive(Debug, Subcommand)]
pub(crate) enum RetentionCommand {
    /// Say of each backup and each stretch of WAL why it stays, until when, what it costs, and what goes next
    Explain(RetentionExplain),
}

#[derive(Debug, Args)]
pub(crate) struct RetentionExplain {
    pub(crate) instance: InstanceName,
    /// As it will be then if no backup is added, in RFC 3339: 2026-03-01T14:30:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Only this branch
    #[arg(long)]
    pub(crate) branch: Option<BranchName>,
}

impl RetentionExplain {
    /// The moment that is asked for.
    pub(crate) fn moment(&self) -> Result<Option<Timestamp>, Failure> {
        self.at.as_deref().map(moment::parse).transpose()
    }
}

//! `zektor restore`: exactly one target.

use clap::Args;
use events::{BackupId, BranchName, ClusterSize, InstanceName, RestoreTarget};
use pg_format::Lsn;

use crate::failure::Failure;
use crate::moment;

#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    pub(crate) instance: InstanceName,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    /// The name of the new branch
    #[arg(
        long = "as",
        value_name = "BRANCH",
        required_unless_present = "dry_run"
    )]
    pub(crate) branch: Option<BranchName>,
    /// The branch whose past is restored; it is only read
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    pub(crate) from: BranchName,
    /// Compute tier of the new branch: dev, small, medium, large
    #[arg(long, default_value = "small")]
    pub(crate) size: ClusterSize,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TargetArguments {
    /// The end of this backup
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<BackupId>,
    /// The last transaction that ended not later than this, with its offset: 2026-03-01T14:30:00Z
    #[arg(long, value_name = "RFC3339")]
    pub(crate) time: Option<String>,
    /// Up to this WAL position
    #[arg(long)]
    pub(crate) lsn: Option<Lsn>,
    /// Up to the restore point of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) restore_point: Option<String>,
    /// Everything that is archived
    #[arg(long)]
    pub(crate) latest: bool,
}

impl TargetArguments {
    /// The one target that was given.
    pub(crate) fn target(&self) -> Result<RestoreTarget, Failure> {
        if let Some(id) = self.backup {
            return Ok(RestoreTarget::Backup { id });
        }
        if let Some(text) = &self.time {
            return Ok(RestoreTarget::Time {
                at: moment::parse(text)?,
            });
        }
        if let Some(lsn) = self.lsn {
            return Ok(RestoreTarget::Lsn { lsn });
        }
        match &self.restore_point {
            Some(name) if name.is_empty() || name.len() > 63 => Err(Failure::usage(
                "the name of a restore point has 1 to 63 bytes",
                "give the name that pg_create_restore_point was called with",
            )),
            Some(name) => Ok(RestoreTarget::RestorePoint { name: name.clone() }),
            None => Ok(RestoreTarget::Latest),
        }
    }
}

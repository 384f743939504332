//! `zektor restore`: exactly one target.

use crate::failure::Failure;
use crate::moment;
use clap::Args;
use events::{BackupId, BranchName, ClusterSize, InstanceName, RestoreTarget};

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
    /// Let the source's roles keep their passwords, so that applications can log in as they do there; without it
    /// nobody can but by the branch's own credentials
    #[arg(long)]
    pub(crate) keep_passwords: bool,
    /// With --backup: restore it even if it was found damaged and there is a sound one; the restore fails where it meets
    /// the damage
    #[arg(long, conflicts_with_all = ["time", "lsn", "xid", "restore_point", "latest"])]
    pub(crate) even_damaged: bool,
    /// Show what would be done, and change nothing; stop_lsn is where the last record to replay ends, as in a restore
    /// that has ended, and stop_record_lsn where it begins
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TargetArguments {
    /// The end of this backup: its id, the first characters of that (six or more), or its name
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<String>,
    /// The last transaction that ended not later than this, with its offset: 2026-03-01T14:30:00Z; or what
    /// `zektor moments` gave
    #[arg(long, value_name = "RFC3339")]
    pub(crate) time: Option<String>,
    /// Up to this WAL position, what begins there included; or what `zektor moments` gave
    #[arg(long)]
    pub(crate) lsn: Option<String>,
    /// Up to this transaction, its commit included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(3..))]
    pub(crate) xid: Option<u64>,
    /// Up to the restore point of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) restore_point: Option<String>,
    /// Everything that is archived
    #[arg(long)]
    pub(crate) latest: bool,
}

impl TargetArguments {
    /// What a backup is called that was given otherwise than by its whole id, and must be looked up.
    pub(crate) fn backup_called(&self) -> Option<&str> {
        let text = self.backup.as_deref()?.trim();
        text.parse::<BackupId>().is_err().then_some(text)
    }

    /// The one target that was given; a backup only by its whole id.
    pub(crate) fn target(&self) -> Result<RestoreTarget, Failure> {
        if let Some(text) = &self.backup {
            return match text.trim().parse() {
                Ok(id) => Ok(RestoreTarget::Backup {
                    id,
                    even_damaged: false,
                }),
                Err(_) => Err(Failure::usage(
                    format!("{text:?} is not the id of a backup"),
                    "give what `zektor backup list` shows",
                )),
            };
        }
        if let Some(text) = &self.time {
            return match text.trim().parse() {
                Ok(lsn) => Ok(RestoreTarget::Lsn { lsn }),
                Err(_) => Ok(RestoreTarget::Time {
                    at: moment::parse(text)?,
                }),
            };
        }
        if let Some(text) = &self.lsn {
            return position_or_moment(text);
        }
        if let Some(xid) = self.xid {
            // `pg_current_xact_id()` counts the epochs in the upper half; WAL has the lower one.
            let xid = u32::try_from(xid & u64::from(u32::MAX)).unwrap_or_default();
            return match xid {
                0..3 => Err(Failure::usage(
                    format!("{xid} is the id of no transaction"),
                    "give what pg_current_xact_id() or `zektor moments` gave",
                )),
                xid => Ok(RestoreTarget::Transaction { xid }),
            };
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

/// No text is both: a position has a slash, a moment has dashes.
fn position_or_moment(text: &str) -> Result<RestoreTarget, Failure> {
    if let Ok(lsn) = text.trim().parse() {
        return Ok(RestoreTarget::Lsn { lsn });
    }
    if text.contains('-') {
        let at = moment::parse(text)?;
        return Ok(RestoreTarget::Time { at });
    }
    Err(Failure::usage(
        format!("{text:?} is not a WAL position"),
        "write it like 16/B374D848",
    ))
}

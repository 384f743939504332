//! `zektor backup`: base backups.

use std::str::FromStr;

use clap::{Args, Subcommand};
use events::query::{BackupStatus, UnknownWord};
use events::{BackupType, BranchName, InstanceName, Retention, Trigger};

use super::WalOf;

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Take a backup now
    Create(BackupCreate),
    /// List backups, newest first
    List(BackupList),
    /// Show one backup
    Show(OfBackup),
    /// Read a backup whole and compare every byte with its digests
    Verify(OfBackup),
    /// Give a backup another name
    Rename(BackupRename),
    /// Keep a backup for another time
    Keep(BackupKeep),
    /// Keep a backup whatever its retention, until it is released
    Hold(BackupHold),
    /// Keep it no longer than its retention says
    Release(OfBackup),
    /// Delete a backup; for the time of grace it can be had back. One that waits or is being taken is cancelled
    Delete(OfBackup),
    /// Keep a backup that was to be deleted
    Undelete(BackupUndelete),
    /// Take a backup that failed once more
    Retry(OfBackup),
}

#[derive(Debug, Args)]
pub(crate) struct BackupCreate {
    pub(crate) instance: InstanceName,
    #[arg(long, default_value = "main")]
    pub(crate) branch: BranchName,
    /// A name for people [default: made from the time]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How it is taken
    #[arg(long = "type", value_enum, default_value = "auto")]
    pub(crate) backup_type: BackupKind,
    /// How long it is kept: 12h, 7d, 4w, 6mo, 1y [default: until it is deleted]
    #[arg(long)]
    pub(crate) retention: Option<Retention>,
    #[command(flatten)]
    pub(crate) wal: WalOf,
}

/// [`BackupType`] as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BackupKind {
    Auto,
    Full,
    Incremental,
}

impl From<BackupKind> for BackupType {
    fn from(kind: BackupKind) -> Self {
        match kind {
            BackupKind::Auto => BackupType::Auto,
            BackupKind::Full => BackupType::Full,
            BackupKind::Incremental => BackupType::Incremental,
        }
    }
}

/// [`Trigger`] as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AskedBy {
    Manual,
    Schedule,
}

impl From<AskedBy> for Trigger {
    fn from(by: AskedBy) -> Self {
        match by {
            AskedBy::Manual => Trigger::Manual,
            AskedBy::Schedule => Trigger::Schedule,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BackupList {
    pub(crate) instance: InstanceName,
    /// Only of this branch
    #[arg(long)]
    pub(crate) branch: Option<BranchName>,
    /// Only in this state: requested, in_progress, completed, failed, expired (marked to go, or gone), skipped; or those that are damaged
    #[arg(long)]
    pub(crate) status: Option<Listed>,
    /// Only of this schedule, by its name or id
    #[arg(long, value_name = "ID")]
    pub(crate) schedule: Option<String>,
    /// Only those that were asked for by hand, or by a schedule
    #[arg(long, value_enum)]
    pub(crate) trigger: Option<AskedBy>,
    /// Only asked for at or after this moment, with its offset: 2026-03-01T14:30:00Z
    #[arg(long, value_name = "RFC3339")]
    pub(crate) from: Option<String>,
    /// Only asked for before this moment
    #[arg(long, value_name = "RFC3339")]
    pub(crate) to: Option<String>,
    /// Only whose name contains this
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Those too that are gone, or were due and not taken
    #[arg(long)]
    pub(crate) all: bool,
    /// At most so many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// After so many
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) offset: u32,
}

/// The states that a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    In(BackupStatus),
    /// Stored, and not to be relied on.
    Damaged,
}

impl FromStr for Listed {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        match text {
            "damaged" => Ok(Listed::Damaged),
            text => text.parse().map(Listed::In).map_err(UnknownState),
        }
    }
}

/// Not a state of a backup.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}; or damaged")]
pub(crate) struct UnknownState(UnknownWord);

#[derive(Debug, Args)]
pub(crate) struct OfBackup {
    pub(crate) instance: InstanceName,
    /// Its id, the first characters of that (six or more), or its name
    #[arg(value_name = "ID")]
    pub(crate) backup: String,
}

#[derive(Debug, Args)]
pub(crate) struct BackupRename {
    #[command(flatten)]
    pub(crate) of: OfBackup,
    /// The new name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct BackupKeep {
    #[command(flatten)]
    pub(crate) of: OfBackup,
    #[command(flatten)]
    pub(crate) time: KeepTime,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct KeepTime {
    /// For so long, counted from the backup's end: 12h, 7d, 4w, 6mo, 1y
    #[arg(long)]
    pub(crate) retention: Option<Retention>,
    /// Until it is deleted by hand
    #[arg(long)]
    pub(crate) forever: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackupHold {
    #[command(flatten)]
    pub(crate) of: OfBackup,
    /// Why, for those who wonder later [default: the reason that it is held for already]
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupUndelete {
    #[command(flatten)]
    pub(crate) of: OfBackup,
    /// For so long, counted from now [default: as before, or until it is deleted if that time is over]
    #[arg(long)]
    pub(crate) retention: Option<Retention>,
}

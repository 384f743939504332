//! The command line. Commands of the contract that a later version brings are parsed, hidden and refused.

mod alerts;
mod backups;
mod drills;
mod moments;
mod retention;
mod schedules;
mod series;
mod targets;
mod wal;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use events::query::RebuildSource;
use events::{ArchiveMode, BranchName, DiskRiskPolicy, InstanceName, PoolName};

pub(crate) use alerts::{AlertCommand, AlertList};
pub(crate) use backups::{
    BackupCommand, BackupCreate, BackupHold, BackupKeep, BackupList, BackupRename, BackupUndelete,
    Listed, OfBackup,
};
pub(crate) use drills::{DrillCommand, DrillRun, DrillSchedule, OfDrill};
pub(crate) use moments::MomentsArguments;
pub(crate) use retention::{RetentionCommand, RetentionExplain};
pub(crate) use schedules::{
    OfSchedule, ScheduleCommand, ScheduleCreate, SchedulePreview, ScheduleUpdate, WalOf,
};
pub(crate) use series::{Metric, SeriesArguments};
pub(crate) use targets::RestoreArguments;
#[cfg(test)]
pub(crate) use wal::ArchiveOf;
pub(crate) use wal::{WalCommand, WalFetch, WalPush};

use crate::output::OutputFormat;

/// Protects PostgreSQL: base backups, WAL archiving, and restores of any moment into a new branch.
#[derive(Debug, Parser)]
#[command(name = "zektor", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// How the answer is written on stdout
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub(crate) output: OutputFormat,
    // Their variables are read by `Setting`: clap would have them in every usage line, as if they had to be given.
    /// The bus; without it, the stack of `zektor up` is used [env: ZEKTOR_NATS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// The directory of the stack of `zektor up` [default: ~/.zektor] [env: ZEKTOR_HOME]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// The key that secrets are sealed with; needed beside --nats for what has secrets in it [env:
    /// ZEKTOR_MASTER_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) master_key_file: Option<PathBuf>,
    /// Wait for the outcome and show the progress
    #[arg(long, global = true)]
    pub(crate) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the whole stack on this machine
    Up(Up),
    /// Stop the stack of this machine
    Down,
    /// Show what runs
    Status,
    /// Check everything that protection needs, one by one, and say what to do
    Doctor,
    /// Databases under protection
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// When backups are taken
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Base backups
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Find out what was dropped, emptied or changed on a large scale, when, and how to come out just before it
    Moments(MomentsArguments),
    /// Bring a moment back as a new branch
    Restore(RestoreArguments),
    /// Branches, and how to connect to them
    #[command(subcommand)]
    Branch(BranchCommand),
    /// Extensions of a restored branch
    #[command(subcommand)]
    Extensions(ExtensionsCommand),
    /// Show from when to when a branch can be restored
    Window(OfBranch),
    /// The WAL archive
    #[command(subcommand)]
    Wal(WalCommand),
    /// What needs somebody's attention
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Show how WAL, the size of backups and the time they take have grown, over two years at most
    Series(SeriesArguments),
    /// Print events, one JSON object a line
    Events(EventsArguments),
    /// The projection that lists and shows are answered from
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// What is kept, why, and until when
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Restores that are rehearsed: proof that the data comes back
    #[command(subcommand)]
    Drill(DrillCommand),
    #[command(hide = true)]
    Recover(Later),
}

/// Whatever follows a command that is not in this version.
#[derive(Debug, Args)]
pub(crate) struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where backups and WAL go: file:///dir, s3://bucket/prefix, gs://, az:// [default: DIR/repository]
    #[arg(
        long,
        value_name = "URL",
        env = "ZEKTOR_REPOSITORY_URL",
        hide_env_values = true
    )]
    pub(crate) repository: Option<String>,
    /// Where the catalog's rows are: sqlite:///file or postgres:// [default: DIR/catalog.sqlite]
    #[arg(
        long,
        value_name = "URL",
        env = "ZEKTOR_CATALOG_URL",
        hide_env_values = true
    )]
    pub(crate) catalog: Option<String>,
    /// How many backups are taken at once
    #[arg(
        long,
        value_name = "N",
        env = "ZEKTOR_BACKUP_WORKERS",
        default_value = "2"
    )]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) backup_workers: u8,
    /// Stay, log to stderr, and end on Ctrl-C
    #[arg(long)]
    pub(crate) foreground: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Protect a database
    Add(InstanceAdd),
    /// List the databases under protection
    List,
    /// Show one with its branches and schedules
    Show(OfInstance),
    /// Change what is wanted of one
    Update(InstanceUpdate),
    /// Stop protecting one; what is stored stays in the repository
    Remove(OfInstance),
}

#[derive(Debug, Args)]
pub(crate) struct InstanceAdd {
    /// Its name here
    pub(crate) name: InstanceName,
    /// postgres://user:password@host/ of a role with REPLICATION; `-` reads it from stdin
    #[arg(long, value_name = "URI", env = "ZEKTOR_DSN", hide_env_values = true)]
    pub(crate) dsn: String,
    /// Without the daily schedule that keeps backups for seven days
    #[arg(long)]
    pub(crate) no_default_schedule: bool,
    /// How its WAL comes here: streamed over a replication slot, or pushed by its archive_command
    #[arg(long, value_enum, default_value = "stream")]
    pub(crate) archive_mode: ArchiveBy,
    /// When WAL that is kept for the archive is about to fill its disk: keep it all the same, or let go of it
    /// with a recorded gap and a new backup
    #[arg(long, value_enum, default_value = "keep")]
    pub(crate) on_disk_risk: OnDiskRisk,
}

#[derive(Debug, Args)]
pub(crate) struct InstanceUpdate {
    pub(crate) instance: InstanceName,
    /// The workers that take its backups; `default` for those that serve everyone
    #[arg(long, required_unless_present = "dsn")]
    pub(crate) pool: Option<PoolName>,
    /// Where its server is now: another host, port, user, password or database of the same cluster; `-` reads it from
    /// stdin
    // Not from ZEKTOR_DSN: what is set for `instance add` is not to move an instance.
    #[arg(long, value_name = "URI")]
    pub(crate) dsn: Option<String>,
}

/// [`ArchiveMode`] as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArchiveBy {
    Stream,
    Command,
}

impl From<ArchiveBy> for ArchiveMode {
    fn from(by: ArchiveBy) -> Self {
        match by {
            ArchiveBy::Stream => ArchiveMode::Stream,
            ArchiveBy::Command => ArchiveMode::Command,
        }
    }
}

/// [`DiskRiskPolicy`] as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnDiskRisk {
    Keep,
    Release,
}

impl From<OnDiskRisk> for DiskRiskPolicy {
    fn from(answer: OnDiskRisk) -> Self {
        match answer {
            OnDiskRisk::Keep => DiskRiskPolicy::Keep,
            OnDiskRisk::Release => DiskRiskPolicy::Release,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct OfInstance {
    pub(crate) instance: InstanceName,
}

#[derive(Debug, Args)]
pub(crate) struct OfBranch {
    pub(crate) instance: InstanceName,
    #[arg(long, default_value = "main")]
    pub(crate) branch: BranchName,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BranchCommand {
    /// List an instance's branches
    List(OfInstance),
    /// Show one branch
    Show(NamedBranch),
    /// Print how to connect to a branch, with its password; of main, which is not zektor's, without
    Credentials(BranchCredentials),
    /// Stop a restored branch's server; its files stay
    Stop(NamedBranch),
    /// Start it again
    Start(NamedBranch),
    /// Remove a restored branch and its server; its backups stay until their retention ends
    Delete(BranchDelete),
}

#[derive(Debug, Args)]
pub(crate) struct BranchCredentials {
    #[command(flatten)]
    pub(crate) of: NamedBranch,
    /// The password of main's backup user, too
    #[arg(long)]
    pub(crate) show_password: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BranchDelete {
    #[command(flatten)]
    pub(crate) of: NamedBranch,
    /// Delete its backups and its WAL too, at once and for good: nothing of it can be restored then. Of a branch that was
    /// deleted before, delete what is stored of it, and free its name
    #[arg(long)]
    pub(crate) purge: bool,
    /// Purge without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NamedBranch {
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExtensionsCommand {
    /// Show which extensions a restored branch has, and whether their files are there
    Check(NamedBranch),
    /// Create those anew whose files are on this machine by now
    Reinstall(NamedBranch),
}

#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    /// What happens from now on, until Ctrl-C; without it, what has happened
    #[arg(long)]
    pub(crate) follow: bool,
    /// Only of this type, like backup.completed
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only of this instance
    #[arg(long)]
    pub(crate) instance: Option<InstanceName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Build the catalog's rows anew
    Rebuild(CatalogRebuild),
}

#[derive(Debug, Args)]
pub(crate) struct CatalogRebuild {
    /// What from: stream or repository
    #[arg(long)]
    pub(crate) from: RebuildSource,
}

impl Command {
    /// The words of a command that is not in this version.
    pub(crate) fn later(&self) -> Option<&'static str> {
        Some(match self {
            Command::Recover(_) => "recover",
            _ => return None,
        })
    }
}

/// Whether this is `wal fetch`, of which PostgreSQL reads the exit code, on a command line that could not be parsed.
pub(crate) fn is_wal_fetch(words: &[String]) -> bool {
    let at = |wanted: &str| words.iter().position(|word| word == wanted);
    at("wal")
        .zip(at("fetch"))
        .is_some_and(|(wal, fetch)| wal < fetch)
}

/// Whether JSON was asked for, on a command line that could not be parsed or was not parsed to its end.
pub(crate) fn wants_json(words: &[String]) -> bool {
    let pairs = words.iter().zip(words.iter().skip(1));
    words.iter().any(|word| word == "--output=json")
        || pairs
            .into_iter()
            .any(|(flag, value)| flag == "--output" && value == "json")
}

#[cfg(test)]
mod tests;

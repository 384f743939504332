//! What is asked for: the kind of a backup, the target of a restore, the size of a branch.

use pg_format::Lsn;

use crate::{BackupId, Retention, Timestamp};

/// How a base backup is taken. Every backup restores on its own, whatever its type.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BackupType {
    /// Incremental where that is possible, full elsewhere.
    #[default]
    Auto,
    /// Every block is read and stored.
    Full,
    /// Only changed blocks are stored.
    Incremental,
}

/// What made a backup happen.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person or a script asked.
    Manual,
    /// A schedule fired, or a new branch got its first backup.
    Schedule,
}

/// The moment a restore brings back.
#[derive(
    Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RestoreTarget {
    /// The end of this backup: the first moment at which it is consistent.
    Backup {
        /// The backup.
        id: BackupId,
        /// Even if it was found damaged and there is a sound one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        even_damaged: bool,
    },
    /// The last transaction that ended not later than this.
    Time {
        /// The moment, by the source server's clock.
        at: Timestamp,
    },
    /// Up to this position, the record that begins there included.
    Lsn {
        /// The position.
        lsn: Lsn,
    },
    /// The first restore point of this name (`pg_create_restore_point`).
    RestorePoint {
        /// Its name.
        name: String,
    },
    /// This transaction, its commit included.
    Transaction {
        /// Its id, as `pg_current_xact_id()` gives it less the epoch.
        xid: u32,
    },
    /// Everything that the archive has when the restore is planned.
    Latest,
}

/// How a branch's WAL comes into the repository.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveMode {
    /// The archiver streams it over a replication slot.
    #[default]
    Stream,
    /// The server pushes complete segments: `archive_command = 'zektor wal push ...'`. For servers that offer no
    /// replication slot.
    Command,
}

/// What is done when the WAL that the slot holds back threatens the source's disk.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DiskRiskPolicy {
    /// Warn and alert; the WAL is kept whatever happens.
    #[default]
    Keep,
    /// At the last moment the slot is released, with a recorded gap and a new base backup, rather than that the
    /// source's disk fills up and the database stops.
    Release,
}

/// How long WAL is kept because of a backup: from its start on, so that every later moment can be restored from it.
/// Afterwards only the WAL stays that makes the backup itself consistent.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case", tag = "keep", content = "retention")]
pub enum WalKeep {
    /// As long as the backup itself.
    #[default]
    AsLongAsBackup,
    /// For so long, counted from the backup's end; never longer than the backup.
    For(Retention),
    /// Not at all.
    Standalone,
}

impl WalKeep {
    /// Until when WAL is kept from the start of a backup on that ended at `end`; as long as the backup when absent.
    #[must_use]
    pub fn until(self, end: Timestamp) -> Option<Timestamp> {
        match self {
            WalKeep::AsLongAsBackup => None,
            WalKeep::For(retention) => Some(retention.expires_at(end)),
            WalKeep::Standalone => Some(end),
        }
    }
}

/// The compute tier of a branch; the restorer's configuration says what it means.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ClusterSize {
    /// To try something out.
    Dev,
    /// The default.
    #[default]
    Small,
    /// Twice as much.
    Medium,
    /// Twice as much again.
    Large,
}

impl std::str::FromStr for ClusterSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dev" => Ok(ClusterSize::Dev),
            "small" => Ok(ClusterSize::Small),
            "medium" => Ok(ClusterSize::Medium),
            "large" => Ok(ClusterSize::Large),
            _ => Err(format!(
                "{text:?} is not a cluster size; use dev, small, medium or large"
            )),
        }
    }
}

impl std::fmt::Display for ClusterSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ClusterSize::Dev => "dev",
            ClusterSize::Small => "small",
            ClusterSize::Medium => "medium",
            ClusterSize::Large => "large",
        })
    }
}

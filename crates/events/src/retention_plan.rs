//! The question to the scheduler "what stays, what goes, when, why, and what does it cost?", and its answer.
//!
//! Asked on [`crate::subject::scheduler_retention`].

use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::{BackupId, BranchName, InstanceName, Timestamp};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionQuestion {
    /// The instance.
    pub instance: InstanceName,
    /// As it will be then, if no backup is added; now when absent.
    #[serde(default)]
    pub at: Option<Timestamp>,
}

/// All of an instance, by branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetentionAnswer {
    /// The instance.
    pub instance: InstanceName,
    /// The moment that is looked at.
    pub at: Timestamp,
    /// Its branches, those that are gone but have something stored included.
    pub branches: Vec<BranchRetention>,
}

/// One branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BranchRetention {
    /// The branch.
    pub branch: BranchName,
    /// Whether it is there and archived.
    pub live: bool,
    /// The earliest moment that can be restored by what stays.
    pub earliest: Option<Timestamp>,
    /// Its backups, newest first.
    pub backups: Vec<BackupRetention>,
    /// Its WAL, oldest first.
    pub wal: Vec<WalRetention>,
    /// What backups left over that have no manifest.
    #[serde(default)]
    pub leftovers: Vec<LeftoverRetention>,
    /// Bytes stored that stay.
    pub kept_bytes: u64,
    /// Bytes stored that go at this moment or are about to.
    pub going_bytes: u64,
    /// Why nothing is deleted at the moment, if that is so.
    pub postponed: Option<String>,
}

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stays.
    Keep,
    /// It is marked, or about to be, and goes when the time of grace is over.
    Grace,
    /// It goes now.
    Delete,
    /// It would go now, but something is in the way.
    Postponed,
    /// It is gone by then.
    Gone,
}

/// Whether the WAL after a backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionClass {
    /// Every moment after it can be restored from it.
    Pitr,
    /// It alone can be restored.
    Standalone,
}

/// One backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupRetention {
    /// The backup.
    pub id: BackupId,
    /// Its name.
    pub name: String,
    /// Its end.
    pub backed_up_at: Timestamp,
    /// Its class at that moment.
    pub class: RetentionClass,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// Until when it stays as it is: its expiry, or the end of the time of grace; for ever when absent.
    pub until: Option<Timestamp>,
    /// Until when the WAL after it is kept because of it; as long as the backup when absent.
    pub wal_until: Option<Timestamp>,
    /// Bytes that it stores itself.
    pub size_bytes: u64,
    /// Bytes of WAL that would go with it, because only it needs them.
    pub wal_bytes: u64,
}

/// What is stored of a backup that has no manifest: nothing can be restored from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftoverRetention {
    /// The backup.
    pub id: BackupId,
    /// Bytes that it stores.
    pub bytes: u64,
    /// When the last of it was written.
    pub last_written: Timestamp,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, one sentence.
    pub reason: String,
    /// When it goes, if that is known.
    pub until: Option<Timestamp>,
}

/// One stretch of WAL with one fate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalRetention {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first segment's file name.
    pub first_segment: String,
    /// The last segment's file name.
    pub last_segment: String,
    /// The first byte.
    pub from_lsn: Lsn,
    /// The byte after the last.
    pub to_lsn: Lsn,
    /// How many segments.
    pub segments: u64,
    /// What they store.
    pub bytes: u64,
    /// What becomes of them.
    pub fate: Fate,
    /// Why, one sentence.
    pub reason: String,
    /// The backups that need them; the first ten.
    pub needed_by: Vec<BackupId>,
    /// Until when; for ever when absent.
    pub until: Option<Timestamp>,
}

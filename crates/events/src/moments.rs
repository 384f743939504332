//! The question "when exactly was it dropped?": the moment finder, and its answer.
//!
//! Asked on [`crate::subject::restorer_moments`], payload JSON; answered from the commit-time index in the repository.

use pg_format::Lsn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BranchName, InstanceName, Timestamp};

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MomentsQuestion {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// Nothing before this; the beginning of the archive when absent.
    pub from: Option<Timestamp>,
    /// Nothing after this; its end when absent.
    pub to: Option<Timestamp>,
    /// Only what took a table, its rows or a database away as a whole: drops, truncates, dropped databases; not the
    /// drop of an index alone.
    #[serde(default)]
    pub only_drops: bool,
    /// At most so many moments, the latest ones; the answerer's own limit when absent.
    pub limit: Option<u32>,
}

/// What a restorer says to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum MomentsAnswer {
    /// What was found.
    Found(Moments),
    /// The restorer could not find out, most likely because the object store cannot be reached.
    Unknown {
        /// One sentence.
        message: String,
        /// What can be done.
        hint: String,
    },
}

/// What happened in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Moments {
    /// The earliest first.
    pub moments: Vec<Moment>,
    /// Commits over time, the earliest first, without the empty ones.
    pub buckets: Vec<Bucket>,
    /// Seconds that a bucket is wide.
    pub bucket_seconds: u64,
    /// There were more than `limit` moments; the earlier ones are left out.
    #[serde(default)]
    pub truncated: bool,
    /// WAL whose content could not be looked at, in words; empty when all was.
    #[serde(default)]
    pub unread: Vec<String>,
}

/// A transaction that took something away, or changed much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Moment {
    /// The commit's time, by the source server's clock.
    pub at: Timestamp,
    /// Where the commit record begins.
    pub lsn: Lsn,
    /// The transaction.
    pub xid: u32,
    /// What it did.
    pub kind: MomentKind,
    /// The relation, `schema.table`, or the dropped database, or the restore point; absent when its name cannot be known.
    pub relation: Option<String>,
    /// The database it is or was in, or that was dropped; absent when its name cannot be known, and of restore points.
    #[serde(default)]
    pub database: Option<String>,
    /// What kind of relation that is; absent where it is none, or cannot be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<MomentObject>,
    /// Rows that were deleted or updated; absent where nothing counts them.
    pub rows: Option<u64>,
    /// What to give to `zektor restore` to come out just before that transaction: a time where the time rule leads
    /// exactly there, an LSN otherwise.
    pub restore_to: String,
    /// That moment as a position: the last transaction end before it, to be included.
    pub restore_lsn: Lsn,
    /// What is known beyond that, in words: the file numbers of a relation without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Moment {
    /// Whether a table, its rows or a database were taken away as a whole; an index takes no data with it.
    #[must_use]
    pub fn took_data(&self) -> bool {
        self.kind.is_drop() && self.object != Some(MomentObject::Index)
    }
}

/// What kind of relation a moment is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MomentObject {
    /// A table.
    Table,
    /// A materialized view.
    MaterializedView,
    /// An index.
    Index,
    /// A sequence.
    Sequence,
    /// Another kind, or from a newer version.
    #[serde(other)]
    Unknown,
}

/// What a transaction did.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MomentKind {
    /// A table, materialized view, index or sequence was dropped.
    Drop,
    /// A table was emptied by `TRUNCATE`.
    Truncate,
    /// A table was written anew: `VACUUM FULL`, `CLUSTER`, some `ALTER TABLE`s.
    Rewrite,
    /// A database was dropped.
    DropDatabase,
    /// Many rows of one table were deleted.
    Delete,
    /// Many rows of one table were updated.
    Update,
    /// A named restore point.
    RestorePoint,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

impl MomentKind {
    /// Whether a table, its rows or a database were taken away as a whole.
    #[must_use]
    pub fn is_drop(self) -> bool {
        matches!(self, Self::Drop | Self::Truncate | Self::DropDatabase)
    }
}

/// Commits in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bucket {
    /// When it begins.
    pub at: Timestamp,
    /// Commits in it.
    pub commits: u64,
}

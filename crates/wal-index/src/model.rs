//! What the index says of a segment, as plain values.
//!
//! A record belongs to the segment it *begins* in. All times are the source server's clock, taken before the record
//! was inserted: they do not rise strictly with the LSN.

use pg_format::wal::{
    Parameters, RecordContent, RelationFile, ResourceManager, TransactionEndKind, WalRecord,
};
use pg_format::{Lsn, PgTimestamp, SegmentNumber, TimelineId};

/// What the WAL of one segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Its number: the position divided by the segment size.
    pub segment: SegmentNumber,
    /// The first byte covered: the segment's, unless reading began within it.
    pub start: Lsn,
    /// The byte after the last one covered: the segment's end, or less of a segment that is not complete.
    pub end: Lsn,
    /// They tile the segment from `start` to `end`, in order.
    pub intervals: Vec<Interval>,
    /// What is worth an exact entry, in order.
    pub events: Vec<WalEvent>,
    /// What transactions in flight at `end` have done so far: what building of the next segment begins with.
    pub open: Vec<OpenTransaction>,
    /// Records that were to be looked into but were not understood: events may be missing. Ends of transactions are
    /// counted nevertheless.
    pub undecoded: u32,
}

/// A stretch of WAL between record borders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first byte.
    pub start: Lsn,
    /// The byte after the last one.
    pub end: Lsn,
    /// The transaction ends that begin in it; `None` if there is none.
    pub ends: Option<Ends>,
}

/// The transaction ends in an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// How many: commits and aborts, of prepared transactions too.
    pub count: u32,
    /// How many of them are commits.
    pub commits: u32,
    /// The earliest time of them.
    pub min_time: PgTimestamp,
    /// The latest time of them.
    pub max_time: PgTimestamp,
    /// The lowest xid of them; zero if one is not known.
    pub min_xid: u32,
    /// The highest xid of them; `u32::MAX` if one is not known.
    pub max_xid: u32,
    /// The last one in the WAL's order.
    pub last: TransactionEnd,
    /// The last one in the WAL's order that is a commit.
    pub last_commit: Option<Commit>,
}

/// A record that ends a transaction: what recovery compares with a time or xid target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Where it ends, alignment included.
    pub end: Lsn,
    /// Its time.
    pub time: PgTimestamp,
    /// The transaction, of a prepared one the xid it was prepared with; zero if not known.
    pub xid: u32,
    /// Committed, not rolled back.
    pub committed: bool,
}

/// A commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Its time.
    pub time: PgTimestamp,
    /// The transaction; zero if not known.
    pub xid: u32,
}

impl TransactionEnd {
    /// What a record ends, if it ends a transaction: what is to be read for [`Step::Read`](crate::Step::Read).
    #[must_use]
    pub fn of(record: &WalRecord<'_>) -> Option<Self> {
        if record.header.resource_manager != ResourceManager::TRANSACTION {
            return None;
        }
        match record.content() {
            Ok(content) => Self::of_content(record, &content),
            Err(_) => Self::of_undecoded(record),
        }
    }

    pub(crate) fn of_content(record: &WalRecord<'_>, content: &RecordContent<'_>) -> Option<Self> {
        let (time, xid, committed) = match content {
            RecordContent::Commit(commit) => (commit.time, commit.xid, true),
            RecordContent::Abort(abort) => (abort.time, abort.xid, false),
            _ => return None,
        };
        Some(TransactionEnd {
            lsn: record.start,
            end: record.end,
            time,
            xid: xid.unwrap_or(0),
            committed,
        })
    }

    /// Every transaction end begins with its time, whatever follows.
    pub(crate) fn of_undecoded(record: &WalRecord<'_>) -> Option<Self> {
        let found = record.transaction_end().ok().flatten()?;
        let (xid, committed) = match found.kind {
            TransactionEndKind::Commit => (record.header.xid, true),
            TransactionEndKind::Abort => (record.header.xid, false),
            // Whose it is stands in the part that is not understood.
            TransactionEndKind::CommitPrepared => (0, true),
            TransactionEndKind::AbortPrepared => (0, false),
        };
        Some(TransactionEnd {
            lsn: record.start,
            end: record.end,
            time: found.time,
            xid,
            committed,
        })
    }

    /// The commit, if it is one.
    #[must_use]
    pub fn commit(&self) -> Option<Commit> {
        self.committed.then_some(Commit {
            lsn: self.lsn,
            time: self.time,
            xid: self.xid,
        })
    }
}

/// Something with an exact entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// A committed transaction that changed files or many rows.
    Transaction(TransactionEvent),
    /// `pg_create_restore_point`
    RestorePoint {
        /// Where the record begins.
        lsn: Lsn,
        /// Where it ends.
        end: Lsn,
        /// The server's clock.
        time: PgTimestamp,
        /// Not unique; what is not UTF-8 in it is replaced.
        name: String,
    },
    /// Settings that a standby must match have changed.
    ParameterChange {
        /// Where the record begins.
        lsn: Lsn,
        /// The settings from here on.
        parameters: Parameters,
    },
    /// The server stopped, or recovered from a crash.
    ShutdownCheckpoint {
        /// Where the record begins.
        lsn: Lsn,
        /// When the checkpoint began, in whole seconds.
        time: PgTimestamp,
        /// The timeline.
        timeline: TimelineId,
        /// The timeline before, if one begins here; otherwise the same.
        previous_timeline: TimelineId,
    },
    /// Recovery ended without a checkpoint.
    EndOfRecovery {
        /// Where the record begins.
        lsn: Lsn,
        /// The server's clock.
        time: PgTimestamp,
        /// The timeline that begins.
        timeline: TimelineId,
        /// The timeline before.
        previous_timeline: TimelineId,
    },
}

impl WalEvent {
    /// Where its record begins.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        match self {
            WalEvent::Transaction(transaction) => transaction.commit.lsn,
            WalEvent::RestorePoint { lsn, .. }
            | WalEvent::ParameterChange { lsn, .. }
            | WalEvent::ShutdownCheckpoint { lsn, .. }
            | WalEvent::EndOfRecovery { lsn, .. } => *lsn,
        }
    }
}

/// A committed transaction that dropped or created files, dropped databases, or changed many rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionEvent {
    /// The commit record.
    pub commit: TransactionEnd,
    /// The last transaction end before it in the same interval; `None`: look at the intervals before.
    pub previous: Option<TransactionEnd>,
    /// The latest time of the transaction ends before it in the same interval.
    pub latest_before: Option<PgTimestamp>,
    /// Oid of the database, where the record says it.
    pub database: Option<u32>,
    /// Files that went away: of relations dropped, truncated or rewritten. Not those that the transaction itself had
    /// created.
    pub dropped: Vec<RelationFile>,
    /// How many more went away than are listed, as far as known.
    pub dropped_more: u32,
    /// Files of relations that it created and left.
    pub created: Vec<CreatedFile>,
    /// How many more it created than are listed.
    pub created_more: u32,
    /// Databases it dropped.
    pub dropped_databases: Vec<DroppedDatabase>,
    /// Tables (database, oid) of which the WAL says that they were truncated; only with `wal_level = logical`.
    pub truncated: Vec<(u32, u32)>,
    /// Rows of the tables with at least the threshold deleted or updated, by file.
    pub rows: Vec<RowCounts>,
}

/// A file that a transaction created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedFile {
    /// The file.
    pub file: RelationFile,
    /// Rows or whole pages were written to it before the transaction ended.
    pub filled: bool,
}

/// A database that a transaction dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedDatabase {
    /// Its oid.
    pub database: u32,
    /// Where the record begins whose replay removes its files, before the commit.
    pub lsn: Lsn,
}

/// How many rows of a table a transaction changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowCounts {
    /// The table's file.
    pub file: RelationFile,
    /// Rows deleted.
    pub deleted: u64,
    /// Rows updated, or moved to another partition.
    pub updated: u64,
}

/// What a transaction or subtransaction in flight has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Its own xid, not that of the top-level transaction.
    pub xid: u32,
    /// It is prepared, and survives the server's end.
    pub prepared: bool,
    /// Rows changed, by file, the lowest file first; as many tables as the builder's limit allows.
    pub rows: Vec<RowCounts>,
    /// Files of relations created, in the order of creation.
    pub created: Vec<CreatedFile>,
    /// How many more were created.
    pub created_more: u32,
    /// Databases dropped, in order.
    pub dropped_databases: Vec<DroppedDatabase>,
    /// As in [`TransactionEvent::truncated`].
    pub truncated: Vec<(u32, u32)>,
}

//! Ends of transactions with everything they carry, and prepared transactions (`xact.h`).
//!
//! Commit and abort records are a time, then parts that a word of flags announces, in a fixed
//! order. What a prepared transaction is called comes last, after the invalidation messages, of
//! which a record can have megabytes: when what is kept of the record ends before, it is unknown.

use super::fields::{Fields, Missing};
use super::{Numbers, RecordContent, RelationFiles, ServerText, Undecoded};
use crate::wal::{RecordBodyError, TransactionEndKind};
use crate::{Lsn, PgTimestamp};

/// A transaction that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionCommit<'a> {
    /// `Commit` or `CommitPrepared`.
    pub kind: TransactionEndKind,
    /// The top-level transaction; of a prepared one the xid it was prepared with. `None` if the
    /// record was cut before it, or has none.
    pub xid: Option<u32>,
    /// The server's clock.
    pub time: PgTimestamp,
    /// The database, where the record says it: with invalidations or `wal_level = logical`.
    pub database: Option<TransactionDatabase>,
    /// Subtransactions that are committed with it.
    pub subtransactions: Numbers<'a>,
    /// Files that go away with it: of relations dropped, truncated or rewritten.
    pub dropped_files: RelationFiles<'a>,
    /// How many entries of the statistics go away with it; from 15 on.
    pub dropped_statistics: u32,
    /// How many messages tell other sessions what to forget: nonzero if catalogs changed.
    pub invalidations: u32,
    /// What a prepared transaction is called; written with `wal_level = logical`.
    pub gid: Option<ServerText<'a>>,
    /// Where it was replicated from.
    pub origin: Option<TransactionOrigin>,
    /// The record's flags (`xinfo`).
    pub flags: u32,
    /// What is kept of the record ends before the last of the above: lists may be short, and what
    /// is `None` may exist.
    pub truncated: bool,
}

/// A transaction, or a subtransaction, that was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionAbort<'a> {
    /// `Abort` or `AbortPrepared`.
    pub kind: TransactionEndKind,
    /// The transaction; of a rollback to a savepoint the subtransaction, which the record does not
    /// tell apart. Of a prepared one the xid it was prepared with. `None` if the record was cut
    /// before it, or has none.
    pub xid: Option<u32>,
    /// The server's clock.
    pub time: PgTimestamp,
    /// The database, where the record says it.
    pub database: Option<TransactionDatabase>,
    /// Subtransactions that are rolled back with it.
    pub subtransactions: Numbers<'a>,
    /// Files that go away with it: of relations it had created.
    pub dropped_files: RelationFiles<'a>,
    /// How many entries of the statistics go away with it; from 15 on.
    pub dropped_statistics: u32,
    /// What a prepared transaction is called; written with `wal_level = logical`.
    pub gid: Option<ServerText<'a>>,
    /// Where it was replicated from.
    pub origin: Option<TransactionOrigin>,
    /// The record's flags (`xinfo`).
    pub flags: u32,
    /// As in [`TransactionCommit::truncated`].
    pub truncated: bool,
}

/// A transaction that was prepared, to be committed or rolled back by its gid later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreparedTransaction<'a> {
    /// The top-level transaction.
    pub xid: u32,
    /// Oid of the database.
    pub database: u32,
    /// The server's clock.
    pub prepared_at: PgTimestamp,
    /// Oid of the role.
    pub owner: u32,
    /// What it is called; `None` if the record was cut before it.
    pub gid: Option<ServerText<'a>>,
    /// Its subtransactions.
    pub subtransactions: Numbers<'a>,
    /// Files that will go away if it is committed.
    pub dropped_on_commit: RelationFiles<'a>,
    /// Files that will go away if it is rolled back.
    pub dropped_on_abort: RelationFiles<'a>,
    /// Where it was replicated from.
    pub origin: Option<TransactionOrigin>,
    /// What is kept of the record ends before the last of the above: lists may be short.
    pub truncated: bool,
}

/// The database a transaction ran in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionDatabase {
    /// Oid of the database.
    pub database: u32,
    /// Oid of its default tablespace.
    pub tablespace: u32,
}

/// Where a transaction was replicated from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionOrigin {
    /// The replication origin's number here.
    pub id: Option<u16>,
    /// The commit there.
    pub lsn: Lsn,
    /// Its time there.
    pub time: PgTimestamp,
}

/// Bits that name the operation (`XLOG_XACT_OPMASK`).
const OPERATION: u8 = 0x70;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
/// A word of flags follows the time (`XLOG_XACT_HAS_INFO`).
const HAS_FLAGS: u8 = 0x80;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_DROPPED_FILES: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_EXCLUSIVE_LOCKS: u32 = 1 << 6;
const HAS_GID: u32 = 1 << 7;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;
/// Apply feedback, relcache init file, forced sync.
const COMPLETION: u32 = 0b111 << 29;

/// Bytes of `SharedInvalidationMessage`.
const INVALIDATION_BYTES: u64 = 16;

/// The record is longer in 15 and later by two counts.
const PREPARE_MAGIC: u32 = 0x57F9_4534;

pub(super) fn transaction<'a>(
    record: &Undecoded<'_, 'a>,
) -> Result<RecordContent<'a>, RecordBodyError> {
    let kind = match record.operation(OPERATION) {
        COMMIT => TransactionEndKind::Commit,
        ABORT => TransactionEndKind::Abort,
        COMMIT_PREPARED => TransactionEndKind::CommitPrepared,
        ABORT_PREPARED => TransactionEndKind::AbortPrepared,
        PREPARE => return prepare(record),
        _ => return Ok(RecordContent::Other),
    };
    let mut parts = Parts::default();
    let mut fields = record.fields();
    let truncated = match parts.read(&mut fields, record) {
        Ok(()) => false,
        Err(Missing::NotKept) => true,
        Err(Missing::Wrong(error)) => return Err(error),
    };
    let time = parts.time.ok_or(RecordBodyError::NoTime)?;
    let prepared = matches!(
        kind,
        TransactionEndKind::CommitPrepared | TransactionEndKind::AbortPrepared
    );
    let xid = if prepared {
        parts.two_phase_xid
    } else {
        Some(record.header.xid)
    };
    let xid = xid.filter(|xid| *xid != 0);
    let Parts {
        database,
        subtransactions,
        dropped_files,
        dropped_statistics,
        invalidations,
        gid,
        origin,
        flags,
        ..
    } = parts;
    Ok(match kind {
        TransactionEndKind::Commit | TransactionEndKind::CommitPrepared => {
            RecordContent::Commit(TransactionCommit {
                kind,
                xid,
                time,
                database,
                subtransactions,
                dropped_files,
                dropped_statistics,
                invalidations,
                gid,
                origin,
                flags,
                truncated,
            })
        }
        TransactionEndKind::Abort | TransactionEndKind::AbortPrepared => {
            RecordContent::Abort(TransactionAbort {
                kind,
                xid,
                time,
                database,
                subtransactions,
                dropped_files,
                dropped_statistics,
                gid,
                origin,
                flags,
                truncated,
            })
        }
    })
}

/// The parts of a commit or abort record, as far as they are read.
#[derive(Default)]
struct Parts<'a> {
    time: Option<PgTimestamp>,
    flags: u32,
    database: Option<TransactionDatabase>,
    subtransactions: Numbers<'a>,
    dropped_files: RelationFiles<'a>,
    dropped_statistics: u32,
    invalidations: u32,
    two_phase_xid: Option<u32>,
    gid: Option<ServerText<'a>>,
    origin: Option<TransactionOrigin>,
}

impl<'a> Parts<'a> {
    fn read(&mut self, fields: &mut Fields<'a>, record: &Undecoded<'_, 'a>) -> Result<(), Missing> {
        self.time = Some(fields.time()?);
        if record.header.info & HAS_FLAGS == 0 {
            return fields.nothing_left().map_err(Missing::Wrong);
        }
        self.flags = fields.word()?;
        if self.flags & !known_flags(record.server_major) != 0 {
            let flags = self.flags;
            return Err(Missing::Wrong(RecordBodyError::TransactionFlags { flags }));
        }
        let has = |flag: u32| self.flags & flag != 0;
        if has(HAS_DATABASE) {
            self.database = Some(TransactionDatabase {
                database: fields.word()?,
                tablespace: fields.word()?,
            });
        }
        if has(HAS_SUBTRANSACTIONS) {
            let count = fields.count()?;
            fields.numbers(count, &mut self.subtransactions)?;
        }
        if has(HAS_DROPPED_FILES) {
            let count = fields.count()?;
            fields.relation_files(count, &mut self.dropped_files)?;
        }
        if has(HAS_DROPPED_STATISTICS) {
            self.dropped_statistics = fields.count()?;
            fields.skip(
                self.dropped_statistics,
                statistics_bytes(record.server_major),
            )?;
        }
        if has(HAS_INVALIDATIONS) {
            self.invalidations = fields.count()?;
            let passed = fields.skip(self.invalidations, INVALIDATION_BYTES);
            // Nothing is missed if they are the last part.
            if has(HAS_TWO_PHASE | HAS_ORIGIN) || !matches!(passed, Err(Missing::NotKept)) {
                passed?;
            }
        }
        if has(HAS_TWO_PHASE) {
            self.two_phase_xid = Some(fields.word()?);
            if has(HAS_GID) {
                self.gid = Some(fields.text()?);
            }
        }
        if has(HAS_ORIGIN) {
            self.origin = Some(origin(fields, record.body.origin)?);
        }
        fields.nothing_left().map_err(Missing::Wrong)
    }
}

fn origin(fields: &mut Fields<'_>, id: Option<u16>) -> Result<TransactionOrigin, Missing> {
    Ok(TransactionOrigin {
        id,
        lsn: fields.lsn()?,
        time: fields.time()?,
    })
}

fn known_flags(server_major: u32) -> u32 {
    let since_14 = HAS_DATABASE
        | HAS_SUBTRANSACTIONS
        | HAS_DROPPED_FILES
        | HAS_INVALIDATIONS
        | HAS_TWO_PHASE
        | HAS_ORIGIN
        | HAS_EXCLUSIVE_LOCKS
        | HAS_GID
        | COMPLETION;
    if server_major <= 14 {
        since_14
    } else {
        since_14 | HAS_DROPPED_STATISTICS
    }
}

/// Bytes of `xl_xact_stats_item`: 18 made the object's number 64 bits wide.
fn statistics_bytes(server_major: u32) -> u64 {
    if server_major < 18 { 12 } else { 16 }
}

/// `xl_xact_prepare`, which is the header of the state file too. What follows is aligned to eight
/// bytes from the beginning of the main data; after the lists come what other parts of the server
/// want to remember.
fn prepare<'a>(record: &Undecoded<'_, 'a>) -> Result<RecordContent<'a>, RecordBodyError> {
    let mut prepared = None;
    let mut fields = record.fields();
    match read_prepare(&mut fields, record, &mut prepared) {
        Ok(()) => {}
        Err(Missing::NotKept) => {
            if let Some(prepared) = &mut prepared {
                prepared.truncated = true;
            }
        }
        Err(Missing::Wrong(error)) => return Err(error),
    }
    prepared
        .map(RecordContent::Prepare)
        .ok_or(RecordBodyError::MainDataNotKept)
}

fn read_prepare<'a>(
    fields: &mut Fields<'a>,
    record: &Undecoded<'_, 'a>,
    result: &mut Option<PreparedTransaction<'a>>,
) -> Result<(), Missing> {
    let magic = fields.word()?;
    if magic != PREPARE_MAGIC {
        return Err(Missing::Wrong(RecordBodyError::PrepareMagic { magic }));
    }
    let _total_length = fields.word()?;
    let (xid, database) = (fields.word()?, fields.word()?);
    let (prepared_at, owner) = (fields.time()?, fields.word()?);
    let subtransactions = fields.count()?;
    let (on_commit, on_abort) = (fields.count()?, fields.count()?);
    if record.server_major >= 15 {
        let _statistics = (fields.count()?, fields.count()?);
    }
    let _invalidations = fields.count()?;
    let _init_file: [u8; 2] = fields.take()?;
    let gid_bytes = fields.half()?;
    let origin = origin(fields, record.body.origin)?;
    let prepared = result.insert(PreparedTransaction {
        xid,
        database,
        prepared_at,
        owner,
        gid: None,
        subtransactions: Numbers::default(),
        dropped_on_commit: RelationFiles::default(),
        dropped_on_abort: RelationFiles::default(),
        origin: origin.lsn.is_valid().then_some(origin),
        truncated: false,
    });
    prepared.gid = Some(fields.text_in(usize::from(gid_bytes))?);
    pad(fields, u64::from(gid_bytes))?;
    fields.numbers(subtransactions, &mut prepared.subtransactions)?;
    pad(fields, u64::from(subtransactions) * 4)?;
    fields.relation_files(on_commit, &mut prepared.dropped_on_commit)?;
    pad(fields, u64::from(on_commit) * 12)?;
    fields.relation_files(on_abort, &mut prepared.dropped_on_abort)
}

/// Passes what aligns the next part after one of `bytes` bytes.
fn pad(fields: &mut Fields<'_>, bytes: u64) -> Result<(), Missing> {
    fields.skip(1, bytes.next_multiple_of(8) - bytes)
}

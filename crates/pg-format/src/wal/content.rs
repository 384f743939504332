//! What records say: the decoding of those that matter to recovery targets and to the question
//! what happened when.
//!
//! Layouts follow `xact.h`, `pg_control.h`, `xlog_internal.h`, `heapam_xlog.h`, `storage_xlog.h`
//! and `dbcommands_xlog.h` of PostgreSQL 14 to 18. A record that is not understood to its last byte
//! is an error, never a guess. What is given is borrowed from the record: nothing is allocated, and
//! lists are as long as what the reader kept ([`WalReader`](super::WalReader) says how much).

mod fields;
mod heap;
#[cfg(test)]
mod tests;
mod xact;
mod xlog;

pub use fields::{Numbers, RelationFiles, ServerText};
pub use xact::{
    PreparedTransaction, TransactionAbort, TransactionCommit, TransactionDatabase,
    TransactionOrigin,
};
pub use xlog::{Checkpoint, CheckpointKind, Parameters, WalLevel};

use fields::{Fields, Missing};

use super::body::{RecordBody, RecordBodyError, RelationFile};
use super::record::{RecordHeader, ResourceManager, WalRecord};
use crate::{PgTimestamp, TimelineId};

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordContent<'a> {
    /// `COMMIT` or `COMMIT PREPARED`.
    Commit(TransactionCommit<'a>),
    /// `ROLLBACK` or `ROLLBACK PREPARED`, of a whole transaction or to a savepoint.
    Abort(TransactionAbort<'a>),
    /// `PREPARE TRANSACTION`.
    Prepare(PreparedTransaction<'a>),
    /// `pg_create_restore_point`.
    RestorePoint {
        /// The name, at most 63 bytes; not unique.
        name: ServerText<'a>,
        /// The server's clock.
        time: PgTimestamp,
    },
    /// A checkpoint, online or at shutdown.
    Checkpoint(Checkpoint),
    /// Recovery ended without a checkpoint, and a timeline may have begun.
    EndOfRecovery {
        /// The server's clock.
        time: PgTimestamp,
        /// The timeline that begins, or goes on after a crash.
        timeline: TimelineId,
        /// The timeline before; the same after a crash.
        previous_timeline: TimelineId,
    },
    /// Settings that a standby must match have changed.
    ParameterChange(Parameters),
    /// `DROP DATABASE`, or the end of a move to another tablespace.
    DropDatabase {
        /// Oid of the database.
        database: u32,
        /// Oids of the tablespaces it is removed from.
        tablespaces: Numbers<'a>,
    },
    /// A row was deleted.
    HeapDelete(RelationFile),
    /// A row was changed, or moved to another partition.
    HeapUpdate(RelationFile),
    /// One or several rows were inserted.
    HeapInsert(RelationFile),
    /// `TRUNCATE`, written for logical decoding only (`wal_level = logical`).
    HeapTruncate {
        /// Oid of the database.
        database: u32,
        /// Oids (not file numbers) of the tables.
        relations: Numbers<'a>,
    },
    /// A file of a relation was created; so was the relation, or it is rewritten.
    FileCreated {
        /// The file.
        file: RelationFile,
        /// The fork, numbered as in [`BlockRef`](super::BlockRef).
        fork: u8,
    },
    /// A relation was cut off at its end, by `VACUUM` or by `TRUNCATE` in the transaction that made
    /// the file.
    FileTruncated {
        /// The file.
        file: RelationFile,
        /// What is left of the main fork.
        blocks: u32,
    },
    /// Whole pages, to be seen through [`RecordBody::blocks`].
    FullPageImage,
    /// Anything else.
    Other,
}

impl<'a> WalRecord<'a> {
    /// What the record says; [`RecordContent::Other`] for the kinds nothing here needs.
    ///
    /// Fails only if a record with a right CRC does not have the layout of its version.
    pub fn content(&self) -> Result<RecordContent<'a>, RecordBodyError> {
        let parse = match self.header.resource_manager {
            ResourceManager::XLOG => xlog::xlog,
            ResourceManager::TRANSACTION => xact::transaction,
            ResourceManager::STORAGE => xlog::storage,
            ResourceManager::DATABASE => xlog::database,
            ResourceManager::HEAP => heap::heap,
            ResourceManager::HEAP2 => heap::heap2,
            _ => return Ok(RecordContent::Other),
        };
        let record = Undecoded {
            header: &self.header,
            body: self.body()?,
            server_major: self.server_major,
        };
        parse(&record)
    }
}

/// A record of which the headers are walked.
struct Undecoded<'r, 'a> {
    header: &'r RecordHeader,
    body: RecordBody<'a>,
    server_major: u32,
}

impl<'a> Undecoded<'_, 'a> {
    /// The resource manager's bits under a mask.
    fn operation(&self, mask: u8) -> u8 {
        self.header.info & mask
    }

    /// Reads all of the main data.
    fn read(
        &self,
        read: impl FnOnce(&mut Fields<'a>) -> Result<RecordContent<'a>, Missing>,
    ) -> Result<RecordContent<'a>, RecordBodyError> {
        self.read_start(|fields| {
            let content = read(fields)?;
            fields.nothing_left().map_err(Missing::Wrong)?;
            Ok(content)
        })
    }

    /// Reads the beginning of the main data; what follows does not matter.
    fn read_start(
        &self,
        read: impl FnOnce(&mut Fields<'a>) -> Result<RecordContent<'a>, Missing>,
    ) -> Result<RecordContent<'a>, RecordBodyError> {
        read(&mut self.fields()).map_err(|missing| match missing {
            Missing::NotKept => RecordBodyError::MainDataNotKept,
            Missing::Wrong(error) => error,
        })
    }

    fn fields(&self) -> Fields<'a> {
        Fields::new(self.body.main_data, self.body.main_data_length)
    }
}

//! WAL records: the fixed header, and the view of a validated record that visitors get.

use std::fmt;

use super::body::{RecordBody, RecordBodyError};
use super::xact::TransactionEnd;
use crate::Lsn;

/// Bytes of the fixed record header (`SizeOfXLogRecord`).
pub(super) const HEADER_BYTES: usize = 24;
/// Bytes of the header that the CRC covers, after the body: all but the CRC itself.
const CRC_OFFSET: usize = 20;
/// Records begin at multiples of this (`MAXALIGN`).
pub(super) const ALIGNMENT: u64 = 8;

/// The number of a resource manager: which part of the server wrote, and will replay, a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceManager(pub u8);

impl ResourceManager {
    /// Checkpoints, WAL switches, restore points and full-page images.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Ends of transactions.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
    /// Files of relations.
    pub const STORAGE: ResourceManager = ResourceManager(2);
    /// Creation and removal of databases.
    pub const DATABASE: ResourceManager = ResourceManager(4);
    /// The second half of the operations on tables.
    pub const HEAP2: ResourceManager = ResourceManager(9);
    /// Rows of tables.
    pub const HEAP: ResourceManager = ResourceManager(10);

    /// In the order of `src/include/access/rmgrlist.h`, the same from 14 to 18.
    const BUILT_IN: [&'static str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];
    /// From PostgreSQL 15, extensions take numbers from here on.
    const FIRST_CUSTOM: u8 = 128;

    /// The name as `pg_waldump` prints it; `None` if the number belongs to an extension or nobody.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::BUILT_IN.get(usize::from(self.0)).copied()
    }

    /// Whether a record may have this number (`RmgrIdIsValid`).
    pub(super) fn is_valid(self) -> bool {
        self.name().is_some() || self.0 >= Self::FIRST_CUSTOM
    }
}

impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}

/// The fixed part of a record (`XLogRecord`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length in bytes, this header included, page headers within not.
    pub length: u32,
    /// The transaction; zero if none.
    pub xid: u32,
    /// Where the record before begins.
    pub previous: Lsn,
    /// The high four bits belong to the resource manager.
    pub info: u8,
    /// Who wrote it.
    pub resource_manager: ResourceManager,
    /// CRC-32C over the body, then over the first 20 bytes of the header.
    pub crc: u32,
}

impl RecordHeader {
    const OPERATION: u8 = 0xF0;
    const XLOG_SWITCH: u8 = 0x40;
    const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;

    /// Reads the 24 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            previous @ ..,
            info,
            manager,
            _,
            _,
            i,
            j,
            k,
            l,
        ] = *bytes;
        RecordHeader {
            length: u32::from_le_bytes([a, b, c, d]),
            xid: u32::from_le_bytes([e, f, g, h]),
            previous: Lsn(u64::from_le_bytes(previous)),
            info,
            resource_manager: ResourceManager(manager),
            crc: u32::from_le_bytes([i, j, k, l]),
        }
    }

    /// The CRC of a record, from that of its body and the header's bytes.
    pub(super) fn finish_crc(body_crc: u32, header: &[u8; HEADER_BYTES]) -> u32 {
        crc32c::crc32c_append(body_crc, &header[..CRC_OFFSET])
    }

    /// The rest of the segment after this record is unused.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.is_xlog(Self::XLOG_SWITCH)
    }

    /// The record notes which one was lost in a crash.
    pub(super) fn is_overwrite(&self) -> bool {
        self.is_xlog(Self::XLOG_OVERWRITE_CONTRECORD)
    }

    /// The record tells of a whole transaction, in lists as long as what it did.
    pub(super) fn ends_or_prepares_transaction(&self) -> bool {
        self.resource_manager == ResourceManager::TRANSACTION && self.info & 0x70 <= 0x40
    }

    fn is_xlog(&self, operation: u8) -> bool {
        self.resource_manager == ResourceManager::XLOG && self.info & Self::OPERATION == operation
    }
}

/// A record whose CRC and links are proven, while the reader shows it.
#[derive(Clone, Copy, Debug)]
pub struct WalRecord<'a> {
    /// Where it begins.
    pub start: Lsn,
    /// Where the next one may begin, alignment included. For a WAL switch the end of the record
    /// itself, as `pg_switch_wal` returns it, not of the segment.
    pub end: Lsn,
    /// The fixed part.
    pub header: RecordHeader,
    pub(super) body: &'a [u8],
    pub(super) server_major: u32,
}

impl<'a> WalRecord<'a> {
    /// Walks the headers of the record's data.
    ///
    /// Of a long record only a prefix is in memory ([`WalReader`](super::WalReader) says how much):
    /// the block references are always there, the main data may be cut.
    pub fn body(&self) -> Result<RecordBody<'a>, RecordBodyError> {
        let length = self.header.length.saturating_sub(HEADER_BYTES as u32);
        RecordBody::parse(self.body, length, self.server_major)
    }

    /// When and how a transaction ended, if this record ends one.
    pub fn transaction_end(&self) -> Result<Option<TransactionEnd>, RecordBodyError> {
        let Some(kind) = TransactionEnd::kind_of(&self.header) else {
            return Ok(None);
        };
        TransactionEnd::parse(kind, self.body()?.main_data).map(Some)
    }

    /// The record in a few words, to keep.
    pub fn summary(&self) -> Result<RecordSummary, RecordBodyError> {
        Ok(RecordSummary {
            start: self.start,
            end: self.end,
            xid: self.header.xid,
            resource_manager: self.header.resource_manager,
            info: self.header.info,
            transaction_end: self.transaction_end()?,
        })
    }
}

/// What is worth keeping of any record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSummary {
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends; see [`WalRecord::end`].
    pub end: Lsn,
    /// The transaction; zero if none. The end of a prepared transaction has its xid in the main
    /// data, not here.
    pub xid: u32,
    /// Who wrote it.
    pub resource_manager: ResourceManager,
    /// The high four bits belong to the resource manager.
    pub info: u8,
    /// Set if the record ends a transaction.
    pub transaction_end: Option<TransactionEnd>,
}

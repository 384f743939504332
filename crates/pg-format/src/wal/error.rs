//! What can be wrong with WAL.

use crate::{Lsn, SystemIdentifier, TimelineId};

/// The bytes at a position are not the WAL they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("wal at {at}: {kind}")]
pub struct WalError {
    /// The page or record that is wrong.
    pub at: Lsn,
    /// What is wrong with it.
    #[source]
    pub kind: WalErrorKind,
}

/// What is wrong with a WAL page or record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalErrorKind {
    /// Zeros where a page or record should begin: the WAL was written up to here, no further.
    #[error("nothing was written here")]
    NotWritten,
    /// The page was not written by the expected major version, or is no WAL page.
    #[error(
        "page magic {found:#06X}{} is not that of PostgreSQL {expected_major}",
        writer(*found_major)
    )]
    Magic {
        /// The magic on the page.
        found: u16,
        /// The version that writes it, if known.
        found_major: Option<u32>,
        /// The version of the server this WAL should come from.
        expected_major: u32,
    },
    /// Flags that the version does not define, or a segment's first page without the long header.
    #[error("page has impossible flags {flags:#06x}")]
    PageFlags {
        /// The flags.
        flags: u16,
    },
    /// The page belongs to another position: a recycled segment, or a misplaced one.
    #[error("page says it belongs to {found}")]
    PageAddress {
        /// The position on the page.
        found: Lsn,
    },
    /// Another cluster's WAL.
    #[error("wal belongs to the cluster {found}, not to {expected}")]
    SystemIdentifier {
        /// The identifier on the page.
        found: SystemIdentifier,
        /// The cluster that was expected.
        expected: SystemIdentifier,
    },
    /// The segment was made for another segment size.
    #[error("segment size is {found} bytes, not {expected}")]
    SegmentSize {
        /// Bytes, on the page.
        found: u32,
        /// Bytes, expected.
        expected: u64,
    },
    /// The segment was made for another page size.
    #[error("wal block size is {found} bytes, not {expected}")]
    BlockSize {
        /// Bytes, on the page.
        found: u32,
        /// Bytes, expected.
        expected: u64,
    },
    /// The page was written on a timeline that, by the history, did not hold this position.
    #[error("page is of timeline {found}, but by its history timeline {expected} holds this place")]
    Timeline {
        /// The timeline on the page.
        found: TimelineId,
        /// The one the history names.
        expected: TimelineId,
    },
    /// A record goes on here, but the page says otherwise.
    #[error("page should go on with {expected} bytes of the record at {record}, but has {found}")]
    Continuation {
        /// Where the record begins; invalid if it began before reading did.
        record: Lsn,
        /// Bytes the record still needs.
        expected: u64,
        /// Bytes the page announces; zero if it announces none.
        found: u32,
    },
    /// The page goes on with a record although the one before ended.
    #[error("page goes on with {remaining} bytes of a record that nothing began")]
    UnexpectedContinuation {
        /// Bytes the page announces.
        remaining: u32,
    },
    /// A record cannot be that short or long.
    #[error("record length {length} is impossible")]
    RecordLength {
        /// Bytes.
        length: u32,
    },
    /// No such resource manager.
    #[error("resource manager {number} does not exist")]
    ResourceManager {
        /// The number.
        number: u8,
    },
    /// The record does not follow the one before it.
    #[error("record says it follows the one at {found}{}", after(*expected))]
    PreviousLink {
        /// The position in the record.
        found: Lsn,
        /// Where the record before really begins, if it was read.
        expected: Option<Lsn>,
    },
    /// The record's bytes are not those that were written.
    #[error("record has the checksum {computed:#010x}, but should have {stored:#010x}")]
    Crc {
        /// In the record.
        stored: u32,
        /// Of the record.
        computed: u32,
    },
    /// The record that explains a lost one names another.
    #[error("record voids the one at {found:?}, but the one lost is at {lost}")]
    Overwrite {
        /// What the record says.
        found: Option<Lsn>,
        /// What was lost.
        lost: Lsn,
    },
    /// After a WAL switch the rest of the segment is zero.
    #[error("something follows a wal switch in its segment")]
    AfterSwitch,
    /// An LSN has 64 bits.
    #[error("wal goes past the last position there is")]
    Overflow,
}

fn writer(major: Option<u32>) -> String {
    major.map_or_else(String::new, |major| format!(" (PostgreSQL {major})"))
}

fn after(expected: Option<Lsn>) -> String {
    expected.map_or_else(String::new, |lsn| format!(", but that is at {lsn}"))
}

//! What a stream of WAL is expected to be, and whether a page fits it.

use crate::wal::{WalBlockSize, WalErrorKind, WalPageHeader, major_version_of_magic, page_magic};
use crate::{Lsn, SystemIdentifier, TimelineHistory, WalSegmentSize};

/// Longest record that a server before 16 could read back (`MaxAllocSize`).
const MAX_RECORD_BYTES_BEFORE_16: u32 = 0x3FFF_FFFF;
/// Longest record from 16 on (`XLogRecordMaxSize`).
const MAX_RECORD_BYTES: u32 = 1020 << 20;

/// What the WAL must be like.
#[derive(Clone, Debug)]
pub struct WalReaderConfig {
    /// Where the first byte belongs: the start of a segment, or of any page.
    pub start: Lsn,
    /// The timeline that is read, and its ancestors, whose pages its first segment begins with.
    pub history: TimelineHistory,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The cluster's segment size.
    pub segment_size: WalSegmentSize,
    /// The cluster's WAL page size.
    pub block_size: WalBlockSize,
    /// The server's major version, 14 to 18.
    pub server_major: u32,
}

impl WalReaderConfig {
    pub(super) fn check(&self) -> Result<(), WalReaderConfigError> {
        if page_magic(self.server_major).is_none() {
            return Err(WalReaderConfigError::Version {
                major: self.server_major,
            });
        }
        if !self.start.0.is_multiple_of(self.block_size.bytes()) {
            return Err(WalReaderConfigError::Start { start: self.start });
        }
        Ok(())
    }

    /// Bytes in the longest record that the server could read back.
    pub(super) fn max_record_bytes(&self) -> u32 {
        if self.server_major < 16 {
            MAX_RECORD_BYTES_BEFORE_16
        } else {
            MAX_RECORD_BYTES
        }
    }

    /// Judges a page header that is not all zero.
    pub(super) fn check_page_header(
        &self,
        page: Lsn,
        header: &WalPageHeader,
    ) -> Result<(), WalErrorKind> {
        let (segment_size, block_size) = (self.segment_size, self.block_size);
        if Some(header.magic) != page_magic(self.server_major) {
            return Err(WalErrorKind::Magic {
                found: header.magic,
                found_major: major_version_of_magic(header.magic),
                expected_major: self.server_major,
            });
        }
        let begins_segment = segment_size.offset_in_segment(page) == 0;
        if header.unknown_flags() != 0 || (begins_segment && header.long.is_none()) {
            return Err(WalErrorKind::PageFlags {
                flags: header.flags,
            });
        }
        if let Some(long) = header.long {
            let (found, expected) = (long.system_identifier, self.system_identifier);
            if found != expected {
                return Err(WalErrorKind::SystemIdentifier { found, expected });
            }
            let (found, expected) = (long.segment_size, segment_size.bytes());
            if u64::from(found) != expected {
                return Err(WalErrorKind::SegmentSize { found, expected });
            }
            let (found, expected) = (long.block_size, block_size.bytes());
            if u64::from(found) != expected {
                return Err(WalErrorKind::BlockSize { found, expected });
            }
        }
        if header.address != page {
            return Err(WalErrorKind::PageAddress {
                found: header.address,
            });
        }
        // The page that a timeline begins in the middle of keeps the header of its ancestor.
        let (found, expected) = (header.timeline, self.history.timeline_at(page));
        if found != expected {
            return Err(WalErrorKind::Timeline { found, expected });
        }
        Ok(())
    }
}

/// A reader cannot be made like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalReaderConfigError {
    /// The version's formats are not known.
    #[error("wal of PostgreSQL {major} cannot be read; 14 to 18 can")]
    Version {
        /// The major version.
        major: u32,
    },
    /// Reading can only begin where a page does.
    #[error("reading wal cannot begin at {start}, which is not the start of a page")]
    Start {
        /// The position.
        start: Lsn,
    },
}

//! The fields of a record's main data, one after the other, and lists that stand in it.

use std::fmt;

use crate::wal::{RecordBodyError, RelationFile};
use crate::{Lsn, PgTimestamp};

/// Numbers that stand in a record one after the other: transaction ids or oids.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers<'a>(&'a [[u8; 4]]);

/// Files of relations that stand in a record one after the other.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RelationFiles<'a>(&'a [[u8; RelationFile::BYTES]]);

impl<'a> Numbers<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the record's order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + Clone + use<'a> {
        self.0.iter().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

impl<'a> RelationFiles<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the record's order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = RelationFile> + Clone + use<'a> {
        self.0.iter().map(RelationFile::parse)
    }
}

impl fmt::Debug for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for RelationFiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl RelationFile {
    /// Bytes of `RelFileLocator` (`RelFileNode` before 16).
    const BYTES: usize = 12;

    pub(super) fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        RelationFile {
            tablespace: u32::from_le_bytes([a, b, c, d]),
            database: u32::from_le_bytes([e, f, g, h]),
            number: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

/// A name in a record: bytes in an encoding of the server's, which the record does not tell.
///
/// PostgreSQL compares such names byte by byte. Displayed as UTF-8, with replacement characters
/// for what is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerText<'a>(&'a [u8]);

impl<'a> ServerText<'a> {
    /// The bytes before the first zero, or all.
    pub(super) fn until_zero(bytes: &'a [u8]) -> Self {
        let length = bytes.iter().position(|byte| *byte == 0);
        ServerText(
            bytes
                .get(..length.unwrap_or(bytes.len()))
                .unwrap_or_default(),
        )
    }

    /// The name as the server wrote it.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The name if it is UTF-8, which ASCII is.
    #[must_use]
    pub fn to_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

impl fmt::Display for ServerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0))
    }
}

impl fmt::Debug for ServerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Why the next field cannot be had.
pub(super) enum Missing {
    /// The record has it, but what is kept of the record ends before it.
    NotKept,
    /// The record does not hold what it must.
    Wrong(RecordBodyError),
}

/// Main data not yet read.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    /// Bytes of the main data that are not kept; they would follow `rest`.
    not_kept: u64,
}

impl<'a> Fields<'a> {
    /// `length` is that of the whole main data, `main_data` what is kept of it.
    pub(super) fn new(main_data: &'a [u8], length: u32) -> Self {
        Fields {
            rest: main_data,
            not_kept: u64::from(length).saturating_sub(main_data.len() as u64),
        }
    }

    /// The error for a field of `bytes` bytes that is not there.
    fn missing(&self, bytes: u64) -> Missing {
        if self.rest.len() as u64 + self.not_kept < bytes {
            Missing::Wrong(RecordBodyError::MainDataCut)
        } else {
            Missing::NotKept
        }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Missing> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            return Err(self.missing(N as u64));
        };
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Missing> {
        self.take().map(|[byte]| byte)
    }

    pub(super) fn half(&mut self) -> Result<u16, Missing> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn word(&mut self) -> Result<u32, Missing> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn integer(&mut self) -> Result<i32, Missing> {
        self.take().map(i32::from_le_bytes)
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, Missing> {
        self.take().map(|bytes| Lsn(u64::from_le_bytes(bytes)))
    }

    pub(super) fn time(&mut self) -> Result<PgTimestamp, Missing> {
        self.take()
            .map(|bytes| PgTimestamp(i64::from_le_bytes(bytes)))
    }

    pub(super) fn relation_file(&mut self) -> Result<RelationFile, Missing> {
        self.take().map(|bytes| RelationFile::parse(&bytes))
    }

    /// A count of items; the server stores counts as signed numbers.
    pub(super) fn count(&mut self) -> Result<u32, Missing> {
        let count = self.integer()?;
        u32::try_from(count).map_err(|_| Missing::Wrong(RecordBodyError::Count { count }))
    }

    /// Puts as many items as are kept into `list`, and fails if they are not all.
    fn items<const N: usize>(
        &mut self,
        count: u32,
        list: &mut &'a [[u8; N]],
    ) -> Result<(), Missing> {
        let needed = u64::from(count) * N as u64;
        let kept = usize::try_from(needed).unwrap_or(usize::MAX);
        if let Some((bytes, rest)) = self.rest.split_at_checked(kept) {
            *list = bytes.as_chunks().0;
            self.rest = rest;
            return Ok(());
        }
        let missing = self.missing(needed);
        if matches!(missing, Missing::NotKept) {
            *list = self.rest.as_chunks().0;
            self.rest = &[];
        }
        Err(missing)
    }

    pub(super) fn numbers(&mut self, count: u32, list: &mut Numbers<'a>) -> Result<(), Missing> {
        self.items(count, &mut list.0)
    }

    pub(super) fn relation_files(
        &mut self,
        count: u32,
        list: &mut RelationFiles<'a>,
    ) -> Result<(), Missing> {
        self.items(count, &mut list.0)
    }

    /// Passes `count` items of `item_bytes` each.
    pub(super) fn skip(&mut self, count: u32, item_bytes: u64) -> Result<(), Missing> {
        let bytes = u64::from(count) * item_bytes;
        let kept = usize::try_from(bytes).unwrap_or(usize::MAX);
        let Some(rest) = self.rest.get(kept..) else {
            let missing = self.missing(bytes);
            if matches!(missing, Missing::NotKept) {
                self.not_kept -= bytes - self.rest.len() as u64;
                self.rest = &[];
            }
            return Err(missing);
        };
        self.rest = rest;
        Ok(())
    }

    /// A text that a zero ends.
    pub(super) fn text(&mut self) -> Result<ServerText<'a>, Missing> {
        let Some(length) = self.rest.iter().position(|byte| *byte == 0) else {
            return Err(self.missing(self.rest.len() as u64 + 1));
        };
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(ServerText(text))
    }

    /// A text in a field of `bytes` bytes.
    pub(super) fn text_in(&mut self, bytes: usize) -> Result<ServerText<'a>, Missing> {
        let Some((field, rest)) = self.rest.split_at_checked(bytes) else {
            return Err(self.missing(bytes as u64));
        };
        self.rest = rest;
        Ok(ServerText::until_zero(field))
    }

    /// A record is understood only if it is understood to its last byte.
    pub(super) fn nothing_left(&self) -> Result<(), RecordBodyError> {
        match self.rest.len() as u64 + self.not_kept {
            0 => Ok(()),
            bytes => Err(RecordBodyError::MainDataLeftOver { bytes }),
        }
    }
}

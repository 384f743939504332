//! Page headers of WAL, and which server version writes which.

use crate::{Lsn, SystemIdentifier, TimelineId};

/// Bytes of the header that every page has.
pub(super) const SHORT_HEADER_BYTES: usize = 24;
/// Bytes of the header on the first page of a segment.
pub(super) const LONG_HEADER_BYTES: usize = 40;

/// Page magic of each supported major version (`XLOG_PAGE_MAGIC`).
const MAGIC_BY_MAJOR: [(u32, u16); 5] = [
    (14, 0xD10D),
    (15, 0xD110),
    (16, 0xD113),
    (17, 0xD116),
    (18, 0xD118),
];

/// The magic on every WAL page of a server of this major version; `None` if it is not supported.
#[must_use]
pub fn page_magic(major: u32) -> Option<u16> {
    MAGIC_BY_MAJOR
        .iter()
        .find(|(version, _)| *version == major)
        .map(|(_, magic)| *magic)
}

/// The major version that writes this magic; `None` if it is none of the supported ones.
#[must_use]
pub fn major_version_of_magic(magic: u16) -> Option<u32> {
    MAGIC_BY_MAJOR
        .iter()
        .find(|(_, known)| *known == magic)
        .map(|(version, _)| *version)
}

/// The size of a cluster's WAL pages in bytes (`SHOW wal_block_size`): a power of two from 1 to
/// 64 KiB, chosen when the server is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct WalBlockSize(u32);

/// The number is not a WAL block size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is not a WAL block size; expected a power of two from 1 to 64 KiB")]
pub struct InvalidWalBlockSize(u64);

impl WalBlockSize {
    /// 8 KiB, what every packaged server is built with.
    pub const DEFAULT: WalBlockSize = WalBlockSize(8192);

    /// Checks the size.
    pub fn new(bytes: u64) -> Result<Self, InvalidWalBlockSize> {
        u32::try_from(bytes)
            .ok()
            .filter(|size| size.is_power_of_two() && (1 << 10..=64 << 10).contains(size))
            .map(WalBlockSize)
            .ok_or(InvalidWalBlockSize(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }
}

impl<'de> serde::Deserialize<'de> for WalBlockSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = u64::deserialize(deserializer)?;
        WalBlockSize::new(bytes).map_err(serde::de::Error::custom)
    }
}

/// The header of a WAL page (`XLogPageHeaderData`), read without judging it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPageHeader {
    /// Tells the version of the server.
    pub magic: u16,
    /// Flag bits.
    pub flags: u16,
    /// The timeline the page was begun on.
    pub timeline: TimelineId,
    /// The position of the page's first byte.
    pub address: Lsn,
    /// Bytes still to come, on this page and later ones, of a record begun on an earlier page.
    pub remaining: u32,
    /// What the first page of a segment says besides.
    pub long: Option<LongPageHeader>,
}

/// The second part of the header on the first page of a segment (`XLogLongPageHeaderData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongPageHeader {
    /// The cluster the segment belongs to.
    pub system_identifier: SystemIdentifier,
    /// Segment size in bytes.
    pub segment_size: u32,
    /// Page size in bytes.
    pub block_size: u32,
}

impl WalPageHeader {
    const CONTINUES: u16 = 0x0001;
    const LONG: u16 = 0x0002;
    const OVERWRITES: u16 = 0x0008;
    const ALL_FLAGS: u16 = 0x000F;

    /// Reads a header; `None` if there are too few bytes for it (24, or 40 with the long form).
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let short: &[u8; SHORT_HEADER_BYTES] = bytes.first_chunk()?;
        let [a, b, c, d, e, f, g, h, address @ .., i, j, k, l, _, _, _, _] = *short;
        let flags = u16::from_le_bytes([c, d]);
        let long = if flags & Self::LONG == 0 {
            None
        } else {
            Some(LongPageHeader::parse(bytes.get(SHORT_HEADER_BYTES..)?)?)
        };
        Some(WalPageHeader {
            magic: u16::from_le_bytes([a, b]),
            flags,
            timeline: TimelineId(u32::from_le_bytes([e, f, g, h])),
            address: Lsn(u64::from_le_bytes(address)),
            remaining: u32::from_le_bytes([i, j, k, l]),
            long,
        })
    }

    /// How many bytes the header has that begins with these four or more.
    pub(super) fn bytes_needed(begin: &[u8]) -> usize {
        let flags = begin.get(2).map_or(0, |low| u16::from(*low));
        if flags & Self::LONG == 0 {
            SHORT_HEADER_BYTES
        } else {
            LONG_HEADER_BYTES
        }
    }

    /// The page begins with the rest of a record from the page before.
    #[must_use]
    pub fn continues_record(&self) -> bool {
        self.flags & Self::CONTINUES != 0
    }

    /// The page replaces the rest of a record that was lost in a crash; that record is void.
    #[must_use]
    pub fn overwrites_record(&self) -> bool {
        self.flags & Self::OVERWRITES != 0
    }

    /// Flag bits that no supported version defines.
    #[must_use]
    pub fn unknown_flags(&self) -> u16 {
        self.flags & !Self::ALL_FLAGS
    }
}

impl LongPageHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LONG_HEADER_BYTES - SHORT_HEADER_BYTES] = bytes.first_chunk()?;
        let [identifier @ .., a, b, c, d, e, f, g, h] = *bytes;
        Some(LongPageHeader {
            system_identifier: SystemIdentifier(u64::from_le_bytes(identifier)),
            segment_size: u32::from_le_bytes([a, b, c, d]),
            block_size: u32::from_le_bytes([e, f, g, h]),
        })
    }
}

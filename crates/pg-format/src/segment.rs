//! WAL segments: fixed-size files of WAL, named by timeline and number.
//!
//! The arithmetic follows `src/include/access/xlog_internal.h` and holds for every segment size
//! PostgreSQL allows, 1 MiB to 1 GiB.

use std::fmt;

use crate::{Lsn, TimelineId};

/// The size of a cluster's WAL segments in bytes: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct WalSegmentSize(u32);

/// The number is not a WAL segment size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is not a WAL segment size; expected a power of two from 1 MiB to 1 GiB")]
pub struct InvalidSegmentSize(u64);

/// The position of a segment in the WAL: LSN divided by the segment size.
pub type SegmentNumber = u64;

impl WalSegmentSize {
    /// 16 MiB, what `initdb` chooses unless told otherwise.
    pub const DEFAULT: WalSegmentSize = WalSegmentSize(16 << 20);

    /// Checks the size; `bytes` as in `SHOW wal_segment_size`.
    pub fn new(bytes: u64) -> Result<Self, InvalidSegmentSize> {
        u32::try_from(bytes)
            .ok()
            .filter(|size| size.is_power_of_two() && (1 << 20..=1 << 30).contains(size))
            .map(WalSegmentSize)
            .ok_or(InvalidSegmentSize(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The segment that holds the byte at `lsn` (`XLByteToSeg`).
    #[must_use]
    pub fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        lsn.0 / self.bytes()
    }

    /// The segment that holds the byte *before* `lsn` (`XLByteToPrevSeg`): where WAL that ends at
    /// `lsn` ends.
    #[must_use]
    pub fn segment_ending_at(self, lsn: Lsn) -> SegmentNumber {
        lsn.0.saturating_sub(1) / self.bytes()
    }

    /// First byte of segment `number`, saturating.
    #[must_use]
    pub fn start_of(self, number: SegmentNumber) -> Lsn {
        Lsn(number.saturating_mul(self.bytes()))
    }

    /// Where the segment that holds `lsn` begins.
    #[must_use]
    pub fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - lsn.0 % self.bytes())
    }

    /// The byte offset of `lsn` in its segment.
    #[must_use]
    pub fn offset_in_segment(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }

    /// Segments in each 4 GiB of WAL: the second half of a file name counts up to this.
    fn segments_per_id(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl<'de> serde::Deserialize<'de> for WalSegmentSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = u64::deserialize(deserializer)?;
        WalSegmentSize::new(bytes).map_err(serde::de::Error::custom)
    }
}

/// The file name of a segment, `000000010000001600000036`: timeline, then number.
///
/// The number can only be read from a name together with the segment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline the WAL was written on.
    pub timeline: TimelineId,
    high: u32,
    low: u32,
}

impl SegmentName {
    /// The name of segment `number` on `timeline` (`XLogFileName`).
    #[must_use]
    pub fn new(timeline: TimelineId, number: SegmentNumber, size: WalSegmentSize) -> Self {
        let per_id = size.segments_per_id();
        // Truncation cannot happen: an LSN has 64 bits, so number / per_id fits in 32.
        let high = u32::try_from(number / per_id).unwrap_or(u32::MAX);
        let low = u32::try_from(number % per_id).unwrap_or(u32::MAX);
        SegmentName {
            timeline,
            high,
            low,
        }
    }

    /// The segment that holds the byte at `lsn`.
    #[must_use]
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Self {
        Self::new(timeline, size.segment_of(lsn), size)
    }

    /// Parses 24 hexadecimal digits; refuses a number that this segment size cannot have.
    pub fn parse(text: &str, size: WalSegmentSize) -> Result<Self, ParseSegmentNameError> {
        let refuse = || ParseSegmentNameError(text.to_owned());
        let hex = text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex {
            return Err(refuse());
        }
        let timeline = TimelineId::from_hex(&text[..8]).map_err(|_| refuse())?;
        let high = u32::from_str_radix(&text[8..16], 16).map_err(|_| refuse())?;
        let low = u32::from_str_radix(&text[16..], 16).map_err(|_| refuse())?;
        if u64::from(low) >= size.segments_per_id() {
            return Err(refuse());
        }
        Ok(SegmentName {
            timeline,
            high,
            low,
        })
    }

    /// The segment's number in the WAL.
    #[must_use]
    pub fn number(self, size: WalSegmentSize) -> SegmentNumber {
        u64::from(self.high) * size.segments_per_id() + u64::from(self.low)
    }

    /// First byte of the segment.
    #[must_use]
    pub fn start(self, size: WalSegmentSize) -> Lsn {
        size.start_of(self.number(size))
    }

    /// First byte after the segment.
    #[must_use]
    pub fn end(self, size: WalSegmentSize) -> Lsn {
        size.start_of(self.number(size).saturating_add(1))
    }

    /// The segment that follows on the same timeline.
    #[must_use]
    pub fn next(self, size: WalSegmentSize) -> Self {
        Self::new(self.timeline, self.number(size).saturating_add(1), size)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08X}{:08X}{:08X}",
            self.timeline.0, self.high, self.low
        )
    }
}

/// The text is not the name of a WAL segment of this size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WAL segment name of a cluster with this segment size")]
pub struct ParseSegmentNameError(String);

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{SegmentName, WalSegmentSize};
    use crate::{Lsn, TimelineId};

    #[test]
    fn names_follow_the_segment_size() {
        let check = |size_mib: u64, lsn: u64, name: &str| {
            let size = WalSegmentSize::new(size_mib << 20).unwrap();
            let segment = SegmentName::containing(TimelineId(1), Lsn(lsn), size);
            assert_eq!(segment.to_string(), name);
            assert_eq!(SegmentName::parse(name, size).unwrap(), segment);
        };
        check(16, 0x16_3600_0000, "000000010000001600000036");
        check(1, 0x16_3600_0000, "000000010000001600000360");
        check(1024, 0x16_C000_0000, "000000010000001600000003");
    }

    #[test]
    fn rejects_numbers_this_size_cannot_have() {
        let one_gib = WalSegmentSize::new(1 << 30).unwrap();
        assert!(SegmentName::parse("000000010000001600000004", one_gib).is_err());
        assert!(SegmentName::parse("000000000000001600000001", one_gib).is_err());
        assert!(SegmentName::parse("00000001000000160000000", one_gib).is_err());
    }

    proptest! {
        #[test]
        fn number_round_trips(power in 20_u32..=30, lsn: u64) {
            let size = WalSegmentSize::new(1 << power).unwrap();
            let name = SegmentName::containing(TimelineId(7), Lsn(lsn), size);
            prop_assert_eq!(name.number(size), size.segment_of(Lsn(lsn)));
            prop_assert_eq!(name.start(size), size.floor(Lsn(lsn)));
            prop_assert_eq!(SegmentName::parse(&name.to_string(), size).unwrap(), name);
        }
    }
}

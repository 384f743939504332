//! The record that arrives in pieces.

use crate::Lsn;
use crate::wal::record::{HEADER_BYTES, RecordHeader};

/// A record of which not everything has come. Its CRC is computed as it passes; of its body only
/// the beginning is kept, in memory that every record uses again.
#[derive(Debug)]
pub(super) struct PartialRecord {
    pub(super) start: Lsn,
    header: [u8; HEADER_BYTES],
    /// Bytes that have come, header included.
    received: u32,
    body_crc: u32,
    kept: Vec<u8>,
    /// Bytes to keep of the body, at most.
    kept_limit: usize,
    /// The same for records that end or prepare a transaction.
    transaction_limit: usize,
}

impl PartialRecord {
    pub(super) fn new(kept_limit: usize, transaction_limit: usize) -> Self {
        PartialRecord {
            start: Lsn::INVALID,
            header: [0; HEADER_BYTES],
            received: 0,
            body_crc: 0,
            kept: Vec::with_capacity(kept_limit),
            kept_limit,
            transaction_limit,
        }
    }

    pub(super) fn begin(&mut self, start: Lsn) {
        self.start = start;
        self.header = [0; HEADER_BYTES];
        self.received = 0;
        self.body_crc = 0;
        self.kept.clear();
    }

    /// The header as far as it has come, and zeros.
    pub(super) fn header(&self) -> RecordHeader {
        RecordHeader::parse(&self.header)
    }

    /// The length stands in the first four bytes.
    pub(super) fn has_length(&self) -> bool {
        self.received >= 4
    }

    pub(super) fn has_header(&self) -> bool {
        self.received as usize >= HEADER_BYTES
    }

    /// Bytes of the header, then of the whole record, that have not come.
    pub(super) fn missing(&self) -> u64 {
        let length = u64::from(self.header().length).max(HEADER_BYTES as u64);
        length.saturating_sub(u64::from(self.received))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.has_header() && self.missing() == 0
    }

    /// Takes what belongs to the header while it is not complete, or to the body; returns how many
    /// bytes that were.
    pub(super) fn add(&mut self, bytes: &[u8]) -> usize {
        let taken = if self.has_header() {
            let missing = usize::try_from(self.missing()).unwrap_or(usize::MAX);
            let body = &bytes[..missing.min(bytes.len())];
            self.body_crc = crc32c::crc32c_append(self.body_crc, body);
            let room = self.limit().saturating_sub(self.kept.len());
            // Once, for all that will be kept: growing by doubling would pass the limit.
            self.kept.reserve_exact(room.min(missing));
            self.kept.extend_from_slice(&body[..room.min(body.len())]);
            body.len()
        } else {
            let free = &mut self.header[self.received as usize..];
            let taken = free.len().min(bytes.len());
            free[..taken].copy_from_slice(&bytes[..taken]);
            taken
        };
        // A record's length fits 32 bits, and no more than it is taken.
        self.received = self
            .received
            .saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        taken
    }

    fn limit(&self) -> usize {
        if self.header().ends_or_prepares_transaction() {
            self.transaction_limit.max(self.kept_limit)
        } else {
            self.kept_limit
        }
    }

    /// The CRC of a complete record.
    pub(super) fn crc(&self) -> u32 {
        RecordHeader::finish_crc(self.body_crc, &self.header)
    }

    /// The kept bytes of the body, to be given back by [`PartialRecord::keep_memory`].
    pub(super) fn take_kept(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Bytes of memory that are held for the body.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.capacity()
    }

    pub(super) fn keep_memory(&mut self, mut kept: Vec<u8>) {
        kept.clear();
        kept.shrink_to(self.kept_limit);
        self.kept = kept;
    }
}

//! A writer of WAL, independent of the reader it tests.

use crate::wal::{WalBlockSize, WalReader, WalReaderConfig, page_magic};
use crate::{Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

pub(in crate::wal) const SYSTEM: SystemIdentifier = SystemIdentifier(0x0123_4567_89AB_CDEF);
pub(in crate::wal) const MIB: u64 = 1 << 20;

/// WAL from `config.start` on.
pub(in crate::wal) struct SyntheticWal {
    pub(in crate::wal) config: WalReaderConfig,
    pub(in crate::wal) bytes: Vec<u8>,
    pub(in crate::wal) previous: Lsn,
    /// Flags for the next page, once.
    pub(in crate::wal) next_page_flags: u16,
}

pub(in crate::wal) fn config(start: Lsn, segment_mib: u64) -> WalReaderConfig {
    WalReaderConfig {
        start,
        history: TimelineHistory::root(TimelineId(1)),
        system_identifier: SYSTEM,
        segment_size: WalSegmentSize::new(segment_mib * MIB).unwrap(),
        block_size: WalBlockSize::DEFAULT,
        server_major: 18,
    }
}

impl SyntheticWal {
    pub(in crate::wal) fn new(config: WalReaderConfig) -> Self {
        SyntheticWal {
            config,
            bytes: Vec::new(),
            previous: Lsn(8),
            next_page_flags: 0,
        }
    }

    pub(in crate::wal) fn reader(&self) -> WalReader {
        WalReader::new(self.config.clone()).unwrap()
    }

    pub(in crate::wal) fn end(&self) -> Lsn {
        Lsn(self.config.start.0 + self.bytes.len() as u64)
    }

    /// Bytes up to the end of the page; zero at a page's start.
    pub(in crate::wal) fn page_room(&self) -> u64 {
        let block = self.config.block_size.bytes();
        (block - self.end().0 % block) % block
    }

    /// The header of a page that goes on with `remaining` bytes of a record.
    fn page_header(&mut self, remaining: u32) {
        let page = self.end();
        let long = self.config.segment_size.offset_in_segment(page) == 0;
        let flags = std::mem::take(&mut self.next_page_flags)
            | u16::from(remaining > 0)
            | if long { 2 } else { 0 };
        let bytes = &mut self.bytes;
        bytes.extend(page_magic(self.config.server_major).unwrap().to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(self.config.history.timeline_at(page).0.to_le_bytes());
        bytes.extend(page.0.to_le_bytes());
        bytes.extend(remaining.to_le_bytes());
        bytes.extend([0; 4]);
        if long {
            bytes.extend(self.config.system_identifier.0.to_le_bytes());
            bytes.extend((self.config.segment_size.bytes() as u32).to_le_bytes());
            bytes.extend((self.config.block_size.bytes() as u32).to_le_bytes());
        }
    }

    /// Writes a record's bytes, page headers in between, and aligns.
    pub(in crate::wal) fn raw(&mut self, mut record: &[u8]) {
        let mut begun = false;
        while !record.is_empty() {
            if self.page_room() == 0 {
                self.page_header(if begun { record.len() as u32 } else { 0 });
            }
            begun = true;
            let room = record.len().min(self.page_room() as usize);
            self.bytes.extend(&record[..room]);
            record = &record[room..];
        }
        let aligned = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(aligned, 0);
    }

    /// Where the next record will begin.
    pub(in crate::wal) fn next_start(&self) -> Lsn {
        let header = match self.config.segment_size.offset_in_segment(self.end()) {
            0 => 40,
            _ if self.page_room() == 0 => 24,
            _ => 0,
        };
        Lsn(self.end().0 + header)
    }

    /// A whole record with the right link and CRC.
    pub(in crate::wal) fn sealed(&self, manager: u8, info: u8, xid: u32, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(24 + body.len());
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        record
    }

    /// Appends a record, returns where it begins.
    pub(in crate::wal) fn record(&mut self, manager: u8, info: u8, xid: u32, body: &[u8]) -> Lsn {
        let start = self.next_start();
        let record = self.sealed(manager, info, xid, body);
        self.raw(&record);
        self.previous = start;
        start
    }

    /// A record of `main_data_length` bytes of main data.
    pub(in crate::wal) fn message(&mut self, main_data_length: usize) -> Lsn {
        self.record(21, 0, 7, &main_data(&vec![0x5A; main_data_length]))
    }

    /// Appends records up to exactly `room` bytes before the end of a page.
    pub(in crate::wal) fn fill_page_to(&mut self, room: u64) {
        if self.page_room() == 0 || self.page_room() < room + 48 {
            let _ = self.message(8000);
        }
        while self.page_room() != room {
            let bytes = self.page_room() - room;
            let length = if bytes < 200 { bytes - 24 - 2 } else { 100 };
            let _ = self.message(length as usize);
        }
    }

    /// A WAL switch: the record, and zeros to the end of the segment.
    pub(in crate::wal) fn switch(&mut self) -> Lsn {
        let start = self.record(0, 0x40, 0, &[]);
        let used = self.config.segment_size.offset_in_segment(self.end());
        if used > 0 {
            let rest = (self.config.segment_size.bytes() - used) as usize;
            self.bytes.resize(self.bytes.len() + rest, 0);
        }
        start
    }

    pub(in crate::wal) fn at(&mut self, lsn: Lsn) -> &mut [u8] {
        &mut self.bytes[(lsn.0 - self.config.start.0) as usize..]
    }
}

/// The body of a record that has main data only.
pub(in crate::wal) fn main_data(bytes: &[u8]) -> Vec<u8> {
    let mut body = match u8::try_from(bytes.len()) {
        Ok(length) => vec![255, length],
        Err(_) => [&[254][..], &(bytes.len() as u32).to_le_bytes()].concat(),
    };
    body.extend(bytes);
    body
}

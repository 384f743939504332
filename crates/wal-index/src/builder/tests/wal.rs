//! Writes WAL as PostgreSQL 18 does, as far as these tests need it.

use pg_format::wal::{RelationFile, WalBlockSize, WalReaderConfig};
use pg_format::{Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

pub(super) const SEGMENT: u64 = 1 << 20;
const PAGE: u64 = 8192;
const MAGIC_18: u16 = 0xD118;
const SYSTEM: u64 = 7;
const FIRST_SEGMENT: u64 = 4;

const XLOG: u8 = 0;
const TRANSACTION: u8 = 1;
const STORAGE: u8 = 2;
const DATABASE: u8 = 4;
const HEAP: u8 = 10;

pub(super) fn segment_size() -> WalSegmentSize {
    WalSegmentSize::new(SEGMENT).unwrap()
}

pub(super) fn file(number: u32) -> RelationFile {
    RelationFile {
        tablespace: 1663,
        database: 5,
        number,
    }
}

fn file_bytes(number: u32) -> Vec<u8> {
    [1663, 5, number]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
}

/// WAL from the start of a segment on.
pub(super) struct Wal {
    bytes: Vec<u8>,
    previous: u64,
}

impl Wal {
    pub(super) fn new() -> Self {
        let mut wal = Wal {
            bytes: Vec::new(),
            previous: 0,
        };
        wal.page_header(0);
        wal
    }

    pub(super) fn start(&self) -> Lsn {
        Lsn(FIRST_SEGMENT * SEGMENT)
    }

    pub(super) fn end(&self) -> Lsn {
        Lsn(self.start().0 + self.bytes.len() as u64)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn config(&self, start: Lsn) -> WalReaderConfig {
        WalReaderConfig {
            start,
            history: TimelineHistory::root(TimelineId(1)),
            system_identifier: SystemIdentifier(SYSTEM),
            segment_size: segment_size(),
            block_size: WalBlockSize::DEFAULT,
            server_major: 18,
        }
    }

    fn page_header(&mut self, remaining: u32) {
        let at = self.end().0;
        let long = at.is_multiple_of(SEGMENT);
        let flags = u16::from(remaining > 0) | if long { 2 } else { 0 };
        self.bytes.extend(MAGIC_18.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    fn room(&self) -> usize {
        (PAGE - self.end().0 % PAGE) as usize
    }

    /// A record that refers to the first blocks of these files' main forks.
    pub(super) fn record(
        &mut self,
        xid: u32,
        manager: u8,
        info: u8,
        files: &[u32],
        main: &[u8],
    ) -> (Lsn, Lsn) {
        let mut body = Vec::new();
        for (id, number) in files.iter().enumerate() {
            body.extend([id as u8, 0, 0, 0]);
            body.extend(file_bytes(*number));
            body.extend(0u32.to_le_bytes());
        }
        body.push(254);
        body.extend((main.len() as u32).to_le_bytes());
        body.extend(main);

        if self.end().0.is_multiple_of(PAGE) {
            self.page_header(0);
        }
        let start = self.end();
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        self.previous = start.0;

        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.end().0.is_multiple_of(PAGE) {
                self.page_header(rest.len() as u32);
            }
            let (now, later) = rest.split_at(self.room().min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        let aligned = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(aligned, 0);
        (start, self.end())
    }

    pub(super) fn heap(&mut self, xid: u32, info: u8, number: u32) -> (Lsn, Lsn) {
        self.record(xid, HEAP, info, &[number], &[0; 14])
    }

    pub(super) fn create(&mut self, xid: u32, number: u32) -> (Lsn, Lsn) {
        self.create_fork(xid, number, 0)
    }

    pub(super) fn create_fork(&mut self, xid: u32, number: u32, fork: u32) -> (Lsn, Lsn) {
        let mut main = file_bytes(number);
        main.extend(fork.to_le_bytes());
        self.record(xid, STORAGE, 0x10, &[], &main)
    }

    pub(super) fn drop_database(&mut self, xid: u32, database: u32) -> (Lsn, Lsn) {
        let main: Vec<u8> = [database, 1, 1663]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        self.record(xid, DATABASE, 0x20, &[], &main)
    }

    pub(super) fn commit(
        &mut self,
        xid: u32,
        time: i64,
        subtransactions: &[u32],
        dropped: &[u32],
        prepared: bool,
    ) -> (Lsn, Lsn) {
        let mut main = time.to_le_bytes().to_vec();
        let flags = (u32::from(!subtransactions.is_empty()) << 1)
            | (u32::from(!dropped.is_empty()) << 2)
            | (u32::from(prepared) << 4);
        main.extend(flags.to_le_bytes());
        if !subtransactions.is_empty() {
            main.extend((subtransactions.len() as u32).to_le_bytes());
            main.extend(subtransactions.iter().flat_map(|xid| xid.to_le_bytes()));
        }
        if !dropped.is_empty() {
            main.extend((dropped.len() as u32).to_le_bytes());
            main.extend(dropped.iter().flat_map(|number| file_bytes(*number)));
        }
        if prepared {
            main.extend(xid.to_le_bytes());
            return self.record(0, TRANSACTION, 0x30 | 0x80, &[], &main);
        }
        self.record(xid, TRANSACTION, 0x80, &[], &main)
    }

    pub(super) fn abort(&mut self, xid: u32, time: i64) -> (Lsn, Lsn) {
        self.record(xid, TRANSACTION, 0x20, &[], &time.to_le_bytes())
    }

    pub(super) fn prepare(&mut self, xid: u32, subtransactions: &[u32]) -> (Lsn, Lsn) {
        let mut main = Vec::new();
        let total_length = 0u32;
        for word in [0x57F9_4534, total_length, xid, 5] {
            main.extend(u32::to_le_bytes(word));
        }
        main.extend(0i64.to_le_bytes());
        // Owner, subtransactions, files and statistics of commit and abort, invalidations.
        for word in [10, subtransactions.len() as u32, 0, 0, 0, 0, 0] {
            main.extend(u32::to_le_bytes(word));
        }
        main.extend([0, 0, 2, 0]);
        main.extend([0; 16]);
        main.extend(b"g\0\0\0\0\0\0\0");
        main.extend(subtransactions.iter().flat_map(|xid| xid.to_le_bytes()));
        let aligned = main.len().next_multiple_of(8);
        main.resize(aligned, 0);
        self.record(xid, TRANSACTION, 0x10, &[], &main)
    }

    pub(super) fn shutdown_checkpoint(&mut self) -> (Lsn, Lsn) {
        self.record(0, XLOG, 0x00, &[], &[0; 88])
    }

    /// A record that says nothing.
    pub(super) fn fill(&mut self, bytes: usize) {
        let _ = self.record(0, XLOG, 0x20, &[], &vec![0; bytes]);
    }
}

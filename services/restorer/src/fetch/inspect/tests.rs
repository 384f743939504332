use bytes::Bytes;
use pg_format::wal::{WalBlockSize, page_magic};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

use super::{Cluster, CreatedTablespace, Inspected, look};
use crate::served::ServedWal;

const MIB: u64 = 1 << 20;
const FIRST: u64 = 3;
const CLUSTER: Cluster = Cluster {
    system_identifier: SystemIdentifier(7),
    major: 16,
};

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn name(number: u64) -> SegmentName {
    SegmentName::new(TimelineId(1), number, size())
}

fn served(start: Lsn) -> ServedWal {
    let history = TimelineHistory::root(TimelineId(1));
    ServedWal::new(history, size(), start, Lsn((FIRST + 2) * MIB))
}

/// WAL from the start of segment 3 on.
struct Wal {
    bytes: Vec<u8>,
    previous: u64,
}

impl Wal {
    fn new() -> Self {
        let mut wal = Wal {
            bytes: Vec::new(),
            previous: 8,
        };
        wal.header(0);
        wal
    }

    fn end(&self) -> u64 {
        FIRST * MIB + self.bytes.len() as u64
    }

    fn room(&self) -> usize {
        let block = WalBlockSize::DEFAULT.bytes();
        (block - self.end() % block) as usize
    }

    fn header(&mut self, remaining: usize) {
        let at = self.end();
        let long = at.is_multiple_of(MIB);
        let flags = u16::from(remaining > 0) | if long { 2 } else { 0 };
        let bytes = &mut self.bytes;
        bytes.extend(page_magic(CLUSTER.major).unwrap().to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(at.to_le_bytes());
        bytes.extend(u32::try_from(remaining).unwrap().to_le_bytes());
        bytes.extend([0; 4]);
        if long {
            bytes.extend(CLUSTER.system_identifier.0.to_le_bytes());
            bytes.extend(u32::try_from(MIB).unwrap().to_le_bytes());
            bytes.extend(8192_u32.to_le_bytes());
        }
    }

    /// Appends a record of a resource manager; where it begins.
    fn record(&mut self, manager: u8, info: u8, main_data: &[u8]) -> Lsn {
        if self.end().is_multiple_of(8192) {
            self.header(0);
        }
        let start = self.end();
        let mut body = vec![254];
        body.extend(u32::try_from(main_data.len()).unwrap().to_le_bytes());
        body.extend(main_data);
        let mut record = Vec::new();
        record.extend(u32::try_from(24 + body.len()).unwrap().to_le_bytes());
        record.extend(0_u32.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        self.previous = start;
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.end().is_multiple_of(8192) {
                self.header(rest.len());
            }
            let (now, later) = rest.split_at(rest.len().min(self.room()));
            self.bytes.extend(now);
            rest = later;
        }
        let aligned = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(aligned, 0);
        Lsn(start)
    }

    fn create(&mut self, location: &str) -> Lsn {
        let data = [&24_576_u32.to_le_bytes()[..], location.as_bytes(), &[0]].concat();
        self.record(5, 0x00, &data)
    }

    /// Messages until `bytes` are left of the segment, alignment aside.
    fn fill_to(&mut self, bytes: u64) {
        while self.end() + bytes < (FIRST + 1) * MIB {
            let _ = self.record(21, 0, &[1; 3]);
        }
    }

    fn segments(mut self) -> [Bytes; 2] {
        while self.bytes.len() as u64 <= MIB {
            let _ = self.record(21, 0, &[2; 4000]);
        }
        self.bytes.resize(2 * MIB as usize, 0);
        let whole = Bytes::from(self.bytes);
        [whole.slice(..MIB as usize), whole.slice(MIB as usize..)]
    }
}

/// What is found when the segments come in this order.
fn inspect(segments: &[Bytes; 2], start: Lsn, order: [usize; 2]) -> Vec<(u64, CreatedTablespace)> {
    let served = served(start);
    let mut inspected = Inspected::new(CLUSTER);
    for index in order {
        let number = FIRST + index as u64;
        let looked = look(CLUSTER, &served, name(number), &segments[index]);
        for found in inspected.add(&served, looked) {
            assert!(inspected.forbidden(found).is_some());
        }
    }
    (FIRST..FIRST + 2)
        .filter_map(|number| Some((number, inspected.forbidden(name(number))?.clone())))
        .collect()
}

fn found(lsn: Lsn) -> CreatedTablespace {
    CreatedTablespace {
        oid: 24_576,
        location: "/srv/x".to_owned(),
        lsn,
    }
}

#[test]
fn finds_a_tablespace_that_is_replayed() {
    let mut wal = Wal::new();
    let _ = wal.record(21, 0, &[9; 20_000]);
    let lsn = wal.create("/srv/x");
    let segments = wal.segments();
    for order in [[0, 1], [1, 0]] {
        assert_eq!(inspect(&segments, lsn, order), [(FIRST, found(lsn))]);
        // What lies before the backup's start is not replayed.
        assert_eq!(inspect(&segments, Lsn(lsn.0 + 8), order), []);
    }
}

#[test]
fn a_record_across_the_border_belongs_to_the_second_segment() {
    for left in [8, 16, 24, 32, 40, 48] {
        let mut wal = Wal::new();
        wal.fill_to(left);
        let lsn = wal.create("/srv/x");
        let segments = wal.segments();
        for order in [[0, 1], [1, 0]] {
            let all = inspect(&segments, Lsn(FIRST * MIB), order);
            assert_eq!(all.len(), 1, "{left}");
            assert_eq!(all[0].1, found(lsn), "{left}");
        }
    }
    let mut wal = Wal::new();
    wal.fill_to(24);
    let lsn = wal.create("/srv/x");
    assert!(lsn.0 < (FIRST + 1) * MIB);
    let all = inspect(&wal.segments(), Lsn(FIRST * MIB), [1, 0]);
    assert_eq!(all, [(FIRST + 1, found(lsn))]);
}

#[test]
fn a_dropped_and_an_in_place_tablespace_are_no_danger() {
    let mut wal = Wal::new();
    let _ = wal.create("");
    let _ = wal.record(5, 0x10, &24_576_u32.to_le_bytes());
    assert_eq!(inspect(&wal.segments(), Lsn(FIRST * MIB), [0, 1]), []);
    let garbage = [vec![5; MIB as usize].into(), Bytes::new()];
    assert_eq!(inspect(&garbage, Lsn(FIRST * MIB), [0, 1]), []);
}

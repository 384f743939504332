//! The reader on synthetic WAL.

mod bodies;
mod cuts;
pub(super) mod synthetic;

use synthetic::{MIB, SyntheticWal, config, main_data};

use super::{
    RecordSummary, WalBlockSize, WalErrorKind, WalReader, WalReaderConfig, WalReaderConfigError,
};
use crate::{Lsn, SystemIdentifier, TimelineHistory, TimelineId};

/// Feeds everything at once; the records, and the reader afterwards.
fn read(wal: &SyntheticWal) -> (Vec<RecordSummary>, WalReader, Option<super::WalError>) {
    let mut reader = wal.reader();
    let mut records = Vec::new();
    let result = reader.feed_each(&wal.bytes, |record| records.push(record.summary().unwrap()));
    (records, reader, result.err())
}

/// Asserts that reading fails with this error, and that nothing at or after it was validated.
#[track_caller]
fn refuse(wal: &SyntheticWal, at: Lsn, kind: &WalErrorKind) {
    let (_, mut reader, error) = read(wal);
    let error = error.expect("the reader accepted it");
    assert_eq!((error.at, &error.kind), (at, kind), "{error}");
    assert!(reader.validated_end() <= at);
    assert_eq!(
        reader.feed(&[]),
        Err(error),
        "the reader goes on after an error"
    );
}

/// Three pages before the end of a segment.
fn near_border(segment_mib: u64) -> SyntheticWal {
    let start = Lsn((1 << 40) + segment_mib * MIB - 3 * 8192);
    SyntheticWal::new(config(start, segment_mib))
}

/// Records over several pages and a segment border, all of them found again.
fn check_border(config: WalReaderConfig) {
    let told = format!(
        "{} MiB, {} byte pages, {:?}, PostgreSQL {}",
        config.segment_size.bytes() / MIB,
        config.block_size.bytes(),
        config.start,
        config.server_major
    );
    let mut wal = SyntheticWal::new(config);
    let mut starts = Vec::new();
    for length in [0, 1, 255, 256, 8000, 8168, 20_000, 7, 40_000, 5000] {
        starts.push(wal.message(length));
    }
    let (records, reader, error) = read(&wal);
    assert_eq!(error, None, "{told}");
    let found: Vec<_> = records.iter().map(|record| record.start).collect();
    assert_eq!(found, starts, "{told}");
    let ends = records.iter().map(|record| record.end);
    assert!(
        ends.zip(&starts[1..])
            .all(|(end, next)| next.0 - end.0 <= 40)
    );
    assert_eq!(
        (reader.validated_end(), reader.position()),
        (wal.end(), wal.end())
    );
    // A page of the border's segment is not one of another size's.
    let border = wal.config.segment_size.floor(wal.end());
    let first_flags = wal.at(border)[2];
    assert_eq!(first_flags & 2, 2, "{told}");
}

#[test]
fn records_cross_pages_and_segments_of_every_size() {
    for power in 0..=10 {
        let size = MIB << power;
        // Anywhere, and where the first half of segment names counts up.
        for border in [(1 << 40) + size, 1 << 32, 0xFFFF_FFFF << 32] {
            for server_major in 14..=18 {
                check_border(WalReaderConfig {
                    server_major,
                    ..config(Lsn(border - 3 * 8192), size / MIB)
                });
            }
        }
    }
}

#[test]
fn pages_may_be_of_every_size() {
    for power in 10..=16 {
        let block_size = WalBlockSize::new(1 << power).unwrap();
        for segment_mib in [1, 16, 1024] {
            let start = Lsn((1 << 40) + segment_mib * MIB - block_size.bytes());
            check_border(WalReaderConfig {
                block_size,
                ..config(start, segment_mib)
            });
        }
    }
}

#[test]
fn a_header_may_stand_on_two_pages() {
    for room in [8, 16, 24, 32] {
        let mut wal = near_border(16);
        wal.fill_page_to(room);
        let start = wal.message(10);
        assert_eq!(wal.end().0 / 8192, start.0 / 8192 + u64::from(room < 40));
        let (records, reader, error) = read(&wal);
        assert_eq!(error, None);
        assert_eq!(records.last().map(|record| record.start), Some(start));
        assert_eq!(reader.validated_end(), wal.end());
    }
}

#[test]
fn reading_may_begin_within_a_record() {
    let mut wal = near_border(16);
    let _ = wal.message(20_000);
    let next = wal.message(10);
    for pages in 1..=2 {
        let mut cut = near_border(16);
        cut.config.start.0 += pages * 8192;
        cut.bytes = wal.bytes[pages as usize * 8192..].to_vec();
        let (records, reader, error) = read(&cut);
        assert_eq!(error, None);
        assert_eq!(records.len(), 1);
        assert_eq!(
            (records[0].start, reader.validated_end()),
            (next, wal.end())
        );
        // What was skipped is not validated.
        let mut reader = cut.reader();
        let skipped = (next.0 - cut.config.start.0) as usize;
        reader.feed(&cut.bytes[..skipped]).unwrap();
        assert_eq!(reader.validated_end(), cut.config.start);
    }
}

#[test]
fn an_unfinished_record_is_not_validated() {
    let mut wal = near_border(16);
    let _ = wal.message(10);
    let end = wal.end();
    let start = wal.message(9000);
    let mut reader = wal.reader();
    reader.feed(&wal.bytes[..wal.bytes.len() - 8]).unwrap();
    assert_eq!(
        (reader.validated_end(), reader.unfinished_record()),
        (end, Some(start))
    );
    reader.feed(&wal.bytes[wal.bytes.len() - 8..]).unwrap();
    assert_eq!(
        (reader.validated_end(), reader.unfinished_record()),
        (wal.end(), None)
    );
}

#[test]
fn after_a_switch_comes_the_next_segment() {
    let mut wal = near_border(1);
    let _ = wal.message(10);
    let switch = wal.switch();
    let border = wal.end();
    assert_eq!(border.0 % MIB, 0);
    let next = wal.message(10);
    let (records, reader, error) = read(&wal);
    assert_eq!(error, None);
    assert_eq!(
        (records[1].start, records[1].end),
        (switch, Lsn(switch.0 + 24))
    );
    assert_eq!(
        (records[2].start, reader.validated_end()),
        (next, wal.end())
    );

    let mut reader = wal.reader();
    let up_to_border = (border.0 - wal.config.start.0) as usize;
    reader.feed(&wal.bytes[..up_to_border - 1]).unwrap();
    assert_eq!(reader.validated_end(), Lsn(switch.0 + 24));
    reader
        .feed(&wal.bytes[up_to_border - 1..up_to_border])
        .unwrap();
    assert_eq!(reader.validated_end(), border);

    for at in [Lsn(border.0 - 1), Lsn(border.0 - 8192 + 24)] {
        wal.at(at)[0] = 1;
        refuse(&wal, at, &WalErrorKind::AfterSwitch);
        wal.at(at)[0] = 0;
    }
}

#[test]
fn a_switch_may_end_its_segment() {
    let mut wal = near_border(1);
    let _ = wal.message(10);
    for _ in 0..2 {
        wal.fill_page_to(24);
        let _ = wal.message(3);
    }
    wal.fill_page_to(24);
    let _ = wal.switch();
    assert_eq!(wal.end().0 % MIB, 0);
    let _ = wal.message(10);
    let (_, reader, error) = read(&wal);
    assert_eq!((error, reader.validated_end()), (None, wal.end()));
}

#[test]
fn zeros_mean_that_nothing_was_written() {
    let mut wal = near_border(16);
    let _ = wal.message(10);
    let end = wal.end();
    wal.bytes.resize(8192, 0);
    refuse(&wal, end, &WalErrorKind::NotWritten);

    let mut wal = near_border(16);
    wal.fill_page_to(24);
    let _ = wal.message(0);
    while wal.page_room() > 0 {
        wal.fill_page_to(24);
        let _ = wal.record(21, 0, 0, &[]);
    }
    let end = wal.end();
    wal.bytes.extend([0; 8192]);
    refuse(&wal, end, &WalErrorKind::NotWritten);
}

/// A segment's beginning: one whole page, and half of another.
fn segment() -> SyntheticWal {
    let mut wal = SyntheticWal::new(config(Lsn(64 * MIB), 16));
    for _ in 0..100 {
        let _ = wal.message(100);
    }
    wal
}

#[test]
fn pages_that_do_not_belong_are_refused() {
    let first = Lsn(64 * MIB);
    let second = Lsn(64 * MIB + 8192);
    let check = |page: Lsn, offset: usize, bytes: &[u8], kind: WalErrorKind| {
        let mut wal = segment();
        wal.at(page)[offset..offset + bytes.len()].copy_from_slice(bytes);
        refuse(&wal, page, &kind);
    };
    let magic = |found: u16, found_major| WalErrorKind::Magic {
        found,
        found_major,
        expected_major: 18,
    };
    check(first, 0, &[0x16, 0xD1], magic(0xD116, Some(17)));
    check(second, 0, &[0x34, 0x12], magic(0x1234, None));
    check(first, 2, &[0x00], WalErrorKind::PageFlags { flags: 0 });
    check(second, 2, &[0x11], WalErrorKind::PageFlags { flags: 0x11 });
    let timeline = |found| WalErrorKind::Timeline {
        found: TimelineId(found),
        expected: TimelineId(1),
    };
    check(first, 4, &[2], timeline(2));
    check(second, 4, &[0], timeline(0));
    check(
        second,
        8,
        &[0, 0],
        WalErrorKind::PageAddress { found: first },
    );
    let (found, expected) = (SystemIdentifier(0x0123_4567_89AB_CD00), synthetic::SYSTEM);
    check(
        first,
        24,
        &[0],
        WalErrorKind::SystemIdentifier { found, expected },
    );
    let (found, expected) = (32 << 20, 16 * MIB);
    check(
        first,
        32,
        &[0, 0, 0, 2],
        WalErrorKind::SegmentSize { found, expected },
    );
    let (found, expected) = (16_384, 8192);
    check(
        first,
        36,
        &[0, 0x40],
        WalErrorKind::BlockSize { found, expected },
    );
}

#[test]
fn continuations_must_fit() {
    let mut wal = near_border(16);
    let start = wal.message(12_000);
    let page = Lsn(wal.config.start.0 + 8192);
    let expected = 24 + 5 + 12_000 - (8192 - 24);
    wal.at(page)[16] ^= 1;
    let continuation = |found| WalErrorKind::Continuation {
        record: start,
        expected,
        found,
    };
    refuse(&wal, page, &continuation(expected as u32 ^ 1));
    wal.at(page)[16] ^= 1;
    wal.at(page)[2] = 0;
    refuse(&wal, page, &continuation(0));

    let mut wal = near_border(16);
    wal.fill_page_to(24);
    let _ = wal.record(21, 0, 0, &[]);
    wal.next_page_flags = 1;
    let page = wal.end();
    let _ = wal.message(1);
    refuse(
        &wal,
        page,
        &WalErrorKind::UnexpectedContinuation { remaining: 0 },
    );
}

#[test]
fn records_that_are_not_whole_are_refused() {
    let mut wal = segment();
    let start = wal.previous;
    let stored = u32::from_le_bytes(wal.at(start)[20..24].try_into().unwrap());
    for offset in [4, 16, 18, 24, 60, 125] {
        let mut wal = segment();
        wal.at(start)[offset] ^= 0x10;
        let (_, reader, error) = read(&wal);
        let error = error.unwrap();
        assert!(
            matches!(error.kind, WalErrorKind::Crc { stored: found, .. } if found == stored),
            "{error}"
        );
        assert_eq!((error.at, reader.validated_end()), (start, start));
    }
    wal.at(start)[17] = 22;
    refuse(&wal, start, &WalErrorKind::ResourceManager { number: 22 });
}

#[test]
fn the_chain_of_records_must_hold() {
    let mut wal = segment();
    let (found, expected) = (Lsn(64 * MIB), Some(wal.previous));
    wal.previous = found;
    let start = wal.message(1);
    refuse(&wal, start, &WalErrorKind::PreviousLink { found, expected });
    // Of the first record only the direction is known.
    let mut wal = SyntheticWal::new(config(Lsn(64 * MIB), 16));
    wal.previous = Lsn(64 * MIB + 40);
    let start = wal.message(1);
    refuse(
        &wal,
        start,
        &WalErrorKind::PreviousLink {
            found: start,
            expected: None,
        },
    );
}

#[test]
fn impossible_lengths_are_refused() {
    let check = |server_major: u32, length: u32, possible: bool| {
        let mut wal = near_border(16);
        wal.config.server_major = server_major;
        let start = wal.message(10);
        wal.at(start)[..4].copy_from_slice(&length.to_le_bytes());
        wal.bytes.truncate(8192);
        if possible {
            assert_eq!(read(&wal).2, None);
        } else {
            refuse(&wal, start, &WalErrorKind::RecordLength { length });
        }
    };
    check(18, 1, false);
    check(18, 23, false);
    check(18, 1020 << 20, true);
    check(18, (1020 << 20) + 1, false);
    check(15, 0x3FFF_FFFF, true);
    check(15, 0x4000_0000, false);
    check(14, u32::MAX, false);
}

#[test]
fn a_lost_record_is_overwritten() {
    let mut wal = near_border(16);
    let before = wal.message(10);
    let lost = wal.message(9000);
    wal.bytes.truncate(8192);
    wal.previous = before;
    wal.next_page_flags = 8;
    let body = |lsn: Lsn| main_data(&[lsn.0.to_le_bytes(), [0; 8]].concat());
    let overwrite = wal.record(0, 0xD0, 0, &body(lost));
    let next = wal.message(10);
    let (records, reader, error) = read(&wal);
    assert_eq!(error, None);
    let starts: Vec<_> = records.iter().map(|record| record.start).collect();
    assert_eq!(starts, [before, overwrite, next]);
    assert_eq!(reader.validated_end(), wal.end());

    wal.bytes.truncate(8192);
    wal.previous = before;
    wal.next_page_flags = 8;
    let _ = wal.record(0, 0xD0, 0, &body(before));
    refuse(
        &wal,
        overwrite,
        &WalErrorKind::Overwrite {
            found: Some(before),
            lost,
        },
    );
}

#[test]
fn a_segment_begins_with_the_pages_of_its_ancestors() {
    let second = TimelineHistory::root(TimelineId(1))
        .fork(TimelineId(2), Lsn(16 * MIB + 10_000), "-")
        .unwrap();
    let third = second
        .fork(TimelineId(3), Lsn(16 * MIB + 8192 * 3), "-")
        .unwrap();
    let mut wal = SyntheticWal::new(WalReaderConfig {
        history: third,
        ..config(Lsn(16 * MIB), 16)
    });
    for _ in 0..10 {
        let _ = wal.message(4000);
    }
    let mut timelines = Vec::new();
    for page in 0..4 {
        timelines.push(wal.at(Lsn(16 * MIB + page * 8192))[4]);
    }
    assert_eq!(timelines, [1, 1, 2, 3]);
    assert_eq!(read(&wal).2, None);

    // Without the history the ancestors' pages are foreign; with it, later pages must not be old.
    let page = Lsn(16 * MIB + 8192 * 3);
    wal.at(page)[4] = 2;
    let (found, expected) = (TimelineId(2), TimelineId(3));
    refuse(&wal, page, &WalErrorKind::Timeline { found, expected });
    wal.config.history = TimelineHistory::root(TimelineId(3));
    let found = TimelineId(1);
    refuse(
        &wal,
        Lsn(16 * MIB),
        &WalErrorKind::Timeline { found, expected },
    );
}

#[test]
fn a_reader_needs_a_known_version_and_a_page_to_begin_with() {
    let new = |config: WalReaderConfig| WalReader::new(config).err();
    let at = |start| config(Lsn(start), 16);
    assert_eq!(new(at(8192)), None);
    let start = Lsn(8200);
    assert_eq!(new(at(8200)), Some(WalReaderConfigError::Start { start }));
    for major in [13, 19] {
        let config = WalReaderConfig {
            server_major: major,
            ..at(0)
        };
        assert_eq!(new(config), Some(WalReaderConfigError::Version { major }));
    }
}

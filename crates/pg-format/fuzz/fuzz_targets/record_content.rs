//! Whole records with any main data and right checksums, in WAL of every version: all that
//! `content` decodes is reached, lists that go on beyond what is kept too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_format::wal::{RecordContent, WalBlockSize, WalReader, WalReaderConfig, page_magic};
use pg_format::{Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

const PAGE: usize = 8192;

/// One record from the start of a segment, over as many pages as it needs.
fn wal(server_major: u32, manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
    let mut record = (24 + body.len() as u32).to_le_bytes().to_vec();
    record.extend(7_u32.to_le_bytes());
    record.extend(8_u64.to_le_bytes());
    record.extend([info, manager, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
    record.extend(crc.to_le_bytes());
    record.extend(body);
    let mut wal = Vec::new();
    let mut rest = &record[..];
    while !rest.is_empty() {
        let first = wal.is_empty();
        let flags: u16 = if first { 2 } else { 1 };
        let remaining = if first { 0 } else { rest.len() as u32 };
        wal.extend(page_magic(server_major).unwrap_or(0).to_le_bytes());
        wal.extend(flags.to_le_bytes());
        wal.extend(1_u32.to_le_bytes());
        wal.extend(((16 << 20) + (wal.len() - 8) as u64).to_le_bytes());
        wal.extend(remaining.to_le_bytes());
        wal.extend([0; 4]);
        if first {
            wal.extend(1_u64.to_le_bytes());
            wal.extend((16_u32 << 20).to_le_bytes());
            wal.extend((PAGE as u32).to_le_bytes());
        }
        let room = (PAGE - wal.len() % PAGE).min(rest.len());
        wal.extend(&rest[..room]);
        rest = &rest[room..];
    }
    wal
}

fuzz_target!(|input: &[u8]| {
    let Some(([major, manager, info, shape], data)) = input.split_first_chunk::<4>() else {
        return;
    };
    let server_major = 14 + u32::from(major % 5);
    // Of every four, two are main data only, one has a block, one is any body.
    let length = data.len() as u32
        + if shape & 4 == 0 {
            0
        } else {
            u32::from(*shape) << 13
        };
    let mut body = Vec::new();
    if shape % 4 == 2 {
        body.extend([
            0, 0, 0, 0, 127, 6, 0, 0, 5, 0, 0, 0, 0, 64, 0, 0, 9, 0, 0, 0,
        ]);
    }
    if shape % 4 != 3 {
        body.push(254);
        body.extend(length.to_le_bytes());
    }
    body.extend(data);
    if shape % 4 != 3 {
        // Long records, whose end is not kept.
        body.resize(body.len() - data.len() + length as usize, 0);
    }
    let wal = wal(server_major, manager % 22, *info, &body);
    let config = WalReaderConfig {
        start: Lsn(16 << 20),
        history: TimelineHistory::root(TimelineId(1)),
        system_identifier: SystemIdentifier(1),
        segment_size: WalSegmentSize::DEFAULT,
        block_size: WalBlockSize::DEFAULT,
        server_major,
    };
    let mut reader = WalReader::new(config).expect("a page's start and a known version");
    let mut records = 0;
    let result = reader.feed_each(&wal, |record| {
        records += 1;
        let _ = record.summary();
        let _ = record.body().map(|body| body.blocks().count());
        match record.content() {
            Ok(RecordContent::Commit(commit)) => {
                assert!(commit.dropped_files.iter().count() * 12 <= body.len());
                assert!(commit.subtransactions.iter().count() * 4 <= body.len());
                let _ = format!("{commit:?}");
            }
            Ok(content) => drop(format!("{content:?}")),
            Err(error) => drop(error.to_string()),
        }
    });
    assert_eq!((result, records), (Ok(()), 1));
});

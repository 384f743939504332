//! Pages as they come: page headers, continuations, switches and the chain of records. Most inputs
//! begin as real WAL; `record_content` gets past the checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_format::wal::{WalBlockSize, WalPageHeader, WalReader, WalReaderConfig, page_magic};
use pg_format::{Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

fuzz_target!(|input: &[u8]| {
    let Some(([major, length], wal)) = input.split_first_chunk::<2>() else {
        return;
    };
    let server_major = 14 + u32::from(major % 5);
    // As the first page says it, so that what follows the header is reached.
    let header = WalPageHeader::parse(wal);
    let start = header.map_or(Lsn(0), |header| Lsn(header.address.0 / 8192 * 8192));
    let timeline = header.map_or(TimelineId(1), |header| header.timeline);
    let long = header.and_then(|header| header.long);
    let size = long.and_then(|long| WalSegmentSize::new(u64::from(long.segment_size)).ok());
    let config = WalReaderConfig {
        start,
        history: TimelineHistory::root(timeline),
        system_identifier: long.map_or(SystemIdentifier(1), |long| long.system_identifier),
        segment_size: size.unwrap_or(WalSegmentSize::DEFAULT),
        block_size: WalBlockSize::DEFAULT,
        server_major,
    };
    let mut wal = wal.to_vec();
    for page in wal.chunks_mut(8192) {
        if let (Some(place), Some(magic)) = (page.first_chunk_mut(), page_magic(server_major)) {
            *place = magic.to_le_bytes();
        }
    }
    let mut reader = WalReader::new(config).expect("a page's start and a known version");
    let piece = 1 + usize::from(*length) * 97;
    for piece in wal.chunks(piece) {
        let before = reader.validated_end();
        let result = reader.feed_each(piece, |record| {
            let _ = record.summary();
            let _ = record.content().map(|content| format!("{content:?}"));
            let _ = record.body().map(|body| body.blocks().count());
        });
        assert!(reader.validated_end() >= before);
        assert!(reader.validated_end() <= reader.position());
        if result.is_err() {
            assert_eq!(reader.feed(&[0]), result);
            break;
        }
    }
});

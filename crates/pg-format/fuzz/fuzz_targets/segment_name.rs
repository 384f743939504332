//! Names and numbers in text: segments of every size, LSNs, timelines, versions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_format::{Lsn, SegmentName, ServerVersion, TimelineId, WalSegmentSize};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let _ = text.parse::<Lsn>();
    let _ = TimelineId::from_hex(text);
    let _ = ServerVersion::from_server_version(text);
    for power in 20..=30 {
        let Ok(size) = WalSegmentSize::new(1 << power) else {
            continue;
        };
        let Ok(name) = SegmentName::parse(text, size) else {
            continue;
        };
        assert_eq!(name.to_string(), text.to_uppercase());
        assert!(name.start(size) <= name.end(size));
        let _ = name.next(size);
    }
});

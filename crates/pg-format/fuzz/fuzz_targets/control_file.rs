//! `pg_control`: as it comes, and with the checksum it should have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_format::ControlFile;

fuzz_target!(|input: &[u8]| {
    let _ = ControlFile::parse(input);
    for (version, crc_offset) in [(1300_u32, 288), (1700, 288), (1800, 292)] {
        let mut sealed = input.to_vec();
        if sealed.len() < crc_offset + 4 {
            return;
        }
        sealed[8..12].copy_from_slice(&version.to_le_bytes());
        let crc = crc32c::crc32c(&sealed[..crc_offset]);
        sealed[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
        let _ = ControlFile::parse(&sealed).map(|control| format!("{control:?}"));
    }
});

//! `backup_manifest`: as it comes, and with the checksum it should have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_format::{BackupManifest, ChecksumAlgorithm};

fuzz_target!(|input: &[u8]| {
    let _ = BackupManifest::parse(input);
    // The checksum covers everything before its own line.
    let line = b"\"Manifest-Checksum\": \"";
    let Some(end) = input.windows(line.len()).rposition(|window| window == line) else {
        return;
    };
    let mut hasher = ChecksumAlgorithm::Sha256.hasher();
    hasher.update(&input[..end]);
    let checksum = hasher.finish();
    let digest: String = checksum
        .value()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let sealed = [&input[..end], line, digest.as_bytes(), b"\"}\n"].concat();
    let _ = BackupManifest::parse(&sealed).map(|manifest| format!("{manifest:?}"));
});

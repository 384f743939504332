use proptest::prelude::{any, prop, proptest};
use sha2::{Digest, Sha256};

use super::{BackupManifest, BackupManifestError, ChecksumAlgorithm, ManifestWalRange};
use crate::{Lsn, SystemIdentifier, TimelineId};

/// Adds the last line.
fn sealed(text: &str) -> Vec<u8> {
    let digest = Sha256::digest(text.as_bytes());
    let checksum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{text}\"Manifest-Checksum\": \"{checksum}\"}}\n").into_bytes()
}

fn manifest(version: &str, files: &str) -> Vec<u8> {
    sealed(&format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n\"Files\": [\n{files}\n],\n\
         \"WAL-Ranges\": [\n{{ \"Timeline\": 3, \"Start-LSN\": \"16/2000028\", \
         \"End-LSN\": \"16/02000100\" }}\n],\n"
    ))
}

const FILE: &str = "{ \"Path\": \"base/5/1259\", \"Size\": 3, \
    \"Last-Modified\": \"2026-01-02 03:04:05 GMT\", \
    \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"b73f4b36\" }";

#[test]
fn both_versions() {
    let one = BackupManifest::parse(&manifest("1", FILE)).unwrap();
    assert_eq!((one.version, one.system_identifier), (1, None));
    assert_eq!(
        (one.files[0].path.as_str(), one.files[0].size),
        (Some("base/5/1259"), 3)
    );
    let range = ManifestWalRange {
        timeline: TimelineId(3),
        start_lsn: Lsn(0x16_0200_0028),
        end_lsn: Lsn(0x16_0200_0100),
    };
    assert_eq!(one.wal_ranges, [range]);

    let identifier = "2,\n\"System-Identifier\": 18446744073709551615";
    let two = BackupManifest::parse(&manifest(identifier, FILE)).unwrap();
    assert_eq!(
        (two.version, two.system_identifier),
        (2, Some(SystemIdentifier(u64::MAX)))
    );
    let three = BackupManifest::parse(&manifest("3", FILE));
    assert!(matches!(
        three,
        Err(BackupManifestError::Version { version: 3 })
    ));
}

#[test]
fn paths_may_be_encoded() {
    let file = FILE.replace("\"Path\": \"base/5/1259\"", "\"Encoded-Path\": \"66FF6f\"");
    let manifest_of = |file: &str| BackupManifest::parse(&manifest("1", file));
    let parsed = manifest_of(&file).unwrap();
    assert_eq!(parsed.files[0].path.as_bytes(), b"f\xFFo");
    assert_eq!(parsed.files[0].path.to_string(), "f\u{FFFD}o");
    let refuse = |file: &str| {
        let result = manifest_of(file);
        assert!(
            matches!(result, Err(BackupManifestError::Path { .. })),
            "{result:?}"
        );
    };
    refuse(&file.replace("66FF6f", "66F"));
    refuse(&file.replace("\"Encoded-Path\"", "\"Path\": \"f\", \"Encoded-Path\""));
    refuse("{ \"Size\": 3 }");
}

#[test]
fn checksums_of_files() {
    let check = |algorithm: ChecksumAlgorithm, name: &str, of_abc: &str| {
        let file = FILE.replace("CRC32C", name).replace("b73f4b36", of_abc);
        let parsed = BackupManifest::parse(&manifest("1", &file)).unwrap();
        let mut hasher = algorithm.hasher();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(parsed.files[0].checksum, Some(hasher.finish()), "{name}");
    };
    check(ChecksumAlgorithm::Crc32c, "crc32c", "b73f4b36");
    check(
        ChecksumAlgorithm::Sha224,
        "SHA224",
        "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
    );
    check(
        ChecksumAlgorithm::Sha256,
        "SHA256",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    );
    check(
        ChecksumAlgorithm::Sha384,
        "SHA384",
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
         8086072ba1e7cc2358baeca134c825a7",
    );
    check(
        ChecksumAlgorithm::Sha512,
        "SHA512",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    );
    let without = BackupManifest::parse(&manifest("1", "{ \"Path\": \"f\", \"Size\": 3 }"));
    assert_eq!(without.unwrap().files[0].checksum, None);
    for (from, to) in [("b73f4b36", "b73f4b"), ("b73f4b36", "x"), ("CRC32C", "MD5")] {
        let result = BackupManifest::parse(&manifest("1", &FILE.replace(from, to)));
        assert!(
            matches!(result, Err(BackupManifestError::FileChecksum { .. })),
            "{to}"
        );
    }
}

#[test]
fn changes_are_noticed() {
    let whole = manifest("1", FILE);
    let text = String::from_utf8(whole.clone()).unwrap();
    let changed = text.replace("\"Size\": 3", "\"Size\": 4");
    let result = BackupManifest::parse(changed.as_bytes());
    assert!(
        matches!(result, Err(BackupManifestError::OwnChecksum)),
        "{result:?}"
    );
    for cut in [0, 1, 20, whole.len() - 1] {
        assert!(BackupManifest::parse(&whole[..cut]).is_err(), "{cut}");
    }
    assert!(matches!(
        BackupManifest::parse(b"\n"),
        Err(BackupManifestError::Lines)
    ));
    assert!(matches!(
        BackupManifest::parse(b"{\n}\n"),
        Err(BackupManifestError::Json { .. })
    ));
}

proptest! {
    #[test]
    fn never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        text: String,
    ) {
        let _ = BackupManifest::parse(&bytes);
        let mut damaged = manifest("1", FILE);
        let at = at.index(damaged.len());
        damaged[at] = bytes.first().copied().unwrap_or(0);
        let _ = BackupManifest::parse(&damaged);
        let _ = BackupManifest::parse(&manifest(&text, FILE));
        let _ = BackupManifest::parse(&manifest("1", &text));
    }
}

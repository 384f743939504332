//! What real servers wrote, compared record by record with what their own `pg_waldump` says of it.
//!
//! The files are made by `golden/generate.sh`.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "golden/content.rs"]
mod content;
#[path = "golden/mutation.rs"]
mod mutation;
#[path = "golden/stretch.rs"]
mod stretch;
#[path = "golden/waldump.rs"]
mod waldump;

use pg_format::wal::{WalErrorKind, WalReader, WalReaderConfig};
use pg_format::{
    BackupLabel, BackupManifest, BackupMethod, BackupSource, ClusterState, ControlFile, Lsn,
    PageVerdict, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize, check_page,
};

use stretch::{Stretch, golden, segment_size, stretch, text};
use waldump::waldump_in_words;

const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];
const STRETCHES: [&str; 5] = ["chain", "content", "replica", "overwrite", "fork"];

fn check_against_waldump(major: u32, name: &str) {
    let stretch = stretch(major, name);
    let end = stretch.config.start.0 + stretch.bytes.len() as u64;
    let waldump = text(major, &format!("{name}.waldump.zst"));
    let expected: Vec<String> = waldump
        .lines()
        .map(waldump_in_words)
        .filter(|(lsn, _)| lsn.0 < end)
        .map(|(_, words)| words)
        .collect();
    for piece in [usize::MAX, 4099, 1] {
        let (records, _) = stretch.read(piece);
        for (found, expected) in records.iter().zip(&expected) {
            assert_eq!(found, expected, "PostgreSQL {major}, pieces of {piece}");
        }
        assert_eq!(records.len(), expected.len());
    }
}

#[test]
fn every_record_is_as_pg_waldump_says() {
    for major in MAJORS {
        for name in STRETCHES {
            check_against_waldump(major, name);
        }
    }
}

#[test]
fn a_switched_chain_is_valid_to_its_end() {
    for major in MAJORS {
        let stretch = stretch(major, "chain");
        let mut reader = WalReader::new(stretch.config.clone()).unwrap();
        reader.feed(&stretch.bytes).unwrap();
        assert_eq!(reader.validated_end(), reader.position());
    }
}

#[test]
fn reading_may_begin_at_any_page() {
    for major in MAJORS {
        for name in STRETCHES {
            let mut stretch = stretch(major, name);
            let (whole, reader) = stretch.read(usize::MAX);
            let end = reader.validated_end();
            while stretch.config.start.0 + 8192 < end.0 {
                let _ = stretch.bytes.drain(..8192);
                stretch.config.start.0 += 8192;
                if stretch.bytes[..2] == [0, 0] {
                    // The rest of a switched segment.
                    continue;
                }
                let (records, reader) = stretch.read(usize::MAX);
                assert!(whole.ends_with(&records));
                assert!(records.is_empty() || reader.validated_end() == end);
            }
        }
    }
}

#[test]
fn the_pages_of_a_fork_are_of_three_timelines() {
    for major in MAJORS {
        let stretch = stretch(major, "fork");
        // Beyond what was written, the server filled the segment with copies of a page.
        let (_, reader) = stretch.read(usize::MAX);
        let written = reader.validated_end().bytes_since(stretch.config.start) as usize;
        let pages = stretch.bytes[..written].chunks(8192);
        let mut timelines: Vec<u8> = pages.map(|page| page[4]).collect();
        timelines.dedup();
        assert_eq!(timelines, [1, 2, 3]);
    }
}

#[test]
fn foreign_wal_is_refused() {
    let refuse = |config: WalReaderConfig, bytes: &[u8]| {
        WalReader::new(config)
            .unwrap()
            .feed(bytes)
            .unwrap_err()
            .kind
    };
    let Stretch { config, bytes } = stretch(15, "chain");
    let newer = WalReaderConfig {
        server_major: 18,
        ..config.clone()
    };
    let (found, found_major, expected_major) = (0xD110, Some(15), 18);
    let magic = WalErrorKind::Magic {
        found,
        found_major,
        expected_major,
    };
    assert_eq!(refuse(newer, &bytes), magic);
    let (expected, found) = (SystemIdentifier(1), config.system_identifier);
    let other = WalReaderConfig {
        system_identifier: expected,
        ..config.clone()
    };
    assert_eq!(
        refuse(other, &bytes),
        WalErrorKind::SystemIdentifier { found, expected }
    );
    let size = WalSegmentSize::DEFAULT;
    let larger = WalReaderConfig {
        segment_size: size,
        start: size.start_of(0),
        ..config
    };
    let (found, expected) = (1 << 20, 16 << 20);
    assert_eq!(
        refuse(larger, &bytes),
        WalErrorKind::SegmentSize { found, expected }
    );
}

#[test]
fn pages_have_the_checksums_that_the_server_gave_them() {
    for major in MAJORS {
        for name in ["pages.zst", "more-pages.zst"] {
            let pages = golden(major, name);
            assert!(!pages.is_empty());
            for (block, page) in (0..).zip(pages.chunks(8192)) {
                let verdict = |block| check_page(page, block, Lsn(u64::MAX));
                assert_eq!(verdict(block), PageVerdict::Ok, "{name} {block}");
                assert!(matches!(verdict(block + 1), PageVerdict::Bad { .. }));
            }
        }
    }
}

#[test]
fn the_manifest_and_the_label_agree() {
    for major in MAJORS {
        let version = if major < 17 { 1 } else { 2 };
        let manifest = BackupManifest::parse(&golden(major, "backup_manifest.zst")).unwrap();
        let control = ControlFile::parse(&golden(major, "pg_control")).unwrap();
        let identifier = (version > 1).then_some(control.system_identifier);
        assert_eq!(
            (manifest.version, manifest.system_identifier),
            (version, identifier)
        );

        let bytes = golden(major, "backup_label");
        let label = BackupLabel::parse(&bytes).unwrap();
        assert_eq!(
            (&label.method, label.source),
            (&BackupMethod::Streamed, BackupSource::Primary)
        );
        assert_eq!(
            (label.label.as_str(), label.start_timeline),
            ("golden backup", TimelineId(1))
        );
        assert_eq!(manifest.wal_ranges.len(), 1);
        assert_eq!(manifest.wal_ranges[0].start_lsn, label.start_lsn);
        let segment = SegmentName::containing(TimelineId(1), label.start_lsn, segment_size());
        assert_eq!(label.start_segment, segment.to_string());

        let named = |file: &&pg_format::ManifestFile| file.path.as_str() == Some("backup_label");
        let file = manifest.files.iter().find(named).unwrap();
        let expected = file.checksum.as_ref().unwrap();
        let mut hasher = expected.algorithm().hasher();
        hasher.update(&bytes);
        assert_eq!(
            (hasher.finish(), file.size),
            (expected.clone(), bytes.len() as u64)
        );
        assert!(manifest.files.len() > 900);
    }
}

#[test]
fn pg_control_is_as_pg_controldata_says() {
    for major in MAJORS {
        let control = ControlFile::parse(&golden(major, "pg_control")).unwrap();
        let listing = text(major, "pg_controldata.txt");
        let field = |name: &str| {
            let value = |line: &'static str| line.strip_prefix(name)?.strip_prefix(':');
            let listing: &'static str = Box::leak(listing.clone().into_boxed_str());
            listing.lines().find_map(value).unwrap().trim()
        };
        let same = |name: &str, value: &dyn ToString| assert_eq!(value.to_string(), field(name));
        same("Database system identifier", &control.system_identifier);
        same("pg_control version number", &control.control_version);
        same("Catalog version number", &control.catalog_version);
        same("Latest checkpoint location", &control.checkpoint_lsn);
        same("Latest checkpoint's REDO location", &control.redo_lsn);
        same("Latest checkpoint's TimeLineID", &control.timeline);
        same(
            "Minimum recovery ending location",
            &control.min_recovery_point,
        );
        same("max_connections setting", &control.settings.max_connections);
        same(
            "max_worker_processes setting",
            &control.settings.max_worker_processes,
        );
        same("max_wal_senders setting", &control.settings.max_wal_senders);
        same(
            "max_prepared_xacts setting",
            &control.settings.max_prepared_transactions,
        );
        same(
            "max_locks_per_xact setting",
            &control.settings.max_locks_per_transaction,
        );
        assert_eq!(
            field("track_commit_timestamp setting") == "on",
            control.track_commit_timestamp
        );
        same("Database block size", &control.block_size);
        same(
            "Blocks per segment of large relation",
            &control.blocks_per_file,
        );
        same("WAL block size", &control.wal_block_size);
        same("Bytes per WAL segment", &control.wal_segment_size);
        assert_eq!(
            (field("Data page checksum version"), control.data_checksums),
            ("1", true)
        );
        assert_eq!(
            (field("Database cluster state"), control.state),
            ("shut down", ClusterState::ShutDown)
        );
    }
}

//! The stretches of WAL among the golden files, and how to read them.

use std::fs;
use std::path::PathBuf;

use pg_format::wal::{WalBlockSize, WalErrorKind, WalReader, WalReaderConfig};
use pg_format::{ControlFile, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};

use super::waldump::in_words;

fn directory(major: u32) -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "golden",
        &major.to_string(),
    ]
    .iter()
    .collect()
}

pub(super) fn golden(major: u32, name: &str) -> Vec<u8> {
    let path = directory(major).join(name);
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if name.ends_with(".zst") {
        zstd::decode_all(&bytes[..]).unwrap()
    } else {
        bytes
    }
}

pub(super) fn text(major: u32, name: &str) -> String {
    String::from_utf8(golden(major, name)).unwrap()
}

pub(super) fn segment_size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

/// A stretch of WAL, and how to read it.
pub(super) struct Stretch {
    pub(super) config: WalReaderConfig,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn stretch(major: u32, name: &str) -> Stretch {
    let mut segments: Vec<String> = fs::read_dir(directory(major))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|file| {
            let segment = file
                .strip_prefix(name)?
                .strip_prefix('-')?
                .strip_suffix(".zst")?;
            Some(segment.to_owned())
        })
        .collect();
    segments.sort();
    let first = SegmentName::parse(&segments[0], segment_size()).unwrap();
    let history = match first.timeline {
        TimelineId(1) => TimelineHistory::root(TimelineId(1)),
        timeline => {
            let text = text(major, &timeline.history_file_name());
            TimelineHistory::parse(timeline, &text).unwrap()
        }
    };
    let control = ControlFile::parse(&golden(major, "pg_control")).unwrap();
    let config = WalReaderConfig {
        start: first.start(segment_size()),
        history,
        system_identifier: control.system_identifier,
        segment_size: segment_size(),
        block_size: WalBlockSize::DEFAULT,
        server_major: major,
    };
    let bytes = segments
        .iter()
        .flat_map(|segment| golden(major, &format!("{name}-{segment}.zst")))
        .collect();
    Stretch { config, bytes }
}

impl Stretch {
    /// Reads everything in pieces; stops where nothing was written.
    pub(super) fn read(&self, piece: usize) -> (Vec<String>, WalReader) {
        let mut reader = WalReader::new(self.config.clone()).unwrap();
        let mut records = Vec::new();
        for piece in self.bytes.chunks(piece) {
            match reader.feed_each(piece, |record| records.push(in_words(record))) {
                Ok(()) => {}
                Err(error) if error.kind == WalErrorKind::NotWritten => break,
                Err(error) => panic!("{error}"),
            }
        }
        (records, reader)
    }
}

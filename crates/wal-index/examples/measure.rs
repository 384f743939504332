//! Measures the index of a directory of WAL segments of 16 MiB: its size, and what building and asking cost.
//!
//!     measure <directory> <major version> <first segment> <how many>

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement by hand"
)]

use std::path::Path;
use std::time::Instant;

use pg_format::wal::{WalBlockSize, WalReader, WalReaderConfig};
use pg_format::{Lsn, PgTimestamp, SegmentName, TimelineHistory, WalSegmentSize};
use wal_index::{
    Bounds, IndexBuilder, IndexSettings, Names, Search, SegmentIndex, Target, buckets, decode,
    encode, moments,
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().unwrap();
    let (directory, major, first, count) = (next(), next(), next(), next());
    let size = WalSegmentSize::DEFAULT;
    let mut segment = SegmentName::parse(&first, size).unwrap();
    let mut segments = Vec::new();
    for _ in 0..count.parse().unwrap() {
        segments.push(std::fs::read(Path::new(&directory).join(segment.to_string())).unwrap());
        segment = segment.next(size);
    }
    let stored: usize = segments
        .iter()
        .map(|bytes| zstd::encode_all(&bytes[..], 3).unwrap().len())
        .sum();
    let first = SegmentName::parse(&first, size).unwrap();
    let long_header = &segments[0][24..32];
    let config = WalReaderConfig {
        start: first.start(size),
        history: TimelineHistory::root(first.timeline),
        system_identifier: pg_format::SystemIdentifier(u64::from_le_bytes(
            long_header.try_into().unwrap(),
        )),
        segment_size: size,
        block_size: WalBlockSize::DEFAULT,
        server_major: major.parse().unwrap(),
    };
    let read = |visit: &mut dyn FnMut(&pg_format::wal::WalRecord<'_>)| {
        let began = Instant::now();
        let mut reader = WalReader::new(config.clone()).unwrap();
        for bytes in &segments {
            reader.feed_each(bytes, &mut *visit).unwrap();
        }
        began.elapsed()
    };
    let mut records = 0u64;
    let _ = read(&mut |_| records += 1);
    let validated = (0..3).map(|_| read(&mut |_| {})).min().unwrap();
    let mut index = Vec::new();
    let built = (0..3)
        .map(|_| {
            let mut builder =
                IndexBuilder::new(IndexSettings::default(), size, config.start, Vec::new());
            let elapsed = read(&mut |record| builder.observe(record));
            let end = Lsn(config.start.0 + segments.len() as u64 * size.bytes());
            builder.advance(end);
            index = std::iter::from_fn(|| builder.take_finished()).collect::<Vec<_>>();
            elapsed
        })
        .min()
        .unwrap();
    let groups = size_up(&index, records, stored);
    let per_record = |elapsed: std::time::Duration| elapsed.as_nanos() / u128::from(records);
    println!(
        "validated {} ns, validated and indexed {} ns a record",
        per_record(validated),
        per_record(built)
    );
    ask(&groups, &index);
}

/// Says how large it is; gives its stored groups.
fn size_up(index: &[SegmentIndex], records: u64, stored: usize) -> Vec<Vec<u8>> {
    let groups: Vec<Vec<u8>> = index.chunks(64).map(encode).collect();
    let raw: usize = groups.iter().map(Vec::len).sum();
    let packed: usize = groups
        .iter()
        .map(|bytes| zstd::encode_all(&bytes[..], 3).unwrap().len())
        .sum();
    let intervals: usize = index.iter().map(|segment| segment.intervals.len()).sum();
    let open: usize = index.iter().map(|segment| segment.open.len()).sum();
    let commits = commits(index);
    println!(
        "{} segments, {records} records, {commits} commits, {intervals} intervals, {open} carried",
        index.len()
    );
    println!(
        "wal stored {stored} bytes; index {raw} raw, {packed} stored: {:.3} %",
        percent(packed, stored)
    );
    groups
}

fn commits(index: &[SegmentIndex]) -> u64 {
    index
        .iter()
        .flat_map(|segment| &segment.intervals)
        .filter_map(|interval| interval.ends.as_ref())
        .map(|ends| u64::from(ends.commits))
        .sum()
}

fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// What reading and asking cost with as many copies as make ten million commits.
fn ask(groups: &[Vec<u8>], index: &[SegmentIndex]) {
    let commits = commits(index);
    let copies = 10_000_000 / commits.max(1) + 1;
    let began = Instant::now();
    for _ in 0..copies {
        for group in groups {
            let _ = decode(group).unwrap();
        }
    }
    println!(
        "decoded {} commits in {:?}",
        copies * commits,
        began.elapsed()
    );
    let (start, end) = (index[0].start, index[index.len() - 1].end);
    let span = end.0 - start.0;
    let mut many = Vec::new();
    for copy in 0..copies {
        many.extend(index.iter().map(|segment| shifted(segment, copy * span)));
    }
    let bounds = Bounds {
        from: start,
        to: Lsn(start.0 + copies * span),
    };
    let began = Instant::now();
    let step = Search::new(Target::Time(PgTimestamp(i64::MAX)), bounds).step(&many);
    println!("resolved in {:?}: {}", began.elapsed(), step.is_ok());
    let began = Instant::now();
    let found = moments(&many, &Names::default()).len();
    println!("{found} moments in {:?}", began.elapsed());
    let began = Instant::now();
    let found = buckets(
        many.iter().flat_map(|segment| &segment.intervals),
        None,
        None,
    );
    println!("{} buckets in {:?}", found.buckets.len(), began.elapsed());
}

fn shifted(segment: &SegmentIndex, bytes: u64) -> SegmentIndex {
    let mut segment = segment.clone();
    let shift = |lsn: &mut Lsn| lsn.0 += bytes;
    shift(&mut segment.start);
    shift(&mut segment.end);
    for interval in &mut segment.intervals {
        shift(&mut interval.start);
        shift(&mut interval.end);
        if let Some(ends) = &mut interval.ends {
            shift(&mut ends.last.lsn);
            shift(&mut ends.last.end);
        }
    }
    segment
}

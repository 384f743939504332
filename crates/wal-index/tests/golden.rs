//! The index of what real servers wrote, against what their own `pg_waldump` says of it and what the script that made
//! the files did (`crates/pg-format/tests/golden/generate.sh`).

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs;
use std::path::PathBuf;

use pg_format::wal::{WalBlockSize, WalReader, WalReaderConfig};
use pg_format::{ControlFile, Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
use wal_index::{
    IndexBuilder, IndexSettings, OpenTransaction, SegmentIndex, TransactionEvent, WalEvent,
};

const MAJORS: [u32; 2] = [15, 18];
const SEGMENT: u64 = 1 << 20;

fn golden(major: u32, name: &str) -> Vec<u8> {
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "../pg-format/tests/golden",
        &major.to_string(),
        name,
    ]
    .iter()
    .collect();
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if name.ends_with(".zst") {
        zstd::decode_all(&bytes[..]).unwrap()
    } else {
        bytes
    }
}

/// Segments of one timeline that follow one another.
struct Stretch {
    config: WalReaderConfig,
    bytes: Vec<u8>,
}

fn stretch(major: u32, name: &str) -> Stretch {
    let size = WalSegmentSize::new(SEGMENT).unwrap();
    let directory = format!(
        "{}/../pg-format/tests/golden/{major}",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut segments: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|file| {
            let rest = file.strip_prefix(name)?.strip_prefix('-')?;
            Some(rest.strip_suffix(".zst")?.to_owned())
        })
        .collect();
    segments.sort();
    let first = SegmentName::parse(&segments[0], size).unwrap();
    let history = match first.timeline {
        TimelineId(1) => TimelineHistory::root(TimelineId(1)),
        timeline => {
            let text = String::from_utf8(golden(major, &timeline.history_file_name())).unwrap();
            TimelineHistory::parse(timeline, &text).unwrap()
        }
    };
    let control = ControlFile::parse(&golden(major, "pg_control")).unwrap();
    Stretch {
        config: WalReaderConfig {
            start: first.start(size),
            history,
            system_identifier: control.system_identifier,
            segment_size: size,
            block_size: WalBlockSize::DEFAULT,
            server_major: major,
        },
        bytes: segments
            .iter()
            .flat_map(|segment| golden(major, &format!("{name}-{segment}.zst")))
            .collect(),
    }
}

impl Stretch {
    /// The segments from number `from` of the stretch on; what was never written is left out.
    fn index(&self, from: u64, carry: Vec<OpenTransaction>) -> Vec<SegmentIndex> {
        let mut config = self.config.clone();
        config.start = Lsn(config.start.0 + from * SEGMENT);
        let settings = IndexSettings { threshold_rows: 4 };
        let mut builder = IndexBuilder::new(settings, config.segment_size, config.start, carry);
        let mut reader = WalReader::new(config).unwrap();
        let bytes = &self.bytes[(from * SEGMENT) as usize..];
        let whole = reader
            .feed_each(bytes, |record| builder.observe(record))
            .is_ok();
        if whole {
            builder.advance(reader.unfinished_record().unwrap_or(reader.position()));
        }
        let mut segments: Vec<_> = std::iter::from_fn(|| builder.take_finished()).collect();
        let rest = builder.unfinished(reader.validated_end());
        if rest.start < rest.end {
            segments.push(rest);
        }
        segments
    }
}

/// Position, time, xid and whether it committed, of every transaction end that `pg_waldump` shows before `end`.
fn waldump_ends(major: u32, name: &str, end: Lsn) -> Vec<(Lsn, String, u32, bool)> {
    let text = String::from_utf8(golden(major, &format!("{name}.waldump.zst"))).unwrap();
    let between = |text: &str, from: &str, to: &str| {
        let rest = &text[text.find(from).unwrap() + from.len()..];
        rest[..rest.find(to).unwrap_or(rest.len())]
            .trim()
            .to_owned()
    };
    text.lines()
        .filter(|line| line.starts_with("rmgr: Transaction"))
        .filter_map(|line| {
            let (head, description) = line.split_once(", desc: ").unwrap();
            let operation = description.split([' ', ':']).next().unwrap();
            let prepared = operation.ends_with("_PREPARED");
            if !["COMMIT", "ABORT"].contains(&operation) && !prepared {
                return None;
            }
            let xid = if prepared {
                between(description, " ", ":").parse().unwrap()
            } else {
                between(head, "tx: ", ",").parse().unwrap()
            };
            let before_zone = description.split(" UTC").next().unwrap();
            let time = &before_zone[before_zone.len() - "2026-11-22 15:09:59.956115".len()..];
            let lsn: Lsn = between(head, "lsn: ", ",").parse().unwrap();
            let time = format!("{}Z", time.replace(' ', "T"));
            Some((lsn, time, xid, operation.starts_with("COMMIT")))
        })
        .filter(|(lsn, ..)| *lsn < end)
        .collect()
}

#[test]
fn no_transaction_end_is_lost() {
    for major in MAJORS {
        for name in ["chain", "overwrite", "fork"] {
            let segments = stretch(major, name).index(0, Vec::new());
            let covered = segments.last().unwrap().end;
            let ends = waldump_ends(major, name, covered);
            let mut found = 0;
            for interval in segments.iter().flat_map(|segment| &segment.intervals) {
                let within: Vec<_> = ends
                    .iter()
                    .filter(|(lsn, ..)| *lsn >= interval.start && *lsn < interval.end)
                    .collect();
                found += within.len();
                let Some(told) = &interval.ends else {
                    assert!(within.is_empty());
                    continue;
                };
                assert_eq!(told.count as usize, within.len());
                let commits = within.iter().filter(|(.., committed)| *committed);
                assert_eq!(told.commits as usize, commits.count());
                let times = || within.iter().map(|(_, time, ..)| time.clone());
                assert_eq!(told.min_time.to_string(), times().min().unwrap());
                assert_eq!(told.max_time.to_string(), times().max().unwrap());
                let xids = || within.iter().map(|(_, _, xid, _)| *xid);
                assert_eq!(
                    Some((told.min_xid, told.max_xid)),
                    xids().min().zip(xids().max())
                );
                let last = &told.last;
                let last = (last.lsn, last.time.to_string(), last.xid, last.committed);
                assert_eq!(&last, *within.last().unwrap());
            }
            assert_eq!(found, ends.len(), "PostgreSQL {major}, {name}");
            assert!(segments.iter().all(|segment| segment.undecoded == 0));
        }
    }
}

#[test]
fn building_may_begin_at_any_segment() {
    for major in MAJORS {
        let stretch = stretch(major, "chain");
        let whole = stretch.index(0, Vec::new());
        assert!(whole.len() > 2);
        for from in 1..whole.len() {
            let carry = whole[from - 1].open.clone();
            assert_eq!(stretch.index(from as u64, carry), &whole[from..]);
        }
    }
}

#[test]
fn what_the_script_did_is_told() {
    for major in MAJORS {
        let segments = stretch(major, "chain").index(0, Vec::new());
        let events: Vec<&WalEvent> = segments
            .iter()
            .flat_map(|segment| &segment.events)
            .collect();
        let names = events.iter().filter_map(|event| match event {
            WalEvent::RestorePoint { name, .. } => Some(name.as_str()),
            _ => None,
        });
        assert_eq!(names.collect::<Vec<_>>(), ["here"]);

        let transactions: Vec<&TransactionEvent> = events
            .iter()
            .filter_map(|event| match event {
                WalEvent::Transaction(event) => Some(event),
                _ => None,
            })
            .collect();
        // UPDATE of every thirtieth of 300 rows, DELETE of 4; CREATE, TRUNCATE and DROP of a table.
        let [update, delete, create, truncate, drop] = &transactions[..] else {
            panic!("PostgreSQL {major}: {transactions:#?}");
        };
        let rows = |event: &TransactionEvent| (event.rows[0].deleted, event.rows[0].updated);
        assert_eq!((rows(update), rows(delete)), ((0, 10), (4, 0)));
        assert_eq!(update.rows[0].file, delete.rows[0].file);

        let made = &create.created[0];
        assert!(!made.filled && create.dropped.is_empty());
        assert_eq!(truncate.dropped, [made.file]);
        let emptied = &truncate.created[0];
        assert!(!emptied.filled && truncate.created.len() == 1);
        // With wal_level = logical the table's oid is told, which is the number of its first file.
        assert_eq!(truncate.truncated, [(made.file.database, made.file.number)]);
        assert_eq!(drop.dropped, [emptied.file]);
        assert!(drop.created.is_empty());
    }
}

#[test]
fn a_crash_and_two_promotions_are_told() {
    for major in MAJORS {
        let told = |name: &str| {
            let segments = stretch(major, name).index(0, Vec::new());
            let events: Vec<WalEvent> = segments.into_iter().flat_map(|s| s.events).collect();
            events
        };
        let crashed = told("overwrite");
        let restarts = |event: &&WalEvent| matches!(event, WalEvent::ShutdownCheckpoint { .. });
        assert!(crashed.iter().filter(restarts).count() >= 1, "{crashed:#?}");
        let promotions: Vec<(u32, u32)> = told("fork")
            .iter()
            .filter_map(|event| match event {
                WalEvent::EndOfRecovery {
                    timeline,
                    previous_timeline,
                    ..
                } => Some((previous_timeline.0, timeline.0)),
                _ => None,
            })
            .collect();
        assert_eq!(promotions, [(1, 2), (2, 3)]);
    }
}

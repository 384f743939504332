use pg_format::wal::{Parameters, RelationFile, WalLevel};
use pg_format::{ControlSettings, Lsn, PgTimestamp, TimelineId};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, proptest};

use super::{FormatError, decode, encode};
use crate::model::{
    CreatedFile, DroppedDatabase, Ends, Interval, OpenTransaction, RowCounts, SegmentIndex,
    TransactionEnd, TransactionEvent, WalEvent,
};

fn file(number: u32) -> RelationFile {
    RelationFile {
        tablespace: 1663,
        database: 5,
        number,
    }
}

fn end(lsn: u64, time: i64, xid: u32, committed: bool) -> TransactionEnd {
    TransactionEnd {
        lsn: Lsn(lsn),
        end: Lsn(lsn + 48),
        time: PgTimestamp(time),
        xid,
        committed,
    }
}

fn rows() -> Vec<RowCounts> {
    vec![RowCounts {
        file: file(16_400),
        deleted: 500,
        updated: 1,
    }]
}

fn events() -> Vec<WalEvent> {
    let transaction = TransactionEvent {
        commit: end(0x100_0300, 700_000_000_001_000, 751, true),
        previous: Some(end(0x100_0100, 700_000_000_000_000, 750, false)),
        latest_before: Some(PgTimestamp(700_000_000_002_000)),
        database: Some(5),
        dropped: vec![file(16_390)],
        dropped_more: 1,
        created: vec![CreatedFile {
            file: file(16_391),
            filled: true,
        }],
        created_more: 2,
        dropped_databases: vec![DroppedDatabase {
            database: 6,
            lsn: Lsn(0xFF_0000),
        }],
        truncated: vec![(5, 16_380)],
        rows: rows(),
    };
    let settings = ControlSettings {
        max_connections: 100,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 0,
        max_locks_per_transaction: 64,
    };
    let (timeline, previous_timeline) = (TimelineId(2), TimelineId(1));
    let time = PgTimestamp(699_999_999_000_000);
    vec![
        WalEvent::Transaction(transaction),
        WalEvent::RestorePoint {
            lsn: Lsn(0x100_0400),
            end: Lsn(0x100_0468),
            time,
            name: "before \"it\"".to_owned(),
        },
        WalEvent::ParameterChange {
            lsn: Lsn(0x100_0500),
            parameters: Parameters {
                settings,
                wal_level: WalLevel::Logical,
                wal_log_hints: false,
                track_commit_timestamp: true,
            },
        },
        WalEvent::ShutdownCheckpoint {
            lsn: Lsn(0x100_0600),
            time,
            timeline,
            previous_timeline,
        },
        WalEvent::EndOfRecovery {
            lsn: Lsn(0x100_0700),
            time,
            timeline,
            previous_timeline,
        },
    ]
}

/// Everything that can be in a segment.
fn segment() -> SegmentIndex {
    let interval = |start, to, ends| Interval {
        start: Lsn(start),
        end: Lsn(to),
        ends,
    };
    let commit = end(0x100_0300, 700_000_000_001_000, 751, true);
    let last = end(0x100_0800, 700_000_000_003_000, 752, false);
    let ends = Ends {
        count: 3,
        commits: 1,
        min_time: PgTimestamp(700_000_000_000_000),
        max_time: PgTimestamp(700_000_000_003_000),
        min_xid: 750,
        max_xid: 752,
        last,
        last_commit: commit.commit(),
    };
    SegmentIndex {
        segment: 16,
        start: Lsn(0x100_0000),
        end: Lsn(0x110_0000),
        intervals: vec![
            interval(0x100_0000, 0x100_0830, Some(ends)),
            interval(0x100_0830, 0x110_0000, None),
        ],
        events: events(),
        open: vec![OpenTransaction {
            xid: 760,
            prepared: true,
            rows: rows(),
            created: vec![CreatedFile {
                file: file(16_392),
                filled: false,
            }],
            created_more: 1,
            dropped_databases: vec![DroppedDatabase {
                database: 7,
                lsn: Lsn(0x100_0900),
            }],
            truncated: vec![(5, 16_381)],
        }],
        undecoded: 1,
    }
}

/// What version 1 writes, for ever: it is in customers' buckets.
const VERSION_1: &str = include_str!("version_1.jsonl");

#[test]
fn version_1_is_written_and_read_as_ever() {
    let text = String::from_utf8(encode(&[segment()])).unwrap();
    assert_eq!(text, VERSION_1);
    assert_eq!(decode(VERSION_1.as_bytes()).unwrap(), [segment()]);
}

#[test]
fn what_a_newer_version_adds_is_passed_over() {
    let text = VERSION_1
        .replacen("\"v\":1", "\"v\":1,\"new\":[]", 1)
        .replacen("\"s\":16", "\"s\":16,\"new\":{\"a\":1}", 1)
        .replacen("\"e\":[", "\"e\":[{\"k\":\"new\",\"l\":5,\"x\":[1]},", 1)
        .replacen("{\"k\":\"t\"", "{\"k\":\"t\",\"new\":7", 1);
    assert_eq!(decode(text.as_bytes()).unwrap(), [segment()]);
}

#[test]
fn another_format_version_is_refused() {
    let newer = VERSION_1.replacen("\"v\":1", "\"v\":2", 1);
    let error = decode(newer.as_bytes()).unwrap_err();
    assert!(
        matches!(error, FormatError::Version { found: 2 }),
        "{error}"
    );
    assert!(matches!(decode(b"").unwrap_err(), FormatError::Empty));
    let cut = &VERSION_1.as_bytes()[..VERSION_1.len() / 2];
    assert!(matches!(
        decode(cut).unwrap_err(),
        FormatError::Line { line: 2, .. }
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(at in any::<usize>(), with in vec(any::<u8>(), 0..12)) {
        let mut bytes = VERSION_1.as_bytes().to_vec();
        let at = at % bytes.len();
        let end = (at + with.len()).min(bytes.len());
        let _ = bytes.splice(at..end, with);
        if let Ok(segments) = decode(&bytes) {
            prop_assert!(decode(&encode(&segments)).is_ok());
        }
    }
}

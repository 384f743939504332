//! What records say, in words: as decoded, and as `pg_waldump` describes it.

use std::collections::BTreeMap;

use pg_format::PgTimestamp;
use pg_format::wal::{
    CheckpointKind, Parameters, PreparedTransaction, RecordContent, RelationFile, RelationFiles,
    TransactionEndKind, TransactionOrigin, WalLevel, WalReader, WalRecord,
};

use super::MAJORS;
use super::stretch::stretch;

/// `1663/5/16394`
fn file(file: RelationFile) -> String {
    format!("{}/{}/{}", file.tablespace, file.database, file.number)
}

fn files(list: RelationFiles<'_>) -> String {
    list.iter().map(file).collect::<Vec<_>>().join(" ")
}

fn numbers(list: impl Iterator<Item = u32>) -> String {
    let list: Vec<String> = list.map(|number| number.to_string()).collect();
    list.join(" ")
}

fn origin_in_words(origin: Option<TransactionOrigin>) -> String {
    origin.map_or_else(String::new, |origin| {
        let (id, lsn, time) = (origin.id.unwrap(), origin.lsn, origin.time);
        format!("node {id}, lsn {lsn}, at {time}")
    })
}

/// What an end of a transaction says, in the order of `pg_waldump`.
struct End<'a> {
    operation: &'a str,
    xid: u32,
    time: PgTimestamp,
    rels: String,
    subxacts: String,
    stats: u32,
    invalidations: u32,
    origin: String,
}

impl End<'_> {
    fn words(&self) -> String {
        let End {
            operation,
            xid,
            time,
            rels,
            subxacts,
            stats,
            invalidations,
            origin,
        } = self;
        format!(
            " | {operation} {xid} {time} rels [{rels}] subxacts [{subxacts}] stats {stats} \
             invals {invalidations} origin [{origin}]"
        )
    }
}

fn operation(kind: TransactionEndKind) -> &'static str {
    match kind {
        TransactionEndKind::Commit => "COMMIT",
        TransactionEndKind::Abort => "ABORT",
        TransactionEndKind::CommitPrepared => "COMMIT_PREPARED",
        TransactionEndKind::AbortPrepared => "ABORT_PREPARED",
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn parameters_in_words(parameters: &Parameters) -> String {
    let settings = parameters.settings;
    let level = match parameters.wal_level {
        WalLevel::Minimal => "minimal",
        WalLevel::Replica => "replica",
        WalLevel::Logical => "logical",
    };
    format!(
        " | PARAMETER_CHANGE max_connections={} max_worker_processes={} max_wal_senders={} \
         max_prepared_xacts={} max_locks_per_xact={} wal_level={level} wal_log_hints={} \
         track_commit_timestamp={}",
        settings.max_connections,
        settings.max_worker_processes,
        settings.max_wal_senders,
        settings.max_prepared_transactions,
        settings.max_locks_per_transaction,
        on_off(parameters.wal_log_hints),
        on_off(parameters.track_commit_timestamp),
    )
}

/// What the decoder says of a record; nothing for [`RecordContent::Other`].
pub(super) fn content_in_words(record: &WalRecord<'_>) -> String {
    match record.content().unwrap() {
        RecordContent::Commit(commit) => {
            assert!(!commit.truncated);
            End {
                operation: operation(commit.kind),
                xid: commit.xid.unwrap(),
                time: commit.time,
                rels: files(commit.dropped_files),
                subxacts: numbers(commit.subtransactions.iter()),
                stats: commit.dropped_statistics,
                invalidations: commit.invalidations,
                origin: origin_in_words(commit.origin),
            }
            .words()
        }
        RecordContent::Abort(abort) => {
            assert!(!abort.truncated);
            End {
                operation: operation(abort.kind),
                xid: abort.xid.unwrap(),
                time: abort.time,
                rels: files(abort.dropped_files),
                subxacts: numbers(abort.subtransactions.iter()),
                stats: abort.dropped_statistics,
                invalidations: 0,
                origin: origin_in_words(abort.origin),
            }
            .words()
        }
        RecordContent::Prepare(prepared) => {
            assert!(!prepared.truncated);
            assert_eq!(prepared.xid, record.header.xid);
            assert_eq!(prepared.owner, 10);
            format!(
                " | PREPARE gid {}: {} commit [{}] abort [{}] subxacts [{}]",
                prepared.gid.unwrap(),
                prepared.prepared_at,
                files(prepared.dropped_on_commit),
                files(prepared.dropped_on_abort),
                numbers(prepared.subtransactions.iter()),
            )
        }
        RecordContent::RestorePoint { name, .. } => format!(" | RESTORE_POINT {name}"),
        RecordContent::Checkpoint(checkpoint) => {
            let (redo, timeline) = (checkpoint.redo, checkpoint.timeline);
            let kind = match checkpoint.kind {
                CheckpointKind::Online => "online",
                CheckpointKind::Shutdown => "shutdown",
            };
            let previous = checkpoint.previous_timeline;
            format!(" | redo {redo}; tli {timeline}; prev tli {previous}; {kind}")
        }
        RecordContent::EndOfRecovery {
            time,
            timeline,
            previous_timeline,
        } => format!(" | END_OF_RECOVERY tli {timeline}; prev tli {previous_timeline}; {time}"),
        RecordContent::ParameterChange(parameters) => parameters_in_words(&parameters),
        RecordContent::DropDatabase {
            database,
            tablespaces,
        } => {
            let directories = tablespaces
                .iter()
                .map(|space| format!(" {space}/{database}"));
            format!(" | DROP dir{}", directories.collect::<String>())
        }
        RecordContent::HeapDelete(relation) => format!(" | DELETE {}", file(relation)),
        RecordContent::HeapUpdate(relation) => format!(" | UPDATE {}", file(relation)),
        RecordContent::HeapInsert(relation) => format!(" | INSERT {}", file(relation)),
        RecordContent::HeapTruncate {
            database,
            relations,
        } => {
            assert!(database > 0);
            format!(" | TRUNCATE relids {}", numbers(relations.iter()))
        }
        RecordContent::FileCreated {
            file: created,
            fork,
        } => {
            let fork = ["", "_fsm", "_vm", "_init"][usize::from(fork)];
            format!(" | CREATE {}{fork}", file(created))
        }
        RecordContent::FileTruncated { file: cut, blocks } => {
            format!(" | TRUNCATE {} to {blocks} blocks", file(cut))
        }
        RecordContent::FullPageImage => " | FPI".to_owned(),
        _ => String::new(),
    }
}

/// `base/5/16394`, `global/1262` or `pg_tblspc/16557/PG_15_202209061/16558/16559`, fork included
fn path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["base", database, number] => format!("1663/{database}/{number}"),
        ["global", number] => format!("1664/0/{number}"),
        ["pg_tblspc", space, _, database, number] => format!("{space}/{database}/{number}"),
        _ => panic!("{path}"),
    }
}

/// `2026-11-22 15:11:43.966726 UTC`
fn time(text: &str) -> String {
    format!(
        "{}Z",
        text.trim().strip_suffix(" UTC").unwrap().replace(' ', "T")
    )
}

/// The part of a description that begins with `name:`.
fn part<'a>(description: &'a str, name: &str) -> &'a str {
    let named = |part: &'a str| part.strip_prefix(name)?.strip_prefix(": ");
    description.split("; ").find_map(named).unwrap_or_default()
}

fn described_origin(description: &str) -> String {
    match part(description, "origin").split_once(", at ") {
        Some((node, at)) => format!("{node}, at {}", time(at)),
        None => String::new(),
    }
}

fn paths(list: &str) -> String {
    list.split_whitespace()
        .map(path)
        .collect::<Vec<_>>()
        .join(" ")
}

fn described_transaction(xid: &str, description: &str) -> String {
    let (operation, rest) = description.split_once(' ').unwrap();
    if operation == "PREPARE" {
        // The gid may hold anything, a separator too.
        let (gid, rest) = rest.split_at(rest.find(": 20").unwrap());
        let rest = &rest[2..];
        return format!(
            " | PREPARE {gid}: {} commit [{}] abort [{}] subxacts [{}]",
            time(rest.split("; ").next().unwrap()),
            paths(part(rest, "rels(commit)")),
            paths(part(rest, "rels(abort)")),
            part(rest, "subxacts"),
        );
    }
    if !["COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED"].contains(&operation) {
        return String::new();
    }
    let (xid, rest) = match operation.strip_suffix("_PREPARED") {
        Some(_) => rest.split_once(": ").unwrap(),
        None => (xid, rest),
    };
    let words = |text: &str| text.split_whitespace().count();
    let messages = part(rest, "inval msgs").split_whitespace();
    format!(
        " | {operation} {xid} {} rels [{}] subxacts [{}] stats {} invals {} origin [{}]",
        time(rest.split("; ").next().unwrap()),
        paths(part(rest, "rels")),
        part(rest, "subxacts"),
        words(part(rest, "dropped stats")),
        messages
            .filter(|word| word.starts_with(char::is_alphabetic))
            .count(),
        described_origin(rest),
    )
}

fn described_xlog(operation: &str, description: &str) -> String {
    match operation {
        "CHECKPOINT_ONLINE" | "CHECKPOINT_SHUTDOWN" => {
            let (_, rest) = description.split_once(' ').unwrap();
            let mut parts = rest.split("; ");
            let mut next = || parts.next().unwrap();
            let (redo, timeline, previous) = (next(), next(), next());
            format!(
                " | {redo}; {timeline}; {previous}; {}",
                parts.last().unwrap()
            )
        }
        "END_OF_RECOVERY" => {
            let (timelines, rest) = description.split_once("; time ").unwrap();
            format!(" | {timelines}; {}", time(rest.split("; ").next().unwrap()))
        }
        "PARAMETER_CHANGE" | "RESTORE_POINT" => format!(" | {description}"),
        "FPI" | "FPI_FOR_HINT" => " | FPI".to_owned(),
        _ => String::new(),
    }
}

fn described_heap(operation: &str, description: &str, first_block: Option<&str>) -> String {
    let relation = first_block.and_then(|block| block.split_whitespace().nth(2));
    // The second `flags` of an update are those of the new row; a delete has one.
    let flags = description.split_once("flags").map_or(0, |(_, flags)| {
        let digits = flags
            .trim_start_matches([':', ' '])
            .trim_start_matches("0x");
        u8::from_str_radix(digits.get(..2).unwrap_or_default(), 16).unwrap_or(0)
    });
    match operation {
        "DELETE" if flags & 0x08 != 0 => String::new(),
        "DELETE" if flags & 0x10 != 0 => format!(" | UPDATE {}", relation.unwrap()),
        "DELETE" => format!(" | DELETE {}", relation.unwrap()),
        "UPDATE" | "UPDATE+INIT" | "HOT_UPDATE" | "HOT_UPDATE+INIT" => {
            format!(" | UPDATE {}", relation.unwrap())
        }
        "INSERT" | "INSERT+INIT" | "MULTI_INSERT" | "MULTI_INSERT+INIT" => {
            format!(" | INSERT {}", relation.unwrap())
        }
        "TRUNCATE" => {
            let (_, oids) = description
                .split_once("relids")
                .and_then(|(_, rest)| rest.split_once("relids"))
                .unwrap();
            let digits = oids.replace(|other: char| !other.is_ascii_digit(), " ");
            let oids: Vec<&str> = digits.split_whitespace().collect();
            format!(" | TRUNCATE relids {}", oids.join(" "))
        }
        _ => String::new(),
    }
}

/// What `pg_waldump` says of the same.
pub(super) fn described_content(manager: &str, xid: &str, description: &str) -> String {
    let mut blocks = description.split(", blkref ");
    let description = blocks.next().unwrap().trim();
    let operation = description.split([' ', ':']).next().unwrap();
    match (manager, operation) {
        ("Transaction", _) => described_transaction(xid, description),
        ("XLOG", _) => described_xlog(operation, description),
        ("Heap" | "Heap2", _) => described_heap(operation, description, blocks.next()),
        ("Storage", "CREATE") => format!(" | CREATE {}", path(&description[7..])),
        ("Storage", "TRUNCATE") => {
            let (file, rest) = description[9..].split_once(' ').unwrap();
            let (blocks, _) = rest.split_once(" flags").unwrap();
            format!(" | TRUNCATE {} {blocks}", path(file))
        }
        ("Database", "DROP") => format!(" | {description}"),
        _ => String::new(),
    }
}

fn gid_of(transaction: &PreparedTransaction<'_>) -> String {
    transaction.gid.unwrap().to_string()
}

/// What `pg_waldump` does not print: gids at the end, databases, times of other records.
#[test]
fn ends_of_prepared_transactions_name_what_was_prepared() {
    for major in MAJORS {
        let stretch = stretch(major, "content");
        let mut prepared = BTreeMap::new();
        let mut ended = BTreeMap::new();
        let mut times = Vec::new();
        let mut reader = WalReader::new(stretch.config.clone()).unwrap();
        let visit = |record: &WalRecord<'_>| match record.content().unwrap() {
            RecordContent::Prepare(transaction) => {
                let gid = gid_of(&transaction);
                let _ = prepared.insert(transaction.xid, (gid, transaction.database));
                times.push(transaction.prepared_at);
                if gid_of(&transaction) == "from elsewhere" {
                    // Only from 15 on does pg_waldump print it.
                    let expected = "node 1, lsn 0/5678, at 2026-02-03T04:05:06.789000Z";
                    assert_eq!(origin_in_words(transaction.origin), expected);
                } else {
                    assert_eq!(transaction.origin, None);
                }
            }
            RecordContent::Commit(commit) => {
                if let Some(gid) = commit.gid {
                    let database = commit.database.unwrap();
                    let _ = ended.insert(commit.xid.unwrap(), (gid.to_string(), database.database));
                    assert_eq!(database.tablespace, 1663);
                }
                times.push(commit.time);
            }
            RecordContent::Abort(abort) => {
                if let Some(gid) = abort.gid {
                    let database = abort.database.unwrap().database;
                    let _ = ended.insert(abort.xid.unwrap(), (gid.to_string(), database));
                }
                times.push(abort.time);
            }
            RecordContent::RestorePoint { time, .. } => times.push(time),
            // A checkpoint's time is cut to the second.
            RecordContent::Checkpoint(checkpoint) => times.extend(
                times
                    .last()
                    .map(|last| PgTimestamp(checkpoint.time.0.max(last.0))),
            ),
            _ => {}
        };
        reader.feed_each(&stretch.bytes, visit).unwrap();
        assert_eq!(
            (prepared.len(), &prepared),
            (3, &ended),
            "PostgreSQL {major}"
        );
        // One session wrote it all, so its times rise; all of it took less than a minute.
        assert!(times.is_sorted(), "PostgreSQL {major}: {times:?}");
        let (first, last) = (times[0], times[times.len() - 1]);
        assert!(last.0 - first.0 < 60_000_000);
    }
}

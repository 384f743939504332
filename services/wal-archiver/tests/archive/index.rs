//! The commit-time index: complete, exact, and the same whoever made it.

mod along;
pub(crate) mod window;

use std::collections::BTreeMap;

use pg_format::wal::{RelationFile, WalBlockSize, WalReader, WalReaderConfig};
use pg_format::{Lsn, SegmentNumber, TimelineHistory, TimelineId};
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;
use wal_index::{IndexBuilder, IndexSettings, Names, SegmentIndex, TransactionEvent, WalEvent};

use crate::world::{PATIENCE, Registered, World, Writer};

async fn server(version: PgVersion) -> Postgres {
    Postgres::builder()
        .version(version)
        .wal_segment_size_mib(1)
        .setting("wal_keep_size", "1GB")
        .setting("max_prepared_transactions", "4")
        .start()
        .await
        .unwrap()
}

/// The index of every complete segment, made from the archive here and now.
async fn rebuilt(
    registered: &Registered,
    server: &Postgres,
) -> BTreeMap<SegmentNumber, SegmentIndex> {
    let size = registered.size;
    let names = registered.segments().await;
    let first = names.iter().map(|name| name.number(size)).min().unwrap();
    let start = size.start_of(first);
    let mut reader = WalReader::new(WalReaderConfig {
        start,
        history: TimelineHistory::root(TimelineId(1)),
        system_identifier: server
            .psql("SELECT system_identifier FROM pg_control_system()")
            .await
            .unwrap()
            .parse()
            .unwrap(),
        segment_size: size,
        block_size: WalBlockSize::DEFAULT,
        server_major: server
            .psql("SELECT current_setting('server_version_num')::int / 10000")
            .await
            .unwrap()
            .parse()
            .unwrap(),
    })
    .unwrap();
    let mut builder = IndexBuilder::new(IndexSettings::default(), size, start, Vec::new());
    let mut indexes = BTreeMap::new();
    for (number, name) in (first..).zip(&names) {
        assert_eq!(name.number(size), number);
        let bytes = registered.reader.get_segment(*name).await.unwrap();
        reader
            .feed_each(&bytes, |record| builder.observe(record))
            .unwrap();
        builder.advance(reader.unfinished_record().unwrap_or(reader.position()));
        while let Some(index) = builder.take_finished() {
            let _ = indexes.insert(index.segment, index);
        }
    }
    indexes
}

/// Waits until every complete segment has an index, and gives them.
async fn stored(registered: &Registered) -> BTreeMap<SegmentNumber, SegmentIndex> {
    let mut indexes = BTreeMap::new();
    wait_until("every segment to be indexed", PATIENCE, async || {
        for name in registered.segments().await {
            let number = name.number(registered.size);
            if indexes.contains_key(&number) {
                continue;
            }
            let index = registered.reader.stored_wal_index(name.timeline, number);
            match index.await.unwrap() {
                Some(index) => drop(indexes.insert(number, index)),
                None => return false,
            }
        }
        true
    })
    .await
    .unwrap();
    indexes
}

/// The stored index is what the archive says, byte for byte; its last segment may end with a record that
/// the archive has not got.
async fn check(registered: &Registered, server: &Postgres) -> Vec<WalEvent> {
    let stored = stored(registered).await;
    let rebuilt = rebuilt(registered, server).await;
    assert!(rebuilt.len() + 1 >= stored.len() && stored.len() > 2);
    for (number, rebuilt) in &rebuilt {
        let stored = &stored[number];
        assert_eq!(
            wal_index::encode(std::slice::from_ref(stored)),
            wal_index::encode(std::slice::from_ref(rebuilt)),
            "segment {number}: {stored:#?} {rebuilt:#?}"
        );
    }
    stored
        .into_values()
        .flat_map(|index| index.events)
        .collect()
}

fn transaction(events: &[WalEvent], xid: u32) -> TransactionEvent {
    let found = events.iter().find_map(|event| match event {
        WalEvent::Transaction(transaction) if transaction.commit.xid == xid => Some(transaction),
        _ => None,
    });
    found
        .cloned()
        .unwrap_or_else(|| panic!("{xid} is not in {events:#?}"))
}

/// Runs statements in a transaction; gives its xid.
async fn in_transaction(server: &Postgres, statements: &str) -> u32 {
    let xid = "SELECT 'xid ' || txid_current() % (1::bigint << 32)";
    let sql = format!("BEGIN; {statements}; {xid}; COMMIT");
    let told = server.psql(&sql).await.unwrap();
    let xid = told.lines().find_map(|line| line.strip_prefix("xid "));
    xid.unwrap().parse().unwrap()
}

const FILL: &str = "CREATE TABLE gone AS SELECT n FROM generate_series(1, 1000) n;
    CREATE TABLE emptied AS SELECT n FROM generate_series(1, 1000) n;
    CREATE TABLE kept AS SELECT n, repeat('x', 300) AS f FROM generate_series(1, 9000) n";
/// 750 rows are deleted and 250 updated; 500 more were deleted and rolled back.
const DELETE: &str = "SAVEPOINT a; DELETE FROM kept WHERE n <= 500; ROLLBACK TO a;
    DELETE FROM kept WHERE n <= 700; SAVEPOINT b; DELETE FROM kept WHERE n BETWEEN 1001 AND 1050;
    UPDATE kept SET n = n WHERE n BETWEEN 1051 AND 1300";
const ROLL_BACK: &str =
    "BEGIN; DROP TABLE kept; ROLLBACK; SELECT pg_create_restore_point('before the end')";
const PREPARE: &str =
    "BEGIN; DELETE FROM kept WHERE n > 8000; PREPARE TRANSACTION 'p'; SELECT pg_switch_wal();
    CREATE TABLE more AS SELECT n, repeat('y', 300) FROM generate_series(1, 9000) n";
const COMMIT: &str = "COMMIT PREPARED 'p'; SELECT pg_switch_wal()";

async fn file_of(server: &Postgres, table: &str) -> u32 {
    let ask = format!("SELECT pg_relation_filenode('{table}')");
    server.psql(&ask).await.unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_was_dropped_truncated_and_deleted_is_in_the_index() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let world = World::new().await;
        let server = server(version).await;
        let registered = world.register("shop", &server).await;
        let mut archiver = world.archiver("one").await;
        let _ = server.psql(FILL).await.unwrap();
        let gone = file_of(&server, "gone").await;
        let emptied = file_of(&server, "emptied").await;
        let kept = file_of(&server, "kept").await;
        let dropping = in_transaction(&server, "DROP TABLE gone").await;
        let truncating = in_transaction(&server, "TRUNCATE emptied").await;
        let deleting = in_transaction(&server, DELETE).await;
        let _ = server.psql(ROLL_BACK).await.unwrap();
        let _ = server.psql(PREPARE).await.unwrap();
        let _ = registered.caught_up(&server).await;
        let _ = archiver.kill9().await.unwrap();
        let _again = world.archiver("one").await;
        let _ = server.psql(COMMIT).await.unwrap();
        let end = registered.caught_up(&server).await;
        wait_until("the last segment", PATIENCE, async || {
            let last = registered.segments().await.last().copied();
            last.is_some_and(|last| last.end(registered.size) >= registered.size.floor(end))
        })
        .await
        .unwrap();
        let events = check(&registered, &server).await;
        let dropped = transaction(&events, dropping);
        assert!(dropped.dropped.len() == 1 && dropped.created.is_empty());
        assert_eq!(dropped.dropped[0].number, gone);
        let truncated = transaction(&events, truncating);
        assert_eq!(truncated.dropped[0].number, emptied);
        assert!(!truncated.created[0].filled);
        let emptied = file_of(&server, "emptied").await;
        assert_eq!(truncated.created[0].file.number, emptied);
        let deleted = transaction(&events, deleting);
        assert_eq!(deleted.rows.len(), 1);
        let rows = deleted.rows[0];
        assert_eq!(
            (rows.file.number, rows.deleted, rows.updated),
            (kept, 750, 250)
        );
        assert!(
            events.iter().any(|event| deletes(event, 1000)),
            "prepared, killed, committed"
        );
        let named = |event: &WalEvent| matches!(event, WalEvent::RestorePoint { name, .. } if name == "before the end");
        assert!(events.iter().any(named));
        check_with_waldump(&registered, &server, &events, dropping).await;
    }
}

/// Whether a transaction deleted so many rows of a table.
fn deletes(event: &WalEvent, rows: u64) -> bool {
    match event {
        WalEvent::Transaction(one) => one.rows.iter().any(|table| table.deleted == rows),
        _ => false,
    }
}

/// PostgreSQL's own reading of the same commit.
async fn check_with_waldump(
    registered: &Registered,
    server: &Postgres,
    events: &[WalEvent],
    xid: u32,
) {
    let event = transaction(events, xid);
    let directory = server.data_directory().join("pg_wal");
    let output = std::process::Command::new(server.bin("pg_waldump").unwrap())
        .args([
            "--path",
            &directory.display().to_string(),
            "--rmgr",
            "Transaction",
        ])
        .args(["--xid", &xid.to_string()])
        .args([
            "--start",
            &registered.segments().await[0]
                .start(registered.size)
                .to_string(),
        ])
        .args(["--end", &event.commit.end.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let commit = text.lines().find(|line| line.contains("COMMIT")).unwrap();
    let lsn = format!(
        "{:X}/{:08X}",
        event.commit.lsn.0 >> 32,
        event.commit.lsn.0 as u32
    );
    assert!(
        commit.contains(&format!("lsn: {lsn}")),
        "{commit} {event:?}"
    );
    let time = event.commit.time.to_string();
    let clock = time.split('T').nth(1).unwrap().trim_end_matches('Z');
    assert!(commit.contains(clock), "{commit} {event:?}");
}

/// What a file is called, by all that is stored.
async fn named(registered: &Registered, file: RelationFile) -> Option<String> {
    let history = TimelineHistory::root(TimelineId(1));
    let maps = registered
        .reader
        .relation_maps(&history, Lsn(0), Lsn(u64::MAX));
    let names = Names::new(maps.await.unwrap());
    let relation = names.file_at(file, Lsn(u64::MAX))?;
    let database = names.database_at(relation.database, Lsn(u64::MAX))?;
    Some(format!("{database}.{}.{}", relation.schema, relation.name))
}

#[tokio::test]
async fn dropped_relations_have_names() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let world = World::new().await;
        let server = server(version).await;
        let registered = world.register("shop", &server).await;
        let _ = server
            .psql("CREATE TABLE old (n int PRIMARY KEY, t text)")
            .await
            .unwrap();
        let _ = server.psql("CREATE DATABASE other").await.unwrap();
        let archiver = world.archiver("one").await;
        let file = async |relation: &str| {
            let ask = format!(
                "SELECT dattablespace, d.oid, pg_relation_filenode('{relation}') FROM pg_database d \
                 WHERE datname = current_database()"
            );
            let told = server.psql(&ask).await.unwrap();
            let numbers: Vec<u32> = told.split('|').map(|n| n.parse().unwrap()).collect();
            RelationFile {
                tablespace: numbers[0],
                database: numbers[1],
                number: numbers[2],
            }
        };
        let is_named = async |file: RelationFile, name: &str| {
            wait_until("a name", PATIENCE, async || {
                named(&registered, file).await.as_deref() == Some(name)
            })
            .await
            .unwrap();
        };
        is_named(file("old").await, "postgres.public.old").await;
        is_named(file("old_pkey").await, "postgres.public.old_pkey").await;
        // Made while nobody looks on purpose, and gone soon.
        let _ = server
            .psql("CREATE SCHEMA s; CREATE TABLE s.brief AS SELECT 1 AS n")
            .await
            .unwrap();
        let brief = file("s.brief").await;
        is_named(brief, "postgres.s.brief").await;
        let _ = server
            .psql("DROP TABLE s.brief; ALTER TABLE old RENAME TO older; TRUNCATE older")
            .await
            .unwrap();
        is_named(file("older").await, "postgres.public.older").await;
        is_named(brief, "postgres.s.brief").await;
        assert!(!archiver.log().contains("are not up to date"));
    }
}

#[tokio::test]
async fn it_is_the_same_however_often_the_archiver_is_killed() {
    let world = World::new().await;
    let server = std::sync::Arc::new(tokio::sync::RwLock::new(server(PgVersion::V18).await));
    let registered = world.register("shop", &*server.read().await).await;
    let mut archiver = world.archiver("one").await;
    let writer = Writer::start(&server).await;
    for segments in [4, 9, 14] {
        wait_until("more segments", PATIENCE, async || {
            registered.segments().await.len() >= segments
        })
        .await
        .unwrap();
        let _ = archiver.kill9().await.unwrap();
        let delete = "DELETE FROM load WHERE id % 7 = 0; SELECT pg_switch_wal()";
        let _ = server.read().await.psql(delete).await.unwrap();
        archiver.start_again().await.unwrap();
    }
    let _ = writer.end().await;
    let server = server.read().await;
    let _ = server.psql("SELECT pg_switch_wal()").await.unwrap();
    let _ = registered.caught_up(&server).await;
    assert!(!check(&registered, &server).await.is_empty());
}

#[tokio::test]
async fn an_index_that_cannot_be_stored_is_nothing_to_archiving() {
    let world = World::new().await;
    let server = server(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let place = world.repository_directory().join("v1/shop/main");
    std::fs::create_dir_all(&place).unwrap();
    // Not a directory: nothing can be stored below.
    std::fs::write(place.join("wal-index"), "in the way").unwrap();
    let archiver = world.archiver("one").await;
    let fill = "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 12000) n; SELECT pg_switch_wal()";
    let _ = server.psql(fill).await.unwrap();
    let end = registered.caught_up(&server).await;
    registered.check_chain(&server, TimelineId(1), end).await;
    let position = world.ask(&registered).await.unwrap();
    assert!(
        position.streaming && position.error.is_none(),
        "{position:?}"
    );
    assert!(
        archiver
            .log()
            .contains("the index of the archived wal is behind")
    );
    std::fs::remove_file(place.join("wal-index")).unwrap();
    let _ = check(&registered, &server).await;
}

#[tokio::test]
async fn what_had_no_index_gets_one() {
    let world = World::new().await;
    let server = server(PgVersion::V18).await;
    let registered = world.register("shop", &server).await;
    let mut archiver = world.archiver("one").await;
    let fill = "CREATE TABLE t AS SELECT n, repeat('x', 500) AS f FROM generate_series(1, 12000) n;
                BEGIN; DELETE FROM t WHERE n % 3 = 0; SELECT pg_switch_wal(); INSERT INTO t SELECT 0, repeat('y', 500) \
                FROM generate_series(1, 4000); COMMIT; SELECT pg_switch_wal(); SELECT pg_switch_wal()";
    let _ = server.psql(fill).await.unwrap();
    let _ = registered.caught_up(&server).await;
    let _ = check(&registered, &server).await;
    let _ = archiver.kill9().await.unwrap();
    let place = world
        .repository_directory()
        .join("v1/shop/main/wal-index/00000001");
    std::fs::remove_dir_all(&place).unwrap();
    let again = world.archiver("two").await;
    let events = check(&registered, &server).await;
    assert!(events.iter().any(|event| deletes(event, 4000)));
    assert!(again.log().contains("have no index"));
}

//! WAL as real servers stream it, compared with what stands in `pg_wal`.

use std::path::PathBuf;
use std::time::Duration;

use pg_format::{Lsn, PgTimestamp, TimelineId};
use pg_replication::{PgError, ReserveWal, SlotCreation, StatusUpdate, WalMessage, WalStream};
use testkit::postgres::{PgVersion, Postgres, StopMode};
use testkit::{START_TIMEOUT, wait_until};

use crate::real::{connect, server};

const SEGMENT_MIB: u32 = 1;
const SEGMENT_BYTES: u64 = (SEGMENT_MIB as u64) << 20;
const FOUND_IN_TIME: Duration = Duration::from_secs(60);

fn status(flushed: Lsn) -> StatusUpdate {
    StatusUpdate {
        written: flushed,
        flushed,
        applied: Lsn::INVALID,
        client_time: PgTimestamp(0),
        reply_requested: true,
    }
}

/// Reads on until `end`; the bytes from `start` on.
async fn collect(stream: &mut WalStream, start: Lsn, end: Lsn) -> Vec<u8> {
    let mut collected = Vec::new();
    while start.0 + (collected.len() as u64) < end.0 {
        let next = tokio::time::timeout(FOUND_IN_TIME, stream.next())
            .await
            .unwrap()
            .unwrap();
        match next {
            WalMessage::Data {
                start: at,
                server_end,
                server_time,
                bytes,
            } => {
                assert_eq!(at.0, start.0 + collected.len() as u64, "no gap, no overlap");
                assert!(server_end >= at && server_time > PgTimestamp(0));
                collected.extend_from_slice(&bytes);
            }
            WalMessage::Keepalive {
                reply_requested, ..
            } => {
                if reply_requested {
                    stream.send_status(status(start)).await.unwrap();
                }
            }
            WalMessage::EndOfTimeline { .. } => panic!("the timeline ends early"),
        }
    }
    collected
}

/// The bytes of `pg_wal` from `start` to `end`, with the server's own segment size.
async fn files(server: &Postgres, start: Lsn, end: Lsn, timeline: TimelineId) -> Vec<u8> {
    let size: u64 = server
        .psql("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")
        .await
        .unwrap()
        .parse()
        .unwrap();
    let mut bytes = Vec::new();
    for number in start.0 / size..=(end.0 - 1) / size {
        let per_id = (1 << 32) / size;
        let name = format!(
            "{}{:08X}{:08X}",
            timeline.to_hex(),
            number / per_id,
            number % per_id
        );
        let path: PathBuf = server.data_directory().join("pg_wal").join(name);
        bytes.extend(std::fs::read(path).unwrap());
    }
    let from = (start.0 % size) as usize;
    bytes[from..from + (end.0 - start.0) as usize].to_vec()
}

pub(crate) async fn check_against_files(
    mut stream: WalStream,
    server: &Postgres,
    start: Lsn,
    end: Lsn,
    timeline: TimelineId,
) {
    let streamed = collect(&mut stream, start, end).await;
    let expected = files(server, start, end, timeline).await;
    assert!(
        streamed[..expected.len()] == expected[..],
        "streamed WAL differs from pg_wal"
    );
}

async fn small_segments(version: PgVersion) -> Postgres {
    Postgres::builder()
        .version(version)
        .wal_segment_size_mib(SEGMENT_MIB)
        .setting("wal_keep_size", "64MB")
        .start()
        .await
        .unwrap()
}

async fn write(server: &Postgres) -> Lsn {
    let told = server
        .psql(
            "CREATE TABLE IF NOT EXISTS t (n int, text text); \
               INSERT INTO t SELECT n, repeat('y', 300) FROM generate_series(1, 10000) n; \
               SELECT pg_switch_wal() IS NULL; \
               INSERT INTO t VALUES (1, 'z'); \
               CHECKPOINT; \
               SELECT pg_current_wal_flush_lsn()",
        )
        .await
        .unwrap();
    told.lines().last().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_byte_and_the_slot_follows_the_flush_position() {
    for version in PgVersion::ALL {
        let server = small_segments(version).await;
        let mut connection = connect(&server).await;
        let created = connection
            .create_physical_slot("s", ReserveWal::Now)
            .await
            .unwrap();
        assert_eq!(created, SlotCreation::Created);
        let reserved = connection.read_slot("s").await.unwrap().unwrap();
        let start = Lsn(reserved.restart_lsn.unwrap().0 / SEGMENT_BYTES * SEGMENT_BYTES);
        let timeline = reserved.restart_timeline.unwrap();
        let end = write(&server).await;
        assert!(end.bytes_since(start) > 3 * SEGMENT_BYTES);
        let mut stream = connection
            .start_replication(Some("s"), start, timeline)
            .await
            .unwrap();
        let streamed = collect(&mut stream, start, end).await;
        let expected = files(&server, start, end, timeline).await;
        assert!(
            streamed[..expected.len()] == expected[..],
            "differs from pg_wal"
        );

        // "Where are you now?" is answered at once, and the slot moves to what was flushed.
        stream.send_status(status(end)).await.unwrap();
        let answer = loop {
            match tokio::time::timeout(FOUND_IN_TIME, stream.next())
                .await
                .unwrap()
                .unwrap()
            {
                WalMessage::Keepalive {
                    server_end,
                    server_time,
                    ..
                } => {
                    break (server_end, server_time);
                }
                WalMessage::Data { .. } => {}
                other @ WalMessage::EndOfTimeline { .. } => panic!("{other:?}"),
            }
        };
        assert!(answer.0 >= end && answer.1 > PgTimestamp(0));
        let mut second = connect(&server).await;
        wait_until("the slot to move", START_TIMEOUT, async || {
            second.read_slot("s").await.unwrap().unwrap().restart_lsn == Some(end)
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn wal_that_is_gone_or_not_there_yet() {
    let server = Postgres::builder()
        .wal_segment_size_mib(SEGMENT_MIB)
        .setting("max_wal_size", "2MB")
        .setting("min_wal_size", "2MB")
        .start()
        .await
        .unwrap();
    let mut connection = connect(&server).await;
    let first = connection.identify_system().await.unwrap();
    for _ in 0..4 {
        let _ = write(&server).await;
    }
    let start = Lsn(first.flush_lsn.0 / SEGMENT_BYTES * SEGMENT_BYTES);
    let mut stream = connection
        .start_replication(None, start, first.timeline)
        .await
        .unwrap();
    let failure = failure_of(&mut stream).await;
    assert_eq!(failure.sqlstate(), Some("58P01"), "{failure}");
    assert!(!failure.is_transient());

    // Both are said only after the copy has begun.
    let ahead = Lsn(1 << 40);
    let connection = connect(&server).await;
    let mut stream = connection
        .start_replication(None, ahead, first.timeline)
        .await
        .unwrap();
    assert!(matches!(failure_of(&mut stream).await, PgError::Server(_)));
    let failure = connect(&server)
        .await
        .start_replication(None, start, TimelineId(7))
        .await;
    assert!(matches!(failure.err().unwrap(), PgError::Server(_)));
}

async fn failure_of(stream: &mut WalStream) -> PgError {
    loop {
        match stream.next().await {
            Ok(WalMessage::Keepalive { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(failure) => return failure,
        }
    }
}

#[tokio::test]
async fn a_promotion_ends_the_timeline_and_the_next_one_goes_on() {
    for version in PgVersion::ALL {
        let primary = server(version).await;
        let _ = primary
            .psql("CREATE TABLE t AS SELECT 1 AS n")
            .await
            .unwrap();
        let standby = Postgres::builder()
            .standby_of(&primary)
            .start()
            .await
            .unwrap();
        let mut connection = connect(&standby).await;
        let identity = connection.identify_system().await.unwrap();
        assert_eq!(identity.timeline, TimelineId(1));
        let start = Lsn(identity.flush_lsn.0 & !0xFF_FFFF);
        let mut stream = connection
            .start_replication(None, start, TimelineId(1))
            .await
            .unwrap();
        let _ = collect(&mut stream, start, identity.flush_lsn).await;

        // The one that streams and the one that promotes take turns.
        let (end, promoted) = tokio::join!(end_of_timeline(&mut stream), standby.promote());
        promoted.unwrap();
        let (next, switch) = end;
        assert_eq!(next, TimelineId(2));

        let mut connection = stream.into_connection().unwrap();
        let history = connection.timeline_history(next).await.unwrap();
        assert_eq!(history.name, "00000002.history");
        let file = standby.data_directory().join("pg_wal/00000002.history");
        assert_eq!(history.content, std::fs::read(file).unwrap());
        assert!(String::from_utf8_lossy(&history.content).contains(&switch.to_string()));

        // Asked later, for what is over: the same end, and at the very end without any WAL.
        let mut stream = connection
            .start_replication(None, start, TimelineId(1))
            .await
            .unwrap();
        assert_eq!(end_of_timeline(&mut stream).await, (next, switch));
        let connection = stream.into_connection().unwrap();
        let mut stream = connection
            .start_replication(None, switch, TimelineId(1))
            .await
            .unwrap();
        assert_eq!(end_of_timeline(&mut stream).await, (next, switch));
        let connection = stream.into_connection().unwrap();

        let flushed = "INSERT INTO t VALUES (2); SELECT pg_current_wal_flush_lsn()";
        let end = standby.psql(flushed).await.unwrap().parse().unwrap();
        let segment = Lsn(switch.0 & !0xFF_FFFF);
        let stream = connection
            .start_replication(None, segment, next)
            .await
            .unwrap();
        check_against_files(stream, &standby, segment, end, next).await;
    }
}

async fn end_of_timeline(stream: &mut WalStream) -> (TimelineId, Lsn) {
    loop {
        match tokio::time::timeout(FOUND_IN_TIME, stream.next())
            .await
            .unwrap()
            .unwrap()
        {
            WalMessage::EndOfTimeline {
                next_timeline,
                switch_lsn,
            } => {
                return (next_timeline, switch_lsn);
            }
            WalMessage::Keepalive {
                reply_requested: true,
                server_end,
                ..
            } => {
                stream.send_status(status(server_end)).await.unwrap();
            }
            WalMessage::Keepalive { .. } | WalMessage::Data { .. } => {}
        }
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_waits_for_the_confirmation_and_goes() {
    for version in PgVersion::ALL {
        let mut server = server(version).await;
        let mut connection = connect(&server).await;
        let identity = connection.identify_system().await.unwrap();
        let start = Lsn(identity.flush_lsn.0 & !0xFF_FFFF);
        let mut stream = connection
            .start_replication(None, start, TimelineId(1))
            .await
            .unwrap();
        let streaming = async {
            loop {
                match stream.next().await {
                    Ok(WalMessage::Data { start, bytes, .. }) => {
                        let end = Lsn(start.0 + bytes.len() as u64);
                        // It may be gone already.
                        let _ = stream.send_status(status(end)).await;
                    }
                    Ok(_) => {}
                    Err(failure) => return failure,
                }
            }
        };
        let (failure, stopped) = tokio::join!(streaming, server.stop(StopMode::Fast));
        stopped.unwrap();
        assert!(failure.is_transient(), "{failure}");
    }
}

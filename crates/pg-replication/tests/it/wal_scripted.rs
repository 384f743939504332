//! The WAL stream against a scripted server.

use std::sync::Arc;
use std::time::Duration;

use pg_format::{Lsn, PgTimestamp, TimelineId};
use pg_replication::{
    ConnectionSettings, PgError, ReplicationConnection, SqlConnection, StatusUpdate, WalMessage,
    WalStream,
};
use tokio::sync::Notify;

use crate::script::{Peer, complete, copy, error, frame, message, ready, replication, rows, serve};

const START: Lsn = Lsn(0x0100_0000);

fn wal(start: u64, bytes: &[u8]) -> Vec<u8> {
    let header = [
        start.to_be_bytes(),
        0x99_u64.to_be_bytes(),
        7_i64.to_be_bytes(),
    ]
    .concat();
    frame(b'd', &[&b"w"[..], &header, bytes].concat())
}

fn keepalive(reply: bool) -> Vec<u8> {
    let header = [0x98_u64.to_be_bytes(), 8_i64.to_be_bytes()].concat();
    frame(b'd', &[&b"k"[..], &header, &[u8::from(reply)]].concat())
}

fn data(start: u64, bytes: &'static [u8]) -> WalMessage {
    WalMessage::Data {
        start: Lsn(start),
        server_end: Lsn(0x99),
        server_time: PgTimestamp(7),
        bytes: bytes.into(),
    }
}

fn status(flushed: u64) -> StatusUpdate {
    StatusUpdate {
        written: Lsn(3),
        flushed: Lsn(flushed),
        applied: Lsn::INVALID,
        client_time: PgTimestamp(-5),
        reply_requested: true,
    }
}

async fn start(connection: ReplicationConnection) -> WalStream {
    connection
        .start_replication(Some("a\"b"), START, TimelineId(3))
        .await
        .unwrap()
}

#[tokio::test]
async fn frames_in_single_bytes_and_dropped_reads_lose_nothing() {
    // The server sends a byte for each read that the client gave up.
    let given_up = Arc::new(Notify::new());
    let go_on = Arc::clone(&given_up);
    let (connection, server) = replication(async move |mut peer: Peer| {
        let command = peer.query().await;
        assert_eq!(
            command,
            "START_REPLICATION SLOT \"a\"\"b\" PHYSICAL 0/1000000 TIMELINE 3"
        );
        peer.send(&copy(b'W')).await;
        let bytes = [wal(1, b"first"), keepalive(true), wal(6, b"second")].concat();
        for byte in bytes {
            go_on.notified().await;
            peer.send(&[byte]).await;
        }
        peer.drained().await;
    })
    .await;
    let mut stream = start(connection).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match tokio::time::timeout(Duration::ZERO, stream.next()).await {
            Ok(next) => seen.push(next.unwrap()),
            Err(_) => given_up.notify_one(),
        }
        tokio::task::yield_now().await;
    }
    let keepalive = WalMessage::Keepalive {
        server_end: Lsn(0x98),
        server_time: PgTimestamp(8),
        reply_requested: true,
    };
    assert_eq!(seen, [data(1, b"first"), keepalive, data(6, b"second")]);
    drop(stream);
    server.await.unwrap();
}

#[tokio::test]
async fn a_status_update_is_what_the_server_expects() {
    let (connection, server) = replication(async |mut peer: Peer| {
        let _ = peer.query().await;
        peer.send(&copy(b'W')).await;
        let (tag, body) = peer.read().await;
        assert_eq!((tag, body.len()), (b'd', 34));
        assert_eq!(body[0], b'r');
        let numbers: Vec<i64> = body[1..33]
            .chunks(8)
            .map(|bytes| i64::from_be_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(numbers, [3, 2, 0, -5]);
        assert_eq!(body[33], 1);
    })
    .await;
    let mut stream = start(connection).await;
    stream.send_status(status(2)).await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_timeline_gives_the_connection_back() {
    let (connection, server) = replication(async |mut peer: Peer| {
        let _ = peer.query().await;
        peer.send(&[copy(b'W'), wal(1, b"x"), frame(b'c', b"")].concat())
            .await;
        assert_eq!(peer.read().await, (b'c', Vec::new()));
        let next = rows(
            &["next_tli", "next_tli_startpos"],
            &[&[Some("4"), Some("0/2000028")]],
        );
        let ends = [
            complete("START_STREAMING"),
            complete("START_STREAMING"),
            ready(),
        ]
        .concat();
        peer.send(&[next.clone(), ends.clone()].concat()).await;
        // Asked for exactly the end of a timeline, the server does not copy at all.
        assert!(peer.query().await.ends_with("0/2000028 TIMELINE 3"));
        peer.send(&[next, ends].concat()).await;
        assert_eq!(peer.query().await, "SHOW wal_segment_size");
        let shown = rows(&["wal_segment_size"], &[&[Some("16MB")]]);
        peer.send(&[shown, complete("SHOW"), ready()].concat())
            .await;
    })
    .await;
    let end = WalMessage::EndOfTimeline {
        next_timeline: TimelineId(4),
        switch_lsn: Lsn(0x0200_0028),
    };
    let mut stream = start(connection).await;
    assert_eq!(stream.next().await.unwrap(), data(1, b"x"));
    assert_eq!(stream.next().await.unwrap(), end);
    assert_eq!(stream.next().await.unwrap(), end);
    stream.send_status(status(1)).await.unwrap();

    let connection = stream.into_connection().unwrap();
    let mut stream = connection
        .start_replication(None, Lsn(0x0200_0028), TimelineId(3))
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap(), end);
    let mut connection = stream.into_connection().unwrap();
    assert_eq!(connection.show("wal_segment_size").await.unwrap(), "16MB");
    server.await.unwrap();
}

/// What the stream says after `bytes` and the end of the connection.
async fn fails_with(bytes: Vec<u8>) -> PgError {
    let (connection, server) = replication(async move |mut peer: Peer| {
        let _ = peer.query().await;
        peer.send(&[copy(b'W'), bytes].concat()).await;
    })
    .await;
    let mut stream = start(connection).await;
    let failure = loop {
        match stream.next().await {
            Ok(message) => assert_eq!(message, data(1, b"x")),
            Err(failure) => break failure,
        }
    };
    server.await.unwrap();
    assert!(stream.into_connection().is_err());
    failure
}

#[tokio::test]
async fn endings_that_are_failures() {
    let removed = error("58P01", "requested WAL segment has already been removed");
    let failure = fails_with([wal(1, b"x"), removed].concat()).await;
    assert_eq!(failure.sqlstate(), Some("58P01"));
    assert!(!failure.is_transient());

    let stopping = message(b'E', "FATAL", "57P01", "terminating connection");
    let failure = fails_with(stopping).await;
    assert!(matches!(failure, PgError::Server(_)) && failure.is_transient());

    // A server that shuts down says CommandComplete and goes.
    for bytes in [vec![], complete("COPY 0"), wal(1, b"torn")[..20].to_vec()] {
        let failure = fails_with(bytes).await;
        assert!(matches!(failure, PgError::Closed { .. }), "{failure}");
        assert!(failure.is_transient());
    }
}

#[tokio::test]
async fn what_is_not_the_protocol_is_refused() {
    let too_long = [&b"d"[..], &(17_u32 << 20).to_be_bytes()].concat();
    for bytes in [
        too_long,
        vec![b'd', 0, 0, 0, 3],
        frame(b'd', b""),
        frame(b'd', b"?"),
        frame(b'd', b"w1234567"),
        frame(b'd', b"k12345678"),
        frame(b'?', b""),
        frame(b'D', &[0, 1]),
        frame(b'E', b"Sx"),
        ready(),
    ] {
        let failure = fails_with(bytes.clone()).await;
        assert!(
            matches!(failure, PgError::Protocol(_)),
            "{bytes:?}: {failure}"
        );
    }
}

#[tokio::test]
async fn a_refused_start_is_the_servers_error() {
    let (connection, server) = replication(async |mut peer: Peer| {
        let _ = peer.query().await;
        let text = "replication slot \"s\" is active for PID 7";
        peer.send(&[error("55006", text), ready()].concat()).await;
    })
    .await;
    let failure = connection
        .start_replication(Some("s"), START, TimelineId(1))
        .await
        .err()
        .unwrap();
    assert_eq!(failure.sqlstate(), Some("55006"));
    server.await.unwrap();
}

#[tokio::test]
async fn an_abandoned_query_spoils_the_connection_and_nothing_else_is_mixed_up() {
    let (settings, server) = serve(async |mut peer: Peer| {
        let _ = peer.welcome("15.18 (Debian 15.18-0+deb12u1)").await;
        let _ = peer.query().await;
        peer.drained().await;
    })
    .await;
    let mut connection = SqlConnection::connect(&settings).await.unwrap();
    let slow = connection.query("SELECT pg_sleep(100)");
    assert!(
        tokio::time::timeout(Duration::from_millis(20), slow)
            .await
            .is_err()
    );
    let failure = connection.query("SELECT 1").await.unwrap_err();
    assert!(matches!(failure, PgError::Protocol(_)), "{failure}");
    drop(connection);
    server.await.unwrap();
}

#[tokio::test]
async fn rows_are_those_of_the_last_statement() {
    let (settings, server) = serve(async |mut peer: Peer| {
        let startup = peer.welcome("18.6").await;
        assert!(
            startup.contains("user|u|database|d|application_name|zektor|"),
            "{startup}"
        );
        let one = [rows(&["a"], &[&[Some("1")]]), complete("SELECT 1")].concat();
        let two = [
            rows(&["b", "c"], &[&[Some("2"), None]]),
            complete("SELECT 1"),
        ]
        .concat();
        let _ = peer.query().await;
        let notice = message(b'N', "NOTICE", "00000", "by the way");
        peer.send(&[one.clone(), notice, two, ready()].concat())
            .await;
        let _ = peer.query().await;
        peer.send(&[one.clone(), complete("SET"), ready()].concat())
            .await;
        let _ = peer.query().await;
        peer.send(&[one, error("22012", "division by zero"), ready()].concat())
            .await;
        assert_eq!(peer.read().await.0, b'X');
    })
    .await;
    let mut connection = SqlConnection::connect(&settings).await.unwrap();
    let found = connection.query("").await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].get(0), found[0].get(1), found[0].get(9)),
        (Some("2"), None, None)
    );
    assert_eq!(
        (found[0].get_named("b"), found[0].get_named("a")),
        (Some("2"), None)
    );
    assert!(connection.query("").await.unwrap().is_empty());
    assert_eq!(
        connection.query("").await.unwrap_err().sqlstate(),
        Some("22012")
    );
    connection.close().await;
    server.await.unwrap();
}

#[tokio::test]
async fn nobody_there_and_nobody_answering() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dsn = format!("postgres://u:pw@127.0.0.1:{port}/d?sslmode=disable&connect_timeout=1");
    let settings = ConnectionSettings::parse(&dsn).unwrap();
    // Connections are queued by the kernel; nobody accepts them.
    let failure = SqlConnection::connect(&settings).await.err().unwrap();
    assert!(
        matches!(failure, PgError::Timeout { .. }) && failure.is_transient(),
        "{failure}"
    );
    drop(listener);
    let failure = SqlConnection::connect(&settings).await.err().unwrap();
    assert!(
        matches!(failure, PgError::Connect { .. }) && failure.is_transient(),
        "{failure}"
    );
}

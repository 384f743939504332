//! Logins, plain queries, slots and TLS on real servers.

use std::path::PathBuf;

use base64::Engine as _;
use pg_format::{Lsn, TimelineId};
use pg_replication::{
    ConnectionSettings, PgError, ReplicationConnection, ReserveWal, SlotCreation, SlotRemoval,
    SqlConnection,
};
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use testkit::postgres::{PgVersion, Postgres, StopMode};

pub(crate) async fn server(version: PgVersion) -> Postgres {
    Postgres::builder().version(version).start().await.unwrap()
}

pub(crate) fn settings(server: &Postgres) -> ConnectionSettings {
    ConnectionSettings::parse(&server.dsn()).unwrap()
}

pub(crate) async fn connect(server: &Postgres) -> ReplicationConnection {
    ReplicationConnection::connect(&settings(server))
        .await
        .unwrap()
}

#[tokio::test]
async fn who_may_come_in() {
    for version in PgVersion::ALL {
        let server = server(version).await;
        let wrong = server.dsn_for("postgres", "wrong", "postgres");
        let wrong = ConnectionSettings::parse(&wrong).unwrap();
        let failure = SqlConnection::connect(&wrong).await.err().unwrap();
        assert!(
            matches!(failure, PgError::Authentication { .. }),
            "{failure}"
        );
        assert_eq!(failure.sqlstate(), Some("28P01"));

        let nowhere = settings(&server).with_dbname("nowhere");
        let failure = SqlConnection::connect(&nowhere).await.err().unwrap();
        assert_eq!(failure.sqlstate(), Some("3D000"));

        let _ = server
            .psql("CREATE ROLE plain LOGIN PASSWORD 'p@/:%ss'")
            .await
            .unwrap();
        let plain = server.dsn_for("plain", "p%40%2F%3A%25ss", "postgres");
        let plain = ConnectionSettings::parse(&plain).unwrap();
        let mut connection = SqlConnection::connect(&plain).await.unwrap();
        let rows = connection
            .query(
                "SELECT current_user, application_name FROM pg_stat_activity \
                    WHERE pid = pg_backend_pid()",
            )
            .await
            .unwrap();
        assert_eq!(rows[0].get_named("current_user"), Some("plain"));
        assert_eq!(rows[0].get(1), Some("zektor"));
        let failure = ReplicationConnection::connect(&plain).await.err().unwrap();
        assert!(failure.to_string().contains("ALTER ROLE"), "{failure}");

        let directory = server
            .data_directory()
            .parent()
            .unwrap()
            .display()
            .to_string();
        let socket = format!(
            "postgres:///postgres?host={directory}&port={}&user=plain&password=p%40%2F%3A%25ss\
             &sslmode=require",
            server.port()
        );
        let socket = ConnectionSettings::parse(&socket).unwrap();
        assert_eq!(
            SqlConnection::connect(&socket)
                .await
                .unwrap()
                .server_version()
                .major(),
            version.major()
        );
    }
}

#[tokio::test]
async fn queries() {
    let server = server(PgVersion::V18).await;
    let mut connection = SqlConnection::connect(&settings(&server)).await.unwrap();
    let rows = connection
        .query(
            "SELECT 'ä' AS text, NULL AS nothing, '' AS empty, \
                timestamptz '2024-02-29 12:00:00+02' AS time",
        )
        .await
        .unwrap();
    assert_eq!(rows[0].columns(), ["text", "nothing", "empty", "time"]);
    assert_eq!(rows[0].get_named("text"), Some("ä"));
    assert_eq!((rows[0].get(1), rows[0].get(2)), (None, Some("")));
    assert_eq!(rows[0].get(3), Some("2024-02-29 10:00:00+00"));
    let many = "SELECT repeat(n::text, 1000) FROM generate_series(1, 3000) n";
    let rows = connection.query(many).await.unwrap();
    assert_eq!(rows.len(), 3000);
    assert_eq!(rows[2999].get(0), Some("3000".repeat(1000).as_str()));
    let failure = connection
        .query("SELECT 1; SELECT 1/0; SELECT 2")
        .await
        .unwrap_err();
    assert_eq!(failure.sqlstate(), Some("22012"));
    assert!(connection.query("").await.unwrap().is_empty());
    let text = r"it's a \ '";
    let asked = format!("SELECT {}", pg_replication::quote_literal(text));
    assert_eq!(
        connection.query(&asked).await.unwrap()[0].get(0),
        Some(text)
    );
    let huge = "SELECT repeat('x', 20 * 1024 * 1024)";
    assert!(matches!(
        connection.query(huge).await.unwrap_err(),
        PgError::Protocol(_)
    ));
    connection.close().await;
    assert!(!server.log().contains("unexpected EOF"));
}

#[tokio::test]
async fn what_the_server_says_of_itself() {
    for version in PgVersion::ALL {
        let server = Postgres::builder()
            .version(version)
            .wal_segment_size_mib(4)
            .start()
            .await
            .unwrap();
        let mut connection = connect(&server).await;
        assert_eq!(connection.server_version().major(), version.major());
        let identity = connection.identify_system().await.unwrap();
        let told = server
            .psql("SELECT system_identifier FROM pg_control_system(); SELECT pg_current_wal_flush_lsn()")
            .await
            .unwrap();
        let (system, flushed) = told.split_once('\n').unwrap();
        assert_eq!(identity.system_identifier.to_string(), system);
        assert_eq!(identity.timeline, TimelineId(1));
        assert!(identity.flush_lsn <= flushed.parse().unwrap());
        assert_eq!(identity.dbname, None);
        assert_eq!(connection.show("wal_segment_size").await.unwrap(), "4MB");
        assert_eq!(
            connection.show("nothing").await.unwrap_err().sqlstate(),
            Some("42704")
        );
        assert!(connection.show("a; b").await.is_err());
        let failure = connection
            .timeline_history(TimelineId(9))
            .await
            .unwrap_err();
        assert!(matches!(failure, PgError::Server(_)), "{failure}");
        // An error leaves the connection usable.
        let _ = connection.identify_system().await.unwrap();
        connection.close().await;
    }
}

#[tokio::test]
async fn slots() {
    for version in PgVersion::ALL {
        let server = server(version).await;
        let mut connection = connect(&server).await;
        assert_eq!(connection.read_slot("zektor_a").await.unwrap(), None);
        for (name, reserve) in [
            ("zektor_a", ReserveWal::Now),
            ("zektor_b", ReserveWal::Later),
        ] {
            let create = connection
                .create_physical_slot(name, reserve)
                .await
                .unwrap();
            assert_eq!(create, SlotCreation::Created);
            let create = connection
                .create_physical_slot(name, reserve)
                .await
                .unwrap();
            assert_eq!(create, SlotCreation::AlreadyExists);
        }
        let state = connection.read_slot("zektor_a").await.unwrap().unwrap();
        assert!(state.restart_lsn.unwrap().is_valid());
        assert_eq!(state.restart_timeline, Some(TimelineId(1)));
        let state = connection.read_slot("zektor_b").await.unwrap().unwrap();
        assert_eq!((state.restart_lsn, state.restart_timeline), (None, None));

        let failure = connection
            .create_physical_slot("Not-a-name", ReserveWal::Now)
            .await
            .unwrap_err();
        assert_eq!(failure.sqlstate(), Some("42602"));

        // In use: neither dropped nor streamed a second time.
        let start = connection.identify_system().await.unwrap().flush_lsn;
        let timeline = TimelineId(1);
        let stream = connection
            .start_replication(Some("zektor_a"), start, timeline)
            .await
            .unwrap();
        let mut second = connect(&server).await;
        assert_eq!(
            second.drop_slot("zektor_a").await.unwrap_err().sqlstate(),
            Some("55006")
        );
        let failure = connect(&server)
            .await
            .start_replication(Some("zektor_a"), start, timeline)
            .await;
        assert_eq!(failure.err().unwrap().sqlstate(), Some("55006"));
        drop(stream);

        assert_eq!(
            second.drop_slot("zektor_b").await.unwrap(),
            SlotRemoval::Dropped
        );
        assert_eq!(
            second.drop_slot("zektor_b").await.unwrap(),
            SlotRemoval::Absent
        );
        assert_eq!(second.read_slot("zektor_b").await.unwrap(), None);
    }
}

/// PostgreSQL 14 is asked over a second connection.
#[tokio::test]
async fn a_slot_is_read_the_same_without_the_command_for_it() {
    let primary = server(PgVersion::V14).await;
    let settings = settings(&primary).with_dbname("no_such_database");
    let mut connection = ReplicationConnection::connect(&settings).await.unwrap();
    assert_eq!(connection.read_slot("it's").await.unwrap(), None);
    let _ = primary
        .psql("ALTER SYSTEM SET wal_level = logical")
        .await
        .unwrap();
    let mut primary = primary;
    primary.restart().await.unwrap();
    let _ = primary
        .psql("SELECT pg_create_logical_replication_slot('l', 'pgoutput')")
        .await
        .unwrap();
    let mut connection = ReplicationConnection::connect(&settings).await.unwrap();
    let failure = connection.read_slot("l").await.unwrap_err();
    assert!(
        failure.to_string().contains("physical") && !failure.is_transient(),
        "{failure}"
    );

    // Before, at and after a promotion the position is on the timeline its WAL was written on.
    let standby = Postgres::builder()
        .standby_of(&primary)
        .start()
        .await
        .unwrap();
    let mut connection = connect(&standby).await;
    let _ = connection
        .create_physical_slot("s", ReserveWal::Now)
        .await
        .unwrap();
    let before = connection.read_slot("s").await.unwrap().unwrap();
    assert_eq!(before.restart_timeline, Some(TimelineId(1)));
    standby.promote().await.unwrap();
    let mut connection = connect(&standby).await;
    assert_eq!(
        connection.identify_system().await.unwrap().timeline,
        TimelineId(2)
    );
    assert_eq!(connection.read_slot("s").await.unwrap(), Some(before));
    let _ = standby.psql("CHECKPOINT").await.unwrap();
    let _ = connection
        .create_physical_slot("t", ReserveWal::Now)
        .await
        .unwrap();
    let after = connection.read_slot("t").await.unwrap().unwrap();
    assert_eq!(after.restart_timeline, Some(TimelineId(2)));
}

#[tokio::test]
async fn a_server_that_is_away_or_starting_is_transient() {
    let mut server = server(PgVersion::V15).await;
    let mut connection = SqlConnection::connect(&settings(&server)).await.unwrap();
    server.stop(StopMode::Fast).await.unwrap();
    let failure = connection.query("SELECT 1").await.unwrap_err();
    assert!(failure.is_transient(), "{failure}");
    let failure = SqlConnection::connect(&settings(&server))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(failure, PgError::Connect { .. }) && failure.is_transient(),
        "{failure}"
    );
    server.start_again().await.unwrap();
    drop(SqlConnection::connect(&settings(&server)).await.unwrap());
}

/// A key, and its PEM as OpenSSL reads it. It refuses the newer form in which `ring` writes Ed25519
/// keys, so such a key is written here, around any 32 bytes (RFC 8410).
fn key(algorithm: &'static SignatureAlgorithm) -> (KeyPair, String) {
    if algorithm != &rcgen::PKCS_ED25519 {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = key.serialize_pem();
        return (key, pem);
    }
    let head: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
    let der = [&head[..], &[7; 32]].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(&der);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    (KeyPair::try_from(der).unwrap(), pem)
}

/// Gives a TLS server another certificate; the file with it.
fn install(server: &Postgres, algorithm: &'static SignatureAlgorithm) -> PathBuf {
    let (key, pem) = key(algorithm);
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let data = server.data_directory();
    // Over the old ones: owner and mode stay.
    std::fs::write(data.join("server.key"), pem).unwrap();
    std::fs::write(data.join("server.crt"), certificate.pem()).unwrap();
    let root = data.parent().unwrap().join("root.crt");
    std::fs::write(&root, certificate.pem()).unwrap();
    root
}

#[tokio::test]
async fn scram_is_bound_to_the_tls_channel() {
    for version in PgVersion::WITH_TLS {
        bound_to_the_channel(version).await;
    }
}

async fn bound_to_the_channel(version: PgVersion) {
    let mut server = Postgres::builder()
        .version(version)
        .tls(true)
        .start()
        .await
        .unwrap();
    let port = server.port();
    for (algorithm, binds) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, true),
        (&rcgen::PKCS_ECDSA_P384_SHA384, true),
        // RFC 5929 defines no hash for it, and neither side binds.
        (&rcgen::PKCS_ED25519, false),
    ] {
        let root = install(&server, algorithm);
        server.restart().await.unwrap();
        let dsn = |binding: &str| {
            let text = format!(
                "postgres://postgres:{}@localhost:{port}/postgres?sslmode=verify-full\
                 &sslrootcert={}&channel_binding={binding}",
                server.password(),
                root.display(),
            );
            ConnectionSettings::parse(&text).unwrap()
        };
        match SqlConnection::connect(&dsn("require")).await {
            Ok(_) => assert!(binds),
            Err(failure) => assert!(
                !binds && matches!(failure, PgError::Authentication { .. }),
                "{algorithm:?} {failure}"
            ),
        }
        for binding in ["prefer", "disable"] {
            let mut connection = SqlConnection::connect(&dsn(binding)).await.unwrap();
            let asked = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert_eq!(connection.query(asked).await.unwrap()[0].get(0), Some("t"));
        }
    }
    let clear = format!("{}?sslmode=disable&channel_binding=require", server.dsn());
    let clear = ConnectionSettings::parse(&clear).unwrap();
    let failure = SqlConnection::connect(&clear).await.err().unwrap();
    assert!(failure.to_string().contains("needs tls"), "{failure}");
}

#[tokio::test]
async fn wal_streams_over_tls() {
    for version in PgVersion::WITH_TLS {
        streams_over_tls(version).await;
    }
}

async fn streams_over_tls(version: PgVersion) {
    let server = Postgres::builder()
        .version(version)
        .tls(true)
        .start()
        .await
        .unwrap();
    let dsn = format!("{}?sslmode=require&channel_binding=require", server.dsn());
    let settings = ConnectionSettings::parse(&dsn).unwrap();
    let mut connection = ReplicationConnection::connect(&settings).await.unwrap();
    let identity = connection.identify_system().await.unwrap();
    let start = Lsn(identity.flush_lsn.0 & !0xFF_FFFF);
    let _ = server
        .psql("CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 50000) n")
        .await
        .unwrap();
    let end = connection.identify_system().await.unwrap().flush_lsn;
    assert!(end.bytes_since(start) > 20_000_000);
    let stream = connection
        .start_replication(None, start, identity.timeline)
        .await
        .unwrap();
    crate::wal_real::check_against_files(stream, &server, start, end, TimelineId(1)).await;
}

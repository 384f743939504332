use super::*;

async fn server(version: PgVersion) -> Postgres {
    Postgres::builder().version(version).start().await.unwrap()
}

#[tokio::test]
async fn every_version_starts_with_passwords_and_checksums() {
    for version in PgVersion::ALL {
        let server = server(version).await;
        let told = server
            .psql("SHOW server_version_num; SHOW data_checksums")
            .await
            .unwrap();
        assert!(
            told.starts_with(&version.to_string()) && told.ends_with("\non"),
            "{told}"
        );
        let refused = server
            .psql_as(&server.dsn_for(SUPERUSER, "wrong", "postgres"), "")
            .await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("password authentication failed")
        );
    }
}

#[tokio::test]
async fn a_program_of_another_version_stands_in_only_where_it_can() {
    let server = server(PgVersion::V14).await;
    assert!(server.has("postgres") && !server.has("psql") && !server.has("pg_waldump"));
    assert!(server.bin("psql").is_ok() && server.bin("pg_verifybackup").is_ok());
    let failure = server.bin("pg_waldump").unwrap_err().to_string();
    assert!(
        failure.contains("14.") && failure.contains("pg_waldump"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_failed_statement_is_an_error_that_shows_it() {
    let server = server(PgVersion::V18).await;
    let error = server
        .psql("SELECT 1; SELECT broken; SELECT 2")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"broken\" does not exist"), "{error}");
}

#[tokio::test]
async fn settings_and_segment_size_hold_and_stand_in_the_file() {
    let mut server = Postgres::builder()
        .wal_segment_size_mib(1)
        .setting("application_name", "it's")
        .checksums(false)
        .start()
        .await
        .unwrap();
    let ask = "SHOW wal_segment_size; SHOW application_name; SHOW data_checksums";
    assert_eq!(server.psql(ask).await.unwrap(), "1MB\npsql\noff");
    let file = fs::read_to_string(server.data_directory().join("postgresql.conf")).unwrap();
    assert!(file.contains("application_name = 'it''s'"));
    assert!(
        !file.contains(&server.port().to_string()),
        "a copy must be free to take another port"
    );
    server.restart().await.unwrap();
    assert_eq!(server.psql("SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn committed_rows_survive_every_ending_on_the_same_port() {
    for version in PgVersion::ALL {
        let mut server = server(version).await;
        let port = server.port();
        let _ = server
            .psql("CREATE TABLE t AS SELECT 1 AS n")
            .await
            .unwrap();
        for (round, mode) in [StopMode::Smart, StopMode::Fast, StopMode::Immediate]
            .into_iter()
            .enumerate()
        {
            server.stop(mode).await.unwrap();
            assert!(server.psql("SELECT 1").await.is_err());
            server.start_again().await.unwrap();
            let _ = server
                .psql(&format!("INSERT INTO t VALUES ({round})"))
                .await
                .unwrap();
        }
        server.kill9().await.unwrap();
        server.start_again().await.unwrap();
        assert_eq!(server.psql("SELECT count(*) FROM t").await.unwrap(), "4");
        assert_eq!(server.port(), port);
    }
}

#[tokio::test]
async fn a_standby_follows_and_can_be_promoted() {
    for version in PgVersion::ALL {
        let primary = server(version).await;
        let standby = Postgres::builder()
            .standby_of(&primary)
            .start()
            .await
            .unwrap();
        let _ = primary
            .psql("CREATE TABLE t AS SELECT 7 AS n")
            .await
            .unwrap();
        wait_until("the row on the standby", START_TIMEOUT, async || {
            standby
                .psql("SELECT n FROM t")
                .await
                .is_ok_and(|rows| rows == "7")
        })
        .await
        .unwrap();
        assert_eq!(
            standby.psql("SELECT pg_is_in_recovery()").await.unwrap(),
            "t"
        );
        standby.promote().await.unwrap();
        let _ = standby.psql("INSERT INTO t VALUES (8)").await.unwrap();
        assert_eq!(primary.psql("SELECT count(*) FROM t").await.unwrap(), "1");
    }
}

#[tokio::test]
async fn tls_is_served_with_the_certificate_shown() {
    for version in PgVersion::WITH_TLS {
        let server = Postgres::builder().version(version).tls(true).start();
        let server = server.await.unwrap();
        let trusted = server.directory("trusted").unwrap().join("root.crt");
        fs::write(&trusted, server.certificate().unwrap()).unwrap();
        let dsn = format!(
            "{}?sslmode=verify-ca&sslrootcert={}",
            server.dsn(),
            trusted.display()
        );
        // The psql of version 18 has no TLS; it stands in where the installation is the server alone.
        if server.has("psql") {
            let ask = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert_eq!(server.psql_as(&dsn, ask).await.unwrap(), "t");
        }
    }
}

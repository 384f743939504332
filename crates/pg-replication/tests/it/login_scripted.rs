//! Logins against servers that lie.

use pg_replication::{ConnectionSettings, PgError, SqlConnection};

use crate::script::{Peer, frame, message, serve};

fn authentication(code: u32, body: &[u8]) -> Vec<u8> {
    frame(b'R', &[&code.to_be_bytes()[..], body].concat())
}

async fn failure(settings: &ConnectionSettings) -> PgError {
    SqlConnection::connect(settings).await.err().unwrap()
}

/// Offers SCRAM, and answers the first message with a challenge.
async fn challenge(peer: &mut Peer) {
    let _ = peer.startup().await;
    peer.send(&authentication(
        10,
        b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
    ))
    .await;
    let (tag, first) = peer.read().await;
    let first = String::from_utf8(first).unwrap();
    assert_eq!(tag, b'p');
    // Not over TLS: no binding, whatever the server offers.
    assert!(first.starts_with("SCRAM-SHA-256\0"), "{first:?}");
    let (_, nonce) = first.split_once("n,,n=,r=").unwrap();
    let challenge = format!("r={nonce}server,s=c2FsdA==,i=4096");
    peer.send(&authentication(11, challenge.as_bytes())).await;
    assert_eq!(peer.read().await.0, b'p');
}

#[tokio::test]
async fn a_wrong_password_is_said_with_a_hint() {
    let (settings, server) = serve(async |mut peer: Peer| {
        challenge(&mut peer).await;
        let text = "password authentication failed for user \"u\"";
        peer.send(&message(b'E', "FATAL", "28P01", text)).await;
    })
    .await;
    let error = failure(&settings).await;
    assert_eq!(error.sqlstate(), Some("28P01"));
    assert!(!error.is_transient());
    assert!(error.to_string().contains("check the password"), "{error}");
    assert!(!error.to_string().contains("pw"), "{error}");
    server.await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_know_the_password_is_refused() {
    let (settings, server) = serve(async |mut peer: Peer| {
        challenge(&mut peer).await;
        let forged = "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        peer.send(&authentication(12, forged.as_bytes())).await;
        peer.let_in("18.6").await;
    })
    .await;
    let error = failure(&settings).await;
    assert!(
        matches!(error, PgError::Authentication { sqlstate: None, .. }),
        "{error}"
    );
    server.await.unwrap();
}

#[tokio::test]
async fn scram_cannot_be_skipped_half_way() {
    let (settings, server) = serve(async |mut peer: Peer| {
        challenge(&mut peer).await;
        peer.let_in("18.6").await;
    })
    .await;
    let error = failure(&settings).await;
    assert!(matches!(error, PgError::Protocol(_)), "{error}");
    server.await.unwrap();
}

#[tokio::test]
async fn required_binding_is_not_given_up() {
    let offers: [&[u8]; 4] = [
        &authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        &authentication(0, b""),
        &authentication(3, b""),
        &authentication(5, b"salt"),
    ];
    for offer in offers {
        let offer = offer.to_vec();
        let (settings, server) = serve(async move |mut peer: Peer| {
            let _ = peer.startup().await;
            peer.send(&offer).await;
            // Not a byte of the password may come.
            let mut rest = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest).await;
            assert!(rest.is_empty());
        })
        .await;
        let settings =
            ConnectionSettings::parse(&format!("{}&channel_binding=require", settings.to_uri()))
                .unwrap();
        let error = failure(&settings).await;
        assert!(matches!(error, PgError::Authentication { .. }), "{error}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn cleartext_and_md5_are_answered_on_loopback() {
    let (settings, server) = serve(async |mut peer: Peer| {
        let _ = peer.startup().await;
        peer.send(&authentication(3, b"")).await;
        assert_eq!(peer.read().await, (b'p', b"pw\0".to_vec()));
        peer.let_in("15.1").await;
    })
    .await;
    assert_eq!(
        SqlConnection::connect(&settings)
            .await
            .unwrap()
            .server_version()
            .0,
        150_001
    );
    server.await.unwrap();

    let (settings, server) = serve(async |mut peer: Peer| {
        let _ = peer.startup().await;
        peer.send(&authentication(5, b"salt")).await;
        let (_, answer) = peer.read().await;
        assert!(answer.starts_with(b"md5") && answer.len() == 36);
        peer.let_in("15.1").await;
    })
    .await;
    drop(SqlConnection::connect(&settings).await.unwrap());
    server.await.unwrap();
}

#[tokio::test]
async fn what_to_do_is_said() {
    for (sqlstate, text, expected) in [
        (
            "28000",
            "no pg_hba.conf entry for replication connection from host",
            "`replication`",
        ),
        (
            "28000",
            "no pg_hba.conf entry for host",
            "add a line for this user, database",
        ),
        (
            "42501",
            "must be superuser or replication role to start walsender",
            "ALTER ROLE",
        ),
    ] {
        let (settings, server) = serve(async move |mut peer: Peer| {
            let _ = peer.startup().await;
            peer.send(&message(b'E', "FATAL", sqlstate, text)).await;
        })
        .await;
        let error = failure(&settings).await;
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_transient());
        server.await.unwrap();
    }
    let (settings, server) = serve(async |mut peer: Peer| {
        let _ = peer.startup().await;
        let text = "the database system is starting up";
        peer.send(&message(b'E', "FATAL", "57P03", text)).await;
    })
    .await;
    assert!(failure(&settings).await.is_transient());
    server.await.unwrap();
}

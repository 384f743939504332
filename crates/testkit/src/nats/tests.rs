use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Speaks just enough of the protocol: connects, sends one request, returns what comes until `mark`.
async fn ask(address: &str, connect: &str, subject: &str, body: &str, mark: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "CONNECT {connect}\r\nSUB in 1\r\nPUB {subject} in {}\r\n{body}\r\nPING\r\n",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        if length == 0 || seen.contains(mark) || seen.contains("-ERR") {
            return seen;
        }
    }
}

const PLAIN: &str = r#"{"verbose":false,"pedantic":false}"#;

#[tokio::test]
async fn a_stream_survives_a_kill_on_the_same_url() {
    let mut server = NatsServer::builder().sync_always().start().await.unwrap();
    let (url, address) = (server.url(), server.address());
    let stream = r#"{"name":"S","subjects":["s"],"storage":"file"}"#;
    let made = ask(
        &address,
        PLAIN,
        "$JS.API.STREAM.CREATE.S",
        stream,
        "created",
    )
    .await;
    assert!(made.contains("stream_create_response"), "{made}");
    let stored = ask(&address, PLAIN, "s", "kept", "\"seq\"").await;
    assert!(stored.contains("\"seq\":1"), "{stored}");

    server.kill().await.unwrap();
    assert!(TcpStream::connect(&address).await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(server.url(), url);
    let known = ask(&address, PLAIN, "$JS.API.STREAM.INFO.S", "", "\"state\"").await;
    assert!(known.contains("\"messages\":1"), "{known}");

    let before = server.process_id();
    server.restart().await.unwrap();
    assert_ne!(server.process_id(), before);
}

#[tokio::test]
async fn strangers_are_refused_where_a_user_or_token_is_asked_for() {
    for (server, good) in [
        (
            NatsServer::builder().user("u", "p"),
            r#"{"user":"u","pass":"p"}"#,
        ),
        (NatsServer::builder().token("t"), r#"{"auth_token":"t"}"#),
    ] {
        let server = server.start().await.unwrap();
        let refused = ask(&server.address(), PLAIN, "a", "", "PONG").await;
        assert!(refused.contains("Authorization Violation"), "{refused}");
        let accepted = ask(&server.address(), good, "a", "", "PONG").await;
        assert!(accepted.contains("PONG"), "{accepted}");
    }
}

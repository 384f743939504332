//! A server that says what a test tells it to, frame by frame.

use std::future::Future;

use pg_replication::{ConnectionSettings, ReplicationConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The server's end of one connection.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Reads the start-up message: its text, zero bytes as `|`.
    pub(crate) async fn startup(&mut self) -> String {
        let length = self.stream.read_u32().await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        let _ = self.stream.read_exact(&mut body).await.unwrap();
        String::from_utf8_lossy(&body[4..]).replace('\0', "|")
    }

    /// Lets everybody in, as `trust` does, in the role of this version.
    pub(crate) async fn welcome(&mut self, version: &str) -> String {
        let startup = self.startup().await;
        self.let_in(version).await;
        startup
    }

    /// `AuthenticationOk` and what follows it.
    pub(crate) async fn let_in(&mut self, version: &str) {
        let status = format!("server_version\0{version}\0");
        self.send(
            &[
                frame(b'R', &0_u32.to_be_bytes()),
                frame(b'S', status.as_bytes()),
                frame(b'K', &[0; 8]),
                ready(),
            ]
            .concat(),
        )
        .await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message from the client.
    pub(crate) async fn read(&mut self) -> (u8, Vec<u8>) {
        let tag = self.stream.read_u8().await.unwrap();
        let length = self.stream.read_u32().await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        let _ = self.stream.read_exact(&mut body).await.unwrap();
        (tag, body)
    }

    /// The next message, which must be a query.
    pub(crate) async fn query(&mut self) -> String {
        let (tag, body) = self.read().await;
        assert_eq!(tag, b'Q');
        String::from_utf8(body)
            .unwrap()
            .trim_end_matches('\0')
            .to_owned()
    }

    /// Waits until the client is gone.
    pub(crate) async fn drained(&mut self) {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
    }
}

/// Starts a server for one connection; the settings that lead to it.
pub(crate) async fn serve<F>(
    script: impl FnOnce(Peer) -> F + Send + 'static,
) -> (ConnectionSettings, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(Peer { stream }).await;
    });
    let dsn = format!("postgres://u:pw@127.0.0.1:{port}/d?sslmode=disable&connect_timeout=5");
    (ConnectionSettings::parse(&dsn).unwrap(), task)
}

/// The same, already logged in, on PostgreSQL 18.
pub(crate) async fn replication<F>(
    script: impl FnOnce(Peer) -> F + Send + 'static,
) -> (ReplicationConnection, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (settings, task) = serve(async move |mut peer: Peer| {
        let _ = peer.welcome("18.6").await;
        script(peer).await;
    })
    .await;
    (
        ReplicationConnection::connect(&settings).await.unwrap(),
        task,
    )
}

pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

pub(crate) fn ready() -> Vec<u8> {
    frame(b'Z', b"I")
}

pub(crate) fn complete(tag: &str) -> Vec<u8> {
    frame(b'C', format!("{tag}\0").as_bytes())
}

/// `CopyBothResponse` or `CopyOutResponse`.
pub(crate) fn copy(tag: u8) -> Vec<u8> {
    frame(tag, &[0, 0, 0])
}

pub(crate) fn message(tag: u8, severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0\0");
    frame(tag, fields.as_bytes())
}

pub(crate) fn error(sqlstate: &str, text: &str) -> Vec<u8> {
    message(b'E', "ERROR", sqlstate, text)
}

/// A result of text columns, `None` being NULL, without `CommandComplete`.
pub(crate) fn rows(columns: &[&str], rows: &[&[Option<&str>]]) -> Vec<u8> {
    let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
    let mut description = count.to_vec();
    for column in columns {
        description.extend(column.as_bytes());
        description.extend([0; 19]);
    }
    let mut bytes = frame(b'T', &description);
    for row in rows {
        let mut body = count.to_vec();
        for value in *row {
            match value {
                Some(text) => {
                    body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    body.extend(text.as_bytes());
                }
                None => body.extend(u32::MAX.to_be_bytes()),
            }
        }
        bytes.extend(frame(b'D', &body));
    }
    bytes
}

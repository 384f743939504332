//! A TCP connection that can be cut or stalled, between a client and a real server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to bytes and to new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections stay open and nothing moves, as behind a firewall that drops packets.
    Stall,
    /// Connections are closed, new ones at once.
    Cut,
}

/// Shared by the proxy and its connections.
#[derive(Debug)]
struct Wire {
    mode: watch::Sender<Mode>,
    from_server: AtomicU64,
    /// Cut once so many bytes came from the server.
    limit: AtomicU64,
}

/// A proxy in front of one address; dropped, it closes its connections.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    wire: Arc<Wire>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    /// Listens on a free loopback port and connects every client to `server` (`host:port`).
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("the proxy cannot listen")?;
        let address = listener.local_addr()?;
        let wire = Arc::new(Wire {
            mode: watch::Sender::new(Mode::Pass),
            from_server: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
        });
        let accepting = tokio::spawn(accept(listener, server.to_owned(), Arc::clone(&wire)));
        Ok(Self {
            address,
            wire,
            accepting,
        })
    }

    /// Where clients connect to, `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The port clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Closes every connection, and every new one at once, until [`Self::resume`].
    pub fn cut(&self) {
        let _ = self.wire.mode.send_replace(Mode::Cut);
    }

    /// Keeps connections open and moves nothing, until [`Self::resume`].
    pub fn stall(&self) {
        let _ = self.wire.mode.send_replace(Mode::Stall);
    }

    /// Lets bytes and new connections through again.
    pub fn resume(&self) {
        self.wire.limit.store(u64::MAX, Ordering::SeqCst);
        let _ = self.wire.mode.send_replace(Mode::Pass);
    }

    /// Lets exactly so many further bytes from the server through, then cuts: an answer lost, or torn.
    pub fn cut_after(&self, bytes: u64) {
        let limit = self.bytes_from_server().saturating_add(bytes);
        self.wire.limit.store(limit, Ordering::SeqCst);
    }

    /// How many bytes the server has sent to clients through the proxy.
    #[must_use]
    pub fn bytes_from_server(&self) -> u64 {
        self.wire.from_server.load(Ordering::SeqCst)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, server: String, wire: Arc<Wire>) {
    while let Ok((client, _)) = listener.accept().await {
        let (server, wire) = (server.clone(), Arc::clone(&wire));
        // The connection ends with the proxy: dropping that cuts.
        drop(tokio::spawn(async move {
            let mut mode = wire.mode.subscribe();
            let cut = wire.mode.subscribe();
            tokio::select! {
                _ = relay(client, &server, &wire, &mut mode) => {}
                () = until_cut(cut) => {}
            }
        }));
    }
}

async fn until_cut(mut mode: watch::Receiver<Mode>) {
    // The sender lives as long as the wire, which this connection holds.
    let _ = mode.wait_for(|mode| *mode == Mode::Cut).await;
}

async fn relay(
    client: TcpStream,
    server: &str,
    wire: &Wire,
    mode: &mut watch::Receiver<Mode>,
) -> Result<()> {
    let _ = mode.wait_for(|mode| *mode == Mode::Pass).await?;
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let _both = tokio::try_join!(
        upstream(from_client, to_server, mode.clone()),
        downstream(from_server, to_client, mode.clone(), wire),
    )?;
    Ok(())
}

async fn upstream(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await?;
        let _ = mode.wait_for(|mode| *mode == Mode::Pass).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&buffer[..length]).await?;
    }
}

async fn downstream(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    wire: &Wire,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await?;
        let _ = mode.wait_for(|mode| *mode == Mode::Pass).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        let before = wire.from_server.load(Ordering::SeqCst);
        let allowed = wire.limit.load(Ordering::SeqCst).saturating_sub(before);
        let sent = length.min(usize::try_from(allowed).unwrap_or(usize::MAX));
        to.write_all(&buffer[..sent]).await?;
        let _ = wire.from_server.fetch_add(sent as u64, Ordering::SeqCst);
        if sent < length {
            let _ = wire.mode.send_replace(Mode::Cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A server that answers every byte with the same one.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                drop(tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                }));
            }
        }));
        address
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        let _ = stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_stall_holds_bytes_and_a_resume_delivers_them() {
        let proxy = TcpProxy::start(&echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"one").await.unwrap(), b"one");
        proxy.stall();
        let held = timeout(Duration::from_millis(100), says(&mut stream, b"two")).await;
        assert!(held.is_err(), "nothing moves");
        proxy.resume();
        let mut answer = [0; 3];
        let _ = stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, proxy.bytes_from_server()), (b"two", 6));
    }

    #[tokio::test]
    async fn a_cut_closes_old_and_new_connections_until_resumed() {
        let proxy = TcpProxy::start(&echo().await).await.unwrap();
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut old, b"one").await.unwrap(), b"one");
        proxy.cut();
        assert!(says(&mut old, b"two").await.is_err());
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(says(&mut new, b"two").await.is_err());
        proxy.resume();
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut new, b"two").await.unwrap(), b"two");
    }

    #[tokio::test]
    async fn an_answer_can_be_torn_at_a_byte() {
        let proxy = TcpProxy::start(&echo().await).await.unwrap();
        proxy.cut_after(2);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"whole").await.unwrap();
        let mut got = Vec::new();
        let _ended = stream.read_to_end(&mut got).await;
        assert_eq!(got, b"wh");
        proxy.resume();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"whole").await.unwrap(), b"whole");
    }
}

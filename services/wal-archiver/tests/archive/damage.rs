//! A connection that changes one byte of what the server sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Stands in front of a server and damages what follows the marker's first byte, wherever it comes by.
pub(crate) struct DamagingProxy {
    port: u16,
    damages: Arc<AtomicBool>,
    accepting: tokio::task::JoinHandle<()>,
}

impl DamagingProxy {
    pub(crate) async fn start(server: u16, marker: &'static [u8]) -> DamagingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let damages = Arc::new(AtomicBool::new(false));
        let damaging = Arc::clone(&damages);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let damaging = Arc::clone(&damaging);
                drop(tokio::spawn(relay(client, server, marker, damaging)));
            }
        });
        DamagingProxy {
            port,
            damages,
            accepting,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn begin(&self) {
        self.damages.store(true, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        self.damages.store(false, Ordering::SeqCst);
    }
}

impl Drop for DamagingProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(
    client: TcpStream,
    server: u16,
    marker: &'static [u8],
    damages: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    drop(tokio::spawn(async move {
        tokio::io::copy(&mut from_client, &mut to_server).await
    }));
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from_server.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let bytes = &mut buffer[..length];
        let place = bytes
            .windows(marker.len())
            .position(|window| window == marker);
        if let Some(place) = place.filter(|_| damages.load(Ordering::SeqCst)) {
            bytes[place] ^= 1;
        }
        to_client.write_all(bytes).await?;
    }
}

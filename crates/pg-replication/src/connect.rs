//! From settings to a byte stream: name resolution, TCP or Unix socket, keepalive, TLS.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::error::PgError;
use crate::settings::{ConnectionSettings, SslMode};
use crate::tls;
use crate::wire::Duplex;

/// A dead peer is noticed after about a minute: 30 s of silence, then 3 probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// The same for bytes that we sent and that nobody acknowledged.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(60);

/// Whether TLS is tried on this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    Never,
    IfOffered,
    Always,
}

impl Encryption {
    pub(crate) fn first_choice(settings: &ConnectionSettings) -> Self {
        match settings.sslmode {
            // As libpq: a Unix socket is never encrypted, whatever sslmode says.
            _ if settings.socket_path().is_some() => Encryption::Never,
            SslMode::Disable => Encryption::Never,
            SslMode::Prefer => Encryption::IfOffered,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Encryption::Always,
        }
    }
}

/// An open connection, and what the login needs to know about it.
pub(crate) struct Channel {
    pub(crate) stream: Box<dyn Duplex>,
    pub(crate) encrypted: bool,
    /// Nobody else can listen: TLS, a Unix socket or the loopback interface.
    pub(crate) private: bool,
    /// The server certificate's hash, for `tls-server-end-point` (RFC 5929).
    pub(crate) certificate_hash: Option<Vec<u8>>,
}

pub(crate) async fn open(
    settings: &ConnectionSettings,
    encryption: Encryption,
) -> Result<Channel, PgError> {
    if let Some(path) = settings.socket_path() {
        let stream = timed(settings, UnixStream::connect(&path)).await?;
        return Ok(Channel {
            stream: Box::new(stream),
            encrypted: false,
            private: true,
            certificate_hash: None,
        });
    }
    let stream = tcp(settings).await?;
    let loopback = stream
        .peer_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback());
    if encryption != Encryption::Never {
        let limit = settings.connect_timeout();
        let negotiated = timeout(limit, Box::pin(negotiate_tls(settings, stream))).await;
        let during = "setting up tls";
        match negotiated.map_err(|_| PgError::Timeout {
            during,
            after: limit,
        })?? {
            Negotiated::Tls(stream, certificate_hash) => {
                return Ok(Channel {
                    stream,
                    encrypted: true,
                    private: true,
                    certificate_hash,
                });
            }
            Negotiated::Refused(_) if encryption == Encryption::Always => {
                return Err(PgError::Tls {
                    host: settings.endpoint(),
                    reason: "the server does not offer tls; turn it on there (ssl = on), or set \
                             sslmode=disable if the network is trusted"
                        .to_owned(),
                    source: None,
                });
            }
            Negotiated::Refused(stream) => return Ok(plain(stream, loopback)),
        }
    }
    Ok(plain(stream, loopback))
}

fn plain(stream: TcpStream, loopback: bool) -> Channel {
    Channel {
        stream: Box::new(stream),
        encrypted: false,
        private: loopback,
        certificate_hash: None,
    }
}

/// Tries each address of the host in turn; the last failure is reported.
async fn tcp(settings: &ConnectionSettings) -> Result<TcpStream, PgError> {
    let addresses = timed(
        settings,
        tokio::net::lookup_host((settings.host(), settings.port())),
    )
    .await?;
    let mut failure = None;
    for address in addresses {
        match timed(settings, TcpStream::connect(address)).await {
            Ok(stream) => {
                prepare(&stream).map_err(|source| connect_error(settings, source))?;
                return Ok(stream);
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| {
        let text = "the host name has no address";
        connect_error(settings, io::Error::new(io::ErrorKind::NotFound, text))
    }))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT))?;
    Ok(())
}

enum Negotiated {
    Tls(Box<dyn Duplex>, Option<Vec<u8>>),
    Refused(TcpStream),
}

async fn negotiate_tls(
    settings: &ConnectionSettings,
    mut stream: TcpStream,
) -> Result<Negotiated, PgError> {
    let closed = |source| PgError::Closed {
        during: "asking for tls",
        source: Some(source),
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(closed)?;
    // Exactly one byte is read in the clear: whatever somebody in between slips in after it goes
    // into the TLS handshake and breaks it (CVE-2021-23222).
    match stream.read_u8().await.map_err(closed)? {
        b'S' => tls::handshake(settings, stream)
            .await
            .map(|(stream, hash)| Negotiated::Tls(stream, hash)),
        b'N' => Ok(Negotiated::Refused(stream)),
        // The server could not even fork; what it says is not authenticated and is not repeated.
        b'E' => Err(PgError::closed("asking for tls")),
        other => Err(PgError::protocol(format!(
            "{} answered the request for tls with byte {other:#04x}; is it a postgresql?",
            settings.endpoint()
        ))),
    }
}

async fn timed<T>(
    settings: &ConnectionSettings,
    attempt: impl Future<Output = io::Result<T>>,
) -> Result<T, PgError> {
    let after = settings.connect_timeout();
    timeout(after, attempt)
        .await
        .map_err(|_| PgError::Timeout {
            during: "connecting",
            after,
        })?
        .map_err(|source| connect_error(settings, source))
}

fn connect_error(settings: &ConnectionSettings, source: io::Error) -> PgError {
    PgError::Connect {
        host: settings.endpoint(),
        source,
    }
}

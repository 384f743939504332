//! Mail servers that speak TLS, with certificates of an authority made for the case.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::{ChannelError, Email, Notice};
use super::at;

const PASSWORD: &str = "ge heim+&";
const PASSWORD_IN_URL: &str = "ge%20heim+%26";
/// As `AUTH PLAIN` sends it.
const PLAIN: &str = "AHoAZ2UgaGVpbSsm";

/// An authority, and a certificate of it.
struct Authority {
    acceptor: TlsAcceptor,
    _directory: TempDir,
    file: PathBuf,
}

impl Authority {
    fn of(name: &str) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, issuer.pem()).unwrap();
        Authority {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            _directory: directory,
            file,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// TLS from the first byte.
    Always,
    /// After STARTTLS.
    First,
    /// It knows no STARTTLS.
    Never,
    /// It takes no password, and repeats what it was told.
    Indiscreet,
}

/// What a server heard, before TLS and in it.
#[derive(Default)]
struct Heard {
    clear: Vec<String>,
    sealed: Vec<String>,
}

struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

impl Server {
    async fn start(authority: &Authority, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (acceptor, told) = (authority.acceptor.clone(), Arc::clone(&heard));
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
                drop(tokio::spawn(async move {
                    let _ = serve(stream, &acceptor, manner, &told).await;
                }));
            }
        }));
        Server { address, heard }
    }

    fn email(&self, url: &str, authority: &Authority) -> Email {
        let port = self.address.port().to_string();
        let url = url
            .replace("PASSWORD", PASSWORD_IN_URL)
            .replace("PORT", &port);
        let (to, from) = ("ops@example.org", "zektor@example.org");
        Email::new(to, from, &url, Some(&authority.file)).unwrap()
    }

    fn clear(&self) -> Vec<String> {
        self.heard.lock().unwrap().clear.clone()
    }

    fn sealed(&self) -> Vec<String> {
        self.heard.lock().unwrap().sealed.clone()
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    manner: Manner,
    heard: &Mutex<Heard>,
) -> std::io::Result<()> {
    let note = |line: &str| heard.lock().unwrap().sealed.push(line.to_owned());
    if manner == Manner::Always {
        let stream = acceptor.accept(stream).await?;
        return converse(BufReader::new(stream), manner, true, note).await;
    }
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 here\r\n").await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let command = line.trim_end().to_owned();
        line.clear();
        heard.lock().unwrap().clear.push(command.clone());
        match command.as_str() {
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await?;
                let stream = acceptor.accept(stream.into_inner()).await?;
                return converse(BufReader::new(stream), manner, false, note).await;
            }
            _ if manner == Manner::Never => {
                stream
                    .write_all(b"250-here\r\n250 AUTH PLAIN LOGIN\r\n")
                    .await?
            }
            _ => {
                stream
                    .write_all(b"250-here\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n")
                    .await?
            }
        }
    }
    Ok(())
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    manner: Manner,
    greets: bool,
    note: impl Fn(&str),
) -> std::io::Result<()> {
    if greets {
        stream.write_all(b"220 here\r\n").await?;
    }
    let (mut line, mut in_mail) = (String::new(), false);
    while stream.read_line(&mut line).await? > 0 {
        let said = line.trim_end().to_owned();
        line.clear();
        note(&said);
        let answer = match said.as_str() {
            "." => {
                in_mail = false;
                "250 taken\r\n".to_owned()
            }
            _ if in_mail => continue,
            "DATA" => {
                in_mail = true;
                "354 go on\r\n".to_owned()
            }
            _ if said.starts_with("EHLO") => "250-here\r\n250 AUTH PLAIN LOGIN\r\n".to_owned(),
            _ if said.starts_with("AUTH") && manner == Manner::Indiscreet => {
                format!("535 z with {PASSWORD}, that is {said}, may not\r\n")
            }
            _ if said.starts_with("AUTH") => "235 welcome\r\n".to_owned(),
            _ => "250 fine\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn notice() -> Notice {
    Notice::test("test:1".to_owned(), at(0))
}

const ALWAYS: &str = "smtps://z:PASSWORD@localhost:PORT";
const FIRST: &str = "smtp://z:PASSWORD@localhost:PORT?tls=required";

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_goes_over_tls_from_the_first_byte_and_after_starttls() {
    let authority = Authority::of("localhost");
    for (manner, url) in [(Manner::Always, ALWAYS), (Manner::First, FIRST)] {
        let server = Server::start(&authority, manner).await;
        server.email(url, &authority).send(&notice()).await.unwrap();
        let sealed = server.sealed();
        assert!(sealed.iter().any(|line| line.contains(PLAIN)), "{sealed:?}");
        let subject = "Subject: [zektor] TEST of notifications";
        assert!(sealed.iter().any(|line| line == subject), "{sealed:?}");
        // Before TLS only that it is wanted.
        let clear = server.clear();
        assert!(
            clear
                .iter()
                .all(|line| line.starts_with("EHLO") || line == "STARTTLS"),
            "{clear:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_server_that_nobody_vouches_for() {
    let (authority, other) = (Authority::of("localhost"), Authority::of("localhost"));
    let elsewhere = Authority::of("mail.example.org");
    for (manner, url) in [(Manner::Always, ALWAYS), (Manner::First, FIRST)] {
        // Of another authority, and of another name.
        for (served, trusted) in [(&other, &authority), (&elsewhere, &elsewhere)] {
            let server = Server::start(served, manner).await;
            let error = server.email(url, trusted).send(&notice()).await;
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with(
                    "the certificate of localhost is not trusted, and nothing was sent"
                ),
                "{error}"
            );
            assert!(error.contains("ZEKTOR_SMTP_CA_FILE"), "{error}");
            assert!(server.sealed().is_empty(), "{:?}", server.sealed());
            let clear = server.clear();
            assert!(
                clear
                    .iter()
                    .all(|line| line.starts_with("EHLO") || line == "STARTTLS"),
                "{clear:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_in_the_clear_when_the_server_offers_no_tls() {
    let authority = Authority::of("localhost");
    let server = Server::start(&authority, Manner::Never).await;
    let error = server.email(FIRST, &authority).send(&notice()).await;
    assert!(error.is_err());
    // One that speaks no TLS where it is expected from the first byte: that greeting is no handshake.
    let email = server.email(ALWAYS, &authority);
    let notice = notice();
    let sent = tokio::time::timeout(Duration::from_secs(30), email.send(&notice));
    assert!(sent.await.unwrap().is_err());
    let clear = server.clear();
    assert!(
        clear
            .iter()
            .all(|line| line.starts_with("EHLO") || line == "QUIT" || !line.is_ascii()),
        "{clear:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_repeats_the_password_does_not_make_it_known() {
    let authority = Authority::of("localhost");
    let server = Server::start(&authority, Manner::Indiscreet).await;
    let error = server.email(FIRST, &authority).send(&notice()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("535") && error.contains("may not"),
        "{error}"
    );
    for secret in [PASSWORD, PLAIN, "heim"] {
        assert!(!error.contains(secret), "{error}");
    }
}

#[test]
fn settings_that_would_send_a_password_in_the_clear_are_refused() {
    let authority = Authority::of("localhost");
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "geheim").unwrap();
    let new = |url: &str, ca| Email::new("a@b.example", "z@b.example", url, ca).map(drop);
    let ca = Some(authority.file.as_path());
    for (url, ca, expected) in [
        ("smtp://z:geheim@mail.example", None, "no TLS"),
        ("smtp://z@mail.example:25", None, "no TLS"),
        (
            "smtp://z:geheim@mail.example?tls=opportunistic",
            None,
            "cannot be used; write",
        ),
        ("smtp://mail.example", ca, "uses no TLS"),
        (
            "smtps://mail.example",
            Some(empty.as_path()),
            "it holds no certificate",
        ),
        (
            "smtps://mail.example",
            Some(directory.path()),
            "cannot be used (",
        ),
    ] {
        let error: ChannelError = new(url, ca).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(expected) && !error.contains("geheim"),
            "{error}"
        );
    }
    new("smtps://z:geheim@mail.example", ca).unwrap();
    new("smtp://mail.example", None).unwrap();
}

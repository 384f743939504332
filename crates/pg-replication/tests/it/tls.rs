//! Which certificates are believed, against a server that holds one made for the case.

use std::path::PathBuf;
use std::sync::Arc;

use pg_replication::{ConnectionSettings, PgError, SqlConnection};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::script::Peer;

/// A certificate with its key, and the authority's PEM in a file.
struct Certified {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    _directory: TempDir,
    root: PathBuf,
}

fn parameters(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters
        .distinguished_name
        .push(DnType::CommonName, common_name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters
}

fn stored(chain: Vec<CertificateDer<'static>>, key: &KeyPair, root_pem: &str) -> Certified {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root.crt");
    std::fs::write(&root, root_pem).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Certified {
        chain,
        key,
        _directory: directory,
        root,
    }
}

/// Signed by an authority of its own.
fn signed(parameters: &CertificateParams) -> Certified {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "test authority");
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, &issuer).unwrap();
    stored(vec![certificate.der().clone()], &key, &issuer.pem())
}

/// Its own authority, as `openssl req -x509` makes it.
fn self_signed(mut parameters: CertificateParams) -> Certified {
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    stored(vec![certificate.der().clone()], &key, &certificate.pem())
}

/// Serves one login over TLS; the port.
async fn serve(certified: &Certified) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certified.chain.clone(), certified.key.clone_key())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer { stream };
        assert_eq!(peer.startup().await, "");
        peer.send(b"S").await;
        if let Ok(stream) = acceptor.accept(peer.stream).await {
            let mut peer = Peer { stream };
            let _ = peer.welcome("18.6").await;
            peer.drained().await;
        }
    });
    port
}

async fn connect(certified: &Certified, host: &str, query: &str) -> Result<(), PgError> {
    let port = serve(certified).await;
    let query = query.replace("ROOT", certified.root.to_str().unwrap());
    let dsn = format!("postgres://u:pw@{host}:{port}/d?{query}");
    SqlConnection::connect(&ConnectionSettings::parse(&dsn).unwrap())
        .await
        .map(drop)
}

#[track_caller]
fn refused(result: Result<(), PgError>) {
    match result {
        Err(PgError::Tls { reason, .. }) if reason.contains("does not accept") => {}
        other => panic!("{other:?}"),
    }
}

const FULL: &str = "sslmode=verify-full&sslrootcert=ROOT";
const AUTHORITY: &str = "sslmode=verify-ca&sslrootcert=ROOT";

#[tokio::test]
async fn names() {
    let named = signed(&parameters(&["localhost", "127.0.0.1"], "other"));
    connect(&named, "localhost", FULL).await.unwrap();
    connect(&named, "127.0.0.1", FULL).await.unwrap();

    let other = signed(&parameters(&["db.example.com"], "localhost"));
    // The common name counts only where there are no alternative names.
    refused(connect(&other, "localhost", FULL).await);
    connect(&other, "localhost", AUTHORITY).await.unwrap();

    let common = signed(&parameters(&[], "localhost"));
    connect(&common, "localhost", FULL).await.unwrap();
    refused(connect(&common, "127.0.0.1", FULL).await);
}

#[tokio::test]
async fn authorities() {
    let ours = signed(&parameters(&["localhost"], "localhost"));
    let theirs = signed(&parameters(&["localhost"], "localhost"));
    let foreign = Certified {
        chain: theirs.chain.clone(),
        key: theirs.key.clone_key(),
        root: ours.root.clone(),
        _directory: tempfile::tempdir().unwrap(),
    };
    refused(connect(&foreign, "localhost", FULL).await);
    refused(connect(&foreign, "localhost", AUTHORITY).await);
    // With a root, require verifies, as in libpq.
    refused(connect(&foreign, "localhost", "sslmode=require&sslrootcert=ROOT").await);
    refused(connect(&foreign, "localhost", "sslmode=verify-full").await);
    refused(connect(&foreign, "localhost", "sslrootcert=system").await);
    connect(&foreign, "localhost", "sslmode=require")
        .await
        .unwrap();
    connect(&foreign, "localhost", "sslmode=prefer")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_its_own_root() {
    let own = self_signed(parameters(&["localhost"], "localhost"));
    connect(&own, "localhost", FULL).await.unwrap();
    connect(&own, "127.0.0.1", AUTHORITY).await.unwrap();
    refused(connect(&own, "127.0.0.1", FULL).await);
}

#[tokio::test]
async fn validity() {
    let mut past = parameters(&["localhost"], "localhost");
    past.not_before = date_time_ymd(2020, 1, 1);
    past.not_after = date_time_ymd(2021, 1, 1);
    let mut future = parameters(&["localhost"], "localhost");
    future.not_before = date_time_ymd(4000, 1, 1);
    for parameters in [past, future] {
        refused(connect(&signed(&parameters), "localhost", AUTHORITY).await);
        refused(connect(&self_signed(parameters), "localhost", AUTHORITY).await);
    }
}

#[tokio::test]
async fn a_root_that_cannot_be_used_is_named() {
    let own = self_signed(parameters(&["localhost"], "localhost"));
    for content in [
        None,
        Some(""),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing.crt");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let query = format!("sslmode=verify-full&sslrootcert={}", path.display());
        let failure = connect(&own, "localhost", &query).await.unwrap_err();
        assert!(failure.to_string().contains("missing.crt"), "{failure}");
    }
}

#[tokio::test]
async fn a_server_without_tls() {
    for (query, expected) in [("sslmode=require", false), ("sslmode=prefer", true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut peer = Peer { stream };
            let _ = peer.startup().await;
            peer.send(b"N").await;
            if expected {
                let _ = peer.welcome("18.6").await;
            }
            peer.drained().await;
        });
        let dsn = format!("postgres://u:pw@127.0.0.1:{port}/d?{query}");
        let result = SqlConnection::connect(&ConnectionSettings::parse(&dsn).unwrap()).await;
        match result {
            Ok(connection) => {
                assert!(expected);
                drop(connection);
            }
            Err(error) => {
                assert!(matches!(error, PgError::Tls { .. }), "{error}");
                assert!(!expected);
            }
        }
        served.await.unwrap();
    }
}

/// CVE-2021-23222: what comes in the clear before the handshake must not be taken for an answer.
#[tokio::test]
async fn bytes_slipped_in_before_the_handshake_break_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer { stream };
        let _ = peer.startup().await;
        peer.send(&[b"S".to_vec(), crate::script::frame(b'R', &[0; 4])].concat())
            .await;
        let mut rest = Vec::new();
        let _ = peer.stream.read_to_end(&mut rest).await;
    });
    let dsn = format!("postgres://u:pw@127.0.0.1:{port}/d?sslmode=require");
    let result = SqlConnection::connect(&ConnectionSettings::parse(&dsn).unwrap()).await;
    assert!(matches!(result.err().unwrap(), PgError::Tls { .. }));
    served.await.unwrap();
}

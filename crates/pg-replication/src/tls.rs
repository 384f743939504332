//! TLS as libpq's `sslmode` means it, and the certificate hash for channel binding.

mod certificate;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::PgError;
use crate::settings::{ConnectionSettings, RootCertificates, SslMode};
use crate::wire::Duplex;

/// Sets TLS up on a connection whose server has agreed to it.
pub(crate) async fn handshake(
    settings: &ConnectionSettings,
    stream: TcpStream,
) -> Result<(Box<dyn Duplex>, Option<Vec<u8>>), PgError> {
    let error = |reason: String| PgError::Tls {
        host: settings.endpoint(),
        reason,
        source: None,
    };
    let config = client_config(settings).await?;
    let name = ServerName::try_from(settings.host().to_owned())
        .map_err(|_| error("the host name cannot be used with tls".to_owned()))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|source| handshake_error(settings, source))?;
    let hash = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| certificate::end_point_hash(certificate));
    Ok((Box::new(stream), hash))
}

fn handshake_error(settings: &ConnectionSettings, source: io::Error) -> PgError {
    let refused = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(refused) = refused else {
        return PgError::Closed {
            during: "setting up tls",
            source: Some(source),
        };
    };
    let reason = match refused {
        rustls::Error::InvalidCertificate(certificate) => {
            let mode = settings.sslmode.text();
            let advice = advice(certificate);
            format!(
                "sslmode={mode} does not accept the server's certificate: {certificate}{advice}"
            )
        }
        other => other.to_string(),
    };
    PgError::Tls {
        host: settings.endpoint(),
        reason,
        source: Some(Box::new(source)),
    }
}

fn advice(certificate: &CertificateError) -> &'static str {
    // webpki's own errors come as `Other`; only their text tells them apart.
    let unsupported = |error: &CertificateError| {
        matches!(error, CertificateError::Other(_))
            && format!("{error:?}").contains("UnsupportedCertVersion")
    };
    match certificate {
        CertificateError::UnknownIssuer => "; name its authority's certificate with sslrootcert",
        error if unsupported(error) => {
            "; it is of x.509 version 1: make one of version 3, with the host as subjectAltName"
        }
        _ => "",
    }
}

async fn client_config(settings: &ConnectionSettings) -> Result<ClientConfig, PgError> {
    let tls_error = |reason: String, source: io::Error| PgError::Tls {
        host: settings.endpoint(),
        reason,
        source: Some(Box::new(source)),
    };
    let verify = match (settings.sslmode, &settings.sslrootcert) {
        // libpq: "if a root CA file exists, the behavior of sslmode=require will be the same as
        // that of verify-ca".
        (SslMode::Require, Some(_)) => true,
        (mode, _) => matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull),
    };
    let trust = match &settings.sslrootcert {
        _ if !verify => None,
        Some(RootCertificates::File(path)) => Some(
            trust_file(path)
                .await
                .map_err(|source| tls_error(format!("cannot use sslrootcert {path:?}"), source))?,
        ),
        Some(RootCertificates::System) | None => Some(system_trust().await.map_err(|source| {
            tls_error(
                "cannot read the system's root certificates".to_owned(),
                source,
            )
        })?),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        algorithms: provider.signature_verification_algorithms,
        trust,
        check_name: settings.sslmode == SslMode::VerifyFull,
    };
    with_provider(provider, verifier)
        .map_err(|error| tls_error("tls is not available".to_owned(), io::Error::other(error)))
}

fn with_provider(
    provider: Arc<CryptoProvider>,
    verifier: Verifier,
) -> Result<ClientConfig, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Which certificates are believed.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// The certificates of the file themselves: a self-signed server certificate, given as its own
    /// root, is what many people use, and libpq accepts it.
    listed: Vec<CertificateDer<'static>>,
}

async fn trust_file(path: &Path) -> io::Result<Trust> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let pem = tokio::fs::read(path).await?;
    let listed: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in &listed {
        roots
            .add(certificate.clone())
            .map_err(|error| invalid(error.to_string()))?;
    }
    if listed.is_empty() {
        return Err(invalid("it holds no certificate in pem form".to_owned()));
    }
    Ok(Trust { roots, listed })
}

async fn system_trust() -> io::Result<Trust> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    // One odd certificate among the system's hundred is no reason to trust none.
    let _ = roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let reason = loaded
            .errors
            .first()
            .map_or("there are none".to_owned(), |e| e.to_string());
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    Ok(Trust {
        roots,
        listed: Vec::new(),
    })
}

#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// `None`: any certificate will do (`sslmode` `prefer` and `require`).
    trust: Option<Trust>,
    check_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trust) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        if trust.listed.iter().any(|listed| listed == end_entity) {
            certificate::check_validity(end_entity, now)?;
        } else {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &trust.roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if self.check_name {
            certificate::check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    /// By the bare key: the certificates that `openssl x509 -req` makes by default are X.509
    /// version 1, which webpki does not parse.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key: SubjectPublicKeyInfoDer<'_> = certificate::public_key(cert)?;
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

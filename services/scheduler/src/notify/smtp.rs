//! The mail server: whether it is the right one, and what may be said to it.
//!
//! Where TLS was asked for, nothing is said in the clear: neither a password nor a mail goes to a server that offers no
//! TLS, or whose certificate nobody vouches for. A password without TLS is refused at the start. What a server answers may
//! hold what it was told, so the password is taken out of it.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use url::Url;

use super::{ChannelError, SendError};

/// For each step of the conversation.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub(super) struct Server {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    host: String,
    /// The password, in every form in which it is sent.
    secrets: Vec<String>,
}

/// When TLS begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Security {
    Never,
    /// STARTTLS, before anything else is said.
    First,
    /// With the connection.
    Always,
}

impl Server {
    /// `ca`: a file of certificates (PEM) that the server's is checked by, instead of those of the system.
    pub(super) fn new(url: &str, ca: Option<&Path>) -> Result<Self, ChannelError> {
        let parsed = Url::parse(url).map_err(|_| ChannelError::Smtp)?;
        let host = parsed.host_str().ok_or(ChannelError::Smtp)?.to_owned();
        let tls = parsed.query_pairs().find(|(name, _)| name == "tls");
        let security = match (parsed.scheme(), tls.as_ref().map(|(_, value)| &**value)) {
            ("smtp", None) => Security::Never,
            ("smtp", Some("required")) => Security::First,
            ("smtps", None) => Security::Always,
            _ => return Err(ChannelError::Smtp),
        };
        let has_secret = parsed.password().is_some() || !parsed.username().is_empty();
        if security == Security::Never && has_secret {
            return Err(ChannelError::SmtpPassword);
        }
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url);
        let mut builder = builder.map_err(|_| ChannelError::Smtp)?;
        if let Some(ca) = ca {
            let parameters = trusting(&host, ca)?;
            builder = match security {
                Security::Never => return Err(ChannelError::SmtpCaWithoutTls),
                Security::First => builder.tls(Tls::Required(parameters)),
                Security::Always => builder.tls(Tls::Wrapper(parameters)),
            };
        }
        Ok(Server {
            transport: builder.timeout(Some(TIMEOUT)).build(),
            secrets: secrets(&parsed),
            host,
        })
    }

    pub(super) async fn send(&self, envelope: &Envelope, mail: &[u8]) -> Result<(), SendError> {
        let sent = self.transport.send_raw(envelope, mail).await;
        sent.map(drop).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &Error) -> SendError {
        let mut said = service::run::chain(error);
        for secret in &self.secrets {
            said = said.replace(secret.as_str(), "***");
        }
        let host = &self.host;
        if said.contains("invalid peer certificate") {
            return SendError::new(&format!(
                "the certificate of {host} is not trusted, and nothing was sent: {said}; if a certificate authority of \
                 your own signed it, give its certificate in ZEKTOR_SMTP_CA_FILE"
            ));
        }
        SendError::new(&format!("{host} did not take the mail: {said}"))
    }
}

/// Only what the file's certificates vouch for.
fn trusting(host: &str, ca: &Path) -> Result<TlsParameters, ChannelError> {
    let unreadable = |reason: String| ChannelError::SmtpCa {
        path: ca.display().to_string(),
        reason,
    };
    let pem = std::fs::read(ca).map_err(|error| unreadable(error.to_string()))?;
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        return Err(unreadable("it holds no certificate".to_owned()));
    }
    let certificates = Certificate::from_pem(&pem);
    let certificates = certificates.map_err(|error| unreadable(service::run::chain(&error)))?;
    TlsParameters::builder(host.to_owned())
        .certificate_store(CertificateStore::None)
        .add_root_certificate(certificates)
        .build_rustls()
        .map_err(|error| unreadable(service::run::chain(&error)))
}

/// As it stands in the URL, decoded, and as `AUTH PLAIN` and `AUTH LOGIN` send it; the longest first.
fn secrets(url: &Url) -> Vec<String> {
    let Some(password) = url.password() else {
        return Vec::new();
    };
    let decode = |text: &str| {
        // The form of a query is the same encoding, but for the plus.
        let text = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
        let pair = url::form_urlencoded::parse(text.as_bytes()).next();
        pair.map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let (user, decoded) = (decode(url.username()), decode(password));
    let mut secrets = vec![
        STANDARD.encode(format!("\0{user}\0{decoded}")),
        STANDARD.encode(&decoded),
        decoded,
        password.to_owned(),
    ];
    secrets.retain(|secret| !secret.is_empty());
    secrets
}

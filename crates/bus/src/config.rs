//! How to reach NATS.

use std::path::PathBuf;
use std::time::Duration;

/// How to reach NATS, and how long to wait for it.
#[derive(Clone)]
pub struct BusConfig {
    /// One or more `nats://` or `tls://` URLs, separated by commas; a user and password or a token may stand in them.
    pub url: String,
    /// The service's name: the connection's name, and the source of every message it publishes.
    pub name: String,
    /// Credentials; those in the URL are used when there are none here.
    pub credentials: Option<Credentials>,
    /// Certificates to trust beside the system's, PEM.
    pub root_certificates: Option<PathBuf>,
    /// How long [`crate::Bus::connect`] waits for the server.
    pub connect_deadline: Duration,
    /// How long one publish or JetStream call may take before it is tried again.
    pub call_timeout: Duration,
    /// How long a call is tried again in all, over reconnects. Retrying a publish is safe: its id makes it one message.
    pub patience: Duration,
    /// How long handlers in hand may go on after shutdown was asked for.
    pub drain_deadline: Duration,
    /// Replicas of every stream and bucket: 1 on one machine, 3 in production.
    pub replicas: usize,
}

/// How to authenticate.
#[derive(Clone)]
pub enum Credentials {
    /// User and password.
    User {
        /// The user.
        name: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
    /// A credentials file as `nsc` writes it.
    File(PathBuf),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::User { .. } => "User(..)",
            Credentials::Token(_) => "Token(..)",
            Credentials::File(_) => "File(..)",
        })
    }
}

impl std::fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BusConfig")
            .field("url", &self.public_url())
            .field("name", &self.name)
            .field("credentials", &self.credentials)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

impl BusConfig {
    /// A configuration with the usual limits.
    #[must_use]
    pub fn new(url: impl Into<String>, name: impl Into<String>) -> Self {
        BusConfig {
            url: url.into(),
            name: name.into(),
            credentials: None,
            root_certificates: None,
            connect_deadline: Duration::from_secs(30),
            call_timeout: Duration::from_secs(5),
            patience: Duration::from_secs(15),
            drain_deadline: Duration::from_secs(20),
            replicas: 1,
        }
    }

    /// The URL without what must stay secret.
    #[must_use]
    pub fn public_url(&self) -> String {
        let public = |url: &str| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            (_, None) => url.to_owned(),
        };
        self.url
            .split(',')
            .map(|url| public(url.trim()))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Credentials: those given, or those in the URL.
    pub(crate) fn effective_credentials(&self) -> Option<Credentials> {
        self.credentials.clone().or_else(|| {
            let (_, rest) = self.url.split_once("://")?;
            let (userinfo, _) = rest.split(',').next()?.rsplit_once('@')?;
            Some(match userinfo.split_once(':') {
                Some((name, password)) => Credentials::User {
                    name: percent_decoded(name),
                    password: percent_decoded(password),
                },
                None => Credentials::Token(percent_decoded(userinfo)),
            })
        })
    }
}

/// What stands percent-encoded in a URL; anything that is not an escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = (byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escape.unwrap_or(byte));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{BusConfig, Credentials};

    #[test]
    fn secrets_in_urls_are_used_and_never_shown() {
        let config = BusConfig::new("nats://worker:p%40ss:w@nats:4222", "test");
        assert_eq!(config.public_url(), "nats://nats:4222");
        assert!(!format!("{config:?}").contains("ss"));
        let Some(Credentials::User { name, password }) = config.effective_credentials() else {
            panic!("a user");
        };
        assert_eq!((name.as_str(), password.as_str()), ("worker", "p@ss:w"));

        let config = BusConfig::new("nats://s3cret@a:1,nats://s3cret@b:2", "test");
        assert_eq!(config.public_url(), "nats://a:1,nats://b:2");
        let credentials = config.effective_credentials();
        assert!(matches!(credentials, Some(Credentials::Token(token)) if token == "s3cret"));
        assert!(
            BusConfig::new("nats://a:1", "test")
                .effective_credentials()
                .is_none()
        );
    }
}

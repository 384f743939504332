//! Where a server is and how to reach it, parsed once from the DSN that a user pasted.
//!
//! The password leaves this type only through [`ConnectionSettings::to_uri`] and the login.

mod uri;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use uri::DsnError;

/// libpq waits without limit by default; we never do.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_PORT: u16 = 5432;
const DEFAULT_APPLICATION_NAME: &str = "zektor";

/// Whether and how the connection is encrypted (libpq's `sslmode`; `allow` is read as `prefer`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it, without proof of who it is. The default, as in libpq.
    Prefer,
    /// TLS, without proof of who the server is (with `sslrootcert`: as `VerifyCa`, as in libpq).
    Require,
    /// TLS with a certificate from a trusted authority.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

/// Which authorities may sign the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// Those that the operating system trusts.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// Whether SCRAM must prove that nobody sits between us and the server (`channel_binding`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never used.
    Disable,
    /// Used if both sides can. The default.
    Prefer,
    /// A login without it fails.
    Require,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A parsed DSN. `Debug` and `Display` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    user: String,
    pub(crate) password: Option<Password>,
    host: String,
    port: u16,
    dbname: Option<String>,
    application_name: Option<String>,
    connect_timeout: Duration,
    pub(crate) sslmode: SslMode,
    pub(crate) sslrootcert: Option<RootCertificates>,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) parameters: Vec<(String, String)>,
}

impl ConnectionSettings {
    /// Parses a `postgres://` or `postgresql://` URI as libpq reads it (PostgreSQL docs,
    /// "Connection Strings"). A user and a host must be named: defaults taken from the machine
    /// that happens to read the text would mean another server on another machine.
    ///
    /// Fails with the name of the parameter for every parameter it does not know.
    pub fn parse(dsn: &str) -> Result<Self, DsnError> {
        uri::parse(dsn)
    }

    /// The role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// A host name, an IP address, or the directory of a Unix socket (it begins with `/`).
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; of a Unix socket, the number at the end of its name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database; by default the one with the user's name.
    #[must_use]
    pub fn dbname(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.user)
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_dbname(mut self, dbname: impl Into<String>) -> Self {
        self.dbname = Some(dbname.into());
        self
    }

    /// The same server by another way: a host, or the directory of its Unix socket.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The same, shown under this name in `pg_stat_activity`.
    #[must_use]
    pub fn with_application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = Some(name.into());
        self
    }

    /// The same, with a server setting for the session. It comes with the login, so it holds before anything that
    /// the role or the database has set can act ("Parameter Interaction via the Shell", PostgreSQL docs).
    #[must_use]
    pub fn with_parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// What `pg_stat_activity` shows; `zektor` by default.
    #[must_use]
    pub fn application_name(&self) -> &str {
        self.application_name
            .as_deref()
            .unwrap_or(DEFAULT_APPLICATION_NAME)
    }

    /// The limit of each attempt to connect, and then of the login.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The DSN with the password. Never log it.
    #[must_use]
    pub fn to_uri(&self) -> String {
        uri::format(
            self,
            self.password.as_ref().map(|password| password.0.as_str()),
        )
    }

    /// The DSN for logs and tables: a password becomes `***`.
    #[must_use]
    pub fn redacted(&self) -> String {
        uri::format(self, self.password.as_ref().map(|_| "***"))
    }

    /// The path of the Unix socket, if the host is a directory.
    pub(crate) fn socket_path(&self) -> Option<PathBuf> {
        self.host
            .starts_with('/')
            .then(|| PathBuf::from(&self.host).join(format!(".s.PGSQL.{}", self.port)))
    }

    /// For error texts: host and port, or the socket.
    pub(crate) fn endpoint(&self) -> String {
        match self.socket_path() {
            Some(path) => path.display().to_string(),
            None if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionSettings({})", self.redacted())
    }
}

#[cfg(test)]
mod tests;

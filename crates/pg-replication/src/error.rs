//! What can go wrong between us and a server, and whether trying again can help.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

/// `data_corrupted`: how a base backup reports pages whose checksum is wrong.
pub const SQLSTATE_DATA_CORRUPTED: &str = "XX001";
pub(crate) const SQLSTATE_DUPLICATE_OBJECT: &str = "42710";
pub(crate) const SQLSTATE_UNDEFINED_OBJECT: &str = "42704";

/// An error or a warning as the server sent it (PostgreSQL docs, "Error and Notice Message Fields").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMessage {
    /// Not localised: `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, ...
    pub severity: String,
    /// Five characters, `42P01`; "Appendix A. PostgreSQL Error Codes".
    pub sqlstate: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// More about this case.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
}

impl ServerMessage {
    /// After `FATAL` and `PANIC` the server closes the connection.
    pub(crate) fn ends_session(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        for more in [&self.detail, &self.hint].into_iter().flatten() {
            write!(f, "; {more}")?;
        }
        Ok(())
    }
}

/// An error of a connection. None of its texts contains a password.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// No connection could be made at all: name resolution, refused, unreachable.
    #[error(
        "cannot connect to postgresql at {host}; check that it runs and can be reached from here"
    )]
    Connect {
        /// Host and port, or the socket's path.
        host: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// TLS could not be set up as the settings demand.
    #[error("tls with {host} failed: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// What is wrong, and what to change where that is known.
        reason: String,
        /// The error below, if any.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The server does not let this user in, or does not prove what the settings demand of it.
    #[error("{host} does not let user {user:?} in: {reason}{}", suggestion(*hint))]
    Authentication {
        /// Host and port, or the socket's path.
        host: String,
        /// The role that tried.
        user: String,
        /// What the server, or the check on our side, said.
        reason: String,
        /// What to do.
        hint: Option<&'static str>,
        /// Present if the server refused.
        sqlstate: Option<String>,
    },
    /// The server answered a command with an error.
    #[error("postgresql answered {0}")]
    Server(Box<ServerMessage>),
    /// The other side does not speak the protocol as documented, or a message is over a limit.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// The connection ended when an answer was due.
    #[error("the connection to postgresql was closed while {during}")]
    Closed {
        /// What was going on.
        during: &'static str,
        /// What the operating system said, if it was not an orderly close.
        #[source]
        source: Option<io::Error>,
    },
    /// No answer in time.
    #[error("postgresql did not answer within {} s while {during}", after.as_secs())]
    Timeout {
        /// What was going on.
        during: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// This server is too old for the command.
    #[error("{feature} needs postgresql {needs} or newer, the server is {found}")]
    Unsupported {
        /// The command.
        feature: &'static str,
        /// The first major version that has it.
        needs: u32,
        /// The server's version.
        found: pg_format::ServerVersion,
    },
}

fn suggestion(hint: Option<&'static str>) -> String {
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

impl PgError {
    /// The server's error code, if the server sent one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            PgError::Server(message) => Some(&message.sqlstate),
            PgError::Authentication { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }

    /// True if the same call can succeed later with nothing changed by a person: the server is
    /// down, starting, stopping, full or out of reach.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            PgError::Connect { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            PgError::Closed { .. } | PgError::Timeout { .. } => true,
            PgError::Server(message) => {
                let state = message.sqlstate.as_str();
                // admin_shutdown, crash_shutdown, cannot_connect_now, too_many_connections
                matches!(state, "57P01" | "57P02" | "57P03" | "53300") || state.starts_with("08")
            }
            PgError::Tls { .. }
            | PgError::Authentication { .. }
            | PgError::Protocol(_)
            | PgError::Unsupported { .. } => false,
        }
    }

    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        PgError::Protocol(text.into())
    }

    pub(crate) fn closed(during: &'static str) -> Self {
        PgError::Closed {
            during,
            source: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str) -> PgError {
        PgError::Server(Box::new(ServerMessage {
            severity: "FATAL".into(),
            sqlstate: sqlstate.into(),
            message: "m".into(),
            detail: None,
            hint: Some("h".into()),
        }))
    }

    #[test]
    fn what_is_worth_another_try() {
        for state in ["57P01", "57P02", "57P03", "53300", "08006", "08P01"] {
            assert!(server(state).is_transient(), "{state}");
        }
        for state in [
            "42601", "55000", "55006", "28P01", "58P01", "XX001", "3D000",
        ] {
            assert!(!server(state).is_transient(), "{state}");
        }
        assert!(PgError::closed("testing").is_transient());
        let connect = |kind| PgError::Connect {
            host: "h".into(),
            source: io::Error::from(kind),
        };
        assert!(connect(io::ErrorKind::ConnectionRefused).is_transient());
        assert!(connect(io::ErrorKind::NotFound).is_transient());
        assert!(!connect(io::ErrorKind::PermissionDenied).is_transient());
        assert!(!PgError::protocol("x").is_transient());
    }

    #[test]
    fn text_of_a_server_error() {
        assert_eq!(
            server("57P01").to_string(),
            "postgresql answered FATAL 57P01: m; h"
        );
        assert_eq!(server("57P01").sqlstate(), Some("57P01"));
    }
}

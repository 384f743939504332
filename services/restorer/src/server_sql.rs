//! Plain SQL to a branch's server, over its Unix socket while it is locked.

use std::path::Path;
use std::time::Duration;

use pg_replication::{ConnectionSettings, PgError, SqlConnection};
use tokio::time::Instant;

use crate::error::RestoreError;
use crate::site::Site;

/// The role that `initdb` made has this oid (`BOOTSTRAP_SUPERUSERID`, PostgreSQL `src/include/catalog/pg_authid.dat`).
const BOOTSTRAP_ROLE: &str = "SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10";

/// What a database or role of the source may have set, and what would get in our way. It comes with the login,
/// before anything of theirs acts.
const SESSION: [(&str, &str); 5] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("search_path", "pg_catalog"),
    ("default_transaction_read_only", "off"),
    ("local_preload_libraries", ""),
];

/// The same, but for superusers only: a library that this machine does not have ends every login.
const SUPERUSER_SESSION: (&str, &str) = ("session_preload_libraries", "");

/// `DISABLE ON LOGIN`, as it were, from this version on: a trigger of the source must not keep us out.
const LOGIN_TRIGGERS: u32 = 17;

/// The source's user and database: the first guess of who can log in and where.
#[derive(Clone, Debug)]
pub struct Names {
    /// Its role.
    pub user: String,
    /// Its database.
    pub database: String,
}

/// Connects as the bootstrap superuser, trying names that may exist, until `patience` is over.
///
/// # Errors
/// Nobody was let in.
pub async fn superuser(
    site: &Site,
    port: u16,
    names: &Names,
    patience: Duration,
) -> Result<(SqlConnection, String), RestoreError> {
    let deadline = Instant::now() + patience;
    loop {
        match try_superuser(site, port, names).await {
            Ok(connected) => return Ok(connected),
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn try_superuser(
    site: &Site,
    port: u16,
    names: &Names,
) -> Result<(SqlConnection, String), PgError> {
    let (mut connection, database) = anybody(site, port, names).await?;
    let rows = connection.query(BOOTSTRAP_ROLE).await?;
    let name = rows
        .first()
        .and_then(|row| row.get(0))
        .unwrap_or("postgres")
        .to_owned();
    connection.close().await;
    let mut connection = connect(site, port, &name, &database).await?;
    let _ = connection.query("SET role = none").await?;
    Ok((connection, name))
}

/// Any role in any database.
async fn anybody(
    site: &Site,
    port: u16,
    names: &Names,
) -> Result<(SqlConnection, String), PgError> {
    let mut refused = None;
    for user in [names.user.as_str(), "postgres"] {
        for database in [names.database.as_str(), "postgres", "template1"] {
            let settings = guarded(socket_settings(site.run(), port, user, database)?);
            let (name, value) = SUPERUSER_SESSION;
            // Only a superuser may set that, and only who cannot get in otherwise needs it.
            let with_more = settings.clone().with_parameter(name, value);
            for settings in [settings, with_more] {
                match SqlConnection::connect(&settings).await {
                    Ok(connection) => return Ok((connection, database.to_owned())),
                    Err(error) if error.is_transient() => return Err(error),
                    Err(error) => refused = Some(error),
                }
            }
        }
    }
    Err(refused.unwrap_or_else(|| PgError::Protocol("no role to log in as".to_owned())))
}

/// The way to every database of a branch's server, as its superuser.
#[derive(Clone, Copy, Debug)]
pub enum Door<'a> {
    /// While it is locked.
    Locked {
        /// Its places.
        site: &'a Site,
        /// Its port.
        port: u16,
        /// The superuser's name.
        superuser: &'a str,
    },
    /// When it is open.
    Open {
        /// Its places.
        site: &'a Site,
        /// Its connection URI.
        uri: &'a str,
        /// Its major version.
        major: u32,
    },
}

impl Door<'_> {
    /// Connects to one database, by the Unix socket.
    ///
    /// # Errors
    /// As [`SqlConnection::connect`]; the URI makes no sense.
    pub async fn enter(&self, database: &str) -> Result<SqlConnection, RestoreError> {
        match *self {
            Door::Locked {
                site,
                port,
                superuser,
            } => Ok(connect(site, port, superuser, database).await?),
            Door::Open { site, uri, major } => {
                let settings = ConnectionSettings::parse(uri)?;
                let run = site.run().to_string_lossy();
                let settings = guarded(settings.with_host(run).with_dbname(database));
                let (name, value) = SUPERUSER_SESSION;
                let mut settings = settings.with_parameter(name, value);
                if major >= LOGIN_TRIGGERS {
                    settings = settings.with_parameter("event_triggers", "off");
                }
                Ok(SqlConnection::connect(&settings).await?)
            }
        }
    }
}

async fn connect(
    site: &Site,
    port: u16,
    user: &str,
    database: &str,
) -> Result<SqlConnection, PgError> {
    let settings = guarded(socket_settings(site.run(), port, user, database)?);
    let (name, value) = SUPERUSER_SESSION;
    SqlConnection::connect(&settings.with_parameter(name, value)).await
}

fn guarded(settings: ConnectionSettings) -> ConnectionSettings {
    SESSION.iter().fold(settings, |settings, (name, value)| {
        settings.with_parameter(*name, *value)
    })
}

fn socket_settings(
    run: &Path,
    port: u16,
    user: &str,
    database: &str,
) -> Result<ConnectionSettings, PgError> {
    let uri = format!(
        "postgres://{}@{}:{port}/{}",
        percent_encoded(user),
        percent_encoded(&run.to_string_lossy()),
        percent_encoded(database)
    );
    ConnectionSettings::parse(&uri).map_err(|error| PgError::Protocol(error.to_string()))
}

/// A part of a URI.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::socket_settings;

    #[test]
    fn names_and_paths_survive_the_uri() {
        let settings = socket_settings(Path::new("/a b/é%"), 30_001, "o'neil@x", "d/b").unwrap();
        assert_eq!(settings.host(), "/a b/é%");
        assert_eq!(settings.user(), "o'neil@x");
        assert_eq!(settings.dbname(), "d/b");
        assert_eq!(settings.port(), 30_001);
    }
}

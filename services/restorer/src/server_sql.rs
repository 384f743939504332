//! Plain SQL to a branch's server, over its Unix socket while it is locked.

use std::path::Path;
use std::time::Duration;

use pg_replication::{ConnectionSettings, PgError, SqlConnection};
use tokio::time::Instant;

use crate::error::RestoreError;
use crate::site::Site;

/// The role that `initdb` made has this oid (`BOOTSTRAP_SUPERUSERID`, PostgreSQL `src/include/catalog/pg_authid.dat`).
const BOOTSTRAP_ROLE: &str = "SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10";

/// What a database or role of the source may have set, and what would get in our way.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET search_path = pg_catalog; \
     SET default_transaction_read_only = off; SET role = none";

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
    let _ = connection.query(SESSION).await?;
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
            match connect(site, port, user, database).await {
                Ok(connection) => return Ok((connection, database.to_owned())),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => refused = Some(error),
            }
        }
    }
    Err(refused.unwrap_or_else(|| PgError::Protocol("no role to log in as".to_owned())))
}

/// Connects to one database over the socket.
///
/// # Errors
/// As [`SqlConnection::connect`].
pub async fn connect(
    site: &Site,
    port: u16,
    user: &str,
    database: &str,
) -> Result<SqlConnection, PgError> {
    let settings = socket_settings(site.run(), port, user, database)?;
    SqlConnection::connect(&settings).await
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

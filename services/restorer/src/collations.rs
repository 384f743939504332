//! Whether text sorts in the branch as it sorted on the source: the collation versions that the catalogs recorded,
//! against what the libraries of this machine have.
//!
//! A new version of the C library or of ICU may order text anew, and every index on text is then silently wrong. It
//! cannot be known before recovery, since the versions are in the catalogs; so it is compared as soon as the branch is
//! ready, and told. PostgreSQL 15 and later record the database's default collation, older ones only named ones.

use pg_replication::SqlConnection;

use crate::error::RestoreError;
use crate::server_sql;
use crate::site::Site;

/// A collation that sorts here in another way than on the source, as far as versions tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollationMismatch {
    /// The database.
    pub database: String,
    /// The collation; `default` for the database's own.
    pub collation: String,
    /// The version that the source recorded.
    pub recorded: String,
    /// The version here.
    pub actual: String,
}

const DATABASES: &str =
    "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";

/// `pg_collation_actual_version` is null where the library has no versions; then nothing is known.
const NAMED: &str = "SELECT collname, collversion, pg_catalog.pg_collation_actual_version(oid) \
     FROM pg_catalog.pg_collation \
     WHERE collversion <> pg_catalog.pg_collation_actual_version(oid)";

const DEFAULT: &str = "SELECT 'default', datcollversion, \
     pg_catalog.pg_database_collation_actual_version(oid) FROM pg_catalog.pg_database \
     WHERE datname = pg_catalog.current_database() \
     AND datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)";

/// Compares the collations of every database of a server that can be connected to over its socket.
///
/// # Errors
/// As the server's.
pub async fn compare(
    site: &Site,
    port: u16,
    names: &server_sql::Names,
    major: u32,
) -> Result<Vec<CollationMismatch>, RestoreError> {
    let patience = std::time::Duration::from_secs(30);
    let (mut connection, superuser) = server_sql::superuser(site, port, names, patience).await?;
    let databases = connection.query(DATABASES).await?;
    connection.close().await;
    let mut mismatches = Vec::new();
    for database in databases.iter().filter_map(|row| row.get(0)) {
        let mut connection = server_sql::connect(site, port, &superuser, database).await?;
        let found = in_database(&mut connection, database, major).await;
        connection.close().await;
        mismatches.extend(found?);
    }
    Ok(mismatches)
}

async fn in_database(
    connection: &mut SqlConnection,
    database: &str,
    major: u32,
) -> Result<Vec<CollationMismatch>, RestoreError> {
    let mut rows = connection.query(NAMED).await?;
    if major >= 15 {
        rows.extend(connection.query(DEFAULT).await?);
    }
    let mismatches = rows.iter().filter_map(|row| {
        Some(CollationMismatch {
            database: database.to_owned(),
            collation: row.get(0)?.to_owned(),
            recorded: row.get(1)?.to_owned(),
            actual: row.get(2)?.to_owned(),
        })
    });
    Ok(mismatches.collect())
}

//! Whether text sorts in the branch as it sorted on the source: the collation versions that the catalogs recorded,
//! against what the libraries of this machine have.
//!
//! A new version of the C library or of ICU may order text anew, and every index on text is then silently wrong. It
//! cannot be known before recovery, since the versions are in the catalogs; so it is compared as soon as the branch is
//! ready, and told. PostgreSQL 15 and later record the database's default collation, older ones only named ones.

use events::plan::PlanCheck;
use pg_replication::SqlConnection;

use crate::error::RestoreError;
use crate::plan::{passed, warning};
use crate::server_sql::Door;

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

/// Compares the collations of every database that can be connected to.
///
/// # Errors
/// As the server's.
pub async fn check(
    connection: &mut SqlConnection,
    door: &Door<'_>,
    major: u32,
) -> Result<PlanCheck, RestoreError> {
    const NAME: &str = "collations";
    const MOST_NAMED: usize = 20;
    let databases = connection.query(DATABASES).await?;
    let mut other = Vec::new();
    for database in databases.iter().filter_map(|row| row.get(0)) {
        let mut connection = door.enter(database).await?;
        let found = in_database(&mut connection, database, major).await;
        connection.close().await;
        other.extend(found?);
    }
    if other.is_empty() {
        let detail = "the collation versions that the databases recorded are those of this machine";
        return Ok(passed(NAME, detail.to_owned()));
    }
    let more = other.len().saturating_sub(MOST_NAMED);
    other.truncate(MOST_NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let detail = format!(
        "text may sort in another way than on the source, and indexes on it be wrong: {}{more}; REINDEX the \
         databases, then ALTER DATABASE ... REFRESH COLLATION VERSION",
        other.join(", ")
    );
    Ok(warning(NAME, detail))
}

/// The collations of a database that have another version here, in words.
async fn in_database(
    connection: &mut SqlConnection,
    database: &str,
    major: u32,
) -> Result<Vec<String>, RestoreError> {
    let mut rows = connection.query(NAMED).await?;
    if major >= 15 {
        rows.extend(connection.query(DEFAULT).await?);
    }
    let mismatches = rows.iter().filter_map(|row| {
        let (collation, recorded, actual) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Some(format!("{database}: {collation} {recorded}, here {actual}"))
    });
    Ok(mismatches.collect())
}

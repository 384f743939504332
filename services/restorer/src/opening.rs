//! From a promoted, still locked server to what an open branch must be: archived from its first second, without
//! the source's passwords, with credentials of its own.

use std::path::Path;

use events::event::{ExtensionCheck, ExtensionState};
use pg_format::{Lsn, TimelineHistory, TimelineId};
use pg_replication::{SqlConnection, quote_identifier, quote_literal};
use rand::Rng as _;

use crate::compute::ComputeError;
use crate::error::RestoreError;
use crate::server_sql;
use crate::site::Site;

const PASSWORD_LENGTH: usize = 32;

/// Where the branch left the source's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub from: TimelineId,
    /// Where.
    pub at: Lsn,
    /// The timeline that the branch writes.
    pub to: TimelineId,
}

/// The fork, from the history file that the promotion has written.
///
/// # Errors
/// There is none that follows `pinned`.
pub fn fork(data: &Path, pinned: TimelineId) -> Result<Fork, RestoreError> {
    let directory = data.join("pg_wal");
    let entries = std::fs::read_dir(&directory).map_err(ComputeError::file("read", &directory))?;
    let newest = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| TimelineId::from_hex(name.strip_suffix(".history")?).ok())
        .filter(|timeline| *timeline > pinned)
        .max();
    let missing = || {
        RestoreError::Recovery(format!(
            "the branch was promoted, but left timeline {pinned} nowhere"
        ))
    };
    let to = newest.ok_or_else(missing)?;
    let path = directory.join(to.history_file_name());
    let text = std::fs::read_to_string(&path).map_err(ComputeError::file("read", &path))?;
    let history = TimelineHistory::parse(to, &text).map_err(|source| RestoreError::Stored {
        what: path.display().to_string(),
        source: Box::new(source),
    })?;
    let last = history.switches().last().ok_or_else(missing)?;
    Ok(Fork {
        from: last.timeline,
        at: last.switch_point,
        to,
    })
}

/// A password for a new branch: letters and digits, 190 bits.
#[must_use]
pub fn new_password() -> String {
    let mut random = rand::rng();
    let letter = |_| char::from(random.sample(rand::distr::Alphanumeric));
    (0..PASSWORD_LENGTH).map(letter).collect()
}

/// Creates the archiver's slot, holding WAL from now on; one that is there already will do.
///
/// # Errors
/// As the server's.
pub async fn create_slot(connection: &mut SqlConnection, slot: &str) -> Result<(), RestoreError> {
    let name = quote_literal(slot);
    let there = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = {name}");
    if connection.query(&there).await?.is_empty() {
        let create = format!("SELECT pg_create_physical_replication_slot({name}, true)");
        let _ = connection.query(&create).await?;
    }
    Ok(())
}

/// Takes every role's password away and gives the bootstrap superuser a new one.
///
/// # Errors
/// As the server's.
pub async fn replace_passwords(
    connection: &mut SqlConnection,
    superuser: &str,
    password: &str,
) -> Result<(), RestoreError> {
    // Neither the server's log nor an extension that collects statements is to learn it. The second setting
    // exists, as a mere placeholder, also where the extension is not loaded.
    for quiet in [
        "SET log_statement = 'none'",
        "SET log_min_duration_statement = -1",
        "SET log_min_error_statement = 'panic'",
        "SET pg_stat_statements.track_utility = off",
        "SET password_encryption = 'scram-sha-256'",
        // A prepared transaction of the source may hold a role, and nobody is there to end it.
        "SET lock_timeout = '60s'",
        "SET statement_timeout = '10min'",
    ] {
        let _ = connection.query(quiet).await?;
    }
    let roles = "SELECT rolname FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL";
    let roles = connection.query(roles).await?;
    let mut statements: Vec<String> = roles
        .iter()
        .filter_map(|row| row.get(0))
        .map(|role| format!("ALTER ROLE {} PASSWORD NULL", quote_identifier(role)))
        .collect();
    statements.push(format!(
        "ALTER ROLE {} LOGIN VALID UNTIL 'infinity' CONNECTION LIMIT -1 PASSWORD {}",
        quote_identifier(superuser),
        quote_literal(password)
    ));
    // One string is one transaction.
    let _ = connection.query(&statements.join("; ")).await?;
    Ok(())
}

/// The extensions of every database that can be connected to, and whether the server has their files.
///
/// # Errors
/// As the server's.
pub async fn check_extensions(
    connection: &mut SqlConnection,
    site: &Site,
    port: u16,
    superuser: &str,
) -> Result<Vec<ExtensionCheck>, RestoreError> {
    let databases = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1";
    let databases = connection.query(databases).await?;
    let mut checks = Vec::new();
    for database in databases.iter().filter_map(|row| row.get(0)) {
        let mut connection = server_sql::connect(site, port, superuser, database).await?;
        let rows = connection
            .query(
                "SELECT e.extname, e.extversion, a.name IS NOT NULL FROM pg_catalog.pg_extension e \
                 LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = e.extname ORDER BY 1",
            )
            .await?;
        connection.close().await;
        checks.extend(rows.iter().filter_map(|row| {
            let present = row.get(2) == Some("t");
            Some(ExtensionCheck {
                database: database.to_owned(),
                name: row.get(0)?.to_owned(),
                version: row.get(1)?.to_owned(),
                state: if present {
                    ExtensionState::Present
                } else {
                    ExtensionState::NeedsReinstalling
                },
                detail: None,
            })
        }));
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pg_format::{Lsn, TimelineId};

    use super::{Fork, fork, new_password};

    #[test]
    fn the_fork_is_in_the_newest_history_file() {
        let data = tempfile::tempdir().unwrap();
        let wal = data.path().join("pg_wal");
        fs::create_dir(&wal).unwrap();
        fs::write(wal.join("00000002.history"), "1\t0/3000148\tx\n").unwrap();
        assert!(fork(data.path(), TimelineId(2)).is_err());
        fs::write(
            wal.join("00000003.history"),
            "1\t0/3000148\tx\n2\t0/5000000\ty\n",
        )
        .unwrap();
        let found = fork(data.path(), TimelineId(2)).unwrap();
        let expected = Fork {
            from: TimelineId(2),
            at: Lsn(0x500_0000),
            to: TimelineId(3),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn passwords_need_no_quoting_and_differ() {
        let password = new_password();
        assert_eq!(password.len(), 32);
        assert!(password.chars().all(|c| c.is_ascii_alphanumeric()));
        assert_ne!(password, new_password());
    }
}

//! From a promoted, still locked server to what an open branch must be: archived from its first second, without
//! the source's passwords, with credentials of its own.

use std::path::Path;

use events::plan::{CheckState, PlanCheck};
use pg_format::{Lsn, TimelineHistory, TimelineId};
use pg_replication::{SqlConnection, quote_identifier, quote_literal};
use rand::Rng as _;

use crate::compute::ComputeError;
use crate::error::RestoreError;
use crate::hazards::{listed, warning};

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

/// What becomes of the source's passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldPasswords {
    /// Nobody keeps one.
    Drop,
    /// Roles keep theirs that are neither superusers nor may replicate, nor can become such or act as the server's
    /// user.
    KeepApplications,
}

/// The roles that lose their password if applications keep theirs. A member can take the place of what it is a
/// member of (`SET ROLE`); superusers are members of everything.
const POWERFUL: &str = "EXISTS (SELECT 1 FROM pg_catalog.pg_authid p WHERE (p.rolsuper OR p.rolreplication \
     OR p.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')) \
     AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER'))";

/// Takes the roles' passwords away and gives the bootstrap superuser a new one. Tells how many kept theirs.
///
/// # Errors
/// As the server's.
pub async fn replace_passwords(
    connection: &mut SqlConnection,
    superuser: &str,
    password: &str,
    old: OldPasswords,
) -> Result<PlanCheck, RestoreError> {
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
    let condition = match old {
        OldPasswords::Drop => "true",
        OldPasswords::KeepApplications => POWERFUL,
    };
    let roles = format!(
        "SELECT r.rolname FROM pg_catalog.pg_authid r WHERE r.rolpassword IS NOT NULL AND {condition}"
    );
    let roles = connection.query(&roles).await?;
    let mut statements: Vec<String> = roles
        .iter()
        .filter_map(|row| row.get(0))
        .map(|role| format!("ALTER ROLE {} PASSWORD NULL", quote_identifier(role)))
        .collect();
    let dropped = statements.len();
    statements.push(format!(
        "ALTER ROLE {} LOGIN VALID UNTIL 'infinity' CONNECTION LIMIT -1 PASSWORD {}",
        quote_identifier(superuser),
        quote_literal(password)
    ));
    // One string is one transaction.
    let _ = connection.query(&statements.join("; ")).await?;
    let kept = format!(
        "SELECT r.rolname, r.rolpassword LIKE 'md5%' FROM pg_catalog.pg_authid r \
         WHERE r.rolpassword IS NOT NULL AND r.rolname <> {} ORDER BY 1",
        quote_literal(superuser)
    );
    let kept = connection.query(&kept).await?;
    Ok(told(dropped, &kept))
}

fn told(dropped: usize, kept: &[pg_replication::Row]) -> PlanCheck {
    let names = |md5: &str| -> Vec<String> {
        let kept = kept.iter().filter(|row| row.get(1) == Some(md5));
        kept.filter_map(|row| row.get(0).map(str::to_owned))
            .collect()
    };
    let mut detail = format!("{dropped} roles of the source lost their password");
    let (usable, old) = (names("f"), names("t"));
    if !usable.is_empty() {
        detail.push_str("; kept theirs: ");
        detail.push_str(&listed(&usable));
    }
    if !old.is_empty() {
        detail.push_str("; kept one that is stored as md5, with which a branch lets nobody in: ");
        detail.push_str(&listed(&old));
    }
    PlanCheck {
        name: "passwords".to_owned(),
        state: if old.is_empty() {
            CheckState::Passed
        } else {
            CheckState::Warning
        },
        detail,
    }
}

/// Locks that the source's prepared transactions hold, and go on to hold.
///
/// # Errors
/// As the server's.
pub async fn prepared_locks(connection: &mut SqlConnection) -> Result<u64, RestoreError> {
    // "Null if the lock is held by a prepared transaction" (PostgreSQL docs, `pg_locks`).
    let count = "SELECT count(*) FROM pg_catalog.pg_locks WHERE pid IS NULL";
    let rows = connection.query(count).await?;
    let count = rows.first().and_then(|row| row.get(0)?.parse().ok());
    Ok(count.unwrap_or_default())
}

/// What the source had prepared and not ended; nobody there will end it in the branch.
///
/// # Errors
/// As the server's.
pub async fn prepared(connection: &mut SqlConnection) -> Result<Option<PlanCheck>, RestoreError> {
    let sql = "SELECT gid, database FROM pg_catalog.pg_prepared_xacts ORDER BY prepared, gid";
    let rows = connection.query(sql).await?;
    let named = rows
        .iter()
        .filter_map(|row| Some((row.get(0)?, row.get(1)?)));
    let named: Vec<(&str, &str)> = named.collect();
    let Some((gid, database)) = named.first() else {
        return Ok(None);
    };
    let all: Vec<String> = named
        .iter()
        .map(|(gid, database)| format!("{} in database {database}", quote_literal(gid)))
        .collect();
    let detail = format!(
        "transactions of the source are prepared and hold their locks: {}; end each, as in database {database}: \
         ROLLBACK PREPARED {}, or COMMIT PREPARED",
        listed(&all),
        quote_literal(gid)
    );
    Ok(Some(warning("prepared_transactions", detail)))
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

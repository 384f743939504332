//! `pg_amcheck` over every database of the sandbox: whether tables and B-tree indexes are what PostgreSQL wrote.
//!
//! The extension it needs is made in the sandbox, which is thrown away. Where the program or the extension is not
//! installed on this machine, it is told and not held against the backup.

use events::event::DrillCheckResult;
use pg_replication::{SqlConnection, quote_identifier};
use tokio::time::Instant;

use crate::compute::{Compute, Programs};
use crate::error::RestoreError;
use crate::raise::millis;
use crate::server_sql::Door;
use crate::site::Site;

/// As results and hints call it.
pub(super) const NAME: &str = "pg_amcheck";

const DATABASES: &str =
    "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";
const AVAILABLE: &str = "SELECT 1 FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";
/// What of the program's words goes into a result.
const MOST_LINES: usize = 8;
const MOST_BYTES: usize = 1_000;

/// The server to look at.
pub(super) struct Sandbox<'a> {
    pub(super) compute: &'a dyn Compute,
    pub(super) site: &'a Site,
    pub(super) programs: &'a Programs,
    pub(super) door: Door<'a>,
    pub(super) superuser: &'a str,
    pub(super) database: &'a str,
    pub(super) port: u16,
}

impl Sandbox<'_> {
    /// Looks at every database.
    ///
    /// # Errors
    /// The server cannot be asked. What the program finds is a result.
    pub(super) async fn amcheck(&self) -> Result<DrillCheckResult, RestoreError> {
        let begun = Instant::now();
        let program = self.programs.program(NAME);
        if !program.is_file() {
            let detail = format!("not run: there is no {}", program.display());
            return Ok(skipped(NAME, detail));
        }
        let mut connection = self.door.enter(self.database).await?;
        let available = connection.query(AVAILABLE).await;
        let databases = connection.query(DATABASES).await;
        connection.close().await;
        if available?.is_empty() {
            let detail = "not run: the extension amcheck is not installed beside the server (it is \
                          part of postgresql's contrib)";
            return Ok(skipped(NAME, detail.to_owned()));
        }
        let databases = databases?;
        let databases: Vec<&str> = databases.iter().filter_map(|row| row.get(0)).collect();
        for database in &databases {
            let mut connection = self.door.enter(database).await?;
            let installed = install(&mut connection).await;
            connection.close().await;
            installed?;
        }
        let (run, port) = (self.site.run().to_string_lossy(), self.port.to_string());
        // What databases or roles have set must not end it.
        let entry = format!(
            "dbname={} options='-c statement_timeout=0 -c lock_timeout=0 -c session_preload_libraries='",
            conninfo_quoted(self.database)
        );
        let arguments = [
            "--host",
            &run,
            "--port",
            &port,
            "--username",
            self.superuser,
            "--no-password",
            "--all",
            "--maintenance-db",
            &entry,
        ];
        let output = self.compute.output(&program, &arguments).await?;
        let passed = output.status.success();
        let detail = match output.status.code() {
            Some(0) => format!("no corruption in {} databases", databases.len()),
            // Corruption is told on stdout, what went wrong on stderr.
            Some(2) => told(&output.stdout),
            _ => format!("it failed ({}): {}", output.status, told(&output.stderr)),
        };
        Ok(DrillCheckResult {
            name: NAME.to_owned(),
            passed,
            skipped: false,
            detail,
            duration_ms: millis(begun),
        })
    }
}

/// The source's triggers on DDL are not to have a say in it.
async fn install(connection: &mut SqlConnection) -> Result<(), RestoreError> {
    let triggers = "SELECT evtname FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'";
    let triggers = connection.query(triggers).await?;
    for trigger in triggers.iter().filter_map(|row| row.get(0)) {
        let disable = format!("ALTER EVENT TRIGGER {} DISABLE", quote_identifier(trigger));
        let _ = connection.query(&disable).await?;
    }
    let create = "CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA pg_catalog";
    let _ = connection.query(create).await?;
    Ok(())
}

/// A result of what was not looked at.
pub(super) fn skipped(name: &str, detail: String) -> DrillCheckResult {
    DrillCheckResult {
        name: name.to_owned(),
        passed: false,
        skipped: true,
        detail,
        duration_ms: 0,
    }
}

/// The first lines of what a program said, as one.
fn told(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut text = lines[..lines.len().min(MOST_LINES)].join(" | ");
    if text.len() > MOST_BYTES {
        let end = (0..=MOST_BYTES).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    if lines.len() > MOST_LINES {
        text.push_str(&format!(" and {} more lines", lines.len() - MOST_LINES));
    }
    text
}

/// A value of a connection string (PostgreSQL docs, "Keyword/Value Connection Strings").
fn conninfo_quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use super::{conninfo_quoted, told};

    #[test]
    fn what_a_program_says_is_told_in_short() {
        assert_eq!(told(b"a\n\n  b\n"), "a | b");
        let long = "x\n".repeat(20);
        assert!(told(long.as_bytes()).ends_with("x and 12 more lines"));
        let wide = "\u{e4}".repeat(2_000);
        assert!(told(wide.as_bytes()).len() < 1_010);
    }

    #[test]
    fn a_database_of_any_name_can_be_named() {
        assert_eq!(conninfo_quoted(r"o'ne\il"), r"'o\'ne\\il'");
    }
}

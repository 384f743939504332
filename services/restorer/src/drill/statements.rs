//! The user's own statements about the restored data.
//!
//! They are asked by a role that may read everything and do nothing else: it is no superuser, so a statement reaches
//! neither files nor programs nor, without a password of its own, another server. Each has a transaction that only
//! reads, and a limit of time.

use std::time::Duration;

use events::document::DrillCheck;
use events::event::DrillCheckResult;
use pg_replication::{ConnectionSettings, PgError, SqlConnection, quote_identifier, quote_literal};
use tokio::time::Instant;

use crate::error::RestoreError;
use crate::raise::{Raised, millis};
use crate::server_sql::{Door, percent_encoded};
use crate::site::Site;

/// Beyond the server's own limit, for a server that does not answer.
const GRACE: Duration = Duration::from_secs(30);
/// What of a value goes into a result.
const MOST_CHARACTERS: usize = 100;

/// The role that asks.
pub(super) struct Reader<'a> {
    site: &'a Site,
    raised: &'a Raised,
    role: String,
    timeout: Duration,
}

impl<'a> Reader<'a> {
    /// Makes the role.
    ///
    /// # Errors
    /// As the server's.
    pub(super) async fn new(
        (site, raised): (&'a Site, &'a Raised),
        door: &Door<'_>,
        checks: &[DrillCheck],
        timeout: Duration,
    ) -> Result<Self, RestoreError> {
        // No role of the source has this name.
        let role = format!("zektor_drill_{}", uuid::Uuid::now_v7().simple());
        let name = quote_identifier(&role);
        let mut connection = door.enter(&raised.database).await?;
        let make = format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER BYPASSRLS IN ROLE pg_read_all_data, pg_monitor"
        );
        let made = connection.query(&make).await;
        let mut granted = Vec::new();
        for database in checks.iter().map(|check| check.database.as_deref()) {
            let database = database.unwrap_or(&raised.database);
            let grant = format!(
                "GRANT CONNECT ON DATABASE {} TO {name}",
                quote_identifier(database)
            );
            if !granted.contains(&database) {
                // One that does not exist fails its check, not all of them.
                let _ = connection.query(&grant).await;
                granted.push(database);
            }
        }
        connection.close().await;
        let _ = made?;
        Ok(Reader {
            site,
            raised,
            role,
            timeout,
        })
    }

    /// Asks one statement. Whatever comes of it is a result.
    pub(super) async fn ask(&self, check: &DrillCheck) -> DrillCheckResult {
        let begun = Instant::now();
        let asked = tokio::time::timeout(self.timeout + GRACE, self.answer(check)).await;
        let (passed, detail) = match asked {
            Ok(Ok(None)) => (true, "it holds".to_owned()),
            Ok(Ok(Some(row))) => (false, format!("it does not hold: {row}")),
            Ok(Err(error)) => (false, refusal(&error)),
            Err(_) => {
                let seconds = self.timeout.as_secs();
                (false, format!("it did not end within {seconds} s"))
            }
        };
        DrillCheckResult {
            name: check.name.clone(),
            passed,
            skipped: false,
            detail,
            duration_ms: millis(begun),
        }
    }

    /// A row that contradicts, if there is one.
    async fn answer(&self, check: &DrillCheck) -> Result<Option<String>, PgError> {
        let database = check.database.as_deref().unwrap_or(&self.raised.database);
        let uri = format!(
            "postgres://{}@{}:{}/{}",
            percent_encoded(&self.role),
            percent_encoded(&self.site.run().to_string_lossy()),
            self.raised.port,
            percent_encoded(database)
        );
        let settings = ConnectionSettings::parse(&uri)
            .map_err(|error| PgError::Protocol(error.to_string()))?
            .with_parameter("default_transaction_read_only", "on")
            .with_parameter("statement_timeout", self.timeout.as_millis().to_string())
            .with_parameter("lock_timeout", "60000");
        let mut connection = SqlConnection::connect(&settings).await?;
        let answered = contradiction(&mut connection, &check.sql).await;
        connection.close().await;
        answered
    }
}

async fn contradiction(
    connection: &mut SqlConnection,
    sql: &str,
) -> Result<Option<String>, PgError> {
    let _ = connection.query("BEGIN READ ONLY").await?;
    let rows = connection.query(&looking_for_a_contradiction(sql)).await?;
    let text = |row: &pg_replication::Row| {
        let value = row.get(0).unwrap_or("NULL");
        format!("a row begins with {value}")
    };
    Ok(rows.first().map(text))
}

/// What the server says, and where a limit of ours was in the way, by which setting it is another.
fn refusal(error: &PgError) -> String {
    /// `configuration_limit_exceeded`: of what a statement meets, that is `temp_file_limit`.
    const LIMIT: &str = "53400";
    let said = service::run::chain(error);
    match error.sqlstate() {
        Some(LIMIT) => format!(
            "{said}; ZEKTOR_DRILL_TEMP_LIMIT of the restorer says how much a check may sort and hash on disk"
        ),
        _ => said,
    }
}

/// The statement's first row whose first column is false or NULL. The server looks for it, so that a statement of any
/// number of rows costs no memory here. `OFFSET` keeps the planner from answering without running it, and the whole row
/// is looked at, so that no column is left out as unused.
fn looking_for_a_contradiction(sql: &str) -> String {
    let sql = sql
        .trim()
        .trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let boolean = quote_literal("boolean");
    format!(
        "SELECT pg_catalog.left(c.zektor_first::text, {MOST_CHARACTERS}) FROM (SELECT * FROM (\n{sql}\n) AS s OFFSET 0) \
         AS c(zektor_first) \
         WHERE c.zektor_first IS NULL OR pg_catalog.pg_typeof(c) IS NULL OR \
         (pg_catalog.format_type(pg_catalog.pg_typeof(c.zektor_first)::pg_catalog.oid, NULL) = {boolean} \
         AND c.zektor_first::text = 'false') LIMIT 1"
    )
}

#[cfg(test)]
mod tests {
    use super::looking_for_a_contradiction;

    #[test]
    fn a_statement_may_end_as_people_end_it() {
        let asked = looking_for_a_contradiction("SELECT true -- sure\n ; ");
        assert!(asked.contains("(\nSELECT true -- sure\n)"), "{asked}");
    }
}

//! The checks of drills are tried when they are given, not on the day of the drill.
//!
//! What must stay true: nothing of a check is executed on the source. Its server reads, plans and prepares the
//! statement as a cursor of which no row is asked for: that refuses what is misspelt, more than one statement, and what
//! writes, and costs nothing however large the tables are. A drill's own role may read more than the role that takes
//! backups, so what that may not read is only told.

use std::time::Duration;

use events::document::{Branch, DrillCheck, DrillSettings};
use events::event::RefusalCode;
use events::{InstanceDocument, InstanceName};
use pg_replication::{ConnectionSettings, PgError, SqlConnection, quote_literal};

use super::World;
use crate::refusal::{Refusal, Unfinished};

/// Of all checks together: somebody waits for the answer.
const TRIED_WITHIN: Duration = Duration::from_secs(8);
const STATEMENT_TIMEOUT: &str = "3000";
/// A lock that somebody holds on a table says nothing of the check.
const LOCK_TIMEOUT: &str = "1000";
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const NO_SUCH_DATABASE: &str = "3D000";

impl World {
    /// Tries the checks that are not wanted yet, and says which of them could not be tried, and why. Refuses what the
    /// server refuses.
    pub(super) async fn try_checks(
        &self,
        instance: &InstanceName,
        wanted: &DrillSettings,
    ) -> Result<Vec<String>, Unfinished> {
        let document = self.document(instance).await?;
        let new = new_checks(&document, wanted);
        let branch = document.branches.get(&wanted.branch);
        let Some(active) = branch.and_then(Branch::active).filter(|_| !new.is_empty()) else {
            return Ok(Vec::new());
        };
        let settings = match self.open_dsn(instance, &wanted.branch, &active.dsn) {
            Ok(settings) => settings,
            // A scheduler with another key; whoever has the right one asks it in the drill.
            Err(refusal) => {
                let why = Unfinished::from(refusal).to_string();
                return Ok(new.iter().map(|check| not_tried(check, &why)).collect());
            }
        };
        let mut untried: Vec<&DrillCheck> = new.clone();
        let mut warnings = Vec::new();
        let tried = tokio::time::timeout(TRIED_WITHIN, async {
            for check in new {
                if let Some(warning) = try_one(&settings, check).await? {
                    warnings.push(warning);
                }
                untried.retain(|one| *one != check);
            }
            Ok::<(), Refusal>(())
        });
        match tried.await {
            Ok(tried) => tried?,
            Err(_elapsed) => warnings.extend(untried.iter().map(|check| {
                let secs = TRIED_WITHIN.as_secs();
                not_tried(check, &format!("the source did not answer within {secs} s"))
            })),
        }
        Ok(warnings)
    }
}

fn new_checks<'a>(document: &InstanceDocument, wanted: &'a DrillSettings) -> Vec<&'a DrillCheck> {
    let known = document.drills.as_ref();
    let known = known.filter(|known| known.branch == wanted.branch);
    let is_new = |check: &&DrillCheck| known.is_none_or(|known| !known.checks.contains(check));
    wanted.checks.iter().filter(is_new).collect()
}

/// A warning, if it could not be tried.
async fn try_one(
    source: &ConnectionSettings,
    check: &DrillCheck,
) -> Result<Option<String>, Refusal> {
    let database = check.database.as_deref().unwrap_or(source.dbname());
    let settings = source
        .clone()
        .with_dbname(database)
        .with_parameter("default_transaction_read_only", "on")
        .with_parameter("statement_timeout", STATEMENT_TIMEOUT)
        .with_parameter("lock_timeout", LOCK_TIMEOUT);
    let mut connection = match SqlConnection::connect(&settings).await {
        Ok(connection) => connection,
        Err(error) if error.sqlstate() == Some(NO_SUCH_DATABASE) => {
            return Err(refused(check, &error));
        }
        Err(error) => return Ok(Some(not_tried(check, &error.to_string()))),
    };
    let tried = match connection.query("BEGIN READ ONLY; DO 'BEGIN END'").await {
        Ok(_) => connection.query(&as_cursor(&check.sql)).await,
        // It has not got as far as to the check.
        Err(error) => return Ok(Some(not_tried(check, &error.to_string()))),
    };
    connection.close().await;
    match tried {
        Ok(_) => Ok(None),
        Err(error) if is_about_the_statement(&error) => Err(refused(check, &error)),
        Err(error) => Ok(Some(not_tried(check, &error.to_string()))),
    }
}

/// In the place that a drill gives it. A cursor is of one statement, which has rows.
fn as_cursor(sql: &str) -> String {
    let sql = sql
        .trim()
        .trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let asked = quote_literal(&format!("SELECT * FROM (\n{sql}\n) AS s"));
    let code = format!("DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE {asked}; END");
    format!("DO {}", quote_literal(&code))
}

/// Whether it fails for what is written in it: as it would fail on the day of the drill.
fn is_about_the_statement(error: &PgError) -> bool {
    let Some(state) = error
        .sqlstate()
        .filter(|state| *state != INSUFFICIENT_PRIVILEGE)
    else {
        return false;
    };
    // Data, cardinality, read-only transaction, cursor, syntax and names, schemas, what the server cannot do.
    ["0A", "21", "22", "24", "25", "3F", "42"]
        .iter()
        .any(|class| state.starts_with(class))
}

fn refused(check: &DrillCheck, error: &PgError) -> Refusal {
    Refusal::new(
        RefusalCode::Invalid,
        format!("the source refuses the check {:?}: {error}", check.name),
        "Correct the statement; a table or function that is in another schema needs its name before it, and one of \
         another database NAME@DATABASE=SELECT ...",
    )
}

fn not_tried(check: &DrillCheck, why: &str) -> String {
    format!(
        "the check {:?} could not be tried on the source; whether it can be asked, the next drill shows: {why}",
        check.name
    )
}

#[cfg(test)]
mod tests {
    use super::as_cursor;

    #[test]
    fn a_check_stays_in_its_quotes() {
        let tried = as_cursor("SELECT 'it''s' \n; ");
        assert!(
            tried.starts_with("DO '") && tried.ends_with('\''),
            "{tried}"
        );
        assert!(
            tried.contains("(\nSELECT ''''it''''''''s''''\n)"),
            "{tried}"
        );
    }
}

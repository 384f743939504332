//! What in a restored cluster could act on the world outside or keep everybody out: made harmless where a copy must
//! not act, told where it is the user's to decide.
//!
//! A branch has all of its source's data, so also its subscriptions, jobs, links and settings. The files' settings
//! are left behind as a whole ([`crate::settings`]); this is about what lies in catalogs. Rows of tables are never
//! touched. It is done while the server is still locked, so nothing of it has had the chance to act.

mod role_settings;
mod subscriptions;

use events::plan::{CheckState, PlanCheck};
use pg_replication::SqlConnection;

use crate::error::RestoreError;
use crate::server_sql::Door;

/// Names told in one check; the rest is counted.
const NAMES: usize = 20;

/// What was found so far, by kind.
#[derive(Debug, Default)]
struct Found {
    foreign_servers: Vec<String>,
    links: Vec<String>,
    jobs: Vec<String>,
    login_triggers: Vec<String>,
    copies: Vec<String>,
}

/// Makes harmless what would act, and tells what was found. `library_exists` answers for the branch's server.
///
/// # Errors
/// As the server's.
pub(crate) async fn neutralise(
    connection: &mut SqlConnection,
    door: &Door<'_>,
    library_exists: impl Fn(&str) -> bool,
) -> Result<Vec<PlanCheck>, RestoreError> {
    let mut checks = Vec::new();
    checks.extend(subscriptions::disable(connection).await?);
    checks.extend(subscriptions::out_of_reach(connection).await?);
    checks.extend(role_settings::review(connection, library_exists).await?);
    let databases = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1";
    let databases = connection.query(databases).await?;
    let mut found = Found::default();
    for database in databases.iter().filter_map(|row| row.get(0)) {
        let mut connection = door.enter(database).await?;
        let looked = look(&mut connection, database, &mut found).await;
        connection.close().await;
        looked?;
    }
    checks.extend(subscriptions::told(&found.copies));
    checks.extend(found.told());
    Ok(checks)
}

/// Looks into one database, and makes harmless what only it knows.
async fn look(
    connection: &mut SqlConnection,
    database: &str,
    found: &mut Found,
) -> Result<(), RestoreError> {
    let of_here = |names: Vec<String>| {
        names
            .into_iter()
            .map(|name| format!("{name} in {database}"))
    };
    let within = |rows: &[pg_replication::Row]| of_here(names(rows)).collect::<Vec<_>>();
    let copies = subscriptions::forget_copies(connection).await?;
    found.copies.extend(of_here(copies));
    // Names only: options may hold passwords.
    let servers = "SELECT s.srvname || ' (' || w.fdwname || ')' FROM pg_catalog.pg_foreign_server s \
                   JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw ORDER BY 1";
    found
        .foreign_servers
        .extend(within(&connection.query(servers).await?));
    let links = "SELECT extname FROM pg_catalog.pg_extension WHERE extname = 'dblink'";
    found.links.extend(within(&connection.query(links).await?));
    if connection.server_version().major() >= 17 {
        let triggers = "SELECT evtname FROM pg_catalog.pg_event_trigger \
                        WHERE evtevent = 'login' AND evtenabled <> 'D' ORDER BY 1";
        found
            .login_triggers
            .extend(within(&connection.query(triggers).await?));
    }
    let cron = "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                WHERE n.nspname = 'cron' AND c.relname = 'job' AND c.relkind = 'r'";
    if !connection.query(cron).await?.is_empty() {
        let count = "SELECT count(*) FROM cron.job";
        // Somebody's own table of that name is nothing to fail for.
        if let Ok(rows) = connection.query(count).await
            && let Some(count) = rows.first().and_then(|row| row.get(0))
            && count != "0"
        {
            found.jobs.push(format!("{count} in {database}"));
        }
    }
    Ok(())
}

impl Found {
    fn told(&self) -> Vec<PlanCheck> {
        let mut checks = Vec::new();
        let mut tell = |name: &str, found: &[String], text: &dyn Fn(String) -> String| {
            if !found.is_empty() {
                checks.push(warning(name, text(listed(found))));
            }
        };
        tell("foreign_servers", &self.foreign_servers, &|found| {
            format!(
                "they lead where the source's lead, and writing through them writes there: {found}"
            )
        });
        tell("dblink", &self.links, &|found| {
            format!("functions here may connect where the source's connect: {found}")
        });
        tell("cron_jobs", &self.jobs, &|found| {
            format!(
                "jobs of pg_cron are kept and do not run, because its library is not preloaded: {found}; \
                 unschedule them before preloading it"
            )
        });
        tell("login_triggers", &self.login_triggers, &|found| {
            format!(
                "they act on every login; should one keep you out, log in as superuser with \
                 PGOPTIONS='-c event_triggers=off': {found}"
            )
        });
        checks
    }
}

fn names(rows: &[pg_replication::Row]) -> Vec<String> {
    rows.iter()
        .filter_map(|row| row.get(0).map(str::to_owned))
        .collect()
}

/// A list for people.
pub(crate) fn listed(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMES)].join(", ");
    if names.len() > NAMES {
        text.push_str(&format!(" and {} more", names.len() - NAMES));
    }
    text
}

/// A check that somebody should read.
pub(crate) fn warning(name: &str, detail: String) -> PlanCheck {
    PlanCheck {
        name: name.to_owned(),
        state: CheckState::Warning,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn a_long_list_is_counted() {
        let names: Vec<String> = (0..25).map(|n| n.to_string()).collect();
        assert_eq!(listed(&names[..2]), "0, 1");
        assert!(listed(&names).ends_with("19 and 5 more"));
    }
}

//! What in a restored cluster could act on the world outside or keep everybody out: made harmless where a copy must
//! not act, told where it is the user's to decide.
//!
//! A branch has all of its source's data, so also its subscriptions, jobs, links and settings. The files' settings
//! are left behind as a whole ([`crate::settings`]); this is about what lies in catalogs. Rows of tables are never
//! touched. It is done while the server is still locked, so nothing of it has had the chance to act.

mod role_settings;

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
    checks.extend(disable_subscriptions(connection).await?);
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
    checks.extend(found.told());
    Ok(checks)
}

/// Workers that apply changes would take them away from the source, whose slot on the publisher they share. They are
/// not started at all (`max_logical_replication_workers = 0`); disabled in the catalog, they also stay quiet when
/// somebody raises that. The slot's name is taken away as well: with it, `DROP SUBSCRIPTION` in the branch would drop the
/// source's slot. It is told, so that a branch that takes its source's place can be given it back.
///
/// `pg_subscription` is shared by all databases, and superusers may write catalogs: so it reaches the databases that
/// let nobody in, where `ALTER SUBSCRIPTION` cannot be said.
async fn disable_subscriptions(
    connection: &mut SqlConnection,
) -> Result<Option<PlanCheck>, RestoreError> {
    let disable = "UPDATE pg_catalog.pg_subscription s SET subenabled = false, subslotname = NULL \
                   FROM (SELECT was.oid, d.datname, was.subslotname FROM pg_catalog.pg_subscription was \
                   JOIN pg_catalog.pg_database d ON d.oid = was.subdbid \
                   WHERE was.subenabled OR was.subslotname IS NOT NULL) AS was WHERE was.oid = s.oid \
                   RETURNING s.subname || ' in ' || was.datname || \
                   coalesce(' (its slot is ' || was.subslotname || ')', '')";
    let disabled = names(&connection.query(disable).await?);
    Ok((!disabled.is_empty()).then(|| {
        warning(
            "subscriptions",
            format!(
                "disabled, and parted from the slots on their publishers, which are the source's: {}; to use one when \
                 the source is gone, raise max_logical_replication_workers, restart the branch, ALTER SUBSCRIPTION ... \
                 SET (slot_name = ...) and ENABLE it",
                listed(&disabled)
            ),
        )
    }))
}

async fn look(
    connection: &mut SqlConnection,
    database: &str,
    found: &mut Found,
) -> Result<(), RestoreError> {
    let within = |rows: &[pg_replication::Row]| {
        let names = names(rows).into_iter();
        names
            .map(|name| format!("{name} in {database}"))
            .collect::<Vec<_>>()
    };
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

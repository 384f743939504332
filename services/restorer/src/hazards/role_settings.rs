//! Settings that the source's roles and databases carry (`ALTER ROLE .. SET`, `ALTER DATABASE .. SET`).
//!
//! They are kept, as data is, but for one kind: a library that a session is to load and this machine does not have
//! ends every login of that role or database.

use events::plan::PlanCheck;
use pg_replication::{SqlConnection, quote_identifier};

use super::{listed, warning};
use crate::error::RestoreError;

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Keep,
    /// It is kept and told.
    Tell,
    /// It is taken away and told.
    Reset,
}

fn verdict(name: &str, value: &str, library_exists: &impl Fn(&str) -> bool) -> Verdict {
    match name {
        "session_preload_libraries" => libraries(value, library_exists),
        // Everybody may set this one, so it loads from one folder only (PostgreSQL docs, "Client Connection Defaults").
        "local_preload_libraries" => libraries(value, &|library: &str| {
            let name = library.strip_prefix("$libdir/plugins/").unwrap_or(library);
            library_exists(&format!("plugins/{name}"))
        }),
        "default_transaction_read_only" if value == "on" => Verdict::Tell,
        "session_replication_role" => Verdict::Tell,
        _ => Verdict::Keep,
    }
}

fn libraries(value: &str, library_exists: &impl Fn(&str) -> bool) -> Verdict {
    let mut libraries = value
        .split(',')
        .map(|library| library.trim().trim_matches('"'))
        .filter(|library| !library.is_empty());
    if libraries.all(library_exists) {
        Verdict::Tell
    } else {
        Verdict::Reset
    }
}

/// One setting and whose it is.
struct Held {
    role: Option<String>,
    database: Option<String>,
    name: String,
    value: String,
}

impl Held {
    fn reset(&self) -> String {
        let name = quote_identifier(&self.name);
        match (&self.role, &self.database) {
            (None, Some(database)) => {
                format!("ALTER DATABASE {} RESET {name}", quote_identifier(database))
            }
            (role, database) => {
                let role = role.as_deref().map_or("ALL".to_owned(), quote_identifier);
                let within = database.as_deref().map_or(String::new(), |database| {
                    format!(" IN DATABASE {}", quote_identifier(database))
                });
                format!("ALTER ROLE {role}{within} RESET {name}")
            }
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}", self.name, self.value)?;
        if let Some(role) = &self.role {
            write!(f, " of role {role}")?;
        }
        if let Some(database) = &self.database {
            write!(f, " in database {database}")?;
        }
        Ok(())
    }
}

/// Takes away what would end logins, and tells it with what else is worth knowing.
pub(super) async fn review(
    connection: &mut SqlConnection,
    library_exists: impl Fn(&str) -> bool,
) -> Result<Vec<PlanCheck>, RestoreError> {
    let settings = "SELECT r.rolname, d.datname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) \
         FROM pg_catalog.pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c \
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
         LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase ORDER BY 1, 2, 3";
    let rows = connection.query(settings).await?;
    let (mut kept, mut reset) = (Vec::new(), Vec::new());
    for row in &rows {
        let (Some(name), Some(value)) = (row.get(2), row.get(3)) else {
            continue;
        };
        let held = Held {
            role: row.get(0).map(str::to_owned),
            database: row.get(1).map(str::to_owned),
            name: name.to_ascii_lowercase(),
            value: value.to_owned(),
        };
        match verdict(&held.name, &held.value, &library_exists) {
            Verdict::Keep => {}
            Verdict::Tell => kept.push(held.to_string()),
            Verdict::Reset => {
                let _ = connection.query(&held.reset()).await?;
                reset.push(held.to_string());
            }
        }
    }
    let mut checks = Vec::new();
    if !reset.is_empty() {
        checks.push(warning(
            "role_settings",
            format!(
                "taken away, because the server of the branch has no such library and nobody could log in: {}",
                listed(&reset)
            ),
        ));
    }
    if !kept.is_empty() {
        checks.push(warning(
            "role_settings",
            format!("kept as they are on the source: {}", listed(&kept)),
        ));
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::{Held, Verdict, verdict};

    #[test]
    fn only_what_ends_logins_is_taken_away() {
        let check = |name: &str, value: &str, expected| {
            let verdict = verdict(name, value, &|library: &str| {
                ["auto_explain", "plugins/own"].contains(&library)
            });
            assert_eq!(verdict, expected, "{name}={value}");
        };
        check("session_preload_libraries", "auto_explain", Verdict::Tell);
        check(
            "session_preload_libraries",
            "auto_explain, \"gone\"",
            Verdict::Reset,
        );
        check("local_preload_libraries", "auto_explain", Verdict::Reset);
        check("local_preload_libraries", "own", Verdict::Tell);
        check(
            "local_preload_libraries",
            "$libdir/plugins/own",
            Verdict::Tell,
        );
        check("default_transaction_read_only", "on", Verdict::Tell);
        check("default_transaction_read_only", "off", Verdict::Keep);
        check("search_path", "nowhere", Verdict::Keep);
        check("synchronous_commit", "remote_apply", Verdict::Keep);
    }

    #[test]
    fn a_reset_names_exactly_its_holder() {
        let check = |role: Option<&str>, database: Option<&str>, expected: &str| {
            let held = Held {
                role: role.map(str::to_owned),
                database: database.map(str::to_owned),
                name: "x".to_owned(),
                value: String::new(),
            };
            assert_eq!(held.reset(), expected);
        };
        check(Some("a\"b"), None, "ALTER ROLE \"a\"\"b\" RESET \"x\"");
        check(None, Some("d"), "ALTER DATABASE \"d\" RESET \"x\"");
        check(
            Some("a"),
            Some("d"),
            "ALTER ROLE \"a\" IN DATABASE \"d\" RESET \"x\"",
        );
        check(None, None, "ALTER ROLE ALL RESET \"x\"");
    }
}

//! Whether the extensions of a branch can work on its server, and what can be mended.
//!
//! An extension is three things: rows in catalogs, which a restore brings back with everything else; the files of
//! its control file and scripts; and the library that its functions live in. Only the files can be missing. When
//! they are there again nothing has to be created: the rows are there. If the files are of another version, the
//! rows are brought to it with `ALTER EXTENSION .. UPDATE`. Nothing is ever dropped: what a user has built on an
//! extension would go with it.

use events::event::{ExtensionCheck, ExtensionState};
use pg_replication::{PgError, SqlConnection, quote_identifier, quote_literal};

use crate::error::RestoreError;
use crate::server_sql::Door;

/// How far a check goes.
#[derive(Clone, Copy)]
pub enum Depth<'a> {
    /// It is only looked whether the files are there; the function tells of libraries. Nothing foreign runs.
    Files(&'a (dyn Fn(&str) -> bool + Send + Sync)),
    /// `ALTER EXTENSION .. UPDATE` where the server has other versions, and libraries are loaded to see that they
    /// can be.
    Mend,
}

/// `undefined_file`: what a missing library, or one that another is linked to, is told with.
const NO_FILE: &str = "58P01";

/// Names, versions, whether there is a control file, whether the scripts know the version, and what they offer.
const EXTENSIONS: &str = "SELECT e.extname, e.extversion, a.name IS NOT NULL, \
     EXISTS (SELECT 1 FROM pg_catalog.pg_available_extension_versions v \
             WHERE v.name = e.extname AND v.version = e.extversion), a.default_version \
     FROM pg_catalog.pg_extension e \
     LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = e.extname ORDER BY 1";

/// Looks at, and mends, every extension of every database behind `door`.
///
/// # Errors
/// As the server's. That an extension does not work is none.
pub async fn check(
    connection: &mut SqlConnection,
    door: &Door<'_>,
    depth: Depth<'_>,
) -> Result<Vec<ExtensionCheck>, RestoreError> {
    let databases = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1";
    let databases = connection.query(databases).await?;
    let mut checks = Vec::new();
    for database in databases.iter().filter_map(|row| row.get(0)) {
        let mut connection = door.enter(database).await?;
        let found = within(&mut connection, door, database, depth).await;
        connection.close().await;
        checks.extend(found?);
    }
    Ok(checks)
}

async fn within(
    connection: &mut SqlConnection,
    door: &Door<'_>,
    database: &str,
    depth: Depth<'_>,
) -> Result<Vec<ExtensionCheck>, RestoreError> {
    let rows = connection.query(EXTENSIONS).await?;
    let mut checks = Vec::new();
    for row in &rows {
        let (Some(name), Some(version)) = (row.get(0), row.get(1)) else {
            continue;
        };
        let mut check = ExtensionCheck {
            database: database.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
            state: ExtensionState::Present,
            detail: None,
        };
        if row.get(2) != Some("t") {
            check.state = ExtensionState::NeedsReinstalling;
            check.detail = Some(format!(
                "the server has no {name}.control in {}; install what brings it for this version of postgresql on \
                 the restorer's machine, then `zektor extensions reinstall`",
                directory(connection, "SHAREDIR").await + "/extension"
            ));
        } else if row.get(3) != Some("t") && row.get(4) != Some(version) {
            version_differs(connection, &mut check, row.get(4).unwrap_or("?"), depth).await?;
        }
        if check.state == ExtensionState::Present {
            for library in libraries(connection, &check.name).await? {
                match depth {
                    Depth::Files(exists) if exists(&library) => {}
                    Depth::Files(_) => {
                        missing(connection, &mut check, &library, "no such file").await
                    }
                    Depth::Mend => load(connection, door, &mut check, &library).await?,
                }
            }
        }
        checks.push(check);
    }
    Ok(checks)
}

/// The files are another version's than the catalogs.
async fn version_differs(
    connection: &mut SqlConnection,
    check: &mut ExtensionCheck,
    offered: &str,
    depth: Depth<'_>,
) -> Result<(), RestoreError> {
    let (name, version) = (&check.name, &check.version);
    let path = format!(
        "SELECT 1 FROM pg_catalog.pg_extension_update_paths({}) \
         WHERE source = {} AND target = {} AND path IS NOT NULL",
        quote_literal(name),
        quote_literal(version),
        quote_literal(offered)
    );
    let leads = !connection.query(&path).await?.is_empty();
    let differ = format!("the database has version {version}, the server has files of {offered}");
    if !leads {
        check.state = ExtensionState::NeedsReinstalling;
        check.detail = Some(format!(
            "{differ}, and no script leads from one to the other; install version {version}"
        ));
        return Ok(());
    }
    if matches!(depth, Depth::Files(_)) {
        check.state = ExtensionState::NeedsReinstalling;
        check.detail = Some(format!(
            "{differ}; `zektor extensions reinstall` updates it"
        ));
        return Ok(());
    }
    let update = format!("ALTER EXTENSION {} UPDATE", quote_identifier(name));
    match connection.query(&update).await {
        Ok(_) => {
            check.detail = Some(format!("updated from version {version}"));
            check.version = offered.to_owned();
        }
        Err(PgError::Server(message)) => {
            check.state = ExtensionState::NeedsReinstalling;
            check.detail = Some(format!("{differ}; the update fails: {}", message.message));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// What the extension's functions live in.
async fn libraries(
    connection: &mut SqlConnection,
    extension: &str,
) -> Result<Vec<String>, RestoreError> {
    let libraries = format!(
        "SELECT DISTINCT p.probin FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::regclass \
              AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_catalog.pg_proc'::regclass \
         JOIN pg_catalog.pg_proc p ON p.oid = d.objid \
         JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname = 'c' \
         WHERE e.extname = {} AND p.probin IS NOT NULL ORDER BY 1",
        quote_literal(extension)
    );
    let rows = connection.query(&libraries).await?;
    let names = rows.iter().filter_map(|row| row.get(0).map(str::to_owned));
    Ok(names.collect())
}

/// Loads a library, in a session of its own: that a file exists says little, and one that wants to be loaded at the
/// server's start may end the session.
async fn load(
    connection: &mut SqlConnection,
    door: &Door<'_>,
    check: &mut ExtensionCheck,
    library: &str,
) -> Result<(), RestoreError> {
    let mut session = door.enter(&check.database).await?;
    let load = format!("LOAD {}", quote_literal(library));
    let loaded = session.query(&load).await;
    session.close().await;
    match loaded {
        Ok(_) => Ok(()),
        Err(PgError::Server(message)) if message.sqlstate == NO_FILE => {
            missing(connection, check, library, &message.message).await;
            Ok(())
        }
        Err(PgError::Server(message)) => {
            let said = format!("{library} is there; loading it says: {}", message.message);
            check.detail = Some(said);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn missing(
    connection: &mut SqlConnection,
    check: &mut ExtensionCheck,
    library: &str,
    why: &str,
) {
    check.state = ExtensionState::NeedsReinstalling;
    check.detail = Some(format!(
        "the library {library} cannot be loaded ({why}); it belongs into {} on the restorer's machine; install \
         what brings it, then `zektor extensions reinstall`",
        directory(connection, "PKGLIBDIR").await
    ));
}

/// A directory of the server's installation, for people.
async fn directory(connection: &mut SqlConnection, name: &str) -> String {
    let asked = format!(
        "SELECT setting FROM pg_catalog.pg_config() WHERE name = {}",
        quote_literal(name)
    );
    let rows = connection.query(&asked).await.unwrap_or_default();
    let found = rows.first().and_then(|row| row.get(0).map(str::to_owned));
    found.unwrap_or_else(|| name.to_owned())
}

//! Reads a server's catalogs.
//!
//! Catalog reads only, each with a time limit: nothing waits for a lock that a table's user holds, and nobody waits
//! for us but by the load of one query.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use pg_format::wal::RelationFile;
use pg_replication::{ConnectionSettings, PgError, Row, SqlConnection};
use wal_index::{Database, Relation, RelationKind, RelationMap};

use super::{NamesError, Wanted};

/// Databases that are read; the largest oids, the youngest, are left out beyond that.
const MOST_DATABASES: usize = 256;
/// Relations of a database that are read; the youngest are left out beyond that.
const MOST_RELATIONS: usize = 100_000;
/// A commit is visible only some time after its record was inserted.
const VISIBLE_AFTER: Duration = Duration::from_millis(50);

const LIMITS: &str = "SET statement_timeout = '15s'; SET lock_timeout = '2s'; \
    SET default_transaction_read_only = on; SET search_path = pg_catalog";

const POSITION: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END";

const DATABASES: &str =
    "SELECT oid, datname, datallowconn FROM pg_catalog.pg_database ORDER BY oid";

/// Temporary relations are not in the WAL. A toast table's index belongs to the toast table's table.
const RELATIONS: &str = "SELECT c.oid, n.nspname, c.relname, c.relkind, \
        pg_catalog.pg_relation_filenode(c.oid), \
        CASE c.reltablespace WHEN 0 THEN d.dattablespace ELSE c.reltablespace END, \
        CASE WHEN c.relisshared THEN 0 ELSE d.oid END, d.oid, \
        COALESCE(t.oid, i.indrelid, s.refobjid) \
    FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database() \
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
    LEFT JOIN pg_catalog.pg_class t ON t.reltoastrelid <> 0 \
        AND t.reltoastrelid = COALESCE(i.indrelid, c.oid) \
    LEFT JOIN pg_catalog.pg_depend s ON c.relkind = 'S' AND s.classid = 1259 AND s.objid = c.oid \
        AND s.objsubid = 0 AND s.refclassid = 1259 AND s.deptype IN ('a', 'i') \
    WHERE c.relkind IN ('r', 'm', 'i', 'S', 't') AND c.relpersistence <> 't' \
        AND pg_catalog.pg_relation_filenode(c.oid) IS NOT NULL \
    ORDER BY c.oid LIMIT ";

/// Reads, and remembers what was said about what cannot be read.
#[derive(Debug, Default)]
pub(super) struct Catalogs {
    told: BTreeSet<String>,
    /// What was read last of each database.
    known: BTreeMap<u32, Vec<Relation>>,
}

impl Catalogs {
    /// The relations of all databases. Of those that are not `wanted` they are as they were read last, and count as
    /// not read; all are read the first time.
    pub(super) async fn read(
        &mut self,
        settings: &ConnectionSettings,
        wanted: &Wanted,
    ) -> Result<RelationMap, NamesError> {
        let mut first = connect(settings).await?;
        let as_of = field(first.query(POSITION).await?.first(), 0)?;
        let listed = first.query(DATABASES).await?;
        first.close().await;
        tokio::time::sleep(VISIBLE_AFTER).await;
        let all = wanted.all || self.known.is_empty();
        let mut databases = Vec::new();
        for (place, row) in listed.iter().enumerate() {
            let oid: u32 = field(Some(row), 0)?;
            let name = row.get(1).unwrap_or_default().to_owned();
            let may = row.get(2) == Some("t") && place < MOST_DATABASES;
            let wanted = all || wanted.databases.contains(&oid);
            let read = may && wanted && self.read_database(settings, oid, &name).await?;
            databases.push(Database { oid, name, read });
        }
        if listed.len() > MOST_DATABASES {
            self.tell("", "only the oldest databases are read");
        }
        self.known
            .retain(|oid, _| databases.iter().any(|database| database.oid == *oid));
        Ok(RelationMap {
            as_of,
            databases,
            relations: self.known.values().flatten().cloned().collect(),
        })
    }

    /// Reads one database; `false` if that was not possible, or not completely.
    async fn read_database(
        &mut self,
        settings: &ConnectionSettings,
        oid: u32,
        name: &str,
    ) -> Result<bool, NamesError> {
        let mut read = match relations(settings, name).await {
            Ok(relations) => relations,
            Err(NamesError::Server(error)) if is_refused(&error) => {
                self.tell(name, &service::run::chain(&error));
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let complete = read.len() <= MOST_RELATIONS;
        if !complete {
            self.tell(name, "it has more relations than are read");
        }
        read.truncate(MOST_RELATIONS);
        let _ = self.known.insert(oid, read);
        Ok(complete)
    }

    /// Once for each text: it will be so at every look.
    fn tell(&mut self, database: &str, reason: &str) {
        if self.told.insert(format!("{database}: {reason}")) {
            tracing::warn!(
                database,
                reason,
                "names of relations stay unknown; dropped ones of them are told of by number"
            );
        }
    }
}

/// The database does not let us in, or is gone: the others are read nevertheless.
fn is_refused(error: &PgError) -> bool {
    error.sqlstate().is_some()
}

async fn connect(settings: &ConnectionSettings) -> Result<SqlConnection, NamesError> {
    let mut connection = SqlConnection::connect(settings).await?;
    let _ = connection.query(LIMITS).await?;
    Ok(connection)
}

async fn relations(
    settings: &ConnectionSettings,
    database: &str,
) -> Result<Vec<Relation>, NamesError> {
    let mut connection = connect(&settings.clone().with_dbname(database)).await?;
    let sql = format!("{RELATIONS}{}", MOST_RELATIONS + 1);
    let rows = connection.query(&sql).await?;
    connection.close().await;
    rows.iter().map(relation).collect()
}

fn relation(row: &Row) -> Result<Relation, NamesError> {
    let text = |column| row.get(column).unwrap_or_default();
    let kind = text(3).chars().next().unwrap_or('-');
    Ok(Relation {
        database: field(Some(row), 7)?,
        oid: field(Some(row), 0)?,
        schema: text(1).to_owned(),
        name: text(2).to_owned(),
        kind: RelationKind::of(kind),
        file: RelationFile {
            tablespace: field(Some(row), 5)?,
            database: field(Some(row), 6)?,
            number: field(Some(row), 4)?,
        },
        table: row.get(8).map(|_| field(Some(row), 8)).transpose()?,
    })
}

fn field<T: FromStr>(row: Option<&Row>, column: usize) -> Result<T, NamesError> {
    let text = row.and_then(|row| row.get(column)).unwrap_or_default();
    text.parse().map_err(|_| NamesError::Number {
        text: text.to_owned(),
    })
}

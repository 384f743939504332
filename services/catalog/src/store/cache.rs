//! Rows that are changed in memory, and read and written many in one statement.
//!
//! What must stay true: a transaction with this between it and the database makes the rows that it would make
//! without, statement by statement. So a row is read from here if it is here, everything that was changed here is
//! written before a statement looks at more than one key, and all of it before the transaction is committed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;

use sqlx::{Any, AssertSqlSafe, Transaction};

use super::column::SqlValue;
use super::rows::{
    AlertRow, ArchiveRow, BackupRow, BackupTotalsRow, BranchRow, DrillRow, InstanceRow, PurgeRow,
    RestoreRow, Row, ScheduleRow, SlotRiskRow, SweepRow, WalDayRow, WalFileRow, WalGapRow,
    WalPruneRow, WindowRow,
};
use super::{Backend, Result, cannot};

/// Rows of one statement: few sizes, so that each is prepared once.
const STATEMENT_ROWS: [usize; 3] = [64, 8, 1];
/// Rows that are held; beyond it they are written and forgotten.
pub(super) const MOST_ROWS: usize = 20_000;

type Key = Vec<SqlValue>;

/// A row as it is to be; none is to be there when absent.
#[derive(Debug)]
struct Held<R> {
    row: Option<R>,
    changed: bool,
}

/// The rows of one table that are held.
#[derive(Debug)]
pub(crate) struct Cache<R> {
    held: BTreeMap<Key, Held<R>>,
}

impl<R> Default for Cache<R> {
    fn default() -> Self {
        Cache {
            held: BTreeMap::new(),
        }
    }
}

impl<R: Row> Cache<R> {
    /// The row as it is to be, if that is known here.
    pub(super) fn get(&self, key: &[SqlValue]) -> Option<Option<R>> {
        self.held.get(key).map(|held| held.row.clone())
    }

    /// Changes a row, or takes it away.
    pub(super) fn set(&mut self, key: Key, row: Option<R>) {
        let changed = true;
        match self.held.entry(key) {
            Entry::Vacant(vacant) => drop(vacant.insert(Held { row, changed })),
            Entry::Occupied(mut occupied) => {
                let held = occupied.get_mut();
                held.changed |= held.row != row;
                held.row = row;
            }
        }
    }

    /// Notes what the database has.
    fn note(&mut self, key: Key, row: Option<R>) {
        let changed = false;
        let _ = self.held.entry(key).or_insert(Held { row, changed });
    }
}

macro_rules! tables {
    ($($table:ident: $row:ty,)+) => {
        /// The rows that are held, by table.
        #[derive(Debug, Default)]
        pub(crate) struct Tables {
            $(pub(super) $table: Cache<$row>,)+
        }

        impl Tables {
            /// The names of all of them.
            pub(super) const NAMES: &[&str] = &[$(<$row as Row>::TABLE),+];

            pub(super) fn rows(&self) -> usize {
                let mut rows = 0;
                $(rows += self.$table.held.len();)+
                rows
            }

            /// Writes everything that was changed.
            pub(super) async fn write(&mut self, database: &mut Database) -> Result<()> {
                $(database.write(&mut self.$table).await?;)+
                Ok(())
            }
        }
    };
}

tables! {
    instances: InstanceRow,
    branches: BranchRow,
    schedules: ScheduleRow,
    backups: BackupRow,
    backup_totals: BackupTotalsRow,
    restores: RestoreRow,
    wal_files: WalFileRow,
    wal_gaps: WalGapRow,
    windows: WindowRow,
    slot_risks: SlotRiskRow,
    purges: PurgeRow,
    archives: ArchiveRow,
    wal_days: WalDayRow,
    wal_prunes: WalPruneRow,
    sweeps: SweepRow,
    drills: DrillRow,
    alerts: AlertRow,
}

/// An open transaction in one of the dialects.
pub(super) struct Database {
    pub(super) transaction: Transaction<'static, Any>,
    pub(super) backend: Backend,
}

impl Database {
    /// Reads these rows, as far as they are not known, in as few statements as it takes.
    pub(super) async fn load<R: Row>(
        &mut self,
        cache: &mut Cache<R>,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<()> {
        let mut unknown: Vec<Key> = keys.into_iter().collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|key| !cache.held.contains_key(key));
        for keys in statements(&unknown) {
            let sql = self.select_keys::<R>(keys.len());
            let query = bind(sql, keys.iter().flatten().cloned());
            let rows = query.fetch_all(&mut *self.transaction).await;
            for row in rows.map_err(cannot("read rows"))? {
                let row = R::read(&row).map_err(cannot("read a row"))?;
                cache.note(row.key(), Some(row));
            }
            for key in keys {
                cache.note(key.clone(), None);
            }
        }
        Ok(())
    }

    async fn write<R: Row>(&mut self, cache: &mut Cache<R>) -> Result<()> {
        let mut gone: Vec<Key> = Vec::new();
        let mut values: Vec<Vec<SqlValue>> = Vec::new();
        for (key, held) in cache.held.iter_mut().filter(|(_, held)| held.changed) {
            held.changed = false;
            match &held.row {
                Some(row) => values.push(row.values()),
                None => gone.push(key.clone()),
            }
        }
        for keys in statements(&gone) {
            let sql = self.delete_keys::<R>(keys.len());
            self.run(sql, keys.iter().flatten().cloned()).await?;
        }
        for rows in statements(&values) {
            let sql = self.upsert::<R>(rows.len());
            self.run(sql, rows.iter().flatten().cloned()).await?;
        }
        Ok(())
    }

    async fn run(&mut self, sql: String, values: impl Iterator<Item = SqlValue>) -> Result<()> {
        let done = bind(sql, values).execute(&mut *self.transaction).await;
        done.map(drop).map_err(cannot("change rows"))
    }

    fn select_keys<R: Row>(&self, rows: usize) -> String {
        format!(
            "SELECT {} FROM {}{}",
            R::COLUMNS.join(", "),
            R::TABLE,
            self.among_keys::<R>(rows)
        )
    }

    fn delete_keys<R: Row>(&self, rows: usize) -> String {
        format!("DELETE FROM {}{}", R::TABLE, self.among_keys::<R>(rows))
    }

    fn among_keys<R: Row>(&self, rows: usize) -> String {
        let key = R::COLUMNS[..R::KEYS].join(", ");
        let places = self.places(rows, R::KEYS);
        format!(" WHERE ({key}) IN (VALUES {places})")
    }

    fn upsert<R: Row>(&self, rows: usize) -> String {
        let (key, rest) = R::COLUMNS.split_at(R::KEYS);
        let updates: Vec<String> = rest
            .iter()
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        format!(
            "INSERT INTO {} ({}) VALUES {} ON CONFLICT ({}) DO UPDATE SET {}",
            R::TABLE,
            R::COLUMNS.join(", "),
            self.places(rows, R::COLUMNS.len()),
            key.join(", "),
            updates.join(", "),
        )
    }

    /// Places for so many rows. Those of SQLite have no names: it looks names up one after the other.
    fn places(&self, rows: usize, columns: usize) -> String {
        let mut places = String::with_capacity(rows * columns * 6);
        for place in 0..rows * columns {
            let before = match (place, place % columns) {
                (0, _) => "(",
                (_, 0) => "), (",
                _ => ", ",
            };
            places.push_str(before);
            match self.backend {
                Backend::Sqlite => places.push('?'),
                Backend::Postgres => drop(write!(places, "${}", place + 1)),
            }
        }
        places.push(')');
        places
    }
}

/// Parts of which each is one statement.
fn statements<T>(mut rows: &[T]) -> Vec<&[T]> {
    let mut parts = Vec::new();
    for size in STATEMENT_ROWS {
        let whole = rows.len() / size * size;
        parts.extend(rows[..whole].chunks(size));
        rows = &rows[whole..];
    }
    parts
}

/// A statement made of the names of our tables and columns; values are always bound.
pub(super) fn bind<'q>(
    sql: String,
    values: impl Iterator<Item = SqlValue>,
) -> sqlx::query::Query<'q, Any, sqlx::any::AnyArguments> {
    values.fold(sqlx::query(AssertSqlSafe(sql)), |query, value| {
        value.bind(query)
    })
}

#[cfg(test)]
mod tests {
    use super::statements;

    #[test]
    fn every_row_is_in_one_statement() {
        for count in 0..200 {
            let rows: Vec<usize> = (0..count).collect();
            let parts = statements(&rows);
            assert_eq!(parts.concat(), rows);
            assert!(parts.len() <= count / 64 + 15, "{count}");
        }
    }
}

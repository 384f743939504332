//! Files, rows and transactions in flight, stored.

use pg_format::Lsn;
use pg_format::wal::RelationFile;
use serde::{Deserialize, Serialize};

use super::is_zero;
use crate::model::{CreatedFile, DroppedDatabase, OpenTransaction, RowCounts};

/// Tablespace, database, number.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct StoredFile(u32, u32, u32);

/// A file and whether it is filled.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct StoredCreated(StoredFile, u8);

/// A database, and the position of the record that drops it.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct StoredDropped(u32, u64);

/// A file, rows deleted, rows updated.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct StoredRows(StoredFile, u64, u64);

/// A transaction in flight.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredOpen {
    #[serde(rename = "x")]
    xid: u32,
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    prepared: bool,
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    rows: Vec<StoredRows>,
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    created: Vec<StoredCreated>,
    #[serde(rename = "cm", default, skip_serializing_if = "is_zero")]
    created_more: u32,
    #[serde(rename = "db", default, skip_serializing_if = "Vec::is_empty")]
    dropped_databases: Vec<StoredDropped>,
    #[serde(rename = "tr", default, skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<(u32, u32)>,
}

impl From<RelationFile> for StoredFile {
    fn from(file: RelationFile) -> Self {
        StoredFile(file.tablespace, file.database, file.number)
    }
}

impl From<StoredFile> for RelationFile {
    fn from(StoredFile(tablespace, database, number): StoredFile) -> Self {
        RelationFile {
            tablespace,
            database,
            number,
        }
    }
}

impl From<&CreatedFile> for StoredCreated {
    fn from(created: &CreatedFile) -> Self {
        StoredCreated(created.file.into(), u8::from(created.filled))
    }
}

impl From<StoredCreated> for CreatedFile {
    fn from(StoredCreated(file, filled): StoredCreated) -> Self {
        CreatedFile {
            file: file.into(),
            filled: filled != 0,
        }
    }
}

impl From<&DroppedDatabase> for StoredDropped {
    fn from(dropped: &DroppedDatabase) -> Self {
        StoredDropped(dropped.database, dropped.lsn.0)
    }
}

impl From<StoredDropped> for DroppedDatabase {
    fn from(StoredDropped(database, lsn): StoredDropped) -> Self {
        DroppedDatabase {
            database,
            lsn: Lsn(lsn),
        }
    }
}

impl From<&RowCounts> for StoredRows {
    fn from(rows: &RowCounts) -> Self {
        StoredRows(rows.file.into(), rows.deleted, rows.updated)
    }
}

impl From<StoredRows> for RowCounts {
    fn from(StoredRows(file, deleted, updated): StoredRows) -> Self {
        RowCounts {
            file: file.into(),
            deleted,
            updated,
        }
    }
}

pub(super) fn stored<'a, T: 'a, S: From<&'a T>>(items: &'a [T]) -> Vec<S> {
    items.iter().map(S::from).collect()
}

pub(super) fn read<S, T: From<S>>(items: Vec<S>) -> Vec<T> {
    items.into_iter().map(T::from).collect()
}

impl StoredOpen {
    pub(super) fn of(open: &OpenTransaction) -> Self {
        StoredOpen {
            xid: open.xid,
            prepared: open.prepared,
            rows: stored(&open.rows),
            created: stored(&open.created),
            created_more: open.created_more,
            dropped_databases: stored(&open.dropped_databases),
            truncated: open.truncated.clone(),
        }
    }

    pub(super) fn into_open(self) -> OpenTransaction {
        OpenTransaction {
            xid: self.xid,
            prepared: self.prepared,
            rows: read(self.rows),
            created: read(self.created),
            created_more: self.created_more,
            dropped_databases: read(self.dropped_databases),
            truncated: self.truncated,
        }
    }
}

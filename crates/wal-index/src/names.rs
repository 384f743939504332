//! Names of relations: what the catalogs said, and when.
//!
//! A [`RelationMap`] is taken from a server now and then; a [`RelationHistory`] is a full map and what changed since,
//! as it is stored. [`Names`] joins all of them to answer what a file was. The position of a map is read *before* the
//! catalogs: the map shows the state there or somewhat later, never an earlier one.

mod lookup;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pg_format::Lsn;
use pg_format::wal::RelationFile;

pub use lookup::{After, Names};

/// All relations with files of a cluster, at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelationMap {
    /// The server's insert position before the catalogs were read.
    pub as_of: Lsn,
    /// All databases.
    pub databases: Vec<Database>,
    /// The relations of the databases that were read.
    pub relations: Vec<Relation>,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Its catalogs were read; if not (nobody may connect to it), relations of it are not absent but unknown.
    pub read: bool,
}

/// A relation with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Oid of the database, also for shared relations.
    pub database: u32,
    /// Its own oid.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// Its file, with the real tablespace where the catalog says zero, and `pg_relation_filenode` as number.
    pub file: RelationFile,
    /// Of an index, a toast table or its index, and an owned sequence: the oid of the table.
    pub table: Option<u32>,
}

/// What a relation is (`pg_class.relkind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelationKind {
    /// An ordinary table.
    Table,
    /// A materialized view.
    MaterializedView,
    /// An index, of a toast table too.
    Index,
    /// A sequence.
    Sequence,
    /// A toast table.
    Toast,
    /// Something else.
    Other,
}

impl RelationKind {
    /// From `pg_class.relkind`.
    #[must_use]
    pub fn of(relkind: char) -> Self {
        match relkind {
            'r' => RelationKind::Table,
            'm' => RelationKind::MaterializedView,
            'i' => RelationKind::Index,
            'S' => RelationKind::Sequence,
            't' => RelationKind::Toast,
            _ => RelationKind::Other,
        }
    }

    fn relkind(self) -> char {
        match self {
            RelationKind::Table => 'r',
            RelationKind::MaterializedView => 'm',
            RelationKind::Index => 'i',
            RelationKind::Sequence => 'S',
            RelationKind::Toast => 't',
            RelationKind::Other => '-',
        }
    }
}

impl Relation {
    /// It belongs to the server: a catalog, or part of one.
    #[must_use]
    pub fn is_system(&self) -> bool {
        const FIRST_NORMAL_OID: u32 = 16_384;
        matches!(self.schema.as_str(), "pg_catalog" | "information_schema")
            || (self.schema == "pg_toast"
                && self.table.is_none_or(|table| table < FIRST_NORMAL_OID))
    }

    fn key(&self) -> (u32, u32) {
        (self.database, self.oid)
    }
}

/// What is different from the map before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationChanges {
    /// As [`RelationMap::as_of`].
    pub as_of: Lsn,
    /// All databases.
    pub databases: Vec<Database>,
    /// Relations that are new or different.
    pub changed: Vec<Relation>,
    /// Relations that are gone: database, oid.
    pub removed: Vec<(u32, u32)>,
}

/// A full map, and what changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationHistory {
    /// The map it begins with.
    pub full: RelationMap,
    /// The earliest first.
    pub changes: Vec<RelationChanges>,
}

impl RelationHistory {
    /// A history that begins with this map.
    #[must_use]
    pub fn new(full: RelationMap) -> Self {
        RelationHistory {
            full,
            changes: Vec::new(),
        }
    }

    /// The map that the last change leads to, relations by database and oid.
    #[must_use]
    pub fn latest(&self) -> RelationMap {
        let mut map = self.full.clone();
        for changes in &self.changes {
            map = map.with(changes);
        }
        map.relations.sort_by_key(Relation::key);
        map
    }

    /// Notes a newer map; tells whether anything but its position is different from `latest`, which is what
    /// [`RelationHistory::latest`] says. Nothing is noted if not.
    pub fn push(&mut self, latest: &RelationMap, map: &RelationMap) -> bool {
        let changes = latest.changes_to(map);
        let different = !changes.changed.is_empty()
            || !changes.removed.is_empty()
            || changes.databases != latest.databases;
        if different {
            self.changes.push(changes);
        }
        different
    }
}

impl RelationMap {
    /// What is different in a newer map. Relations of a database that could not be read this time are kept.
    #[must_use]
    pub fn changes_to(&self, newer: &RelationMap) -> RelationChanges {
        let old: BTreeMap<_, _> = self.relations.iter().map(|r| (r.key(), r)).collect();
        let new: BTreeMap<_, _> = newer.relations.iter().map(|r| (r.key(), r)).collect();
        let unread: Vec<u32> = newer
            .databases
            .iter()
            .filter(|database| !database.read)
            .map(|database| database.oid)
            .collect();
        RelationChanges {
            as_of: newer.as_of,
            databases: newer.databases.clone(),
            changed: new
                .iter()
                .filter(|(key, relation)| old.get(key) != Some(relation))
                .map(|(_, relation)| (*relation).clone())
                .collect(),
            removed: old
                .keys()
                .filter(|key| !new.contains_key(key) && !unread.contains(&key.0))
                .copied()
                .collect(),
        }
    }

    fn with(self, changes: &RelationChanges) -> RelationMap {
        let mut relations: BTreeMap<_, _> = self
            .relations
            .into_iter()
            .map(|relation| (relation.key(), relation))
            .collect();
        for key in &changes.removed {
            let _ = relations.remove(key);
        }
        for relation in &changes.changed {
            let _ = relations.insert(relation.key(), relation.clone());
        }
        RelationMap {
            as_of: changes.as_of,
            databases: changes.databases.clone(),
            relations: relations.into_values().collect(),
        }
    }
}

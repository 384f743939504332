//! Relation maps as JSON lines: the format's version, the full map, one line for each change.

use pg_format::Lsn;
use serde::{Deserialize, Serialize};

use super::{Database, Relation, RelationChanges, RelationHistory, RelationKind, RelationMap};
use crate::format::{FormatError, StoredFile, header, line, lines, parse};

#[derive(Serialize, Deserialize)]
struct StoredMap {
    #[serde(rename = "a")]
    as_of: Lsn,
    /// Oid, name, whether it was read.
    #[serde(rename = "d")]
    databases: Vec<(u32, String, bool)>,
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    relations: Vec<StoredRelation>,
    #[serde(rename = "g", default, skip_serializing_if = "Vec::is_empty")]
    removed: Vec<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct StoredRelation {
    #[serde(rename = "d")]
    database: u32,
    #[serde(rename = "o")]
    oid: u32,
    #[serde(rename = "s")]
    schema: String,
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "k")]
    relkind: char,
    #[serde(rename = "f")]
    file: StoredFile,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
}

impl From<&Relation> for StoredRelation {
    fn from(relation: &Relation) -> Self {
        StoredRelation {
            database: relation.database,
            oid: relation.oid,
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            relkind: relation.kind.relkind(),
            file: relation.file.into(),
            table: relation.table,
        }
    }
}

impl From<StoredRelation> for Relation {
    fn from(stored: StoredRelation) -> Self {
        Relation {
            database: stored.database,
            oid: stored.oid,
            schema: stored.schema,
            name: stored.name,
            kind: RelationKind::of(stored.relkind),
            file: stored.file.into(),
            table: stored.table,
        }
    }
}

fn stored(
    as_of: Lsn,
    databases: &[Database],
    relations: &[Relation],
    removed: &[(u32, u32)],
) -> StoredMap {
    StoredMap {
        as_of,
        databases: databases
            .iter()
            .map(|database| (database.oid, database.name.clone(), database.read))
            .collect(),
        relations: relations.iter().map(StoredRelation::from).collect(),
        removed: removed.to_vec(),
    }
}

impl RelationHistory {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        header(&mut bytes);
        let full = &self.full;
        line(
            &mut bytes,
            &stored(full.as_of, &full.databases, &full.relations, &[]),
        );
        for changes in &self.changes {
            let RelationChanges {
                as_of,
                databases,
                changed,
                removed,
            } = changes;
            line(&mut bytes, &stored(*as_of, databases, changed, removed));
        }
        bytes
    }

    /// Reads what [`RelationHistory::encode`] wrote, by this version or an older one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut lines = lines(bytes)?;
        let (number, text) = lines.next().ok_or(FormatError::Empty)?;
        let full: StoredMap = parse(number, text)?;
        let mut history = RelationHistory::new(RelationMap {
            as_of: full.as_of,
            databases: databases(full.databases),
            relations: full.relations.into_iter().map(Relation::from).collect(),
        });
        for (number, text) in lines {
            let changes: StoredMap = parse(number, text)?;
            history.changes.push(RelationChanges {
                as_of: changes.as_of,
                databases: databases(changes.databases),
                changed: changes.relations.into_iter().map(Relation::from).collect(),
                removed: changes.removed,
            });
        }
        Ok(history)
    }
}

fn databases(stored: Vec<(u32, String, bool)>) -> Vec<Database> {
    stored
        .into_iter()
        .map(|(oid, name, read)| Database { oid, name, read })
        .collect()
}

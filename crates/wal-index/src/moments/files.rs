//! What became of relations whose files went away.

use std::collections::{BTreeMap, HashSet};

use pg_format::wal::RelationFile;

use super::{FIRST_NORMAL_NUMBER, Looked, Moment, MomentKind, files_in_words, text};
use crate::names::{After, Relation, RelationKind};

/// What is said when the new file could not be found by name.
const BY_FILES: &str =
    "kind told from the files alone: no relation map shows the table right after it";

/// A table, and what else of it lost its file.
#[derive(Default)]
struct Table<'a> {
    itself: Option<&'a Relation>,
    parts: Vec<&'a Relation>,
}

/// What became of a relation.
struct Fate {
    kind: MomentKind,
    /// A map shows it.
    certain: bool,
}

impl<'a> Looked<'a> {
    /// Adds a moment for each table; notes in `tables` which ones (database and oid).
    pub(super) fn file_moments(&self, moments: &mut Vec<Moment>, tables: &mut HashSet<(u32, u32)>) {
        let (found, unknown) = self.tables();
        for ((database, oid), table) in &found {
            let _ = tables.insert((*database, *oid));
            match table.itself {
                Some(relation) if relation.is_system() => {}
                Some(relation) => moments.push(self.table_moment(relation)),
                None => self.part_moments(&table.parts, moments),
            }
        }
        let mut named = false;
        for key in &self.event.truncated {
            if !tables.insert(*key) {
                continue;
            }
            if let Some(table) = self.names.relation_at(key.0, key.1, self.event.commit.lsn) {
                named = true;
                moments.push(self.named(MomentKind::Truncate, table));
            }
        }
        // Files without a name are those of the truncated tables, if these could be named otherwise.
        let explained = named && !self.event.created.is_empty();
        if !explained && (!unknown.is_empty() || (found.is_empty() && self.event.dropped_more > 0))
        {
            moments.push(self.unnamed(&unknown));
        }
    }

    /// The files that went away, by table (database and oid), and those without a name.
    fn tables(&self) -> (BTreeMap<(u32, u32), Table<'a>>, Vec<RelationFile>) {
        let mut tables: BTreeMap<(u32, u32), Table<'a>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for file in &self.event.dropped {
            let Some(relation) = self.names.file_at(*file, self.event.commit.lsn) else {
                if file.number >= FIRST_NORMAL_NUMBER {
                    unknown.push(*file);
                }
                continue;
            };
            let owner = relation.table.unwrap_or(relation.oid);
            let table = tables.entry((relation.database, owner)).or_default();
            if relation.table.is_none() {
                table.itself = Some(relation);
            } else {
                table.parts.push(relation);
            }
        }
        (tables, unknown)
    }

    fn table_moment(&self, relation: &Relation) -> Moment {
        let fate = self.fate(relation);
        let mut moment = self.named(fate.kind, relation);
        moment.detail = (!fate.certain).then(|| BY_FILES.to_owned());
        moment
    }

    /// Parts whose table kept its file: worth telling only if they are gone.
    fn part_moments(&self, parts: &[&Relation], moments: &mut Vec<Moment>) {
        for part in parts {
            let tells = matches!(part.kind, RelationKind::Index | RelationKind::Sequence);
            let inner = part.schema == "pg_toast" || part.is_system();
            let fate = self.fate(part);
            if !tells || inner || fate.kind != MomentKind::Drop {
                continue;
            }
            let mut moment = self.named(MomentKind::Drop, part);
            let table = part.table.and_then(|table| {
                let lsn = self.event.commit.lsn;
                self.names.relation_at(part.database, table, lsn)
            });
            moment.detail = table.map(|table| {
                let noun = match part.kind {
                    RelationKind::Index => "an index of",
                    _ => "a sequence of",
                };
                format!("{noun} {}", text(table))
            });
            moments.push(moment);
        }
    }

    fn fate(&self, relation: &Relation) -> Fate {
        let certain = |kind| Fate {
            kind,
            certain: true,
        };
        let event = self.event;
        if event.truncated.contains(&(relation.database, relation.oid)) {
            return certain(MomentKind::Truncate);
        }
        if event.created.is_empty() && event.created_more == 0 {
            return certain(MomentKind::Drop);
        }
        match self
            .names
            .after(relation.database, relation.oid, event.commit.end)
        {
            After::There(now) => {
                let new = event
                    .created
                    .iter()
                    .find(|created| created.file == now.file);
                match new {
                    Some(created) if created.filled => certain(MomentKind::Rewrite),
                    Some(_) => certain(MomentKind::Truncate),
                    // Another transaction gave it yet another file before the map was taken.
                    None => self.fate_by_files(),
                }
            }
            // All files it created stayed, so none of them was this relation's.
            After::Gone if !self.created_were_dropped() => certain(MomentKind::Drop),
            After::Gone | After::Unknown => self.fate_by_files(),
        }
    }

    fn created_were_dropped(&self) -> bool {
        let event = self.event;
        event.created_more > 0
            || event.created.iter().any(|created| {
                let dropped = self.dropped.get(&created.file);
                dropped.is_some_and(|lsn| *lsn > event.commit.lsn)
            })
    }

    /// A table's own file is created before those of its toast and its indexes.
    fn fate_by_files(&self) -> Fate {
        let first = self.event.created.first();
        Fate {
            kind: match first {
                Some(created) if !created.filled => MomentKind::Truncate,
                _ => MomentKind::Rewrite,
            },
            certain: false,
        }
    }

    fn unnamed(&self, unknown: &[RelationFile]) -> Moment {
        let event = self.event;
        let kind = if !event.truncated.is_empty() {
            MomentKind::Truncate
        } else if event.created.is_empty() && event.created_more == 0 {
            MomentKind::Drop
        } else {
            self.fate_by_files().kind
        };
        let database = unknown.first().map(|file| file.database).or(event.database);
        let mut moment = self.moment(kind, database, None);
        moment.detail = Some(files_in_words(unknown, event.dropped_more));
        moment
    }
}

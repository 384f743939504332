//! What a file was, and what became of a relation.

use std::collections::{BTreeMap, HashMap};

use pg_format::Lsn;
use pg_format::wal::RelationFile;

use super::{Database, Relation, RelationHistory, RelationMap};

/// What maps said, by their positions; relations are places in a list.
type Noted<T> = Vec<(Lsn, T)>;

/// All maps of a branch, joined.
#[derive(Clone, Debug, Default)]
pub struct Names {
    relations: Vec<Relation>,
    /// When a file first appeared with what, in the order of positions.
    by_file: HashMap<RelationFile, Noted<usize>>,
    /// What a relation became when; `None` if it was gone.
    by_oid: HashMap<(u32, u32), Noted<Option<usize>>>,
    /// Every map, with the databases of which it knows.
    maps: Vec<(Lsn, Vec<Database>)>,
}

/// What the first map after a position says of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After<'a> {
    /// There is no such map, or it does not know the relation's database.
    Unknown,
    /// It is gone.
    Gone,
    /// It is there.
    There(&'a Relation),
}

impl Names {
    /// Joins histories of one path of timelines, in any order.
    #[must_use]
    pub fn new(mut histories: Vec<RelationHistory>) -> Self {
        histories.sort_by_key(|history| history.full.as_of);
        let mut names = Names::default();
        let mut state = RelationMap::default();
        let mut present: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        for history in histories {
            let changes = state.changes_to(&history.full);
            names.note(
                &mut present,
                changes.as_of,
                changes.databases,
                changes.changed,
                changes.removed,
            );
            state = history.latest();
            for changes in history.changes {
                names.note(
                    &mut present,
                    changes.as_of,
                    changes.databases,
                    changes.changed,
                    changes.removed,
                );
            }
        }
        names
    }

    fn note(
        &mut self,
        present: &mut BTreeMap<(u32, u32), usize>,
        as_of: Lsn,
        databases: Vec<Database>,
        changed: Vec<Relation>,
        removed: Vec<(u32, u32)>,
    ) {
        for key in removed {
            let _ = present.remove(&key);
            self.by_oid.entry(key).or_default().push((as_of, None));
        }
        for relation in changed {
            let place = self.relations.len();
            let _ = present.insert(relation.key(), place);
            self.by_file
                .entry(relation.file)
                .or_default()
                .push((as_of, place));
            self.by_oid
                .entry(relation.key())
                .or_default()
                .push((as_of, Some(place)));
            self.relations.push(relation);
        }
        self.maps.push((as_of, databases));
    }

    /// What a file belongs to at a position: by the last map before it that has the file, otherwise by the first one
    /// after it. (A number is used again only after four thousand million others.)
    #[must_use]
    pub fn file_at(&self, file: RelationFile, lsn: Lsn) -> Option<&Relation> {
        let known = self.by_file.get(&file)?;
        let before = known.partition_point(|(as_of, _)| *as_of <= lsn);
        let (_, place) = known.get(before.saturating_sub(1))?;
        self.relations.get(*place)
    }

    /// The relation with an oid at a position, by the last map before it that has it, otherwise by the first after it.
    #[must_use]
    pub fn relation_at(&self, database: u32, oid: u32, lsn: Lsn) -> Option<&Relation> {
        let known = self.by_oid.get(&(database, oid))?;
        let before = known.partition_point(|(as_of, _)| *as_of <= lsn);
        let (earlier, later) = known.split_at_checked(before)?;
        let place = earlier
            .iter()
            .rev()
            .chain(later)
            .find_map(|(_, place)| *place)?;
        self.relations.get(place)
    }

    /// What the first map at or after a position says of the relation with this oid.
    #[must_use]
    pub fn after(&self, database: u32, oid: u32, lsn: Lsn) -> After<'_> {
        let first = self.maps.partition_point(|(as_of, _)| *as_of < lsn);
        let Some((as_of, databases)) = self.maps.get(first) else {
            return After::Unknown;
        };
        if databases
            .iter()
            .any(|known| known.oid == database && !known.read)
        {
            return After::Unknown;
        }
        let states = self
            .by_oid
            .get(&(database, oid))
            .map_or(&[][..], Vec::as_slice);
        let states = &states[..states.partition_point(|(noted, _)| noted <= as_of)];
        match states.last() {
            Some((_, Some(place))) => self
                .relations
                .get(*place)
                .map_or(After::Unknown, After::There),
            Some((_, None)) | None => After::Gone,
        }
    }

    /// What a database is called at a position.
    #[must_use]
    pub fn database_at(&self, oid: u32, lsn: Lsn) -> Option<&str> {
        let before = self.maps.partition_point(|(as_of, _)| *as_of <= lsn);
        let (earlier, later) = self.maps.split_at_checked(before)?;
        earlier
            .iter()
            .rev()
            .chain(later)
            .find_map(|(_, databases)| databases.iter().find(|database| database.oid == oid))
            .map(|database| database.name.as_str())
    }
}

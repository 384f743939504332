//! What transactions took away or changed, table by table, in names.
//!
//! Kinds are decided here, from facts and names together: files that go away and none that come is a drop; a table
//! that has a new file afterwards was truncated if nothing was written to that, and otherwise rewritten. Indexes and
//! toast belong to their table; what happens inside the system catalogs is no moment. A name that cannot be known is
//! not guessed: there is a moment without one, with the numbers of the files.

mod before;
mod files;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use pg_format::wal::RelationFile;
use pg_format::{Lsn, PgTimestamp};

use crate::model::{SegmentIndex, TransactionEvent, WalEvent};
use crate::names::{Names, Relation, RelationKind};
use before::EndsBefore;

pub use before::Before;

/// Files with numbers below this were made by `initdb`.
const FIRST_NORMAL_NUMBER: u32 = 16_384;
/// Files of a moment without a name that are told one by one.
const FILES_TOLD: usize = 5;

/// Something that a transaction did to a table or a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The commit's time, or the restore point's.
    pub time: PgTimestamp,
    /// Where the commit record, or the restore point, begins.
    pub lsn: Lsn,
    /// The transaction; zero for a restore point, or if not known.
    pub xid: u32,
    /// What it did.
    pub kind: MomentKind,
    /// Oid of the database, as far as known.
    pub database: Option<u32>,
    /// Its name at the time, as far as known.
    pub database_name: Option<String>,
    /// `schema.table`, or the database's name, or that of the restore point; `None` if it cannot be known.
    pub relation: Option<String>,
    /// What kind of relation that is; `None` if it is none, or cannot be known.
    pub object: Option<RelationKind>,
    /// Rows deleted or updated, where they are counted.
    pub rows: Option<u64>,
    /// To come out before it, nothing from here on may be replayed: the commit record, or the record that removes a
    /// database's files before the commit.
    pub before: Lsn,
    /// Where to stop for that; `None` if only the WAL can tell: ask a [`Search`](crate::Search) for
    /// [`Target::Before`](crate::Target::Before).
    pub restore: Option<Before>,
    /// What else is known, in words.
    pub detail: Option<String>,
}

impl Moment {
    /// Whether a table, its rows or a database were taken away as a whole. An index that is dropped takes no data with
    /// it, and `REINDEX CONCURRENTLY` drops one too.
    #[must_use]
    pub fn took_data(&self) -> bool {
        match self.kind {
            MomentKind::Drop => self.object != Some(RelationKind::Index),
            MomentKind::Truncate | MomentKind::DropDatabase => true,
            _ => false,
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MomentKind {
    /// A table, materialized view, index or sequence was dropped.
    Drop,
    /// A table was emptied by `TRUNCATE`.
    Truncate,
    /// A table was written anew.
    Rewrite,
    /// A database was dropped.
    DropDatabase,
    /// Many rows of a table were deleted.
    Delete,
    /// Many rows of a table were updated.
    Update,
    /// A named restore point.
    RestorePoint,
}

/// Everything that the index tells, in the WAL's order. `index` is in that order too; what follows a hole in it is
/// not connected with what was before.
#[must_use]
pub fn moments(index: &[SegmentIndex], names: &Names) -> Vec<Moment> {
    let dropped = dropped_files(index);
    let mut ends = EndsBefore::default();
    let mut moments = Vec::new();
    for segment in index {
        for event in &segment.events {
            ends.pass_until(segment, event.lsn());
            match event {
                WalEvent::Transaction(event) => {
                    let looked = Looked {
                        event,
                        names,
                        dropped: &dropped,
                    };
                    for mut moment in looked.moments() {
                        moment.restore = ends.before(event, moment.before);
                        moments.push(moment);
                    }
                }
                WalEvent::RestorePoint {
                    lsn, time, name, ..
                } => moments.push(restore_point(*lsn, *time, name)),
                _ => {}
            }
        }
        ends.pass_segment(segment);
    }
    moments
}

fn restore_point(lsn: Lsn, time: PgTimestamp, name: &str) -> Moment {
    Moment {
        time,
        lsn,
        xid: 0,
        kind: MomentKind::RestorePoint,
        database: None,
        database_name: None,
        relation: Some(name.to_owned()),
        object: None,
        rows: None,
        before: lsn,
        restore: None,
        detail: None,
    }
}

/// Where files went away last.
fn dropped_files(index: &[SegmentIndex]) -> HashMap<RelationFile, Lsn> {
    let events = index.iter().flat_map(|segment| &segment.events);
    let mut dropped = HashMap::new();
    for event in events {
        if let WalEvent::Transaction(event) = event {
            dropped.extend(event.dropped.iter().map(|file| (*file, event.commit.lsn)));
        }
    }
    dropped
}

/// A transaction and all that is needed to say what it did.
struct Looked<'a> {
    event: &'a TransactionEvent,
    names: &'a Names,
    dropped: &'a HashMap<RelationFile, Lsn>,
}

impl Looked<'_> {
    fn moments(&self) -> Vec<Moment> {
        let mut moments = self.dropped_databases();
        let mut tables = HashSet::new();
        self.file_moments(&mut moments, &mut tables);
        self.row_moments(&mut moments, &tables);
        moments
    }

    fn moment(&self, kind: MomentKind, database: Option<u32>, relation: Option<String>) -> Moment {
        let commit = &self.event.commit;
        let database_name = database.and_then(|oid| self.names.database_at(oid, commit.lsn));
        Moment {
            time: commit.time,
            lsn: commit.lsn,
            xid: commit.xid,
            kind,
            database,
            database_name: database_name.map(str::to_owned),
            relation,
            object: None,
            rows: None,
            before: commit.lsn,
            restore: None,
            detail: None,
        }
    }

    fn dropped_databases(&self) -> Vec<Moment> {
        let dropped = self.event.dropped_databases.iter().map(|dropped| {
            let name = self.names.database_at(dropped.database, dropped.lsn);
            let name = name.map(str::to_owned);
            let unnamed = name.is_none();
            let of = Some(dropped.database);
            let mut moment = self.moment(MomentKind::DropDatabase, of, name.clone());
            moment.database_name = name;
            moment.before = dropped.lsn;
            moment.detail = unnamed.then(|| format!("the database with oid {}", dropped.database));
            moment
        });
        dropped.collect()
    }

    /// A moment of a relation with a name.
    fn named(&self, kind: MomentKind, relation: &Relation) -> Moment {
        let mut moment = self.moment(kind, Some(relation.database), Some(text(relation)));
        moment.object = Some(relation.kind);
        moment
    }
}

/// The name of a relation, whatever databases there are beside its own.
fn text(relation: &Relation) -> String {
    let Relation { schema, name, .. } = relation;
    format!("{schema}.{name}")
}

/// Files in words.
fn files_in_words(files: &[RelationFile], more: u32) -> String {
    let told: Vec<String> = files
        .iter()
        .take(FILES_TOLD)
        .map(|file| format!("{}/{}/{}", file.tablespace, file.database, file.number))
        .collect();
    let more = files.len().saturating_sub(told.len()) as u64 + u64::from(more);
    let noun = if told.len() == 1 && more == 0 {
        "file"
    } else {
        "files"
    };
    let and_more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{noun} {}{and_more} (tablespace/database/number)",
        told.join(", ")
    )
}

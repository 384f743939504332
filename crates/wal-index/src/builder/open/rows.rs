//! Rows that a transaction changed, table by table.

use pg_format::wal::RelationFile;

use super::NumberMap;
use crate::model::RowCounts;

/// Tables of a transaction whose rows are counted.
const TABLES: usize = 1000;
/// So many are looked through one by one.
const FEW: usize = 8;

/// Counts by file, quick for the file of the record before and for a few files.
#[derive(Clone, Debug, Default)]
pub(super) struct TableRows {
    counts: Vec<RowCounts>,
    last: usize,
    /// Where in `counts`, once they are more than a few.
    places: NumberMap<RelationFile, usize>,
}

impl TableRows {
    pub(super) fn new(counts: Vec<RowCounts>) -> Self {
        let mut rows = TableRows {
            counts,
            ..TableRows::default()
        };
        rows.counts.truncate(TABLES);
        if rows.counts.len() > FEW {
            rows.find_places();
        }
        rows
    }

    /// The counts of a table; `None` if there are too many tables.
    pub(super) fn of(&mut self, file: RelationFile) -> Option<&mut RowCounts> {
        let known = self.place(file);
        let place = known.unwrap_or(self.counts.len());
        if known.is_none() {
            if place >= TABLES {
                return None;
            }
            self.counts.push(RowCounts {
                file,
                deleted: 0,
                updated: 0,
            });
            match place {
                FEW => self.find_places(),
                place if place > FEW => {
                    let _ = self.places.insert(file, place);
                }
                _ => {}
            }
        }
        self.last = place;
        self.counts.get_mut(place)
    }

    fn place(&self, file: RelationFile) -> Option<usize> {
        let last = self.counts.get(self.last);
        if last.is_some_and(|rows| rows.file == file) {
            return Some(self.last);
        }
        if self.counts.len() <= FEW {
            return self.counts.iter().position(|rows| rows.file == file);
        }
        self.places.get(&file).copied()
    }

    fn find_places(&mut self) {
        self.places = self
            .counts
            .iter()
            .enumerate()
            .map(|(place, rows)| (rows.file, place))
            .collect();
    }

    /// Rows of all tables.
    pub(super) fn total(&self) -> u64 {
        self.counts.iter().fold(0, |total, rows| {
            total
                .saturating_add(rows.deleted)
                .saturating_add(rows.updated)
        })
    }

    /// The lowest file first.
    pub(super) fn into_counts(mut self) -> Vec<RowCounts> {
        self.counts.sort_unstable_by_key(|rows| {
            let file = rows.file;
            (file.tablespace, file.database, file.number)
        });
        self.counts
    }
}

//! Tables of which many rows were changed.

use std::collections::HashSet;

use super::{FIRST_NORMAL_NUMBER, Looked, Moment, MomentKind, files_in_words, text};
use crate::model::RowCounts;
use crate::names::RelationKind;

impl Looked<'_> {
    /// `tables` have a moment of this transaction already: database and oid.
    pub(super) fn row_moments(&self, moments: &mut Vec<Moment>, tables: &HashSet<(u32, u32)>) {
        let lsn = self.event.commit.lsn;
        for rows in &self.event.rows {
            let moment = match self.names.file_at(rows.file, lsn) {
                Some(table) => {
                    let known = tables.contains(&(table.database, table.oid));
                    if known || table.is_system() || table.kind == RelationKind::Toast {
                        continue;
                    }
                    let text = text(table);
                    let mut moment = self.rows_of(rows, Some(table.database), Some(text));
                    moment.object = Some(table.kind);
                    moment
                }
                None if rows.file.number < FIRST_NORMAL_NUMBER => continue,
                None => {
                    let mut moment = self.rows_of(rows, Some(rows.file.database), None);
                    let file = files_in_words(&[rows.file], 0);
                    moment.detail = Some(match moment.detail {
                        Some(detail) => format!("{file}; {detail}"),
                        None => file,
                    });
                    moment
                }
            };
            moments.push(moment);
        }
    }

    fn rows_of(&self, rows: &RowCounts, database: Option<u32>, relation: Option<String>) -> Moment {
        let deleted = rows.deleted >= rows.updated;
        let (kind, count, other) = if deleted {
            let other = (rows.updated > 0).then(|| format!("{} rows updated too", rows.updated));
            (MomentKind::Delete, rows.deleted, other)
        } else {
            let other = (rows.deleted > 0).then(|| format!("{} rows deleted too", rows.deleted));
            (MomentKind::Update, rows.updated, other)
        };
        let mut moment = self.moment(kind, database, relation);
        moment.rows = Some(count);
        moment.detail = other;
        moment
    }
}

//! Reading rows, as the questions need them.

use events::{BranchName, InstanceName, RestoreId, Timestamp};
use pg_format::{Lsn, TimelineId};
use sqlx::any::AnyRow;

use super::cache::bind;
use super::column::{Column, SqlValue};
use super::rows::{
    ArchiveRow, BranchRow, RestoreRow, Row, ScheduleRow, SlotRiskRow, WalFileRow, WalGapRow,
    WalPruneRow, WindowRow,
};
use super::{Result, Store, cannot};

mod backups;
mod control;
mod gauges;
mod instances;

pub(crate) use backups::BackupFilter;
pub(crate) use control::MOST_POINTS;
pub(crate) use gauges::{Amount, Gauges, LastBackup};

/// The most rows that one answer has.
const LONGEST_PAGE: u32 = 1000;
const USUAL_PAGE: u32 = 100;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    limit: u32,
    offset: u32,
}

impl Page {
    pub(crate) fn new(limit: Option<u32>, offset: u32) -> Self {
        Page {
            limit: limit.unwrap_or(USUAL_PAGE).min(LONGEST_PAGE),
            offset,
        }
    }

    /// So many rows it has at most.
    pub(crate) fn limit(self) -> usize {
        self.limit as usize
    }

    fn sql(self) -> String {
        format!(" LIMIT {} OFFSET {}", self.limit, self.offset)
    }
}

/// Conditions that must all hold.
#[derive(Default)]
struct Filter {
    /// Values that the statement has before these.
    before: usize,
    conditions: Vec<String>,
    values: Vec<SqlValue>,
}

impl Filter {
    fn after(before: usize) -> Self {
        Filter {
            before,
            ..Filter::default()
        }
    }

    fn equal<T: Column>(self, column: &str, value: Option<&T>) -> Self {
        self.compared(column, "=", value)
    }

    fn compared<T: Column>(mut self, column: &str, with: &str, value: Option<&T>) -> Self {
        if let Some(value) = value {
            self.values.push(value.to_sql());
            let place = self.before + self.values.len();
            self.conditions.push(format!("{column} {with} ${place}"));
        }
        self
    }

    /// Of a pattern in which `\\` takes a sign its meaning.
    fn like(self, column: &str, pattern: Option<&String>) -> Self {
        let mut filter = self.compared(column, "LIKE", pattern);
        if let (Some(_), Some(condition)) = (pattern, filter.conditions.last_mut()) {
            condition.push_str(r" ESCAPE '\'");
        }
        filter
    }

    /// Places for these values, as a row of them.
    fn places(&mut self, values: &[SqlValue]) -> String {
        let first = self.before + self.values.len() + 1;
        self.values.extend_from_slice(values);
        let places: Vec<String> = (first..first + values.len())
            .map(|place| format!("${place}"))
            .collect();
        format!("({})", places.join(", "))
    }

    /// A condition without a value of its own.
    fn and(mut self, condition: &str) -> Self {
        self.conditions.push(condition.to_owned());
        self
    }

    fn of_branch(instance: &InstanceName, branch: &BranchName) -> Self {
        Filter::default()
            .equal("instance", Some(instance))
            .equal("branch", Some(branch))
    }

    fn sql(&self) -> String {
        if self.conditions.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", self.conditions.join(" AND "))
    }
}

/// Missing WAL between two segments of a timeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hole {
    pub(crate) timeline: TimelineId,
    pub(crate) from_lsn: Lsn,
    pub(crate) to_lsn: Lsn,
}

/// What the segments of a branch add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WalTotals {
    pub(crate) stored_bytes: u64,
    pub(crate) segments: u64,
}

impl Store {
    async fn rows(&self, sql: String, values: Vec<SqlValue>) -> Result<Vec<AnyRow>> {
        let rows = bind(sql, values.into_iter()).fetch_all(&self.reader).await;
        rows.map_err(cannot("answer from its rows"))
    }

    async fn select<R: Row>(&self, filter: Filter, rest: &str) -> Result<Vec<R>> {
        let columns = R::COLUMNS.join(", ");
        let sql = format!("SELECT {columns} FROM {}{} {rest}", R::TABLE, filter.sql());
        let rows = self.rows(sql, filter.values).await?;
        let rows: sqlx::Result<Vec<R>> = rows.iter().map(R::read).collect();
        rows.map_err(cannot("answer from its rows"))
    }

    /// Every row of a table, by key.
    #[cfg(test)]
    pub(crate) async fn all<R: Row>(&self) -> Result<Vec<R>> {
        let order = format!("ORDER BY {}", R::COLUMNS[..R::KEYS].join(", "));
        self.select(Filter::default(), &order).await
    }

    /// Branches of an instance, by name.
    pub(crate) async fn branches(
        &self,
        instance: &InstanceName,
        branch: Option<&BranchName>,
    ) -> Result<Vec<BranchRow>> {
        let filter = Filter::default()
            .equal("instance", Some(instance))
            .equal("branch", branch);
        let mut rows: Vec<BranchRow> = self.select(filter, "").await?;
        rows.sort_by(|a, b| a.branch.cmp(&b.branch));
        Ok(rows)
    }

    /// Schedules of an instance, by name.
    pub(crate) async fn schedules(&self, instance: &InstanceName) -> Result<Vec<ScheduleRow>> {
        let filter = Filter::default().equal("instance", Some(instance));
        let mut rows: Vec<ScheduleRow> = self.select(filter, "").await?;
        rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(rows)
    }

    /// Restores, newest first.
    pub(crate) async fn restores(
        &self,
        instance: Option<&InstanceName>,
        page: Page,
    ) -> Result<Vec<RestoreRow>> {
        let filter = Filter::default().equal("instance", instance);
        let order = "ORDER BY COALESCE(requested_at, started_at, completed_at, 0) DESC, id DESC";
        self.select(filter, &format!("{order}{}", page.sql())).await
    }

    /// A restore by its id.
    pub(crate) async fn restore(&self, id: RestoreId) -> Result<Option<RestoreRow>> {
        let filter = Filter::default().equal("id", Some(&id));
        Ok(self.select(filter, "LIMIT 1").await?.pop())
    }

    /// What a branch's WAL adds up to.
    pub(crate) async fn wal_totals(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<WalTotals> {
        let filter = Filter::of_branch(instance, branch);
        let row: Option<ArchiveRow> = self.select(filter, "").await?.pop();
        Ok(row.map_or_else(WalTotals::default, |row| WalTotals {
            stored_bytes: row.stored_bytes,
            segments: row.segments,
        }))
    }

    /// Stretches of a branch's WAL that were let go.
    pub(crate) async fn wal_prunes(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Vec<WalPruneRow>> {
        let filter = Filter::of_branch(instance, branch);
        self.select(filter, "ORDER BY timeline, from_lsn").await
    }

    /// A branch's oldest complete segment, and the newest one of its newest timeline.
    pub(crate) async fn wal_ends(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<(WalFileRow, WalFileRow)>> {
        let filter = || {
            Filter::of_branch(instance, branch)
                .equal("kind", Some(&events::event::WalObjectKind::Segment))
        };
        let oldest = "ORDER BY timeline, start_lsn LIMIT 1";
        let newest = "ORDER BY timeline DESC, start_lsn DESC LIMIT 1";
        let first: Vec<WalFileRow> = self.select(filter(), oldest).await?;
        let last: Vec<WalFileRow> = self.select(filter(), newest).await?;
        Ok(first.into_iter().next().zip(last.into_iter().next()))
    }

    /// Places between two complete segments of one timeline where segments are missing.
    pub(crate) async fn wal_holes(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Vec<Hole>> {
        let filter = Filter::of_branch(instance, branch)
            .equal("kind", Some(&events::event::WalObjectKind::Segment));
        let sql = format!(
            "SELECT timeline, from_lsn, to_lsn FROM (\
             SELECT timeline, start_lsn AS to_lsn, \
             LAG(end_lsn) OVER (PARTITION BY timeline ORDER BY start_lsn) AS from_lsn \
             FROM wal_files{}) AS pairs \
             WHERE from_lsn IS NOT NULL AND from_lsn < to_lsn ORDER BY timeline, from_lsn",
            filter.sql()
        );
        let rows = self.rows(sql, filter.values).await?;
        let hole = |row: &AnyRow| {
            Ok(Hole {
                timeline: Column::read(row, "timeline")?,
                from_lsn: Column::read(row, "from_lsn")?,
                to_lsn: Column::read(row, "to_lsn")?,
            })
        };
        let holes: sqlx::Result<Vec<Hole>> = rows.iter().map(hole).collect();
        holes.map_err(cannot("answer from its rows"))
    }

    /// What of a branch can be restored, if that was announced.
    pub(crate) async fn window(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<WindowRow>> {
        let filter = Filter::of_branch(instance, branch);
        Ok(self.select(filter, "").await?.pop())
    }

    /// What a branch's slot means for its source's disk, if that was announced since `since`.
    pub(crate) async fn slot_risk(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        since: Timestamp,
    ) -> Result<Option<SlotRiskRow>> {
        let filter = Filter::of_branch(instance, branch);
        let row: Option<SlotRiskRow> = self.select(filter, "").await?.pop();
        Ok(row.filter(|row| row.changed_at >= since))
    }

    /// Gaps of a branch that the archiver announced.
    pub(crate) async fn wal_gaps(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Vec<WalGapRow>> {
        let filter = Filter::of_branch(instance, branch);
        self.select(filter, "ORDER BY timeline, from_lsn").await
    }
}

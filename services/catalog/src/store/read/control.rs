//! Drills, alerts and series.

use events::{BackupId, BranchName, DrillId, InstanceName, Timestamp};
use sqlx::any::AnyRow;

use super::{Filter, Page};
use crate::store::column::Column;
use crate::store::rows::{AlertRow, DrillRow, WalDayRow};
use crate::store::{Result, Store, cannot};

/// The most backups that a series has.
pub(crate) const MOST_POINTS: usize = 1000;
/// Longer than any backup waits and takes: thirty days, in microseconds.
const LONGEST_MICROS: i64 = 30 * 86_400_000_000;

/// What a series says of a backup.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BackupMeasure {
    pub(crate) id: BackupId,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) backed_up_at: Timestamp,
    pub(crate) size_bytes: u64,
    pub(crate) logical_bytes: u64,
}

impl Store {
    /// Drills, newest first.
    pub(crate) async fn drills(
        &self,
        instance: Option<&InstanceName>,
        page: Page,
    ) -> Result<Vec<DrillRow>> {
        let filter = Filter::default().equal("instance", instance);
        let order = "ORDER BY listed_at DESC, id DESC";
        self.select(filter, &format!("{order}{}", page.sql())).await
    }

    /// A drill by its id.
    pub(crate) async fn drill(&self, id: DrillId) -> Result<Option<DrillRow>> {
        let filter = Filter::default().equal("id", Some(&id));
        Ok(self.select(filter, "LIMIT 1").await?.pop())
    }

    /// Alerts: those that stand, newest first, then those that are over.
    pub(crate) async fn alerts(
        &self,
        instance: Option<&InstanceName>,
        resolved: bool,
        page: Page,
    ) -> Result<Vec<AlertRow>> {
        let of_instance = || Filter::default().equal("instance", instance);
        let rest = format!("ORDER BY since DESC, branch, rule{}", page.sql());
        let standing = of_instance().and("resolved_at IS NULL");
        let mut rows: Vec<AlertRow> = self.select(standing, &rest).await?;
        if resolved {
            let left = page.limit.saturating_sub(rows.len() as u32);
            let rest = format!("ORDER BY resolved_at DESC, since DESC, branch, rule LIMIT {left}");
            let over = of_instance().and("resolved_at IS NOT NULL");
            rows.extend(self.select::<AlertRow>(over, &rest).await?);
        }
        Ok(rows)
    }

    /// Completed backups of a branch that ended in this time, also those that are gone since; oldest first. When there
    /// are more than an answer has, the newest and one more, by which that is seen.
    pub(crate) async fn backup_measures(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Vec<BackupMeasure>> {
        let mut measures = Vec::new();
        for hidden in ["hidden = 0", "hidden = 1"] {
            measures.extend(
                self.measures_of(instance, branch, (from, to), hidden)
                    .await?,
            );
        }
        measures.sort_by_key(|measure| (measure.backed_up_at, measure.id));
        let surplus = measures.len().saturating_sub(MOST_POINTS + 1);
        Ok(measures.split_off(surplus))
    }

    /// Along the index: a backup ends after it was asked for, and not later than the longest that one waits and takes.
    async fn measures_of(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        (from, to): (Timestamp, Timestamp),
        hidden: &str,
    ) -> Result<Vec<BackupMeasure>> {
        let earliest = from.timestamp_micros().saturating_sub(LONGEST_MICROS);
        let filter = Filter::of_branch(instance, branch)
            .and(hidden)
            .compared(
                "listed_at",
                ">=",
                Timestamp::from_timestamp_micros(earliest).as_ref(),
            )
            .compared("listed_at", "<", Some(&to))
            .compared("backed_up_at", ">=", Some(&from))
            .compared("backed_up_at", "<", Some(&to))
            .and("size_bytes IS NOT NULL");
        let sql = format!(
            "SELECT id, started_at, backed_up_at, size_bytes, logical_bytes FROM backups{} \
             ORDER BY listed_at DESC, id DESC LIMIT {}",
            filter.sql(),
            MOST_POINTS + 1
        );
        let rows = self.rows(sql, filter.values).await?;
        let measure = |row: &AnyRow| {
            Ok(BackupMeasure {
                id: Column::read(row, "id")?,
                started_at: Column::read(row, "started_at")?,
                backed_up_at: Column::read(row, "backed_up_at")?,
                size_bytes: Column::read(row, "size_bytes")?,
                logical_bytes: Column::read(row, "logical_bytes")?,
            })
        };
        let measures: sqlx::Result<Vec<BackupMeasure>> = rows.iter().map(measure).collect();
        measures.map_err(cannot("answer from its rows"))
    }

    /// What WAL came and went of a branch on this day and after, by day.
    pub(crate) async fn wal_days(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        from: Timestamp,
    ) -> Result<Vec<WalDayRow>> {
        let filter = Filter::of_branch(instance, branch).compared("day", ">=", Some(&from));
        self.select(filter, "ORDER BY day").await
    }
}

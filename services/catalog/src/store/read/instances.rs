//! Instances with what they add up to: nothing of it is added up when somebody asks.

use events::InstanceName;
use events::query::InstanceView;
use sqlx::any::AnyRow;

use super::{Filter, Page};
use crate::store::column::Column;
use crate::store::{Backend, Result, Store, cannot};

impl Store {
    /// An instance by its name.
    pub(crate) async fn instance(&self, instance: &InstanceName) -> Result<Option<InstanceView>> {
        let filter = Filter::default().equal("instance", Some(instance));
        Ok(self.instance_views(filter, "").await?.pop())
    }

    /// Instances by name, those after `after`.
    pub(crate) async fn instances(
        &self,
        after: Option<&InstanceName>,
        page: Page,
    ) -> Result<Vec<InstanceView>> {
        // The databases' own orders differ, and a page must be the same in both.
        let name = match self.backend() {
            Backend::Sqlite => "instance",
            Backend::Postgres => "instance COLLATE \"C\"",
        };
        let filter = Filter::default().compared(name, ">", after);
        let rest = format!(" ORDER BY {name}{}", page.sql());
        self.instance_views(filter, &rest).await
    }

    async fn instance_views(&self, filter: Filter, rest: &str) -> Result<Vec<InstanceView>> {
        let totals = "FROM backup_totals t WHERE t.instance = i.instance";
        // Of this instance, not of one of the same name before; of main, of which the drill of a branch says nothing.
        let proven = "FROM drills d WHERE d.instance = i.instance AND d.branch = 'main' AND d.status = 'completed' \
                      AND d.ended_at >= i.created_at ORDER BY d.ended_at DESC LIMIT 1";
        let sql = format!(
            "SELECT i.instance, i.created_at, i.pool, \
             (SELECT d.ended_at {proven}) AS proven_at, \
             (SELECT d.target {proven}) AS proven_target, \
             (SELECT d.restore_ms {proven}) AS proven_in_ms, \
             (SELECT COUNT(*) FROM alerts a WHERE a.instance = i.instance AND a.resolved_at IS NULL) AS alerts, \
             (SELECT COUNT(*) FROM branches r WHERE r.instance = i.instance) AS branches, \
             (SELECT CAST(COALESCE(SUM(t.backups), 0) AS BIGINT) {totals}) AS backups, \
             (SELECT CAST(COALESCE(SUM(t.stored_bytes), 0) AS BIGINT) {totals}) AS stored_bytes, \
             (SELECT MAX(b.backed_up_at) FROM backups b \
              WHERE b.instance = i.instance AND b.status = 'completed') AS last_backup_at \
             FROM (SELECT instance, created_at, pool FROM instances{}{rest}) AS i",
            filter.sql()
        );
        let rows = self.rows(sql, filter.values).await?;
        let views: sqlx::Result<Vec<InstanceView>> = rows.iter().map(instance_view).collect();
        let mut views = views.map_err(cannot("answer from its rows"))?;
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }
}

fn instance_view(row: &AnyRow) -> sqlx::Result<InstanceView> {
    Ok(InstanceView {
        name: Column::read(row, "instance")?,
        created_at: Column::read(row, "created_at")?,
        branches: Column::read(row, "branches")?,
        backups: Column::read(row, "backups")?,
        stored_bytes: Column::read(row, "stored_bytes")?,
        last_backup_at: Column::read(row, "last_backup_at")?,
        pool: Column::read(row, "pool")?,
        proven_at: Column::read(row, "proven_at")?,
        proven_target: Column::read(row, "proven_target")?,
        proven_in_ms: Column::read(row, "proven_in_ms")?,
        alerts: Column::read(row, "alerts")?,
    })
}

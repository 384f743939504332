//! Changing backups, and what they add up to.
//!
//! What must stay true: the totals of a branch are what counting and adding up its completed backups makes, and there
//! is no row of nothing. They change with a backup, in its transaction.

use events::{BackupId, BranchName, InstanceName};

use super::Writing;
use crate::projection::backup::{BackupChange, unknown};
use crate::store::Result;
use crate::store::column::Column;
use crate::store::rows::{BackupRow, BackupTotalsRow, Row};

impl Writing {
    pub(super) async fn change_backup(
        &mut self,
        instance: InstanceName,
        branch: BranchName,
        id: BackupId,
        change: BackupChange,
    ) -> Result<()> {
        let key = [instance.to_sql(), branch.to_sql(), id.to_sql()];
        let known: Option<BackupRow> = self.get(&key).await?;
        let before = known.as_ref().and_then(BackupRow::counted_bytes);
        let row = change.apply(known.unwrap_or_else(|| unknown(instance, branch, id)));
        let after = row.counted_bytes();
        if before != after {
            self.count(&row, before, after).await?;
        }
        self.put(row)
    }

    async fn count(
        &mut self,
        backup: &BackupRow,
        before: Option<u64>,
        after: Option<u64>,
    ) -> Result<()> {
        let key = [backup.instance.to_sql(), backup.branch.to_sql()];
        let totals: Option<BackupTotalsRow> = self.get(&key).await?;
        let mut totals = totals.unwrap_or_else(|| BackupTotalsRow {
            instance: backup.instance.clone(),
            branch: backup.branch.clone(),
            backups: 0,
            stored_bytes: 0,
        });
        if let Some(bytes) = before {
            totals.backups = totals.backups.saturating_sub(1);
            totals.stored_bytes = totals.stored_bytes.saturating_sub(bytes);
        }
        if let Some(bytes) = after {
            totals.backups += 1;
            totals.stored_bytes += bytes;
        }
        match totals.backups {
            0 => self.remove::<BackupTotalsRow>(totals.key()),
            _ => self.put(totals)?,
        }
        Ok(())
    }
}

//! Which rows changes will ask for, so that they are read many at a time. What is missing here is only slower.

use super::Writing;
use crate::projection::Change;
use crate::store::Result;
use crate::store::column::{Column, SqlValue};
use crate::store::rows::{Row, WalDayRow};

/// Keys of rows, by table.
#[derive(Default)]
struct Wanted {
    instances: Vec<Vec<SqlValue>>,
    branches: Vec<Vec<SqlValue>>,
    backups: Vec<Vec<SqlValue>>,
    backup_totals: Vec<Vec<SqlValue>>,
    restores: Vec<Vec<SqlValue>>,
    drills: Vec<Vec<SqlValue>>,
    sweeps: Vec<Vec<SqlValue>>,
    alerts: Vec<Vec<SqlValue>>,
    wal_files: Vec<Vec<SqlValue>>,
    wal_days: Vec<Vec<SqlValue>>,
    /// Whose purges are asked for.
    told_of_wal: Vec<Vec<SqlValue>>,
    /// Whose archives are asked for.
    archived: Vec<Vec<SqlValue>>,
}

impl Wanted {
    fn add(&mut self, change: &Change) {
        match change {
            Change::PutInstance(row) => self.instances.push(row.key()),
            Change::SetInstance(instance, ..) => self.instances.push(vec![instance.to_sql()]),
            Change::SetBranchState(instance, branch, _) => {
                self.branches.push(vec![instance.to_sql(), branch.to_sql()]);
            }
            Change::Backup(instance, branch, id, change) => {
                let branch = [instance.to_sql(), branch.to_sql()];
                if change.may_count() {
                    self.backup_totals.push(branch.to_vec());
                }
                self.backups.push([&branch[..], &[id.to_sql()]].concat());
            }
            Change::Restore(instance, branch, id, _) => {
                let key = vec![instance.to_sql(), branch.to_sql(), id.to_sql()];
                self.restores.push(key);
            }
            Change::Drill(instance, branch, id, _) => {
                let key = vec![instance.to_sql(), branch.to_sql(), id.to_sql()];
                self.drills.push(key);
            }
            Change::Sweep(row) => self.sweeps.push(row.key()),
            Change::Alert(row) => self.alerts.push(row.key()),
            Change::PutFile(row) => {
                let branch = vec![row.instance.to_sql(), row.branch.to_sql()];
                self.told_of_wal.push(branch.clone());
                self.archived.push(branch);
                self.wal_days.push(WalDayRow::of(row).key());
                self.wal_files.push(row.key());
            }
            Change::PutGap(row) => {
                let branch = vec![row.instance.to_sql(), row.branch.to_sql()];
                self.told_of_wal.push(branch);
            }
            Change::PutSlotRisk(row) => {
                let branch = vec![row.instance.to_sql(), row.branch.to_sql()];
                self.told_of_wal.push(branch);
            }
            _ => {}
        }
    }
}

impl Writing {
    /// Reads what these changes will ask for.
    pub(super) async fn foresee(&mut self, changes: impl Iterator<Item = &Change>) -> Result<()> {
        let mut wanted = Wanted::default();
        changes.for_each(|change| wanted.add(change));
        let (tables, database) = (&mut self.tables, &mut self.database);
        database
            .load(&mut tables.instances, wanted.instances)
            .await?;
        database.load(&mut tables.branches, wanted.branches).await?;
        database.load(&mut tables.backups, wanted.backups).await?;
        database
            .load(&mut tables.backup_totals, wanted.backup_totals)
            .await?;
        database.load(&mut tables.restores, wanted.restores).await?;
        database.load(&mut tables.drills, wanted.drills).await?;
        database.load(&mut tables.sweeps, wanted.sweeps).await?;
        database.load(&mut tables.alerts, wanted.alerts).await?;
        database
            .load(&mut tables.purges, wanted.told_of_wal)
            .await?;
        database.load(&mut tables.archives, wanted.archived).await?;
        database.load(&mut tables.wal_days, wanted.wal_days).await?;
        database.load(&mut tables.wal_files, wanted.wal_files).await
    }
}

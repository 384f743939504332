//! What monitoring is shown of every branch: read as a whole, now and then, from rows that are kept added up.

use events::event::{AlertRule, AlertSeverity};
use events::query::BackupStatus;
use events::{BranchName, InstanceName, Timestamp};

use crate::store::column::Column;
use crate::store::{Result, Store, cannot};

/// The newest backup of a branch that is not known to be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastBackup {
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) backed_up_at: Timestamp,
    pub(crate) stored_bytes: Option<u64>,
    pub(crate) logical_bytes: Option<u64>,
}

/// What a branch has in the repository, of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
    pub(crate) count: u64,
    pub(crate) stored_bytes: u64,
}

/// Backups of a branch that wait, run or have failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unusual {
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
    pub(crate) status: BackupStatus,
    pub(crate) count: u64,
}

/// The last drill that came out well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) instance: InstanceName,
    pub(crate) ended_at: Timestamp,
    pub(crate) restore_ms: Option<u64>,
}

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
    pub(crate) rule: AlertRule,
    pub(crate) severity: AlertSeverity,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) last_backups: Vec<LastBackup>,
    pub(crate) backups: Vec<Amount>,
    pub(crate) wal: Vec<Amount>,
    pub(crate) unusual: Vec<Unusual>,
    pub(crate) proofs: Vec<Proof>,
    pub(crate) alerts: Vec<Standing>,
}

impl Store {
    /// Reads them. Each part by itself: they need not be of one moment.
    pub(crate) async fn gauges(&self) -> Result<Gauges> {
        Ok(Gauges {
            last_backups: self.last_backups().await?,
            backups: self.amounts("backup_totals", "backups").await?,
            wal: self.amounts("archives", "segments").await?,
            unusual: self.unusual().await?,
            proofs: self.proofs().await?,
            alerts: self.standing().await?,
        })
    }

    async fn last_backups(&self) -> Result<Vec<LastBackup>> {
        // Along the index of completed ones, from its end: a step for each branch.
        let sql = "SELECT b.instance, b.branch, b.started_at, b.backed_up_at, b.size_bytes, b.logical_bytes \
                   FROM branches r JOIN backups b ON b.instance = r.instance AND b.branch = r.branch AND b.id = \
                   (SELECT x.id FROM backups x WHERE x.instance = r.instance AND x.branch = r.branch \
                    AND x.status = 'completed' AND (x.sound IS NULL OR x.sound <> 0) \
                    ORDER BY x.backed_up_at DESC LIMIT 1) \
                   WHERE b.backed_up_at IS NOT NULL";
        let rows = self.rows(sql.to_owned(), Vec::new()).await?;
        let read = rows.iter().map(|row| {
            Ok(LastBackup {
                instance: Column::read(row, "instance")?,
                branch: Column::read(row, "branch")?,
                started_at: Column::read(row, "started_at")?,
                backed_up_at: Column::read(row, "backed_up_at")?,
                stored_bytes: Column::read(row, "size_bytes")?,
                logical_bytes: Column::read(row, "logical_bytes")?,
            })
        });
        collected(read)
    }

    async fn amounts(&self, table: &str, count: &str) -> Result<Vec<Amount>> {
        let sql = format!("SELECT instance, branch, {count} AS count, stored_bytes FROM {table}");
        let rows = self.rows(sql, Vec::new()).await?;
        let read = rows.iter().map(|row| {
            Ok(Amount {
                instance: Column::read(row, "instance")?,
                branch: Column::read(row, "branch")?,
                count: Column::read(row, "count")?,
                stored_bytes: Column::read(row, "stored_bytes")?,
            })
        });
        collected(read)
    }

    async fn unusual(&self) -> Result<Vec<Unusual>> {
        let sql = "SELECT instance, branch, status, COUNT(*) AS count FROM backups \
                   WHERE status <> 'completed' AND status IN ('requested', 'in_progress', 'failed') \
                   GROUP BY instance, branch, status";
        let rows = self.rows(sql.to_owned(), Vec::new()).await?;
        let read = rows.iter().map(|row| {
            Ok(Unusual {
                instance: Column::read(row, "instance")?,
                branch: Column::read(row, "branch")?,
                status: Column::read(row, "status")?,
                count: Column::read(row, "count")?,
            })
        });
        collected(read)
    }

    async fn proofs(&self) -> Result<Vec<Proof>> {
        let sql = "SELECT d.instance, d.ended_at, d.restore_ms FROM instances i JOIN drills d \
                   ON d.instance = i.instance AND d.branch = 'main' AND d.id = \
                   (SELECT x.id FROM drills x WHERE x.instance = i.instance AND x.branch = 'main' \
                    AND x.status = 'completed' AND x.ended_at >= i.created_at ORDER BY x.ended_at DESC LIMIT 1)";
        let rows = self.rows(sql.to_owned(), Vec::new()).await?;
        let read = rows.iter().map(|row| {
            Ok(Proof {
                instance: Column::read(row, "instance")?,
                ended_at: Column::read(row, "ended_at")?,
                restore_ms: Column::read(row, "restore_ms")?,
            })
        });
        collected(read)
    }

    async fn standing(&self) -> Result<Vec<Standing>> {
        let sql = "SELECT instance, branch, rule, severity FROM alerts WHERE resolved_at IS NULL";
        let rows = self.rows(sql.to_owned(), Vec::new()).await?;
        let read = rows.iter().map(|row| {
            Ok(Standing {
                instance: Column::read(row, "instance")?,
                branch: Column::read(row, "branch")?,
                rule: Column::read(row, "rule")?,
                severity: Column::read(row, "severity")?,
            })
        });
        collected(read)
    }
}

fn collected<T>(rows: impl Iterator<Item = sqlx::Result<T>>) -> Result<Vec<T>> {
    let rows: sqlx::Result<Vec<T>> = rows.collect();
    rows.map_err(cannot("answer from its rows"))
}

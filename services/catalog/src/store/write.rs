//! Changing rows, inside one transaction.

use std::collections::BTreeMap;

use events::event::ExtensionCheck;
use events::query::RebuildSource;
use events::{BranchName, InstanceName, Timestamp, query::BranchState};
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Transaction};
use tracing::Instrument as _;

use super::column::{Column, SqlValue};
use super::rows::{
    BackupRow, BranchRow, InstanceRow, PurgeRow, RestoreRow, Row, ScheduleRow, SlotRiskRow,
    WalGapRow, WalSegmentRow, WindowRow,
};
use super::{Position, Result, StoreError, cannot};
use crate::projection::{Change, backup, restore};

/// What one message of a stream changes; nothing, if it is not for the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) sequence: u64,
    pub(crate) changes: Vec<Change>,
    /// The part of the event's trace in which its rows are written.
    pub(crate) span: tracing::Span,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The last sequence in the rows now.
    pub(crate) sequence: u64,
    /// Steps that were not in the rows before.
    pub(crate) steps: usize,
}

/// An open transaction; nothing is changed unless it is committed.
pub(crate) struct Writing {
    transaction: Transaction<'static, Any>,
}

/// The position in a row of `projections`.
pub(super) fn position(row: &AnyRow) -> sqlx::Result<Position> {
    Ok(Position {
        created: Column::read(row, "created")?,
        applied: Column::read(row, "applied_sequence")?,
    })
}

impl Writing {
    pub(super) fn new(transaction: Transaction<'static, Any>) -> Self {
        Writing { transaction }
    }

    pub(crate) async fn commit(self) -> Result<()> {
        self.transaction
            .commit()
            .await
            .map_err(cannot("keep a change"))
    }

    /// Applies the steps that are not in the rows yet.
    pub(crate) async fn apply_steps(
        &mut self,
        stream: &str,
        created: Timestamp,
        steps: Vec<Step>,
    ) -> Result<Applied> {
        let position = self.lock(stream).await?;
        if position.created.map(|at| at.timestamp_micros()) != Some(created.timestamp_micros()) {
            return Err(StoreError::OtherStream {
                stream: stream.to_owned(),
            });
        }
        let mut applied = Applied {
            sequence: position.applied,
            steps: 0,
        };
        for step in steps {
            if step.sequence <= applied.sequence {
                continue;
            }
            for change in step.changes {
                self.change(change).instrument(step.span.clone()).await?;
            }
            applied.sequence = step.sequence;
            applied.steps += 1;
        }
        self.set_position(stream, Some(created), applied.sequence)
            .await?;
        Ok(applied)
    }

    /// Keeps other writers of the stream out until this transaction ends; how far the stream is.
    async fn lock(&mut self, stream: &str) -> Result<Position> {
        // A write and not a read: it locks in both dialects.
        let lock = "UPDATE projections SET applied_sequence = applied_sequence WHERE stream = $1";
        let _ = self
            .execute(lock, vec![SqlValue::Text(Some(stream.to_owned()))])
            .await?;
        let sql = "SELECT created, applied_sequence FROM projections WHERE stream = $1";
        let row = sqlx::query(sql)
            .bind(stream)
            .fetch_optional(&mut *self.transaction)
            .await;
        let row = row.map_err(cannot("read its position"))?;
        let position = row.as_ref().map(position).transpose();
        Ok(position
            .map_err(cannot("read its position"))?
            .unwrap_or(Position {
                created: None,
                applied: 0,
            }))
    }

    /// Says how far a stream is.
    pub(crate) async fn set_position(
        &mut self,
        stream: &str,
        created: Option<Timestamp>,
        applied: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO projections (stream, created, applied_sequence) VALUES ($1, $2, $3) \
                   ON CONFLICT (stream) DO UPDATE SET created = excluded.created, \
                   applied_sequence = excluded.applied_sequence";
        let values = vec![
            SqlValue::Text(Some(stream.to_owned())),
            created.to_sql(),
            applied.to_sql(),
        ];
        self.execute(sql, values).await.map(drop)
    }

    /// Empties every table of rows. Positions stay.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        // Taken first, so that nobody applies steps meanwhile.
        let _ = self
            .execute("UPDATE projections SET applied_sequence = 0", Vec::new())
            .await?;
        for table in [
            InstanceRow::TABLE,
            BranchRow::TABLE,
            ScheduleRow::TABLE,
            BackupRow::TABLE,
            RestoreRow::TABLE,
            WalSegmentRow::TABLE,
            WalGapRow::TABLE,
            WindowRow::TABLE,
            SlotRiskRow::TABLE,
            PurgeRow::TABLE,
        ] {
            let _ = self
                .execute(&format!("DELETE FROM {table}"), Vec::new())
                .await?;
        }
        Ok(())
    }

    /// The wanted rebuild is done.
    pub(crate) async fn rebuilt(&mut self, source: RebuildSource, at: Timestamp) -> Result<()> {
        let sql = "UPDATE catalog SET rebuild_wanted = NULL, rebuild_error = NULL, \
                   rebuilt_from = $1, rebuilt_at = $2 WHERE id = 1";
        let values = vec![source.to_sql(), at.to_sql()];
        self.execute(sql, values).await.map(drop)
    }

    /// Applies one change.
    pub(crate) async fn change(&mut self, change: Change) -> Result<()> {
        match change {
            Change::PutInstance(row) => self.put(&row).await,
            Change::PutBranch(row) => self.put(&row).await,
            Change::PutSchedule(row) => self.put(&row).await,
            Change::PutSegment(row) => {
                let branch = (&row.instance, &row.branch);
                self.put_of_wal(branch, row.archived_at, &row).await
            }
            Change::PutGap(row) => {
                let branch = (&row.instance, &row.branch);
                self.put_of_wal(branch, row.detected_at, &row).await
            }
            Change::PutSlotRisk(row) => {
                let branch = (&row.instance, &row.branch);
                self.put_of_wal(branch, row.changed_at, &row).await
            }
            Change::PutWindow(row) => self.put(&row).await,
            Change::PutPurge(row) => self.put(&row).await,
            Change::Purged(instance, branch, at) => self.purge(instance, branch, at).await,
            Change::RemoveInstance(instance) => {
                let key = [instance.to_sql()];
                self.delete::<ScheduleRow>(&key).await?;
                self.delete::<WindowRow>(&key).await?;
                self.delete::<BranchRow>(&key).await?;
                self.delete::<InstanceRow>(&key).await
            }
            Change::RemoveBranch(instance, branch) => {
                let key = [instance.to_sql(), branch.to_sql()];
                self.delete::<WindowRow>(&key).await?;
                self.delete::<BranchRow>(&key).await
            }
            Change::SetBranchState(instance, branch, state) => {
                let key = [instance.to_sql(), branch.to_sql()];
                self.set_branch_state(&key, state).await
            }
            Change::SetExtensions(instance, branch, extensions) => {
                let key = [instance.to_sql(), branch.to_sql()];
                self.set_extensions(&key, extensions).await
            }
            Change::Backup(instance, branch, id, change) => {
                let key = [instance.to_sql(), branch.to_sql(), id.to_sql()];
                let row = self.get(&key).await?;
                let row = row.unwrap_or_else(|| backup::unknown(instance, branch, id));
                self.put(&change.apply(row)).await
            }
            Change::Restore(instance, branch, id, change) => {
                let key = [instance.to_sql(), branch.to_sql(), id.to_sql()];
                let row = self.get(&key).await?;
                let row = row.unwrap_or_else(|| restore::unknown(instance, branch, id));
                self.put(&change.apply(row)).await
            }
        }
    }

    async fn set_branch_state(&mut self, key: &[SqlValue], state: BranchState) -> Result<()> {
        if let Some(row) = self.get::<BranchRow>(key).await? {
            self.put(&BranchRow { state, ..row }).await?;
        }
        Ok(())
    }

    /// Puts what is said of a branch's WAL, unless that was deleted since. The streams are not read in step: what the
    /// one says of the WAL may come after the other has said that it is gone.
    async fn put_of_wal<R: Row>(
        &mut self,
        (instance, branch): (&InstanceName, &BranchName),
        at: Timestamp,
        row: &R,
    ) -> Result<()> {
        let key = [instance.to_sql(), branch.to_sql()];
        let purge: Option<PurgeRow> = self.get(&key).await?;
        match purge.and_then(|purge| purge.done_at) {
            Some(done_at) if at <= done_at => Ok(()),
            _ => self.put(row).await,
        }
    }

    /// Deletes what the repository has no more, if the branch was deleted with it.
    async fn purge(
        &mut self,
        instance: InstanceName,
        branch: BranchName,
        at: Timestamp,
    ) -> Result<()> {
        let key = [instance.to_sql(), branch.to_sql()];
        let wanted: Option<PurgeRow> = self.get(&key).await?;
        if wanted.is_none_or(|purge| purge.done_at.is_some()) {
            return Ok(());
        }
        self.delete::<BackupRow>(&key).await?;
        self.delete::<WalSegmentRow>(&key).await?;
        self.delete::<WalGapRow>(&key).await?;
        self.delete::<SlotRiskRow>(&key).await?;
        let done_at = Some(at);
        self.put(&PurgeRow {
            instance,
            branch,
            done_at,
        })
        .await
    }

    /// Of the restore that made the branch, if both are known.
    async fn set_extensions(
        &mut self,
        branch: &[SqlValue; 2],
        extensions: Vec<ExtensionCheck>,
    ) -> Result<()> {
        let made_by = self.get::<BranchRow>(branch).await?;
        let Some(restore_id) = made_by.and_then(|row| row.restore_id) else {
            return Ok(());
        };
        let [instance, branch] = branch.clone();
        let key = [instance, branch, restore_id.to_sql()];
        match self.get::<RestoreRow>(&key).await? {
            Some(row) => self.put(&RestoreRow { extensions, ..row }).await,
            None => Ok(()),
        }
    }

    async fn get<R: Row>(&mut self, key: &[SqlValue]) -> Result<Option<R>> {
        let columns = R::COLUMNS.join(", ");
        let sql = format!(
            "SELECT {columns} FROM {}{}",
            R::TABLE,
            by_key::<R>(key.len())
        );
        let query = bound(sql, key.to_vec());
        let row = query.fetch_optional(&mut *self.transaction).await;
        let row = row.map_err(cannot("read a row"))?;
        let row = row.as_ref().map(R::read).transpose();
        row.map_err(cannot("read a row"))
    }

    async fn put<R: Row>(&mut self, row: &R) -> Result<()> {
        let columns = R::COLUMNS.join(", ");
        let places = numbered(R::COLUMNS.len());
        let (key, rest) = R::COLUMNS.split_at(R::KEYS);
        let updates: Vec<String> = rest
            .iter()
            .map(|name| format!("{name} = excluded.{name}"))
            .collect();
        let sql = format!(
            "INSERT INTO {} ({columns}) VALUES ({places}) ON CONFLICT ({}) DO UPDATE SET {}",
            R::TABLE,
            key.join(", "),
            updates.join(", "),
        );
        self.execute(&sql, row.values()).await.map(drop)
    }

    /// Deletes the rows whose key begins with `key`.
    async fn delete<R: Row>(&mut self, key: &[SqlValue]) -> Result<()> {
        let sql = format!("DELETE FROM {}{}", R::TABLE, by_key::<R>(key.len()));
        self.execute(&sql, key.to_vec()).await.map(drop)
    }

    async fn execute(&mut self, sql: &str, values: Vec<SqlValue>) -> Result<u64> {
        let done = bound(sql.to_owned(), values)
            .execute(&mut *self.transaction)
            .await;
        done.map(|done| done.rows_affected())
            .map_err(cannot("change a row"))
    }

    /// Rows of each table, by its name: what a rebuild reports.
    pub(crate) async fn counts(&mut self) -> Result<BTreeMap<&'static str, i64>> {
        let mut counts = BTreeMap::new();
        for table in [
            "instances",
            "branches",
            "schedules",
            "backups",
            "restores",
            "wal_segments",
        ] {
            let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
            let count = sqlx::query_scalar(sql)
                .fetch_one(&mut *self.transaction)
                .await;
            let _ = counts.insert(table, count.map_err(cannot("count its rows"))?);
        }
        Ok(counts)
    }
}

/// A statement made of the names of our tables and columns; values are always bound.
pub(super) fn bound<'q>(
    sql: String,
    values: Vec<SqlValue>,
) -> sqlx::query::Query<'q, Any, sqlx::any::AnyArguments> {
    let query = sqlx::query(AssertSqlSafe(sql));
    values
        .into_iter()
        .fold(query, |query, value| value.bind(query))
}

fn numbered(count: usize) -> String {
    let places: Vec<String> = (1..=count).map(|place| format!("${place}")).collect();
    places.join(", ")
}

fn by_key<R: Row>(columns: usize) -> String {
    let conditions: Vec<String> = R::COLUMNS[..columns]
        .iter()
        .enumerate()
        .map(|(index, name)| format!("{name} = ${}", index + 1))
        .collect();
    format!(" WHERE {}", conditions.join(" AND "))
}

//! Changing rows, inside one transaction.

use std::collections::BTreeMap;

use events::event::ExtensionCheck;
use events::query::{BranchState, RebuildSource};
use events::{BranchName, InstanceName, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Transaction};
use tracing::Instrument as _;

use super::cache::{Database, MOST_ROWS, Tables, bind};
use super::column::{Column, SqlValue};
use super::rows::{
    AlertRow, BranchRow, DrillRow, InstanceRow, PurgeRow, RestoreRow, Row, ScheduleRow, SweepRow,
    WindowRow,
};
use super::{Backend, Position, Result, StoreError, cannot};
use crate::projection::{Change, drill, restore};

mod backup;
mod wal;
mod wanted;

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
    database: Database,
    tables: Tables,
}

/// The position in a row of `projections`.
pub(super) fn position(row: &AnyRow) -> sqlx::Result<Position> {
    Ok(Position {
        created: Column::read(row, "created")?,
        applied: Column::read(row, "applied_sequence")?,
    })
}

impl Writing {
    pub(super) fn new(transaction: Transaction<'static, Any>, backend: Backend) -> Self {
        Writing {
            database: Database {
                transaction,
                backend,
            },
            tables: Tables::default(),
        }
    }

    pub(crate) async fn commit(mut self) -> Result<()> {
        self.flush().await?;
        self.database
            .transaction
            .commit()
            .await
            .map_err(cannot("keep a change"))
    }

    /// Applies the steps that are not in the rows yet.
    pub(crate) async fn apply_steps(
        &mut self,
        stream: &str,
        created: Timestamp,
        mut steps: Vec<Step>,
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
        steps.retain(|step| step.sequence > position.applied);
        self.foresee(steps.iter().flat_map(|step| &step.changes))
            .await?;
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

    /// Applies changes of which nobody asks whether they are in the rows already.
    pub(crate) async fn change_all(&mut self, changes: Vec<Change>) -> Result<()> {
        self.foresee(changes.iter()).await?;
        for change in changes {
            self.change(change).await?;
        }
        if self.tables.rows() > MOST_ROWS {
            self.forget().await?;
        }
        Ok(())
    }

    /// Keeps other writers out until this transaction ends; how far the stream is. Also those of the other stream:
    /// what the one makes of a branch's WAL depends on the other.
    async fn lock(&mut self, stream: &str) -> Result<Position> {
        // A write and not a read: it locks in both dialects.
        let lock = "UPDATE projections SET applied_sequence = applied_sequence \
                    WHERE stream = (SELECT MIN(stream) FROM projections)";
        let _ = self.execute(lock, Vec::new()).await?;
        let sql = "SELECT created, applied_sequence FROM projections WHERE stream = $1";
        let row = sqlx::query(sql)
            .bind(stream)
            .fetch_optional(&mut *self.database.transaction)
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
        self.tables = Tables::default();
        for table in Tables::NAMES {
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

    /// Writes what is held back.
    async fn flush(&mut self) -> Result<()> {
        self.tables.write(&mut self.database).await
    }

    /// Writes what is held back, and holds nothing any more.
    async fn forget(&mut self) -> Result<()> {
        self.flush().await?;
        self.tables = Tables::default();
        Ok(())
    }

    async fn get<R: Row>(&mut self, key: &[SqlValue]) -> Result<Option<R>> {
        let cache = R::cache(&mut self.tables);
        if let Some(known) = cache.get(key) {
            return Ok(known);
        }
        self.database.load(cache, [key.to_vec()]).await?;
        Ok(cache.get(key).flatten())
    }

    /// Never fails; its answer is that of what calls it last.
    #[expect(clippy::unnecessary_wraps, reason = "most changes end with it")]
    fn put<R: Row>(&mut self, row: R) -> Result<()> {
        R::cache(&mut self.tables).set(row.key(), Some(row));
        Ok(())
    }

    fn remove<R: Row>(&mut self, key: Vec<SqlValue>) {
        R::cache(&mut self.tables).set(key, None);
    }

    /// Deletes the rows whose key begins with `key`.
    async fn delete<R: Row>(&mut self, key: &[SqlValue]) -> Result<()> {
        self.forget().await?;
        let sql = format!("DELETE FROM {}{}", R::TABLE, by_key::<R>(key.len()));
        self.execute(&sql, key.to_vec()).await.map(drop)
    }

    /// A statement on the rows of the database: what is held back must be written before.
    async fn execute(&mut self, sql: &str, values: Vec<SqlValue>) -> Result<u64> {
        let done = bind(sql.to_owned(), values.into_iter())
            .execute(&mut *self.database.transaction)
            .await;
        done.map(|done| done.rows_affected())
            .map_err(cannot("change a row"))
    }

    /// Rows of each table, by its name: what a rebuild reports.
    pub(crate) async fn counts(&mut self) -> Result<BTreeMap<&'static str, i64>> {
        self.flush().await?;
        let mut counts = BTreeMap::new();
        for table in Tables::NAMES {
            let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
            let count = sqlx::query_scalar(sql)
                .fetch_one(&mut *self.database.transaction)
                .await;
            let _ = counts.insert(*table, count.map_err(cannot("count its rows"))?);
        }
        Ok(counts)
    }

    /// Applies one change.
    pub(crate) async fn change(&mut self, change: Change) -> Result<()> {
        match change {
            Change::PutInstance(row) => self.put_instance(row).await,
            Change::SetInstance(instance, pool, drills) => {
                let row: Option<InstanceRow> = self.get(&[instance.to_sql()]).await?;
                if let Some(row) = row {
                    self.put(InstanceRow {
                        pool,
                        drills,
                        ..row
                    })?;
                }
                Ok(())
            }
            Change::RemoveInstance(instance, at) => self.remove_instance(instance, at).await,
            Change::PutBranch(row) => self.put(row),
            Change::SetBranchState(instance, branch, state) => {
                let key = [instance.to_sql(), branch.to_sql()];
                self.set_branch_state(&key, state).await
            }
            Change::RemoveBranch(instance, branch, at) => {
                let key = [instance.to_sql(), branch.to_sql()];
                self.remove::<WindowRow>(key.to_vec());
                self.remove::<BranchRow>(key.to_vec());
                self.settle_alerts(&key, at).await
            }
            Change::PutPurge(row) => self.put(row),
            Change::Purged(instance, branch, at) => self.purge(instance, branch, at).await,
            Change::PutWindow(row) => self.put(row),
            Change::SetExtensions(instance, branch, extensions) => {
                let key = [instance.to_sql(), branch.to_sql()];
                self.set_extensions(&key, extensions).await
            }
            Change::PutSchedule(row) => self.put(row),
            Change::RemoveSchedule(instance, id) => {
                self.remove::<ScheduleRow>(vec![instance.to_sql(), id.to_sql()]);
                Ok(())
            }
            Change::Backup(instance, branch, id, change) => {
                self.change_backup(instance, branch, id, *change).await
            }
            Change::Restore(instance, branch, id, change) => {
                let key = [instance.to_sql(), branch.to_sql(), id.to_sql()];
                let row: Option<RestoreRow> = self.get(&key).await?;
                self.put(
                    change.apply(row.unwrap_or_else(|| restore::unknown(instance, branch, id))),
                )
            }
            Change::Drill(instance, branch, id, change) => {
                let key = [instance.to_sql(), branch.to_sql(), id.to_sql()];
                let row: Option<DrillRow> = self.get(&key).await?;
                if row.is_none() && change.only_ends() {
                    return Ok(());
                }
                self.put(change.apply(row.unwrap_or_else(|| drill::unknown(instance, branch, id))))
            }
            Change::Sweep(row) => self.put_sweep(row).await,
            Change::Alert(row) => {
                let known: Option<AlertRow> = self.get(&row.key()).await?;
                self.put(known.map_or(row.clone(), |known| known.with(row)))
            }
            Change::PutFile(row) => self.put_file(row).await,
            Change::PutGap(row) => {
                let (instance, branch) = (row.instance.clone(), row.branch.clone());
                self.put_of_wal(&instance, &branch, row.detected_at, row)
                    .await
            }
            Change::PutSlotRisk(row) => {
                let (instance, branch) = (row.instance.clone(), row.branch.clone());
                self.put_of_wal(&instance, &branch, row.changed_at, row)
                    .await
            }
            Change::Prune(row) => self.prune(row).await,
        }
    }

    async fn put_sweep(&mut self, row: SweepRow) -> Result<()> {
        let known: Option<SweepRow> = self.get(&row.key()).await?;
        let ended = row.swept_at;
        let row = known.map_or(row.clone(), |known| known.with(row));
        if let Some(at) = ended {
            self.forget_histories(&row, at).await?;
        }
        self.put(row)
    }

    /// What was set of an instance since it was registered, its registration does not take back.
    async fn put_instance(&mut self, row: InstanceRow) -> Result<()> {
        let known: Option<InstanceRow> = self.get(&row.key()).await?;
        let same = known.filter(|known| known.created_at == row.created_at);
        self.put(match same {
            Some(known) => InstanceRow {
                pool: row.pool.or(known.pool),
                drills: row.drills.or(known.drills),
                ..row
            },
            None => row,
        })
    }

    async fn remove_instance(&mut self, instance: InstanceName, at: Timestamp) -> Result<()> {
        let key = [instance.to_sql()];
        self.settle_alerts(&key, at).await?;
        self.delete::<ScheduleRow>(&key).await?;
        self.delete::<WindowRow>(&key).await?;
        self.delete::<BranchRow>(&key).await?;
        self.delete::<InstanceRow>(&key).await
    }

    /// Of what is not there any more, nothing needs attention.
    async fn settle_alerts(&mut self, key: &[SqlValue], at: Timestamp) -> Result<()> {
        self.forget().await?;
        let sql = format!(
            "UPDATE alerts SET resolved_at = ${} {} AND resolved_at IS NULL",
            key.len() + 1,
            by_key::<AlertRow>(key.len())
        );
        let mut values = key.to_vec();
        values.push(at.to_sql());
        self.execute(&sql, values).await.map(drop)
    }

    async fn set_branch_state(&mut self, key: &[SqlValue], state: BranchState) -> Result<()> {
        if let Some(row) = self.get::<BranchRow>(key).await? {
            self.put(BranchRow { state, ..row })?;
        }
        Ok(())
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
        if let Some(row) = self.get::<RestoreRow>(&key).await? {
            self.put(RestoreRow { extensions, ..row })?;
        }
        Ok(())
    }

    /// When the branch's backups and WAL were deleted with it, if they were.
    async fn purged_at(
        &mut self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<Timestamp>> {
        let key = [instance.to_sql(), branch.to_sql()];
        let purge: Option<PurgeRow> = self.get(&key).await?;
        Ok(purge.and_then(|purge| purge.done_at))
    }
}

fn by_key<R: Row>(columns: usize) -> String {
    let conditions: Vec<String> = R::COLUMNS[..columns]
        .iter()
        .enumerate()
        .map(|(index, name)| format!("{name} = ${}", index + 1))
        .collect();
    format!(" WHERE {}", conditions.join(" AND "))
}

//! What is archived of a branch, what was let go of it, and what that adds up to.
//!
//! What must stay true: `archives` and `wal_days` are what adding up every file that came and every file that went
//! makes, each once, however often it was told. A file that was let go does not come back because it is told late.

use events::event::WalObjectKind;
use events::{BranchName, InstanceName, Timestamp};
use pg_format::{Lsn, TimelineId};

use super::{Writing, bind, by_key};
use crate::store::column::{Column, SqlValue};
use crate::store::rows::{
    ArchiveRow, BackupRow, BackupTotalsRow, PurgeRow, Row, SlotRiskRow, SweepRow, WalDayRow,
    WalFileRow, WalGapRow, WalPruneRow,
};
use crate::store::{Result, cannot};

/// What was taken away.
#[derive(Default)]
struct Removed {
    bytes: u64,
    segments: u64,
}

impl Writing {
    /// Puts what is said of a branch's WAL, unless that was deleted since. The streams are not read in step: what the
    /// one says of the WAL may come after the other has said that it is gone.
    pub(super) async fn put_of_wal<R: Row>(
        &mut self,
        instance: &InstanceName,
        branch: &BranchName,
        at: Timestamp,
        row: R,
    ) -> Result<()> {
        match self.purged_at(instance, branch).await? {
            Some(done_at) if at <= done_at => Ok(()),
            _ => self.put(row),
        }
    }

    pub(super) async fn put_file(&mut self, row: WalFileRow) -> Result<()> {
        let purged_at = self.purged_at(&row.instance, &row.branch).await?;
        if purged_at.is_some_and(|done_at| row.archived_at <= done_at) {
            return Ok(());
        }
        let known: Option<WalFileRow> = self.get(&row.key()).await?;
        if known.as_ref() == Some(&row) {
            return Ok(());
        }
        let mut archive = self.archive(&row.instance, &row.branch).await?;
        match &known {
            None if self.was_let_go(&row, archive.pruned_at).await? => return Ok(()),
            None => archive.segments += u64::from(row.kind == WalObjectKind::Segment),
            // The same file, told otherwise: what it counted for, it counts for no more.
            Some(known) => {
                archive.stored_bytes = archive.stored_bytes.saturating_sub(known.stored_bytes);
                let mut day = self.day(known).await?;
                day.added_bytes = day.added_bytes.saturating_sub(known.counted_bytes());
                self.put(day)?;
            }
        }
        archive.stored_bytes += row.stored_bytes;
        self.put(archive)?;
        let mut day = self.day(&row).await?;
        day.added_bytes += row.counted_bytes();
        self.put(day)?;
        self.put(row)
    }

    async fn archive(
        &mut self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<ArchiveRow> {
        let key = [instance.to_sql(), branch.to_sql()];
        let row: Option<ArchiveRow> = self.get(&key).await?;
        Ok(row.unwrap_or_else(|| ArchiveRow {
            instance: instance.clone(),
            branch: branch.clone(),
            stored_bytes: 0,
            segments: 0,
            pruned_at: None,
        }))
    }

    async fn day(&mut self, file: &WalFileRow) -> Result<WalDayRow> {
        let empty = WalDayRow::of(file);
        Ok(self.get(&empty.key()).await?.unwrap_or(empty))
    }

    /// Whether a file is told that was let go since it was archived.
    async fn was_let_go(&mut self, row: &WalFileRow, last: Option<Timestamp>) -> Result<bool> {
        if last.is_none_or(|last| row.archived_at > last) {
            return Ok(false);
        }
        let prunes = self
            .prunes(&row.instance, &row.branch, row.timeline)
            .await?;
        let covers = |prune: &WalPruneRow| match row.kind {
            WalObjectKind::History => prune.is_of_history(),
            _ => prune.from_lsn <= row.start_lsn && row.end_lsn <= prune.to_lsn,
        };
        Ok(prunes
            .iter()
            .any(|prune| covers(prune) && row.archived_at <= prune.pruned_at))
    }

    async fn prunes(
        &mut self,
        instance: &InstanceName,
        branch: &BranchName,
        timeline: TimelineId,
    ) -> Result<Vec<WalPruneRow>> {
        self.flush().await?;
        let key = vec![instance.to_sql(), branch.to_sql(), timeline.to_sql()];
        let sql = format!(
            "SELECT {} FROM {}{}",
            WalPruneRow::COLUMNS.join(", "),
            WalPruneRow::TABLE,
            by_key::<WalPruneRow>(key.len())
        );
        let rows = bind(sql, key.into_iter())
            .fetch_all(&mut *self.database.transaction)
            .await;
        let rows = rows.map_err(cannot("read rows"))?;
        let rows: sqlx::Result<_> = rows.iter().map(WalPruneRow::read).collect();
        rows.map_err(cannot("read rows"))
    }

    /// Takes away what was let go. Counted is what was there, so that telling it twice takes nothing twice.
    pub(super) async fn prune(&mut self, prune: WalPruneRow) -> Result<()> {
        let purged_at = self.purged_at(&prune.instance, &prune.branch).await?;
        if purged_at.is_some_and(|done_at| prune.pruned_at <= done_at) {
            return Ok(());
        }
        let removed = self.remove_files(&prune).await?;
        let mut archive = self.archive(&prune.instance, &prune.branch).await?;
        archive.stored_bytes = archive.stored_bytes.saturating_sub(removed.bytes);
        archive.segments = archive.segments.saturating_sub(removed.segments);
        archive.pruned_at = archive.pruned_at.max(Some(prune.pruned_at));
        self.put(archive)?;
        if removed.bytes > 0 && !prune.is_of_history() {
            let empty = WalDayRow::empty(&prune.instance, &prune.branch, prune.pruned_at);
            let mut day: WalDayRow = self.get(&empty.key()).await?.unwrap_or(empty);
            day.pruned_bytes += removed.bytes;
            self.put(day)?;
        }
        let prunes = self
            .prunes(&prune.instance, &prune.branch, prune.timeline)
            .await?;
        let mut whole = prune;
        for other in prunes {
            if other.touches(&whole) {
                self.remove::<WalPruneRow>(other.key());
                whole = whole.joined(&other);
            }
        }
        self.put(whole)
    }

    async fn remove_files(&mut self, prune: &WalPruneRow) -> Result<Removed> {
        self.forget().await?;
        let files = match prune.is_of_history() {
            true => "kind = 'history'",
            false => "kind <> 'history'",
        };
        let within = format!(
            "FROM {}{} AND start_lsn >= $4 AND end_lsn <= $5 AND archived_at <= $6 AND {files}",
            WalFileRow::TABLE,
            by_key::<WalFileRow>(3)
        );
        let values = vec![
            prune.instance.to_sql(),
            prune.branch.to_sql(),
            prune.timeline.to_sql(),
            prune.from_lsn.to_sql(),
            prune.to_lsn.to_sql(),
            prune.pruned_at.to_sql(),
        ];
        let sum = format!(
            "SELECT CAST(COALESCE(SUM(stored_bytes), 0) AS BIGINT) AS bytes, \
             CAST(COALESCE(SUM(CASE WHEN kind = 'segment' THEN 1 ELSE 0 END), 0) AS BIGINT) AS segments {within}"
        );
        let row = bind(sum, values.clone().into_iter())
            .fetch_one(&mut *self.database.transaction)
            .await;
        let row = row.map_err(cannot("add up its rows"))?;
        let removed = (Column::read(&row, "bytes"), Column::read(&row, "segments"));
        let removed = Removed {
            bytes: removed.0.map_err(cannot("add up its rows"))?,
            segments: removed.1.map_err(cannot("add up its rows"))?,
        };
        let _ = self.execute(&format!("DELETE {within}"), values).await?;
        Ok(removed)
    }

    /// The history files that went with a sweep.
    pub(super) async fn forget_histories(&mut self, sweep: &SweepRow, at: Timestamp) -> Result<()> {
        for timeline in sweep.histories.clone() {
            let prune = WalPruneRow {
                instance: sweep.instance.clone(),
                branch: sweep.branch.clone(),
                timeline,
                from_lsn: Lsn(0),
                to_lsn: Lsn(0),
                pruned_at: at,
            };
            self.prune(prune).await?;
        }
        Ok(())
    }

    /// Deletes what the repository has no more, if the branch was deleted with it.
    pub(super) async fn purge(
        &mut self,
        instance: InstanceName,
        branch: BranchName,
        at: Timestamp,
    ) -> Result<()> {
        let key: [SqlValue; 2] = [instance.to_sql(), branch.to_sql()];
        let wanted: Option<PurgeRow> = self.get(&key).await?;
        if wanted.is_none_or(|purge| purge.done_at.is_some()) {
            return Ok(());
        }
        self.delete::<BackupRow>(&key).await?;
        self.delete::<BackupTotalsRow>(&key).await?;
        self.delete::<WalFileRow>(&key).await?;
        self.delete::<WalGapRow>(&key).await?;
        self.delete::<SlotRiskRow>(&key).await?;
        self.delete::<ArchiveRow>(&key).await?;
        self.delete::<WalDayRow>(&key).await?;
        self.delete::<WalPruneRow>(&key).await?;
        let done_at = Some(at);
        self.put(PurgeRow {
            instance,
            branch,
            done_at,
        })
    }
}

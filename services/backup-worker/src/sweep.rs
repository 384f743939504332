//! Sweeps: deletes exactly what the scheduler decided, and says what is gone.
//!
//! A sweep may be delivered twice, to two workers at once, at any point, and be done half by one and half by another:
//! every deletion may be repeated, and every event has an id that comes from what it tells. What must stay true: nothing
//! is deleted that the instance's document does not list in this sweep at that moment, because only while it does, nobody
//! restores with it and nobody is told that it is kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bus::{Bus, BusError, Delivery, FenceError, Handler, Outcome, Outgoing, Sequence};
use events::document::WalStretch;
use events::event::{BackupExpired, BranchSweepRequested, BranchSwept, WalPruned};
use events::{BackupId, Event, MessageId, subject};
use pg_format::WalSegmentSize;
use repository::{BranchWriter, Deleted, NamedPacks, Pruning, Repository, RepositoryError};
use retention::Ended;
use service::clock::Clock;

use crate::pulse::Pulse;

mod purge;

/// Others may say something of a backup at the same time; so often it is tried anew.
const MOST_ATTEMPTS: u32 = 16;

/// The consumer of `branch.sweep_requested`.
pub(crate) struct Sweeps {
    pub(crate) bus: Bus,
    pub(crate) repository: Repository,
    pub(crate) clock: Arc<dyn Clock>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    #[error("the repository could not be asked")]
    Repository(#[from] RepositoryError),
    #[error("the bus failed")]
    Bus(#[from] BusError),
    #[error("others speak about backup {0} all the time")]
    Busy(BackupId),
    #[error("somebody writes still what is to be purged")]
    Written,
}

#[async_trait]
impl Handler<Event> for Sweeps {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let Event::BranchSweepRequested(request) = &delivery.envelope.message else {
            return Outcome::Reject {
                reason: "not a request to delete anything".to_owned(),
            };
        };
        let pulse = Pulse::new(&delivery.progress);
        let sweep = Box::pin(self.sweep(delivery, request, &pulse));
        match pulse.during(sweep).await {
            Ok(()) => Outcome::Done,
            Err(error) => {
                let reason = service::run::chain(&error);
                tracing::warn!(sweep = %request.sweep_id, reason, "the sweep is not done yet");
                Outcome::Retry {
                    after: Duration::from_secs(1 << delivery.attempt.clamp(1, 8)),
                    reason,
                }
            }
        }
    }
}

impl Sweeps {
    #[tracing::instrument(skip_all, fields(instance = %request.instance, branch = %request.branch, sweep = %request.sweep_id))]
    async fn sweep(
        &self,
        delivery: &Delivery<Event>,
        request: &BranchSweepRequested,
        pulse: &Pulse,
    ) -> Result<(), SweepError> {
        let fence = subject::sweep_fence(&request.instance, &request.branch, request.sweep_id);
        let last = self.bus.last_on(&fence).await?;
        if matches!(
            last.map(|last| last.envelope.message),
            Some(Event::BranchSwept(_))
        ) {
            return Ok(());
        }
        if !self.is_listed(request).await? {
            tracing::info!("the sweep is no longer wanted; nothing is deleted");
            return Ok(());
        }
        let branch = self.repository.writer(&request.instance, &request.branch);
        let sweep = &request.sweep;
        let size = segment_size(&branch).await?;
        let advanced = || pulse.advance();
        let named = match sweep.purge {
            // Nothing stays that could name any.
            true => {
                self.await_archiver(request, pulse).await?;
                NamedPacks::default()
            }
            false => branch.packs_named_by_others(&sweep.backups).await?,
        };
        let mut deleted = Deleted::default();
        for backup in &sweep.backups {
            if !self.is_listed(request).await? {
                return Ok(());
            }
            let gone = branch.delete_backup(*backup, &named, &advanced).await?;
            tracing::info!(%backup, objects = gone.objects, bytes = gone.bytes, "a backup is deleted");
            deleted = deleted.and(gone);
            self.expired(request, *backup).await?;
        }
        if !self.is_listed(request).await? {
            return Ok(());
        }
        if let Some(size) = size {
            let Some(pruned) = self.prune(request, &branch, size, pulse).await? else {
                return Ok(());
            };
            deleted = deleted.and(pruned);
        } else if !sweep.wal.is_empty() || !sweep.histories.is_empty() {
            tracing::warn!(
                "neither the branch's record nor a backup tells its segment size; its wal stays"
            );
        }
        let named = match sweep.leftovers.is_empty() {
            true => NamedPacks::default(),
            // Who commits later names packs of backups that have a manifest.
            false => branch.packs_named_by_others(&[]).await?,
        };
        for backup in &sweep.leftovers {
            if !self.is_listed(request).await? {
                return Ok(());
            }
            let of_this = (&branch, *backup, &named);
            deleted = deleted.and(self.left_over(request, of_this, pulse).await?);
        }
        if sweep.hollow {
            if !self.is_listed(request).await? {
                return Ok(());
            }
            let Some(gone) = self.clear(request, &branch, pulse).await? else {
                return Ok(());
            };
            deleted = deleted.and(gone);
        }
        if sweep.purge {
            let Some(gone) = self.purge(request, &branch, pulse).await? else {
                return Ok(());
            };
            deleted = deleted.and(gone);
            self.branch_deleted(request).await?;
        }
        tracing::info!(objects = deleted.objects, bytes = deleted.bytes, "swept");
        self.swept(delivery, request, deleted, &fence).await
    }

    /// Deletes the WAL and the history files, and tells of each stretch. `None` when it is no longer wanted in the middle:
    /// the name may be another branch's by then, with WAL of the same keys.
    async fn prune(
        &self,
        request: &BranchSweepRequested,
        branch: &BranchWriter,
        size: WalSegmentSize,
        pulse: &Pulse,
    ) -> Result<Option<Deleted>, SweepError> {
        let (stretches, advanced) = (&request.sweep.wal, || pulse.advance());
        let mut pruned = vec![Deleted::default(); stretches.len()];
        let mut pruning = branch
            .find_prunable(stretches, &request.sweep.histories, size)
            .await?;
        loop {
            // There may be a million of them, and the listing may have taken long.
            if !self.is_listed(request).await? {
                tracing::info!("the sweep is no longer wanted; the rest of its wal stays");
                self.pruned_in_part(request, &pruning, &pruned).await?;
                return Ok(None);
            }
            match branch.prune_some(&mut pruning, &advanced).await? {
                Some((number, gone)) => pruned[number] = pruned[number].and(gone),
                None => break,
            }
        }
        // It was asked right before: `None` came without a deletion.
        let around = branch.prune_around(&mut pruning, &advanced).await?;
        for (number, (stretch, gone)) in stretches.iter().zip(&pruned).enumerate() {
            let last = number + 1 == pruned.len();
            let gone = if last { gone.and(around) } else { *gone };
            self.pruned(request, *stretch, gone).await?;
        }
        let mut deleted = pruned.into_iter().fold(around, Deleted::and);
        loop {
            if !self.is_listed(request).await? {
                return Ok(None);
            }
            match branch.prune_history(&mut pruning).await? {
                Some(gone) => deleted = deleted.and(gone),
                None => return Ok(Some(deleted)),
            }
        }
    }

    /// Says what is gone of a sweep that is no longer wanted: nobody else will.
    async fn pruned_in_part(
        &self,
        request: &BranchSweepRequested,
        pruning: &Pruning,
        pruned: &[Deleted],
    ) -> Result<(), BusError> {
        for (number, stretch) in request.sweep.wal.iter().enumerate() {
            if let Some(to_lsn) = pruning.gone_until(number) {
                let part = WalStretch { to_lsn, ..*stretch };
                self.pruned(request, part, pruned[number]).await?;
            }
        }
        Ok(())
    }

    /// Deletes what is left of a branch of which nothing is left. `None` when it is no longer wanted in the middle: the
    /// name may be another branch's by then.
    async fn clear(
        &self,
        request: &BranchSweepRequested,
        branch: &BranchWriter,
        pulse: &Pulse,
    ) -> Result<Option<Deleted>, SweepError> {
        let Some(found) = branch.find_hollow().await? else {
            tracing::info!("something is left of the branch; it stays");
            return Ok(Some(Deleted::default()));
        };
        if !self.is_listed(request).await? {
            return Ok(None);
        }
        let advanced = || pulse.advance();
        let Some(remains) = branch.delete_hollow_remains(&found, &advanced).await? else {
            return Ok(Some(Deleted::default()));
        };
        if !self.is_listed(request).await? {
            return Ok(None);
        }
        let record = branch.delete_hollow_record(found).await?;
        tracing::info!(deleted = record.is_some(), "nothing was left of the branch");
        Ok(Some(remains.and(record.unwrap_or_default())))
    }

    /// Deletes what a backup left over, if it is over as far as anybody has heard. What is not deleted now is looked at
    /// again by a later round.
    async fn left_over(
        &self,
        request: &BranchSweepRequested,
        (branch, backup, named): (&BranchWriter, BackupId, &NamedPacks),
        pulse: &Pulse,
    ) -> Result<Deleted, SweepError> {
        let fence = subject::backup_fence(&request.instance, &request.branch, backup);
        let last = self.bus.last_on(&fence).await?;
        let last = last.as_ref().map(|last| &last.envelope.message);
        let mark = match branch.mark(backup).await {
            Ok(read) => Some(read.mark),
            Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let ended = Ended::of(last, mark.as_ref(), self.clock.now());
        if ended != Ended::Over {
            tracing::info!(%backup, ?ended, "the backup is not over; nothing of it is deleted");
            return Ok(Deleted::default());
        }
        // A deletion that was broken off behind the manifest, of a sweep that was withdrawn: nobody has said so yet.
        if let Some(Event::BackupCompleted(_) | Event::BackupUpdated(_)) = last
            && !branch.has_manifest(backup).await?
        {
            self.expired(request, backup).await?;
        }
        let advanced = || pulse.advance();
        let gone = branch
            .delete_leftovers(backup, named, retention::LEFTOVER_AGE, &advanced)
            .await?;
        match gone {
            Some(gone) => {
                tracing::info!(%backup, objects = gone.objects, bytes = gone.bytes, "what a backup left over is deleted");
                Ok(gone)
            }
            None => {
                tracing::info!(%backup, "what looked like left over is not; it stays");
                Ok(Deleted::default())
            }
        }
    }

    /// Whether the instance's document lists this sweep, and it was not withdrawn.
    async fn is_listed(&self, request: &BranchSweepRequested) -> Result<bool, BusError> {
        let found = self.bus.instances().get(&request.instance).await?;
        Ok(found.is_some_and(|(document, _)| {
            let sweep = document.sweeps.get(&request.branch);
            let ours = sweep.filter(|sweep| sweep.sweep_id == request.sweep_id);
            !document.removing && ours.is_some_and(|sweep| sweep.withdrawn_at.is_none())
        }))
    }

    /// Says that a backup is gone, once.
    async fn expired(
        &self,
        request: &BranchSweepRequested,
        backup: BackupId,
    ) -> Result<(), SweepError> {
        let fence = subject::backup_fence(&request.instance, &request.branch, backup);
        for _ in 0..MOST_ATTEMPTS {
            let head = self.bus.last_on(&fence).await?;
            if let Some(Event::BackupExpired(_)) = head.as_ref().map(|head| &head.envelope.message)
            {
                return Ok(());
            }
            let event = Event::BackupExpired(BackupExpired {
                backup_id: backup,
                instance: request.instance.clone(),
                branch: request.branch.clone(),
                sweep_id: request.sweep_id,
                expired_at: self.clock.now(),
            });
            let last = head.map_or(Sequence::NONE, |head| head.sequence);
            let id = format!("backup.expired:{}:{backup}", request.sweep_id);
            let outgoing = self.outgoing(request, event, id).correlated(backup);
            match self.bus.publish_expecting(outgoing, &fence, last).await {
                Ok(_sequence) => return Ok(()),
                Err(FenceError::Lost { .. }) => {}
                Err(FenceError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(SweepError::Busy(backup))
    }

    /// Says that WAL is gone. What an earlier delivery deleted is not in the figures.
    async fn pruned(
        &self,
        request: &BranchSweepRequested,
        stretch: WalStretch,
        gone: Deleted,
    ) -> Result<(), BusError> {
        let event = Event::WalPruned(WalPruned {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            sweep_id: request.sweep_id,
            timeline: stretch.timeline,
            from_lsn: stretch.from_lsn,
            to_lsn: stretch.to_lsn,
            segments: gone.segments,
            bytes: gone.bytes,
            pruned_at: self.clock.now(),
        });
        let (sweep, timeline, from) = (request.sweep_id, stretch.timeline, stretch.from_lsn);
        let (from, to) = (from.0, stretch.to_lsn.0);
        let id = format!("wal.pruned:{sweep}:{timeline}:{from:X}-{to:X}");
        let outgoing = self.outgoing(request, event, id).correlated(sweep);
        self.bus.publish(outgoing).await.map(drop)
    }

    /// Ends the sweep; another worker may have.
    async fn swept(
        &self,
        delivery: &Delivery<Event>,
        request: &BranchSweepRequested,
        deleted: Deleted,
        fence: &str,
    ) -> Result<(), SweepError> {
        let event = Event::BranchSwept(BranchSwept {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            sweep_id: request.sweep_id,
            objects: deleted.objects,
            bytes: deleted.bytes,
            swept_at: self.clock.now(),
        });
        let id = format!("branch.swept:{}", request.sweep_id);
        let outgoing = self.outgoing(request, event, id);
        let outgoing = outgoing
            .correlated(request.sweep_id)
            .caused_by(delivery.envelope.id.as_str());
        let last = self.bus.last_on(fence).await?;
        let last = match last {
            Some(last) if matches!(last.envelope.message, Event::BranchSwept(_)) => return Ok(()),
            last => last.map_or(Sequence::NONE, |last| last.sequence),
        };
        match self.bus.publish_expecting(outgoing, fence, last).await {
            Ok(_) | Err(FenceError::Lost { .. }) => Ok(()),
            Err(FenceError::Bus(error)) => Err(error.into()),
        }
    }

    fn outgoing(
        &self,
        request: &BranchSweepRequested,
        event: Event,
        id: String,
    ) -> Outgoing<Event> {
        Outgoing::new(event, MessageId::new(id), self.clock.now()).caused_by(request.sweep_id)
    }
}

/// From the branch's record, or else from a backup. To be asked before anything is deleted.
async fn segment_size(branch: &BranchWriter) -> Result<Option<WalSegmentSize>, RepositoryError> {
    match RepositoryError::absent_as_none(branch.record().await) {
        Ok(Some(record)) => return Ok(Some(record.wal_segment_size)),
        Ok(None) | Err(RepositoryError::Corrupt { .. }) => {}
        Err(error) => return Err(error),
    }
    for backup in branch.list_backups().await? {
        match RepositoryError::absent_as_none(branch.manifest(backup).await) {
            Ok(Some(manifest)) => return Ok(Some(manifest.summary.wal_segment_size)),
            Ok(None) | Err(RepositoryError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;

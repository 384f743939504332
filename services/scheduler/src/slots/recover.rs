//! The bucket of slots was lost, or this is the first start: what runs and what waits is read from the events.
//!
//! A mark in the bucket says that this was done. Until it is there, whoever takes a slot afresh looks by itself whether
//! a backup of that branch is running.

use bus::Sequence;
use events::document::Branch;
use events::event::BackupSkipped;
use events::slot::{self, BackupSlot};
use events::{BackupId, BranchName, Event, InstanceName, PoolName, subject, topology};
use futures::StreamExt as _;

use crate::commands::World;
use crate::refusal::Unfinished;
use crate::slots::{Life, encoded, made};

/// The key that says that the bucket has all that it should.
const WHOLE: &str = "whole";
/// Branches looked at at once.
const CONCURRENT_LOOKS: usize = 32;

impl World {
    /// Whether the bucket is known to have what runs and what waits.
    pub(crate) async fn slots_are_whole(&self) -> Result<bool, Unfinished> {
        Ok(self.slots_bucket().get(WHOLE).await?.is_some())
    }

    /// Fills the bucket, if nobody has since it was made. Any number of replicas may do it at once. While the document of
    /// an instance cannot be read, what runs of it is not known: the bucket is not called whole, and is filled again.
    pub(crate) async fn recover_slots(&self) -> Result<(), Unfinished> {
        if self.slots_are_whole().await? {
            return Ok(());
        }
        let listing = self.bus.instances().listing().await?;
        let branches = listing.documents.into_iter().flat_map(|document| {
            let (instance, pool) = (document.instance, document.pool);
            let branches = document.branches.into_iter();
            let active = branches.filter(|(_, branch)| matches!(branch, Branch::Active(_)));
            active.map(move |(branch, _)| (instance.clone(), branch, pool.clone()))
        });
        let mut looks = futures::stream::iter(branches)
            .map(async |(instance, branch, pool)| {
                self.recover_slot(&instance, &branch, pool.as_ref()).await
            })
            .buffer_unordered(CONCURRENT_LOOKS);
        while let Some(looked) = looks.next().await {
            looked?;
        }
        drop(looks);
        self.recover_queues().await?;
        if listing.unreadable.is_empty() {
            let _ = made(self.slots_bucket().create(WHOLE, "{}").await)?;
        }
        Ok(())
    }

    async fn recover_slot(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        pool: Option<&PoolName>,
    ) -> Result<(), Unfinished> {
        let Some(running) = self.running_backup(instance, branch, pool).await? else {
            return Ok(());
        };
        let value = encoded(&BackupSlot {
            backup_id: running,
            claimed_at: self.clock.now(),
        })?;
        let key = slot::backup_slot(instance, branch);
        if made(self.slots_bucket().create(&key, value).await)? {
            tracing::warn!(%instance, %branch, backup = %running, "the slot of a running backup was lost and is made again");
        }
        Ok(())
    }

    /// The backup of a branch that a worker has, or is to have, as far as its latest events tell. One that was asked of
    /// another pool, before the instance was given this one, is found by the very last event.
    pub(crate) async fn running_backup(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        pool: Option<&PoolName>,
    ) -> Result<Option<BackupId>, Unfinished> {
        let verbs = [
            subject::backup_requested(None),
            subject::backup_requested(pool),
            "backup.started".to_owned(),
            "backup.progressed".to_owned(),
            "backup.*".to_owned(),
        ];
        for verb in verbs {
            let latest = format!("{}.{verb}.{instance}.{branch}.*", subject::ROOT);
            let latest = self.bus.last_on(&latest).await?;
            let id = match latest.map(|latest| latest.envelope.message) {
                Some(Event::BackupRequested(requested)) => requested.backup_id,
                Some(Event::BackupStarted(started)) => started.backup_id,
                Some(Event::BackupProgressed(progressed)) => progressed.backup_id,
                Some(Event::BackupQueued(queued)) => queued.behind,
                Some(Event::BackupSkipped(BackupSkipped {
                    running: Some(running),
                    ..
                })) => running,
                _ => continue,
            };
            let fence = subject::backup_fence(instance, branch, id);
            let last = self.bus.last_on(&fence).await?;
            if Life::of(last.as_ref()) == Life::Running {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    async fn recover_queues(&self) -> Result<(), Unfinished> {
        let subjects = vec![subject::events_of("backup.queued")];
        let queued = self.bus.history(subjects, Sequence::NONE, topology::EVENTS);
        let mut queued = queued.await?;
        while let Some(stored) = queued.next().await {
            let Ok(Event::BackupQueued(queued)) = stored.map(|stored| stored.envelope.message)
            else {
                continue;
            };
            if Life::of(self.last_of(&queued.request).await?.as_ref()) == Life::Queued {
                let asked_at = queued.request.requested_at;
                self.put_waiting(&queued.request, None, asked_at).await?;
            }
        }
        Ok(())
    }
}

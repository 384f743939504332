//! Backups that wait until the slot of their branch is free: the oldest wish first.

use bus::{Change, Revision};
use events::event::BackupRequested;
use events::slot::{self, WaitingBackup};
use events::{BackupId, BranchName, InstanceName, MessageId, PoolName, Timestamp};

use crate::commands::World;
use crate::refusal::Unfinished;
use crate::slots::{Claim, Life, MARK, encoded, made, waiting};

impl World {
    /// Keeps a wish. One that is kept already stays as it is.
    pub(super) async fn put_waiting(
        &self,
        request: &BackupRequested,
        cause: Option<&MessageId>,
        due_at: Timestamp,
    ) -> Result<(), Unfinished> {
        let key = slot::queued(&request.instance, &request.branch, request.backup_id);
        let value = encoded(&WaitingBackup {
            due_at,
            request: request.clone(),
            cause: cause.map(ToString::to_string),
        })?;
        let _ = made(self.slots_bucket().create(&key, value).await)?;
        Ok(())
    }

    /// The backup of another fire of the same schedule that waits.
    pub(super) async fn waiting_of_schedule(
        &self,
        request: &BackupRequested,
    ) -> Result<Option<BackupId>, Unfinished> {
        let branch = format!("queue.{}.{}", request.instance, request.branch);
        let entries = self.slots_bucket().under(&branch).await?;
        let mut others = in_order(entries)
            .into_iter()
            .map(|(_, _, wish)| wish.request);
        let other = others.find(|other| {
            other.schedule_id == request.schedule_id && other.backup_id != request.backup_id
        });
        Ok(other.map(|other| other.backup_id))
    }

    /// Asks for the oldest backup of the branch that waits, if its slot is free. Wishes that were fulfilled, or came to
    /// nothing, are forgotten.
    pub(crate) async fn start_next(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), Unfinished> {
        let bucket = self.slots_bucket();
        let entries = bucket.under(&format!("queue.{instance}.{branch}")).await?;
        for (key, revision, wish) in in_order(entries) {
            let last = self.last_of(&wish.request).await?;
            if matches!(Life::of(last.as_ref()), Life::Unborn | Life::Queued) {
                let Claim::Ours(claimed) = self.claim(&wish.request).await? else {
                    return Ok(());
                };
                let cause = wish.cause.map(MessageId::new);
                let request = BackupRequested {
                    pool: self.pool_now(&wish.request).await?,
                    ..wish.request
                };
                let asking = self.request_claimed(request, cause.as_ref(), &claimed);
                let _asked = asking.await?;
                let _ = made(bucket.forget(&key, revision, MARK).await)?;
                return Ok(());
            }
            let _ = made(bucket.forget(&key, revision, MARK).await)?;
        }
        Ok(())
    }

    /// The instance's pool, which may be another one than when the wish was uttered.
    async fn pool_now(&self, wish: &BackupRequested) -> Result<Option<PoolName>, Unfinished> {
        let document = self.bus.instances().get(&wish.instance).await?;
        Ok(document.map_or(wish.pool.clone(), |(document, _)| document.pool))
    }
}

/// The readable ones, oldest wish first.
fn in_order(entries: Vec<Change>) -> Vec<(String, Revision, WaitingBackup)> {
    let readable = entries.into_iter().filter_map(|entry| {
        let wish = waiting(&entry)?;
        Some((entry.key, entry.revision, wish))
    });
    let mut wishes: Vec<_> = readable.collect();
    wishes.sort_by_key(|(_, _, wish)| (wish.request.requested_at, wish.request.backup_id));
    wishes
}

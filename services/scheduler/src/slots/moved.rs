//! A request that no worker has begun follows its instance to another pool.
//!
//! It is made anew under the backup's fence, after the one that it replaces: same backup, same terms, other workers. From
//! then on the old one is nobody's, whoever is given it however late ([`events::Envelope::backup_request`]).

use bus::{FenceError, Outgoing};
use events::event::BackupRequested;
use events::slot::BackupSlot;
use events::{BackupId, BranchName, Event, InstanceName, MessageId, subject};

use crate::commands::World;
use crate::refusal::Unfinished;

/// Pools that are given and taken away so fast are looked at again in the next round of the watchdog.
const MOST_RACES: usize = 8;

impl World {
    /// Moves what waits for a worker, of any branch of the instance, to the instance's pool.
    pub(crate) async fn move_requests(&self, instance: &InstanceName) -> Result<(), Unfinished> {
        let prefix = format!("backup.{instance}");
        for entry in self.slots_bucket().under(&prefix).await? {
            let branch = entry.key.rsplit_once('.');
            let branch = branch.and_then(|(_, branch)| branch.parse::<BranchName>().ok());
            let slot = entry.value.as_deref().map(serde_json::from_slice);
            if let (Some(branch), Some(Ok::<BackupSlot, _>(slot))) = (branch, slot) {
                let _moved = self.move_request(instance, &branch, slot.backup_id).await?;
            }
        }
        Ok(())
    }

    /// Moves one backup; whether it was asked of another pool than its instance's. Anybody may do it, any number of times.
    pub(crate) async fn move_request(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        id: BackupId,
    ) -> Result<bool, Unfinished> {
        let fence = subject::backup_fence(instance, branch, id);
        let mut moved = false;
        for _ in 0..MOST_RACES {
            let Some(last) = self.bus.last_on(&fence).await? else {
                break;
            };
            let Event::BackupRequested(asked) = &last.envelope.message else {
                break;
            };
            // After the request: the pool that was wanted when this one was made is known by now.
            let Some((document, _)) = self.bus.instances().get(instance).await? else {
                break;
            };
            if document.removing || document.pool == asked.pool {
                break;
            }
            self.make_pool(document.pool.as_ref()).await?;
            let anew = Event::BackupRequested(BackupRequested {
                pool: document.pool,
                ..asked.clone()
            });
            // Whoever replaces the same one says the same.
            let message_id = MessageId::new(format!("backup.requested:{id}:{}", last.sequence));
            let outgoing = Outgoing::new(anew, message_id, self.clock.now())
                .correlated(id)
                .caused_by(&last.envelope.id);
            let said = self.bus.publish_expecting(outgoing, &fence, last.sequence);
            match said.await {
                Ok(_sequence) => {
                    tracing::info!(%instance, %branch, backup = %id, "a backup that waits is asked of the workers of another pool");
                    moved = true;
                }
                Err(FenceError::Lost { .. }) => {}
                Err(FenceError::Bus(error)) => return Err(error.into()),
            }
        }
        Ok(moved)
    }
}

//! Events that change what is wanted: a restore that came to nothing frees its name, a deleted branch is
//! forgotten, a manual backup that failed or is gone no longer counts.

use async_trait::async_trait;
use bus::{Delivery, Handler, Outcome};
use events::document::Branch;
use events::{BackupId, Event};

use crate::commands::World;
use crate::refusal::outcome_of;

/// The consumer of those events.
pub(crate) struct Outcomes {
    pub(crate) world: World,
}

#[async_trait]
impl Handler<Event> for Outcomes {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let correlation = delivery.envelope.correlation.as_deref();
        let of_this_restore = |branch: &Branch| match branch {
            Branch::Restoring { restore_id, .. } => correlation == Some(&restore_id.to_string()),
            Branch::Active(_) | Branch::Deleting(_) => false,
        };
        let result = match &delivery.envelope.message {
            Event::RestoreFailed(failed) => {
                let (instance, branch) = (&failed.instance, &failed.branch);
                self.world
                    .forget_branch(instance, branch, of_this_restore)
                    .await
            }
            Event::RestoreRefused(refused) => {
                let (instance, branch) = (&refused.instance, &refused.branch);
                self.world
                    .forget_branch(instance, branch, of_this_restore)
                    .await
            }
            Event::BranchDeleted(deleted) => {
                let deleting = |branch: &Branch| matches!(branch, Branch::Deleting(_));
                self.world
                    .forget_branch(&deleted.instance, &deleted.branch, deleting)
                    .await
            }
            Event::BackupFailed(failed) => {
                let world = &self.world;
                world
                    .give_manual_place_back(&failed.instance, failed.backup_id)
                    .await
            }
            Event::BackupExpired(expired) => {
                let world = &self.world;
                world
                    .give_manual_place_back(&expired.instance, expired.backup_id)
                    .await
            }
            Event::BackupRefused(refused) => {
                let never_taken = BackupId::from(refused.command_id);
                self.world
                    .give_manual_place_back(&refused.instance, never_taken)
                    .await
            }
            _ => Ok(()),
        };
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => outcome_of(&error, delivery.attempt),
        }
    }
}

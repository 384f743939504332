//! Events that change what is wanted: a restore that came to nothing frees its name, a deleted branch is
//! forgotten, a manual backup that failed or is gone no longer counts, a backup that ended makes room for the next one
//! of its branch, and one that a schedule asked for and that failed may be tried again.

use async_trait::async_trait;
use bus::{Delivery, Handler, Outcome, Sequence};
use events::document::Branch;
use events::event::{BackupFailed, BranchDeleted, Refused};
use events::{BackupId, DrillId, Envelope, Event, subject};

use crate::commands::World;
use crate::refusal::{Unfinished, outcome_of};

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
            Event::BranchDeleted(deleted) => self.deleted(deleted, delivery.sequence).await,
            Event::BackupCompleted(completed) => {
                let (instance, branch) = (&completed.instance, &completed.branch);
                self.world
                    .free_slot(instance, branch, completed.backup_id)
                    .await
            }
            Event::BackupFailed(failed) => self.failed(failed, &delivery.envelope).await,
            Event::BackupVerified(verified) => self.verified(verified).await,
            Event::BackupExpired(expired) => {
                let world = &self.world;
                world
                    .give_manual_place_back(&expired.instance, expired.backup_id)
                    .await
            }
            Event::BackupRefused(refused) => {
                let never_taken = BackupId::from(refused.command_id);
                self.refused(refused, never_taken).await
            }
            Event::DrillCompleted(ended) => {
                let (instance, drill) = (&ended.instance, ended.drill_id);
                self.world.release_drill(instance, drill).await
            }
            Event::DrillFailed(ended) => {
                let (instance, drill) = (&ended.instance, ended.drill_id);
                self.world.release_drill(instance, drill).await
            }
            Event::DrillRefused(refused) => {
                let drill = DrillId::from(refused.command_id);
                self.world.release_drill(&refused.instance, drill).await
            }
            Event::BranchSwept(swept) => {
                self.world
                    .forget_sweep(&swept.instance, &swept.branch, swept.sweep_id)
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

impl Outcomes {
    /// The branch of which this was `said` is forgotten, and not the next one of its name, whose server still runs.
    async fn deleted(&self, deleted: &BranchDeleted, said: Sequence) -> Result<(), Unfinished> {
        let (instance, branch) = (&deleted.instance, &deleted.branch);
        let life = deleted.restore_id;
        if life.is_none() {
            let registered = format!("{}.branch.registered.{instance}.{branch}", subject::ROOT);
            let registered = self.world.bus.last_on(&registered).await?;
            if registered.is_some_and(|registered| registered.sequence > said) {
                return Ok(());
            }
        }
        let it = |branch: &Branch| {
            let same = life.is_none() || branch.made_by() == life;
            same && matches!(branch, Branch::Deleting(_))
        };
        self.world.forget_branch(instance, branch, it).await
    }

    async fn failed(
        &self,
        failed: &BackupFailed,
        envelope: &Envelope<Event>,
    ) -> Result<(), Unfinished> {
        let (world, id) = (&self.world, failed.backup_id);
        world.keep_retry(failed, &envelope.id).await?;
        world.give_manual_place_back(&failed.instance, id).await?;
        world.free_slot(&failed.instance, &failed.branch, id).await
    }

    /// What stands in for a backup that was found damaged may be on its way out: see `retention::sweeps`.
    async fn verified(&self, verified: &events::event::BackupVerified) -> Result<(), Unfinished> {
        self.world.keep_verification(verified).await?;
        let (instance, branch) = (&verified.instance, &verified.branch);
        match verified.sound {
            true => Ok(()),
            false => self.world.judge_sweep(instance, branch).await,
        }
    }

    async fn refused(&self, refused: &Refused, id: BackupId) -> Result<(), Unfinished> {
        let world = &self.world;
        world.give_manual_place_back(&refused.instance, id).await?;
        world
            .free_slot(&refused.instance, &refused.branch, id)
            .await
    }
}

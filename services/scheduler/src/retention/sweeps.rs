//! Sweeps: what is to be deleted is put into the instance's document, looked at once more, and given to a worker.
//!
//! The document's entry comes first: from then on restores act as if all of it were gone, and whoever wants to keep a
//! backup after all is told that it is too late. Whoever wanted that before has written it into a mark by then, and a
//! backup that began before is in its slot, so everything is read and planned once more after the entry stands. The sweep's fence decides the rest: the first event on it is either the
//! request, and then it is carried out, or its end, and then nothing is. A request that has no end for long is made
//! again: nothing of a branch is deleted, and nothing of the sweep restored, while it stands.

use bus::{Decision, FenceError, Outgoing, Sequence};
use chrono::TimeDelta;
use events::document::{Sweep, WalStretch};
use events::event::{BranchSweepRequested, BranchSwept};
use events::{BranchName, Event, InstanceName, MessageId, SweepId, subject};
use retention::{LeftoverFate, Plan, WalFate};

use super::Rounds;
use super::hollow::is_hollow;
use super::purge::may_be_purged;
use super::stored::{self, Life, life, readers};
use crate::commands::World;
use crate::refusal::{Unfinished, published_once};

/// Longer than a sweep takes as a rule. Whoever carries it out still does no harm beside another one.
const ASK_AGAIN_AFTER: TimeDelta = TimeDelta::hours(6);

impl Rounds {
    /// Claims what is to be deleted, and sees to it.
    pub(crate) async fn begin_sweep(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        live: bool,
        sweep: Sweep,
    ) -> Result<(), Unfinished> {
        let instances = self.world.bus.instances();
        let claimed = instances.update(instance, |document| {
            let Some(document) = document.filter(|document| !document.removing) else {
                return Decision::Keep(false);
            };
            let expected = if live { Life::Live } else { Life::Gone };
            let free = readers(document, branch).is_empty()
                && !document.sweeps.contains_key(branch)
                && life(document, branch) == expected;
            if !free {
                return Decision::Keep(false);
            }
            let mut document = document.clone();
            let _ = document.sweeps.insert(branch.clone(), sweep.clone());
            Decision::Put(Box::new(document), true)
        });
        match claimed.await? {
            true => self.push_on(instance, branch, &sweep).await,
            false => Ok(()),
        }
    }

    /// Brings a sweep that stands in the document on its way, wherever it was left.
    pub(super) async fn push_on(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sweep: &Sweep,
    ) -> Result<(), Unfinished> {
        let world = &self.world;
        let fence = subject::sweep_fence(instance, branch, sweep.sweep_id);
        let last = match world.bus.last_on(&fence).await? {
            None => Sequence::NONE,
            Some(last) if matches!(last.envelope.message, Event::BranchSwept(_)) => {
                return world.forget_sweep(instance, branch, sweep.sweep_id).await;
            }
            Some(last) if world.clock.now() - last.envelope.time < ASK_AGAIN_AFTER => return Ok(()),
            // The request may be gone, or was acknowledged while the document was not to be had. What was true when it
            // was made may not be so any more: what is left of it was found to be the only sound backup.
            Some(last) => last.sequence,
        };
        match self.may_go(instance, branch, sweep).await? {
            true => self.request(instance, branch, sweep, (&fence, last)).await,
            false => self.withdraw(instance, branch, sweep, (&fence, last)).await,
        }
    }

    /// Whether a plan made now lets all of it go that is there. To be asked while the sweep stands in the document: what
    /// was wanted, begun or found before that is seen here, whatever the sweep was made of, and by whom.
    async fn may_go(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sweep: &Sweep,
    ) -> Result<bool, Unfinished> {
        let may = match sweep {
            Sweep { purge: true, .. } => may_be_purged(&self.world, instance, branch).await?,
            Sweep { hollow: true, .. } => is_hollow(&self.world, instance, branch).await?,
            _ => {
                let known = Some(&self.memory.manifests);
                let found = stored::find(&self.world, (instance, branch), known).await?;
                found.is_some_and(|found| lets_go(&retention::plan(&found.stored), sweep))
            }
        };
        if !may {
            tracing::info!(sweep = %sweep.sweep_id, "something is to stay after all; the sweep is withdrawn");
        }
        Ok(may)
    }

    async fn request(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sweep: &Sweep,
        over: (&str, Sequence),
    ) -> Result<(), Unfinished> {
        tracing::info!(
            %branch, sweep = %sweep.sweep_id, backups = sweep.backups.len(), wal = sweep.wal.len(),
            "what nothing needs any more is given to the workers to delete"
        );
        let event = Event::BranchSweepRequested(BranchSweepRequested {
            instance: instance.clone(),
            branch: branch.clone(),
            sweep_id: sweep.sweep_id,
            sweep: sweep.clone(),
        });
        Ok(published_once(self.say(event, sweep, over).await)?)
    }

    /// Ends a sweep that nobody has been asked to carry out, or not for long. If somebody has meanwhile, it goes on. A
    /// worker that has it nevertheless asks the document before each piece.
    async fn withdraw(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sweep: &Sweep,
        over: (&str, Sequence),
    ) -> Result<(), Unfinished> {
        let event = Event::BranchSwept(BranchSwept {
            instance: instance.clone(),
            branch: branch.clone(),
            sweep_id: sweep.sweep_id,
            objects: 0,
            bytes: 0,
            swept_at: self.world.clock.now(),
        });
        match self.say(event, sweep, over).await {
            Ok(_) => {
                let world = &self.world;
                world.forget_sweep(instance, branch, sweep.sweep_id).await
            }
            Err(FenceError::Lost { .. }) => Ok(()),
            Err(FenceError::Bus(error)) => Err(error.into()),
        }
    }

    /// Says it if `last` is the last that was said of the sweep.
    async fn say(
        &self,
        event: Event,
        sweep: &Sweep,
        (fence, last): (&str, Sequence),
    ) -> Result<Sequence, FenceError> {
        let (name, sweep_id) = (event.type_name(), sweep.sweep_id);
        let id = MessageId::new(match last {
            Sequence::NONE => format!("{name}:{sweep_id}"),
            last => format!("{name}:{sweep_id}:{last}"),
        });
        let outgoing = Outgoing::new(event, id, self.world.clock.now()).correlated(sweep.sweep_id);
        let bus = &self.world.bus;
        bus.publish_expecting(outgoing, fence, last).await
    }
}

fn lets_go(plan: &Plan, sweep: &Sweep) -> bool {
    let backups = plan.backups.iter().all(|one| {
        one.decision == retention::Decision::Delete || !sweep.backups.contains(&one.backup_id)
    });
    let wal = plan.wal.iter().all(|one| {
        let swept = |stretch: &WalStretch| {
            stretch.timeline == one.timeline
                && stretch.from_lsn < one.to_lsn
                && one.from_lsn < stretch.to_lsn
        };
        one.fate == WalFate::Prune || !sweep.wal.iter().any(swept)
    });
    // A manifest that has come meanwhile is one of those of the plan.
    let committed = plan.backups.iter();
    let committed = committed.map(|one| one.backup_id);
    let leftovers = plan.leftovers.iter().all(|one| {
        one.fate == LeftoverFate::Delete || !sweep.leftovers.contains(&one.leftover.backup_id)
    });
    let leftovers = leftovers
        && !committed
            .into_iter()
            .any(|id| sweep.leftovers.contains(&id));
    let mut histories = plan.histories.iter();
    backups
        && wal
        && leftovers
        && histories.all(|one| one.goes || !sweep.histories.contains(&one.timeline))
}

impl World {
    /// Takes a sweep that has ended out of the instance's document.
    pub(crate) async fn forget_sweep(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sweep_id: SweepId,
    ) -> Result<(), Unfinished> {
        let instances = self.bus.instances();
        let forgotten = instances.update(instance, |document| {
            let swept = |document: &&events::InstanceDocument| {
                let sweep = document.sweeps.get(branch);
                sweep.is_some_and(|sweep| sweep.sweep_id == sweep_id)
            };
            let Some(document) = document.filter(swept) else {
                return Decision::Keep(());
            };
            let mut document = document.clone();
            let _ = document.sweeps.remove(branch);
            Decision::Put(Box::new(document), ())
        });
        Ok(forgotten.await?)
    }
}

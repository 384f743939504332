//! Sweeps: what is to be deleted is put into the instance's document, looked at once more, and given to a worker.
//!
//! The document's entry comes first: from then on restores act as if all of it were gone, and whoever wants to keep a
//! backup after all is told that it is too late. Whoever wanted that before has written it into a mark by then, and a
//! backup that began before is in its slot, so everything is read and planned once more after the entry stands. The sweep's fence decides the rest: the first event on it is either the
//! request, and then it is carried out, or its end, and then nothing is. A request that has no end for long is made
//! again: nothing of a branch is deleted, and nothing of the sweep restored, while it stands.
//!
//! What was true when a worker was asked may not be so when it comes to it: what is to go may have been found to be the
//! only sound backup since. So a sweep that was asked for is judged again in each round, and whenever a backup is found
//! damaged. Where something is to stay after all it is withdrawn, and stands for a while longer: a worker that has just
//! asked whether it is wanted is at a piece of it still, so nobody restores with that piece yet, or is told it is kept.

use std::sync::Arc;

use bus::{Decision, FenceError, Outgoing, Sequence};
use chrono::TimeDelta;
use events::document::Sweep;
use events::event::{BranchSweepRequested, BranchSwept};
use events::{BranchName, Event, InstanceName, MessageId, SweepId, Timestamp, subject};

use super::Rounds;
use super::hollow::is_hollow;
use super::purge::may_be_purged;
use super::stored::{self, Life, life, readers};
use crate::commands::World;
use crate::refusal::{Unfinished, published_once};

/// Longer than a sweep takes as a rule. Whoever carries it out still does no harm beside another one.
const ASK_AGAIN_AFTER: TimeDelta = TimeDelta::hours(6);

/// How long a sweep stands that is withdrawn from a worker. A worker of whom nothing is heard for so long has lost it.
pub(super) const WITHDRAWN_FOR: TimeDelta = TimeDelta::minutes(5);

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
        let last = world.bus.last_on(&fence).await?;
        if let Some(last) = &last
            && matches!(last.envelope.message, Event::BranchSwept(_))
        {
            return world.forget_sweep(instance, branch, sweep.sweep_id).await;
        }
        let asked = last.as_ref().map(|last| last.envelope.time);
        let last = last.map_or(Sequence::NONE, |last| last.sequence);
        let now = world.clock.now();
        if let Some(since) = sweep.withdrawn_at {
            return match near(now, since, WITHDRAWN_FOR) {
                true => Ok(()),
                false => self.end(instance, branch, sweep, (&fence, last)).await,
            };
        }
        // A request may be gone, or was acknowledged while the document was not to be had.
        let heard = asked.is_some_and(|asked| near(now, asked, ASK_AGAIN_AFTER));
        // To look whether a branch is hollow is to write to it, which a worker may be about to delete.
        if heard && sweep.hollow {
            return Ok(());
        }
        match (self.may_go(instance, branch, sweep).await?, asked) {
            (true, _) if heard => Ok(()),
            (true, _) => self.request(instance, branch, sweep, (&fence, last)).await,
            // Nobody was asked to carry it out. If somebody has been meanwhile, it goes on.
            (false, None) => self.end(instance, branch, sweep, (&fence, last)).await,
            (false, Some(_)) => world.withdraw_sweep(instance, branch, sweep.sweep_id).await,
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
                found.is_some_and(|found| retention::plan(&found.stored).lets_go(sweep))
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

    /// Ends a sweep that nobody has been asked to carry out, or that was withdrawn long enough ago.
    async fn end(
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

/// Whether two moments, by two clocks, are less than this apart. What is far in the future was said by a clock that was
/// wrong, and is over.
fn near(one: Timestamp, other: Timestamp, limit: TimeDelta) -> bool {
    (one - other).abs() < limit
}

impl World {
    /// Looks once more whether what is being deleted of a branch may go: something was found that retention decides by.
    pub(crate) async fn judge_sweep(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), Unfinished> {
        let found = self.bus.instances().get(instance).await?;
        let document = found.map(|(document, _revision)| document);
        let sweep = document.and_then(|mut document| document.sweeps.remove(branch));
        let Some(sweep) = sweep else {
            return Ok(());
        };
        let rounds = Rounds {
            world: self.clone(),
            memory: Arc::default(),
        };
        rounds.push_on(instance, branch, &sweep).await
    }

    /// Says in the document that a sweep is not to be carried out after all: from now on no worker begins a piece of it.
    async fn withdraw_sweep(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sweep_id: SweepId,
    ) -> Result<(), Unfinished> {
        let (instances, now) = (self.bus.instances(), self.clock.now());
        let withdrawn = instances.update(instance, |document| {
            let Some(mut document) = document.cloned() else {
                return Decision::Keep(());
            };
            let sweep = document.sweeps.get_mut(branch);
            let ours = sweep.filter(|sweep| sweep.sweep_id == sweep_id);
            match ours.filter(|sweep| sweep.withdrawn_at.is_none()) {
                None => Decision::Keep(()),
                Some(sweep) => {
                    sweep.withdrawn_at = Some(now);
                    Decision::Put(Box::new(document), ())
                }
            }
        });
        Ok(withdrawn.await?)
    }

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

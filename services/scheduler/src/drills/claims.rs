//! The claim of a drill on the past of its branch: made before it is requested, given back when it has ended, and in
//! any case at its deadline.

use bus::{Decision, FenceError, Outgoing};
use chrono::TimeDelta;
use events::document::{Branch, DrillCheck, RunningDrill};
use events::event::{DrillFailed, DrillStep, FailureCause};
use events::{
    BranchName, DrillId, Event, InstanceDocument, InstanceName, MessageId, Timestamp, subject,
};

use crate::commands::World;
use crate::refusal::Unfinished;

/// A claim whose drill was not requested after so long: whoever made it has died, and its fire has passed.
const UNASKED: TimeDelta = TimeDelta::minutes(10);

/// What came of the wish to claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Claim {
    /// It is claimed for this drill.
    Held {
        /// What must be true of the restored data.
        checks: Vec<DrillCheck>,
    },
    /// It is claimed for another one.
    Busy(RunningDrill),
    /// There is no such branch, or it is going away.
    NoBranch,
}

/// Decides on a claim. Pure.
fn decide(
    document: Option<&InstanceDocument>,
    wanted: &RunningDrill,
) -> (Option<InstanceDocument>, Claim) {
    let Some(document) = document.filter(|document| !document.removing) else {
        return (None, Claim::NoBranch);
    };
    let branch = document.branches.get(&wanted.branch);
    if branch.and_then(Branch::active).is_none() {
        return (None, Claim::NoBranch);
    }
    let settings = document.drills.as_ref();
    let checks = settings.map(|settings| settings.checks.clone());
    let held = Claim::Held {
        checks: checks.unwrap_or_default(),
    };
    match &document.running_drill {
        Some(running) if running.drill_id == wanted.drill_id => (None, held),
        Some(running) => (None, Claim::Busy(running.clone())),
        None => {
            let mut document = document.clone();
            document.running_drill = Some(wanted.clone());
            (Some(document), held)
        }
    }
}

impl World {
    pub(super) async fn claim_for_drill(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        drill_id: DrillId,
    ) -> Result<Claim, Unfinished> {
        let wanted = RunningDrill {
            drill_id,
            branch: branch.clone(),
            since: self.clock.now(),
        };
        let instances = self.bus.instances();
        let claimed = instances.update(instance, |document| {
            let (change, claim) = decide(document, &wanted);
            match change {
                Some(document) => Decision::Put(Box::new(document), claim),
                None => Decision::Keep(claim),
            }
        });
        Ok(claimed.await?)
    }

    /// Gives the claim of a drill back; one of another drill is left alone.
    pub(crate) async fn release_drill(
        &self,
        instance: &InstanceName,
        drill_id: DrillId,
    ) -> Result<(), Unfinished> {
        let instances = self.bus.instances();
        let released = instances.update(instance, |document| {
            let of_it = |running: &RunningDrill| running.drill_id == drill_id;
            match document {
                Some(document) if document.running_drill.as_ref().is_some_and(of_it) => {
                    let mut document = document.clone();
                    document.running_drill = None;
                    Decision::Put(Box::new(document), ())
                }
                _ => Decision::Keep(()),
            }
        });
        Ok(released.await?)
    }

    /// Gives back the claim of a drill that has ended, that was never requested, or whose time is over.
    pub(super) async fn tend_drill(
        &self,
        instance: &InstanceName,
        running: &RunningDrill,
    ) -> Result<(), Unfinished> {
        let fence = subject::drill_fence(instance, &running.branch, running.drill_id);
        let (now, age) = (self.clock.now(), self.clock.now() - running.since);
        let deadline = TimeDelta::from_std(self.config.drill_deadline).unwrap_or(TimeDelta::MAX);
        match self.bus.last_on(&fence).await? {
            Some(last) if is_ending(&last.envelope.message) => {}
            None if age < UNASKED => return Ok(()),
            None => tracing::warn!(
                %instance, drill = %running.drill_id,
                "a drill was never requested; its claim is given back"
            ),
            Some(_) if age < deadline => return Ok(()),
            Some(last) => {
                let failed = self.overdue(instance, running, &last.envelope.message, now);
                let id = MessageId::new(format!("drill.deadline:{}", running.drill_id));
                let outgoing = Outgoing::new(failed, id, now).correlated(running.drill_id);
                let said = self.bus.publish_expecting(outgoing, &fence, last.sequence);
                match said.await {
                    Ok(_) => {}
                    // It speaks, or has just ended.
                    Err(FenceError::Lost { .. }) => return Ok(()),
                    Err(FenceError::Bus(error)) => return Err(error.into()),
                }
            }
        }
        self.release_drill(instance, running.drill_id).await
    }

    fn overdue(
        &self,
        instance: &InstanceName,
        running: &RunningDrill,
        last: &Event,
        now: Timestamp,
    ) -> Event {
        let hours = self.config.drill_deadline.as_secs() / 3600;
        let (target, backup_id, message, hint) = match last {
            Event::DrillStarted(started) => (
                Some(started.target),
                Some(started.plan.backup_id),
                format!(
                    "restorer {} began it and did not end it within {hours} h",
                    started.restorer
                ),
                "See the restorer's log; a large database may need a longer ZEKTOR_DRILL_DEADLINE, or drills without \
                 pg_amcheck (ZEKTOR_DRILL_AMCHECK).",
            ),
            _ => (
                None,
                None,
                format!("no restorer began it within {hours} h"),
                "Check that a restorer runs whose ZEKTOR_DRILL_CONCURRENCY is not 0, and that drills of many \
                 instances are spread over time.",
            ),
        };
        tracing::error!(%instance, drill = %running.drill_id, message, "a drill is given up");
        Event::DrillFailed(DrillFailed {
            drill_id: running.drill_id,
            instance: instance.clone(),
            branch: running.branch.clone(),
            target,
            backup_id,
            step: DrillStep::Unknown,
            cause: FailureCause::Internal,
            damaged: false,
            message,
            hint: hint.to_owned(),
            checks: Vec::new(),
            failed_at: now,
        })
    }
}

fn is_ending(event: &Event) -> bool {
    matches!(
        event,
        Event::DrillCompleted(_)
            | Event::DrillFailed(_)
            | Event::DrillRefused(_)
            | Event::DrillSkipped(_)
    )
}

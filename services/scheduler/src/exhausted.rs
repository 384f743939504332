//! Jobs that every worker gave back, or died with: NATS delivers them no more, and this says so.
//!
//! Whoever requested a backup or a restore waits for its end, so there must be one. It is said under the
//! job's fence, after its last event: an attempt that is still at it loses the fence and says nothing more.
//! A backup whose manifest stands has not failed, whoever died before announcing it.

use std::sync::Arc;

use async_trait::async_trait;
use bus::{BusError, Delivery, Exhausted, FenceError, Handler, Outcome, Outgoing, Sequence};
use events::event::{
    BackupCompleted, BackupFailed, BackupRequested, DrillFailed, DrillRequested, DrillStep,
    FailureCause, RestoreFailed, RestoreRequested,
};
use events::topology::{self, EVENTS};
use events::{BackupId, BranchName, Event, InstanceName, subject};
use repository::{ErrorClass, RepositoryError};
use tokio_util::sync::CancellationToken;

use crate::commands::World;
use crate::refusal::{Unfinished, outcome_of};
use crate::slots::Life;

/// Looks for a backup's manifest while the store does not answer: about five minutes of them.
const LOOKS: u64 = 20;

/// Ends what was given up, until `shutdown`.
pub(crate) async fn run(world: &World, shutdown: CancellationToken) -> Result<(), BusError> {
    let handler = Arc::new(GivenUp {
        world: world.clone(),
    });
    let spec = topology::exhausted();
    world.bus.consume_exhausted(&spec, handler, shutdown).await
}

struct GivenUp {
    world: World,
}

#[async_trait]
impl Handler<Exhausted> for GivenUp {
    async fn handle(&self, delivery: &Delivery<Exhausted>) -> Outcome {
        match self.settle(delivery).await {
            Ok(()) => Outcome::Done,
            Err(Unfinished::Bus(error @ BusError::Undecodable { .. })) => Outcome::Reject {
                reason: error.to_string(),
            },
            Err(error) => outcome_of(&error, delivery.attempt),
        }
    }
}

impl GivenUp {
    async fn settle(&self, delivery: &Delivery<Exhausted>) -> Result<(), Unfinished> {
        let exhausted = &delivery.envelope.message;
        if exhausted.stream != EVENTS {
            return Ok(());
        }
        let bus = &self.world.bus;
        let Some(job) = bus.event_at(exhausted.sequence).await? else {
            return Ok(());
        };
        // A stream that was lost and made anew counts from 1 again: this is another message.
        if job.time > delivery.envelope.time {
            return Ok(());
        }
        let fence = match &job.envelope.message {
            Event::BackupRequested(backup) => {
                subject::backup_fence(&backup.instance, &backup.branch, backup.backup_id)
            }
            Event::RestoreRequested(restore) => {
                subject::restore_fence(&restore.instance, &restore.branch, restore.restore_id)
            }
            Event::DrillRequested(drill) => {
                subject::drill_fence(&drill.instance, &drill.branch, drill.drill_id)
            }
            other => {
                let (job, sequence) = (other.type_name(), exhausted.sequence.0);
                tracing::error!(job, sequence, "a job was given up after its last delivery");
                return Ok(());
            }
        };
        let last = bus.last_on(&fence).await?;
        let ended = match &job.envelope.message {
            Event::BackupRequested(_) => Life::of(last.as_ref()) == Life::Ended,
            _ => last
                .as_ref()
                .is_some_and(|last| is_ending(&last.envelope.message)),
        };
        // One that was asked for anew, of other workers, is theirs now.
        let counts = last
            .as_ref()
            .and_then(|last| last.envelope.backup_request());
        if ended || counts.is_some_and(|counts| counts != job.envelope.id.as_str()) {
            return Ok(());
        }
        let last = last.map_or(Sequence::NONE, |last| last.sequence);
        let (event, correlation) = match &job.envelope.message {
            Event::RestoreRequested(restore) => {
                let event = self.restore_end(restore, exhausted.deliveries);
                (event, restore.restore_id.to_string())
            }
            Event::BackupRequested(backup) => {
                let event = self.backup_end(backup, delivery).await?;
                (event, backup.backup_id.to_string())
            }
            Event::DrillRequested(drill) => {
                let event = self.drill_end(drill, exhausted.deliveries);
                (event, drill.drill_id.to_string())
            }
            _ => return Ok(()),
        };
        tracing::error!(
            job = correlation,
            consumer = exhausted.consumer,
            deliveries = exhausted.deliveries,
            outcome = event.type_name(),
            "a job was given up after its last delivery; its end is announced"
        );
        let id = delivery.envelope.id.clone();
        let outgoing = Outgoing::new(event, id, self.world.clock.now())
            .correlated(correlation)
            .caused_by(&job.envelope.id);
        match bus.publish_expecting(outgoing, &fence, last).await {
            Ok(_sequence) => Ok(()),
            Err(FenceError::Bus(error)) => Err(error.into()),
            Err(FenceError::Lost { .. }) => Err(Unfinished::NotYet(
                "an attempt at the job is still speaking".to_owned(),
            )),
        }
    }

    async fn backup_end(
        &self,
        backup: &BackupRequested,
        delivery: &Delivery<Exhausted>,
    ) -> Result<Event, RepositoryError> {
        let ending = Ending {
            instance: &backup.instance,
            branch: &backup.branch,
            backup_id: backup.backup_id,
            cause: FailureCause::Internal,
            message: given_up_after(delivery.envelope.message.deliveries),
            hint: "Check that the backup workers stay up and see their logs; then run the backup again.".to_owned(),
        };
        let patient = delivery.attempt < LOOKS;
        self.world.ending_of(ending, patient).await
    }

    fn drill_end(&self, drill: &DrillRequested, deliveries: u64) -> Event {
        Event::DrillFailed(DrillFailed {
            drill_id: drill.drill_id,
            instance: drill.instance.clone(),
            branch: drill.branch.clone(),
            cause: FailureCause::Internal,
            target: None,
            backup_id: None,
            step: DrillStep::Unknown,
            damaged: false,
            message: given_up_after(deliveries),
            hint: "Check that the restorer stays up and see its log; then run the drill again."
                .to_owned(),
            checks: Vec::new(),
            failed_at: self.world.clock.now(),
        })
    }

    fn restore_end(&self, restore: &RestoreRequested, deliveries: u64) -> Event {
        Event::RestoreFailed(RestoreFailed {
            restore_id: restore.restore_id,
            instance: restore.instance.clone(),
            branch: restore.branch.clone(),
            cause: FailureCause::Internal,
            message: given_up_after(deliveries),
            hint: "Check that the restorer stays up and see its log; then restore again."
                .to_owned(),
            failed_at: self.world.clock.now(),
        })
    }
}

/// A backup that somebody gives up.
pub(crate) struct Ending<'a> {
    pub(crate) instance: &'a InstanceName,
    pub(crate) branch: &'a BranchName,
    pub(crate) backup_id: BackupId,
    pub(crate) cause: FailureCause,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl World {
    /// How a backup that is given up has ended: if its manifest stands it is complete, and nobody said so. A store that
    /// does not answer is an error while `patient`, and then it counts as failed.
    pub(crate) async fn ending_of(
        &self,
        given_up: Ending<'_>,
        patient: bool,
    ) -> Result<Event, RepositoryError> {
        let Ending {
            instance,
            branch,
            backup_id,
            cause,
            message,
            hint,
        } = given_up;
        let reader = self.repository.reader(instance, branch);
        let manifest = match RepositoryError::absent_as_none(reader.manifest(backup_id).await) {
            Ok(manifest) => manifest,
            Err(error) if error.class() == ErrorClass::Transient && patient => return Err(error),
            Err(error) => {
                tracing::error!(backup = %backup_id, error = %error, "its manifest cannot be read");
                None
            }
        };
        let (instance, branch) = (instance.clone(), branch.clone());
        Ok(match manifest {
            Some(manifest) => Event::BackupCompleted(BackupCompleted {
                backup_id,
                instance,
                branch,
                summary: manifest.summary,
            }),
            None => Event::BackupFailed(BackupFailed {
                backup_id,
                instance,
                branch,
                cause,
                transient: None,
                message,
                hint,
                failed_at: self.clock.now(),
            }),
        })
    }
}

fn given_up_after(deliveries: u64) -> String {
    format!("given up after {deliveries} attempts, none of which came to an end")
}

fn is_ending(event: &Event) -> bool {
    matches!(
        event,
        Event::BackupCompleted(_)
            | Event::BackupFailed(_)
            | Event::BackupRefused(_)
            | Event::RestoreCompleted(_)
            | Event::RestoreFailed(_)
            | Event::RestoreRefused(_)
            | Event::DrillCompleted(_)
            | Event::DrillFailed(_)
            | Event::DrillRefused(_)
            | Event::DrillSkipped(_)
    )
}

#[cfg(test)]
mod tests;

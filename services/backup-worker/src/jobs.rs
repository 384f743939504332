//! Requested backups, as they are delivered: taken over, attempted, ended.
//!
//! A request may be delivered twice, to two workers at once, at any point. The fence lets one of them speak;
//! the manifest, created only if absent, decides what the backup is.

use std::time::Duration;

use async_trait::async_trait;
use bus::{BusError, Delivery, Fence, FenceError, Handler, Outcome, Sequence};
use events::event::{BackupCompleted, BackupFailed, BackupRequested, BackupStarted};
use events::{BackupSummary, Event, subject};
use rand::Rng;
use repository::{ErrorClass, RepositoryError};

use crate::attempt::{Attempt, World};
use crate::failure::{AttemptError, Verdict};
use crate::metrics::{self, Ended};
use crate::takeover::{self, Takeover};
use crate::voice::{Voice, outgoing};

/// The consumer of `backup.requested`.
pub(crate) struct Jobs {
    pub(crate) world: World,
}

#[async_trait]
impl Handler<Event> for Jobs {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let Event::BackupRequested(request) = &delivery.envelope.message else {
            return Outcome::Reject {
                reason: "not a backup request".to_owned(),
            };
        };
        match Box::pin(self.work(delivery, request)).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let reason = error.sentence();
                tracing::warn!(backup = %request.backup_id, reason, "the attempt failed");
                Outcome::Retry {
                    after: pause_after(delivery.attempt),
                    reason,
                }
            }
        }
    }
}

/// An ack would end the successor's delivery: if it died, nobody would be given the request again.
fn superseded() -> Outcome {
    Outcome::Leave {
        reason: "another worker has the backup now".to_owned(),
    }
}

/// 2, 4, 8, 16 seconds: a restart of the server or of the store is over by then.
fn pause_after(attempt: u64) -> Duration {
    Duration::from_secs(1 << attempt.clamp(1, 4))
}

impl Jobs {
    /// `Err` when the message must be delivered again. Only a backup that has ended settles it: whoever
    /// was superseded leaves it to its successor.
    async fn work(
        &self,
        delivery: &Delivery<Event>,
        request: &BackupRequested,
    ) -> Result<Outcome, AttemptError> {
        let fence = subject::backup_fence(&request.instance, &request.branch, request.backup_id);
        let last = self.world.bus.last_on(&fence).await?;
        if let Some(last) = &last
            && takeover::is_replaced(&delivery.envelope.id, &last.envelope)
        {
            return Ok(Outcome::Done);
        }
        let last = last
            .as_ref()
            .map(|stored| (stored.sequence, &stored.envelope.message));
        let Takeover::Attempt { last } = takeover::decide(last) else {
            return Ok(Outcome::Done);
        };
        let random = rand::rng().random();
        let name = takeover::attempt_name(request.backup_id, random);
        let Some(fence) = self.begin(delivery, request, &name, fence, last).await? else {
            return Ok(superseded());
        };
        let causation = delivery.envelope.id.to_string();
        let heartbeat = delivery.progress.clone();
        let voice = Voice::new(&self.world, request, causation, fence, heartbeat);
        let mut attempt = Attempt {
            world: &self.world,
            request,
            name,
            started_at: self.world.clock.now(),
            voice,
        };
        // A worker may have been killed between the manifest and its announcement.
        let result = match self.standing(request).await? {
            Some(summary) => Ok(summary),
            None => Box::pin(attempt.run()).await,
        };
        self.end(delivery, attempt, result).await
    }

    /// Takes the fence; `None` when another worker was faster.
    async fn begin(
        &self,
        delivery: &Delivery<Event>,
        request: &BackupRequested,
        name: &str,
        fence: String,
        last: Sequence,
    ) -> Result<Option<Fence>, BusError> {
        let event = Event::BackupStarted(BackupStarted {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            worker: self.world.worker.clone(),
            attempt: name.to_owned(),
            started_at: self.world.clock.now(),
        });
        match Fence::take(
            &self.world.bus,
            fence,
            last,
            outgoing(&self.world, request, delivery.envelope.id.as_str(), event),
        )
        .await
        {
            Ok(fence) => Ok(Some(fence)),
            Err(FenceError::Lost { .. }) => Ok(None),
            Err(FenceError::Bus(error)) => Err(error),
        }
    }

    /// The backup, if its manifest stands. Another attempt may have committed while this one erred, so a
    /// failure is only said after looking; while the store does not answer the delivery is tried again, and
    /// after the last one the scheduler looks.
    async fn standing(
        &self,
        request: &BackupRequested,
    ) -> Result<Option<BackupSummary>, RepositoryError> {
        let repository = &self.world.repository;
        let branch = repository.reader(&request.instance, &request.branch);
        let manifest = RepositoryError::absent_as_none(branch.manifest(request.backup_id).await)?;
        Ok(manifest.map(|manifest| manifest.summary))
    }

    fn failed(&self, request: &BackupRequested, error: &AttemptError) -> Event {
        let (cause, hint) = error.explain();
        Event::BackupFailed(BackupFailed {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            cause,
            transient: Some(error.may_pass()),
            message: error.sentence(),
            hint: hint.to_owned(),
            failed_at: self.world.clock.now(),
        })
    }

    async fn end(
        &self,
        delivery: &Delivery<Event>,
        mut attempt: Attempt<'_>,
        result: Result<BackupSummary, AttemptError>,
    ) -> Result<Outcome, AttemptError> {
        let request = attempt.request;
        let result = match result {
            Err(error) => match error.verdict() {
                Verdict::Superseded => {
                    metrics::attempted(Ended::Superseded);
                    return Ok(superseded());
                }
                Verdict::TryAgain if !delivery.last_attempt => {
                    metrics::attempted(Ended::Interrupted);
                    attempt.voice.tell_problem(error.sentence()).await;
                    return Err(error);
                }
                Verdict::TryAgain | Verdict::GiveUp => match self.standing(request).await {
                    Ok(standing) => standing.ok_or(error),
                    Err(unknown) if unknown.class() == ErrorClass::Transient => {
                        return Err(unknown.into());
                    }
                    Err(_refused) => Err(error),
                },
            },
            committed => committed,
        };
        metrics::attempted(result.as_ref().map_or(Ended::Failed, Ended::Completed));
        let event = match result {
            Ok(summary) => Event::BackupCompleted(BackupCompleted {
                backup_id: request.backup_id,
                instance: request.instance.clone(),
                branch: request.branch.clone(),
                summary,
            }),
            Err(error) => self.failed(request, &error),
        };
        tracing::info!(backup = %request.backup_id, outcome = event.type_name(), "the backup has ended");
        match attempt.voice.say(event.clone()).await {
            Ok(()) => Ok(Outcome::Done),
            Err(FenceError::Lost { .. }) => self.end_after_all(delivery, request, event).await,
            Err(FenceError::Bus(error)) => Err(error.into()),
        }
    }

    /// Who stood still may have been given up, and commit all the same: what is in the repository has not failed. To
    /// everybody else the fence is lost.
    async fn end_after_all(
        &self,
        delivery: &Delivery<Event>,
        request: &BackupRequested,
        ending: Event,
    ) -> Result<Outcome, AttemptError> {
        let fence = subject::backup_fence(&request.instance, &request.branch, request.backup_id);
        let last = self.world.bus.last_on(&fence).await?;
        let given_up = last.filter(|last| matches!(last.envelope.message, Event::BackupFailed(_)));
        let (Some(given_up), Event::BackupCompleted(_)) = (given_up, &ending) else {
            return Ok(superseded());
        };
        tracing::warn!(backup = %request.backup_id, "the backup was given up and is complete nevertheless");
        let cause = delivery.envelope.id.as_str();
        let outgoing = outgoing(&self.world, request, cause, ending);
        let said = self
            .world
            .bus
            .publish_expecting(outgoing, &fence, given_up.sequence);
        match said.await {
            Ok(_sequence) => Ok(Outcome::Done),
            Err(FenceError::Lost { .. }) => Ok(superseded()),
            Err(FenceError::Bus(error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

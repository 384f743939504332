//! One attempt at a restore: from the request to an open branch, or to nothing.

mod build;
mod instead;
pub(crate) mod registration;

use std::time::Duration;

use bus::{Progress, Sequence};
use events::CommandId;
use events::event::{Event, Refused, RestoreFailed, RestoreRequested};
use retention::Taken;

use crate::compute::ComputeError;
use crate::error::{Reaction, RestoreError};
use crate::metrics;
use crate::outcome::{self, FinishedBranch};
use crate::plan::Refusal;
use crate::restorer::Restorer;
use crate::site::Site;
use crate::voice::{self, Listener as _, Voice};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What there is to say is said.
    Done,
    /// Another attempt goes on with a later delivery of the same request, which must not be ended for it.
    Left {
        /// Why.
        reason: String,
    },
    /// It must be tried again.
    Again {
        /// Not before.
        after: Duration,
        /// Why.
        reason: String,
    },
}

impl Restorer {
    /// Handles a request; may run any number of times for the same one.
    pub async fn handle(
        &self,
        request: &RestoreRequested,
        progress: &Progress,
        last_attempt: bool,
    ) -> Ending {
        let fence = voice::fence_of(request);
        let last = match self.bus.last_on(&fence).await {
            Ok(last) => last,
            Err(error) => {
                return again(&error.into(), Reaction::Retry(Duration::from_secs(5)));
            }
        };
        let token = last.as_ref().map_or(Sequence::NONE, |last| last.sequence);
        if last.is_some_and(|last| is_ending(&last.envelope.message)) {
            return Ending::Done;
        }
        let begun = tokio::time::Instant::now();
        let mut voice = None;
        let attempt = Box::pin(self.attempt(request, token, progress, &mut voice));
        let result = tokio::select! {
            result = attempt => result,
            () = self.drain.cancelled() => Err(RestoreError::Draining),
        };
        metrics::attempted(begun.elapsed(), result.as_ref().err());
        match result {
            Ok(()) => Ending::Done,
            Err(error) => {
                self.conclude(request, token, voice, error, last_attempt)
                    .await
            }
        }
    }

    async fn attempt<'a>(
        &'a self,
        request: &'a RestoreRequested,
        token: Sequence,
        progress: &Progress,
        said: &mut Option<Voice<'a>>,
    ) -> Result<(), RestoreError> {
        let site = self.compute.site(&request.instance, &request.branch);
        if let Some(finished) = self.finished(request, &site)? {
            let _lock = self.compute.lock(&site).await?;
            let finished = self.join(&site, finished, || progress.advance()).await?;
            let event = voice::completed(request, finished.summary);
            let event = voice::outgoing(request, event, self.clock.now());
            let fence = voice::fence_of(request);
            let _ = self.bus.publish_expecting(event, &fence, token).await?;
            return Ok(());
        }
        self.not_registered_elsewhere(request).await?;
        let (id, source) = (request.restore_id, &request.source_branch);
        let prepared = self
            .prepare(id, &site, source, &request.target, &[])
            .await?;
        let voice = said.insert(
            Voice::begin(
                &self.bus,
                request,
                &prepared.plan,
                token,
                &self.name,
                &*self.clock,
                progress.clone(),
            )
            .await?,
        );
        // An attempt that we have just fenced off may still be at it.
        let _lock = self.compute.lock(&site).await?;
        let finished = match self.finished(request, &site)? {
            Some(finished) => finished,
            None => match Box::pin(self.built(request, &site, prepared, voice)).await {
                Ok(finished) => finished,
                Err(error) => {
                    // Before the lock is given back, so that nothing of it meets the next attempt.
                    let again = matches!(error.reaction(), Reaction::Retry(_));
                    self.clean(&site, again).await;
                    return Err(error);
                }
            },
        };
        let finished = self.join(&site, finished, || voice.alive()).await?;
        voice.completed(finished.summary).await?;
        tracing::info!(branch = %request.branch, "the branch is open");
        Ok(())
    }

    /// The branch that this restore has finished before. Another restore's branch keeps its name.
    fn finished(
        &self,
        request: &RestoreRequested,
        site: &Site,
    ) -> Result<Option<FinishedBranch>, RestoreError> {
        match FinishedBranch::at(site)? {
            Some(finished) if finished.restore_id != request.restore_id => {
                Err(Refusal::name_taken(&Taken::Exists, &request.instance, &request.branch).into())
            }
            finished => Ok(finished),
        }
    }

    /// A restorer of another place may have built the branch and died before it said so: it will say so when it is
    /// back, and there must not be two.
    async fn not_registered_elsewhere(
        &self,
        request: &RestoreRequested,
    ) -> Result<(), RestoreError> {
        let document = self.bus.instances().get(&request.instance).await?;
        let branch = document.and_then(|(document, _)| {
            let branch = document.branches.get(&request.branch)?.active()?;
            branch.origin.clone()
        });
        match branch {
            Some(origin) if origin.restore_id == request.restore_id => {
                let holder = origin
                    .holder
                    .unwrap_or_else(|| "another restorer".to_owned());
                Err(RestoreError::Elsewhere { holder })
            }
            _ => Ok(()),
        }
    }

    /// A failed restore leaves nothing behind; one that will be tried again leaves its plan.
    async fn clean(&self, site: &Site, again: bool) {
        let plan = outcome::stored_plan(site).ok().flatten().filter(|_| again);
        let removed = self.compute.remove(site).await.map_err(RestoreError::from);
        let kept = removed.and_then(|()| match &plan {
            Some(plan) => {
                std::fs::create_dir_all(site.root())
                    .map_err(ComputeError::file("create", site.root()))?;
                outcome::store_plan(site, plan)
            }
            None => Ok(()),
        });
        if let Err(error) = kept {
            tracing::error!(
                site = %site.root().display(),
                error = service::run::chain(&error),
                "the remains of a restore cannot be removed; the next start of the restorer tries again"
            );
        }
    }

    /// After the attempt is over: a site that somebody else holds by now is not ours to clean.
    async fn clean_unless_held(&self, request: &RestoreRequested, again: bool) {
        let site = self.compute.site(&request.instance, &request.branch);
        let lock = tokio::time::timeout(Duration::from_secs(1), self.compute.lock(&site)).await;
        if let Ok(Ok(_lock)) = lock
            && FinishedBranch::at(&site).is_ok_and(|finished| finished.is_none())
        {
            self.clean(&site, again).await;
        }
    }

    async fn conclude(
        &self,
        request: &RestoreRequested,
        token: Sequence,
        voice: Option<Voice<'_>>,
        error: RestoreError,
        last_attempt: bool,
    ) -> Ending {
        let mut reaction = error.reaction();
        let draining = matches!(error, RestoreError::Draining);
        if draining {
            self.clean_unless_held(request, true).await;
        } else if last_attempt && matches!(reaction, Reaction::Retry(_)) {
            reaction = error.failure();
            self.clean_unless_held(request, false).await;
        }
        let said = match &reaction {
            Reaction::Refuse(refusal) => self.refuse(request, token, refusal).await,
            Reaction::Fail { cause, hint } => {
                let failed = RestoreFailed {
                    restore_id: request.restore_id,
                    instance: request.instance.clone(),
                    branch: request.branch.clone(),
                    cause: *cause,
                    message: service::run::chain(&error),
                    hint: hint.clone().into_owned(),
                    failed_at: self.clock.now(),
                };
                tracing::error!(
                    restore = %request.restore_id,
                    error = failed.message,
                    "the restore failed"
                );
                self.fail(request, token, voice, failed).await
            }
            Reaction::Yield => return self.superseded(request).await,
            Reaction::Retry(_) => return again(&error, reaction),
        };
        match said {
            Ok(()) => Ending::Done,
            Err(error) => match error.reaction() {
                Reaction::Yield => self.superseded(request).await,
                _ => again(&error, Reaction::Retry(Duration::from_secs(5))),
            },
        }
    }

    /// The fence is lost: to an ending, or to another attempt whose delivery is not ours to end.
    async fn superseded(&self, request: &RestoreRequested) -> Ending {
        match self.bus.last_on(&voice::fence_of(request)).await {
            Ok(Some(last)) if is_ending(&last.envelope.message) => Ending::Done,
            // Nothing is said either when it cannot be looked at: the request comes again if nobody has it.
            _ => {
                tracing::info!(restore = %request.restore_id, "another attempt has taken over");
                let reason = "another attempt has taken over".to_owned();
                Ending::Left { reason }
            }
        }
    }

    async fn refuse(
        &self,
        request: &RestoreRequested,
        token: Sequence,
        refusal: &Refusal,
    ) -> Result<(), RestoreError> {
        tracing::info!(restore = %request.restore_id, reason = refusal.message, "refused");
        let event = Event::RestoreRefused(Refused {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            command_id: CommandId(request.restore_id.0),
            code: refusal.code,
            message: refusal.message.clone(),
            hint: refusal.hint.clone(),
        });
        let event = voice::outgoing(request, event, self.clock.now());
        let fence = voice::fence_of(request);
        let _ = self.bus.publish_expecting(event, &fence, token).await?;
        Ok(())
    }

    async fn fail(
        &self,
        request: &RestoreRequested,
        token: Sequence,
        voice: Option<Voice<'_>>,
        failed: RestoreFailed,
    ) -> Result<(), RestoreError> {
        if let Some(mut voice) = voice {
            return Ok(voice.failed(failed).await?);
        }
        let event = voice::outgoing(request, Event::RestoreFailed(failed), self.clock.now());
        let fence = voice::fence_of(request);
        let _ = self.bus.publish_expecting(event, &fence, token).await?;
        Ok(())
    }
}

fn is_ending(event: &Event) -> bool {
    matches!(
        event,
        Event::RestoreCompleted(_) | Event::RestoreFailed(_) | Event::RestoreRefused(_)
    )
}

pub(crate) fn again(error: &RestoreError, reaction: Reaction) -> Ending {
    let after = match reaction {
        Reaction::Retry(after) => after,
        _ => Duration::from_secs(5),
    };
    Ending::Again {
        after,
        reason: service::run::chain(error),
    }
}

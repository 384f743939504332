//! Drills: a restore to a random moment of the window, in a sandbox, looked at and thrown away.
//!
//! What must stay true: a drill goes the way of a restore ([`crate::raise`]) and ends before its branch would be
//! claimed, so it never registers, archives or writes anything but its own sandbox and its own events; whatever
//! happens, nothing of a sandbox outlives its drill ([`leftovers`]); and all that is said stands on the drill's fence.

mod amcheck;
mod claims;
mod leftovers;
mod moment;
mod rehearsal;
mod statements;
mod voice;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bus::{Delivery, Handler, Outcome, Progress, Sequence};
use events::event::{
    DrillFailed, DrillRequested, DrillSummary, Event, FailureCause, RefusalCode, Refused,
};
use events::{CommandId, Timestamp};
use tokio::time::Instant;

use crate::attempt::{Ending, again};
use crate::compute::SiteLock;
use crate::error::{Reaction, RestoreError};
use crate::plan::Refusal;
use crate::raise::millis;
use crate::restorer::Restorer;

use self::rehearsal::{Rehearsal, Seen};
use self::voice::DrillVoice;

pub use self::moment::{Unavailable, draw};
pub use self::voice::fence_of;

/// The operator's rules for drills.
#[derive(Clone, Copy, Debug)]
pub struct DrillRules {
    /// Reads of packs at once.
    pub parallelism: usize,
    /// One of the user's statements may take so long.
    pub check_timeout: Duration,
    /// Whether `pg_amcheck` is run.
    pub amcheck: bool,
    /// What one of the user's statements may sort and hash on disk; absent: what is free decides.
    pub temp_bytes: Option<u64>,
}

impl Default for DrillRules {
    fn default() -> Self {
        DrillRules {
            parallelism: 2,
            check_timeout: Duration::from_secs(600),
            amcheck: true,
            temp_bytes: None,
        }
    }
}

/// Rehearses restores.
pub struct Drills {
    /// What a restore needs, a drill needs too.
    pub restorer: Arc<Restorer>,
    /// The rules.
    pub rules: DrillRules,
}

/// A drill did not come out well.
#[derive(Debug, thiserror::Error)]
enum DrillError {
    /// It makes no sense now; nothing was tried.
    #[error(transparent)]
    Refused(Refusal),
    /// The restore itself.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// What was restored is not what it should be.
    #[error("{message}")]
    Disproved {
        /// One sentence.
        message: String,
        /// What can be done.
        hint: &'static str,
    },
}

#[async_trait]
impl Handler<Event> for Drills {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let Event::DrillRequested(request) = &delivery.envelope.message else {
            return Outcome::Reject {
                reason: format!("{} is not for us", delivery.envelope.message.type_name()),
            };
        };
        let (progress, last) = (&delivery.progress, delivery.last_attempt);
        match Box::pin(self.rehearse(request, progress, last)).await {
            Ending::Done => Outcome::Done,
            Ending::Left { reason } => Outcome::Leave { reason },
            Ending::Again { after, reason } => Outcome::Retry { after, reason },
        }
    }
}

impl Drills {
    /// Does a drill; may run any number of times for the same one.
    pub async fn rehearse(
        &self,
        request: &DrillRequested,
        progress: &Progress,
        last_attempt: bool,
    ) -> Ending {
        let restorer = &*self.restorer;
        let last = match restorer.bus.last_on(&fence_of(request)).await {
            Ok(last) => last,
            Err(error) => return again(&error.into(), Reaction::Retry(Duration::from_secs(5))),
        };
        let token = last.as_ref().map_or(Sequence::NONE, |last| last.sequence);
        // An attempt that died goes on with the moment that it drew: it may have died of it.
        let drawn = match last.map(|last| last.envelope.message) {
            Some(event) if is_ending(&event) => return Ending::Done,
            Some(Event::DrillStarted(started)) => Some(started.target),
            _ => None,
        };
        let begun = Instant::now();
        let mut rehearsal = Rehearsal {
            drills: self,
            request,
            token,
            begun,
            seen: Seen::default(),
            voice: None,
            lock: None,
        };
        let result = tokio::select! {
            result = Box::pin(rehearsal.run(drawn, progress)) => result,
            () = restorer.drain.cancelled() => Err(RestoreError::Draining.into()),
        };
        let Rehearsal {
            mut seen,
            voice,
            lock,
            ..
        } = rehearsal;
        let torn_down = self.tear_down(request, lock, &mut seen).await;
        let result = result.and(torn_down);
        self.conclude(request, token, begun, seen, voice, result, last_attempt)
            .await
    }

    /// Leaves nothing, whatever happened. Without the lock nothing was begun.
    async fn tear_down(
        &self,
        request: &DrillRequested,
        lock: Option<SiteLock>,
        seen: &mut Seen,
    ) -> Result<(), DrillError> {
        let Some(lock) = lock else {
            return Ok(());
        };
        let begun = Instant::now();
        let compute = &*self.restorer.compute;
        let site = compute.drill_site(&request.instance, &request.branch, request.drill_id);
        let removed = compute.remove(&site).await;
        let unlocked = compute.unlock_for_good(&site, lock).await;
        let _ = seen.phases.insert("tear_down".to_owned(), millis(begun));
        if let Err(error) = &removed {
            tracing::error!(
                site = %site.root().display(), error = error as &dyn std::error::Error,
                "the remains of a drill cannot be removed; it is tried again later"
            );
        }
        removed.and(unlocked).map_err(RestoreError::from)?;
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that an attempt leaves behind"
    )]
    async fn conclude(
        &self,
        request: &DrillRequested,
        token: Sequence,
        begun: Instant,
        seen: Seen,
        voice: Option<DrillVoice<'_>>,
        result: Result<(), DrillError>,
        last_attempt: bool,
    ) -> Ending {
        let now = self.restorer.clock.now();
        let event = match result {
            Ok(()) => match seen.summary(begun, now) {
                Some(summary) => self.completed(request, summary),
                None => return Ending::Done,
            },
            Err(error) => match self.failed(request, &seen, error, last_attempt, now) {
                Ok(event) => event,
                Err(early) => match *early {
                    (_, Reaction::Yield) => return self.superseded(request).await,
                    (error, reaction) => return again(&error, reaction),
                },
            },
        };
        let said = match voice {
            Some(mut voice) => voice.end(event).await,
            None => {
                let event = voice::outgoing(request, event, now);
                let (bus, fence) = (&self.restorer.bus, fence_of(request));
                bus.publish_expecting(event, &fence, token).await.map(drop)
            }
        };
        match said.map_err(RestoreError::from) {
            Ok(()) => Ending::Done,
            Err(error) => match error.reaction() {
                Reaction::Yield => self.superseded(request).await,
                _ => again(&error, Reaction::Retry(Duration::from_secs(5))),
            },
        }
    }

    fn completed(&self, request: &DrillRequested, summary: DrillSummary) -> Event {
        tracing::info!(
            instance = %request.instance, branch = %request.branch, drill = %request.drill_id,
            target = %summary.target, restore_ms = summary.restore_ms, "the drill came out as foretold"
        );
        Event::DrillCompleted(events::event::DrillCompleted {
            drill_id: request.drill_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            summary,
        })
    }

    /// What is said of an error; or what is done when nothing is said.
    fn failed(
        &self,
        request: &DrillRequested,
        seen: &Seen,
        error: DrillError,
        last_attempt: bool,
        now: Timestamp,
    ) -> Result<Event, Box<(RestoreError, Reaction)>> {
        let damaged = matches!(&error, DrillError::Restore(error) if error.is_damage());
        let (cause, message, hint) = match error {
            DrillError::Refused(refusal) => return Ok(refused(request, refusal)),
            DrillError::Restore(RestoreError::Refused(refusal)) => (
                cause_of(refusal.code),
                refusal.message.clone(),
                refusal.hint.clone(),
            ),
            DrillError::Restore(error) => {
                let reaction = match error.reaction() {
                    Reaction::Retry(_)
                        if last_attempt && !matches!(error, RestoreError::Draining) =>
                    {
                        error.failure()
                    }
                    reaction => reaction,
                };
                match reaction {
                    Reaction::Fail { cause, hint } => {
                        (cause, service::run::chain(&error), hint.into_owned())
                    }
                    other => {
                        tracing::info!(
                            drill = %request.drill_id, error = service::run::chain(&error),
                            "the attempt at a drill ended early"
                        );
                        return Err(Box::new((error, other)));
                    }
                }
            }
            DrillError::Disproved { message, hint } => {
                (FailureCause::Source, message, hint.to_owned())
            }
        };
        let step = seen.step();
        tracing::error!(
            instance = %request.instance, branch = %request.branch, drill = %request.drill_id,
            step = ?step, error = message, "the drill failed"
        );
        Ok(Event::DrillFailed(DrillFailed {
            drill_id: request.drill_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            target: seen.target,
            backup_id: seen.plan.as_ref().map(|plan| plan.backup.backup_id),
            step,
            cause,
            damaged,
            message,
            hint,
            checks: seen.checks.clone(),
            failed_at: now,
        }))
    }

    /// The fence is lost: to an ending, or to another attempt whose delivery is not ours to end.
    async fn superseded(&self, request: &DrillRequested) -> Ending {
        match self.restorer.bus.last_on(&fence_of(request)).await {
            Ok(Some(last)) if is_ending(&last.envelope.message) => Ending::Done,
            _ => Ending::Left {
                reason: "another attempt has taken over".to_owned(),
            },
        }
    }
}

fn refused(request: &DrillRequested, refusal: Refusal) -> Event {
    tracing::info!(drill = %request.drill_id, reason = refusal.message, "the drill is refused");
    Event::DrillRefused(Refused {
        instance: request.instance.clone(),
        branch: request.branch.clone(),
        command_id: CommandId(request.drill_id.0),
        code: refusal.code,
        message: refusal.message,
        hint: refusal.hint,
    })
}

/// A restore would be refused for this, though the window has promised it or the machine should be able to.
fn cause_of(code: RefusalCode) -> FailureCause {
    match code {
        RefusalCode::Limit | RefusalCode::Invalid => FailureCause::Compute,
        RefusalCode::NotFound => FailureCause::Storage,
        RefusalCode::UnsuitableSource => FailureCause::Source,
        _ => FailureCause::Wal,
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

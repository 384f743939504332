//! What an attempt says on the bus, all of it under the restore's fence.

use std::time::Duration;

use async_trait::async_trait;
use bus::{Bus, Fence, FenceError, Outgoing, Progress, Sequence};
use events::event::{
    Event, RestoreFailed, RestorePhase, RestoreProgressed, RestoreRequested, RestoreStarted,
};
use events::{BackupId, MessageId, RestoreSummary, Timestamp, subject};
use service::Clock;
use tokio::time::Instant;
use uuid::Uuid;

use crate::plan::Plan;

/// Progress is for people.
const EVERY: Duration = Duration::from_secs(2);

/// Who is told how the raising of a server goes on, and says whether it is still wanted.
#[async_trait]
pub trait Listener: Send + Sync {
    /// Hears how far a phase is; may be told as often as one likes.
    ///
    /// # Errors
    /// The attempt was taken over. A bus that cannot be reached at the moment is none.
    async fn progressed(
        &mut self,
        phase: RestorePhase,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<(), FenceError>;

    /// Hears that something answered: the work is alive though no byte moved.
    fn alive(&self);
}

/// The voice of one attempt.
pub struct Voice<'a> {
    fence: Fence,
    request: &'a RestoreRequested,
    clock: &'a dyn Clock,
    heartbeat: Progress,
    said: Option<(RestorePhase, Instant)>,
    done: (RestorePhase, u64),
}

impl<'a> Voice<'a> {
    /// Takes the fence by saying that the attempt began.
    ///
    /// # Errors
    /// Somebody else was faster, or the bus failed.
    pub async fn begin(
        bus: &Bus,
        request: &'a RestoreRequested,
        plan: &Plan,
        last: Sequence,
        restorer: &str,
        clock: &'a dyn Clock,
        heartbeat: Progress,
    ) -> Result<Self, FenceError> {
        let started_at = clock.now();
        let event = started(request, plan, &[], restorer, started_at);
        let event = outgoing(request, event, started_at);
        let fence = Fence::take(bus, fence_of(request), last, event).await?;
        let done = (RestorePhase::Materialise, 0);
        Ok(Voice {
            fence,
            request,
            clock,
            heartbeat,
            said: None,
            done,
        })
    }

    /// Says that the attempt begins anew with another plan, without the backups that it has found damaged.
    ///
    /// # Errors
    /// The attempt was taken over, or the bus failed.
    pub async fn started_anew(
        &mut self,
        plan: &Plan,
        passed_over: &[BackupId],
        restorer: &str,
    ) -> Result<(), FenceError> {
        let now = self.clock.now();
        self.said = None;
        self.say(started(self.request, plan, passed_over, restorer, now))
            .await
    }

    /// Says that the branch is open.
    ///
    /// # Errors
    /// The attempt was taken over, or the bus failed.
    pub async fn completed(&mut self, summary: RestoreSummary) -> Result<(), FenceError> {
        self.say(completed(self.request, summary)).await
    }

    /// Says that the restore was given up.
    ///
    /// # Errors
    /// The attempt was taken over, or the bus failed.
    pub async fn failed(&mut self, failed: RestoreFailed) -> Result<(), FenceError> {
        self.say(Event::RestoreFailed(failed)).await
    }

    async fn say(&mut self, event: Event) -> Result<(), FenceError> {
        let event = outgoing(self.request, event, self.clock.now());
        self.fence.publish(event).await.map(drop)
    }
}

#[async_trait]
impl Listener for Voice<'_> {
    /// Says how far a phase is, at most every two seconds and once for each phase.
    async fn progressed(
        &mut self,
        phase: RestorePhase,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<(), FenceError> {
        if self.done != (phase, done_bytes) {
            self.done = (phase, done_bytes);
            self.heartbeat.advance();
        }
        if self
            .said
            .is_some_and(|(said, at)| said == phase && at.elapsed() < EVERY)
        {
            return Ok(());
        }
        let event = Event::RestoreProgressed(RestoreProgressed {
            restore_id: self.request.restore_id,
            instance: self.request.instance.clone(),
            branch: self.request.branch.clone(),
            phase,
            done_bytes,
            total_bytes,
        });
        self.said = Some((phase, Instant::now()));
        match self.say(event).await {
            // Nobody hears it, but the work is worth going on with. The fence decides later.
            Err(FenceError::Bus(error)) if error.is_transient() => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "progress was not heard"
                );
                Ok(())
            }
            said => said,
        }
    }

    fn alive(&self) {
        self.heartbeat.advance();
    }
}

fn started(
    request: &RestoreRequested,
    plan: &Plan,
    passed_over: &[BackupId],
    restorer: &str,
    started_at: Timestamp,
) -> Event {
    Event::RestoreStarted(RestoreStarted {
        restore_id: request.restore_id,
        instance: request.instance.clone(),
        branch: request.branch.clone(),
        restorer: restorer.to_owned(),
        plan: plan.summary(),
        passed_over: passed_over.to_vec(),
        started_at,
    })
}

/// The fence of a restore.
#[must_use]
pub fn fence_of(request: &RestoreRequested) -> String {
    subject::restore_fence(&request.instance, &request.branch, request.restore_id)
}

/// An event of this restore, with an id of its own.
#[must_use]
pub fn outgoing(request: &RestoreRequested, event: Event, time: Timestamp) -> Outgoing<Event> {
    Outgoing::new(event, MessageId::new(Uuid::now_v7().to_string()), time)
        .correlated(request.restore_id)
        .caused_by(request.restore_id)
}

/// The event of an open branch.
#[must_use]
pub fn completed(request: &RestoreRequested, summary: RestoreSummary) -> Event {
    Event::RestoreCompleted(events::event::RestoreCompleted {
        restore_id: request.restore_id,
        instance: request.instance.clone(),
        branch: request.branch.clone(),
        summary,
    })
}

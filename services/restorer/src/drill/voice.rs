//! What a drill says on the bus. Between its beginning and its end it says nothing, so it looks now and then whether
//! somebody else was given the drill, or has ended it.

use std::time::Duration;

use async_trait::async_trait;
use bus::{Bus, Fence, FenceError, Outgoing, Progress, Sequence};
use events::event::{DrillRequested, DrillStarted, Event, RestorePhase};
use events::{MessageId, Timestamp, subject};
use service::Clock;
use tokio::time::Instant;
use uuid::Uuid;

use crate::plan::Plan;
use crate::voice::Listener;

/// A lost fence is noticed after so long.
const EVERY: Duration = Duration::from_secs(3);

/// The voice of one attempt at a drill.
pub(super) struct DrillVoice<'a> {
    bus: &'a Bus,
    fence: Fence,
    request: &'a DrillRequested,
    clock: &'a dyn Clock,
    heartbeat: Progress,
    looked: Instant,
    done: (RestorePhase, u64),
}

impl<'a> DrillVoice<'a> {
    /// Takes the fence by saying that the attempt began.
    pub(super) async fn begin(
        bus: &'a Bus,
        request: &'a DrillRequested,
        (plan, target): (&Plan, Timestamp),
        last: Sequence,
        restorer: &str,
        clock: &'a dyn Clock,
        heartbeat: Progress,
    ) -> Result<Self, FenceError> {
        let started_at = clock.now();
        let event = Event::DrillStarted(DrillStarted {
            drill_id: request.drill_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            restorer: restorer.to_owned(),
            target,
            plan: plan.summary(),
            started_at,
        });
        let event = outgoing(request, event, started_at);
        let fence = Fence::take(bus, fence_of(request), last, event).await?;
        Ok(DrillVoice {
            bus,
            fence,
            request,
            clock,
            heartbeat,
            looked: Instant::now(),
            done: (RestorePhase::Materialise, 0),
        })
    }

    /// Does something that reports no progress of its own, while the drill is ours.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, FenceError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(EVERY) => {}
            }
            self.heartbeat.advance();
            self.still_ours().await?;
        }
    }

    /// Says how it ended.
    pub(super) async fn end(&mut self, event: Event) -> Result<(), FenceError> {
        let event = outgoing(self.request, event, self.clock.now());
        self.fence.publish(event).await.map(drop)
    }

    async fn still_ours(&mut self) -> Result<(), FenceError> {
        if self.looked.elapsed() < EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        let last = match self.bus.last_on(self.fence.wildcard()).await {
            Ok(last) => last,
            // The fence decides at the end.
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "not looked at");
                return Ok(());
            }
        };
        let head = last.as_ref().map_or(Sequence::NONE, |last| last.sequence);
        if head == self.fence.token() {
            return Ok(());
        }
        Err(FenceError::Lost {
            fence: self.fence.wildcard().to_owned(),
            expected: self.fence.token(),
            head,
            by: last.map(|last| last.envelope.id),
        })
    }
}

#[async_trait]
impl Listener for DrillVoice<'_> {
    async fn progressed(
        &mut self,
        phase: RestorePhase,
        done_bytes: u64,
        _total_bytes: u64,
    ) -> Result<(), FenceError> {
        if self.done != (phase, done_bytes) {
            self.done = (phase, done_bytes);
            self.heartbeat.advance();
        }
        self.still_ours().await
    }

    fn alive(&self) {
        self.heartbeat.advance();
    }
}

/// The fence of a drill.
#[must_use]
pub fn fence_of(request: &DrillRequested) -> String {
    subject::drill_fence(&request.instance, &request.branch, request.drill_id)
}

/// An event of this drill, with an id of its own.
pub(super) fn outgoing(request: &DrillRequested, event: Event, time: Timestamp) -> Outgoing<Event> {
    Outgoing::new(event, MessageId::new(Uuid::now_v7().to_string()), time)
        .correlated(request.drill_id)
        .caused_by(request.drill_id)
}

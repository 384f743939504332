//! What an attempt says while it works: progress events, each through the fence, and the heartbeat.
//!
//! Whatever it waits for, it publishes something at least every [`SIGN_OF_LIFE`]: the scheduler's watchdog
//! ends a backup of which nothing is heard for long.
//!
//! A bus that is away delays an attempt but does not end it: progress that nobody hears is passed over. Only that the
//! attempt is still the backup's must be known before the manifest is written, and the ending must be heard.

use std::future::Future;
use std::time::Duration;

use bus::{Fence, FenceError, Outgoing, Progress};
use events::event::{BackupPhase, BackupProgressed, BackupRequested, WalPoint};
use events::{Event, MessageId};
use tokio::time::Instant;

use crate::attempt::World;

/// Much shorter than the time without progress after which a delivery is given up.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// While the bus is away and nothing can be done but to wait for it.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Far below the silence after which the scheduler gives a backup up.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Speaks for one attempt. Once the fence is lost, it cannot say anything more.
pub(crate) struct Voice<'a> {
    world: &'a World,
    request: &'a BackupRequested,
    causation: String,
    fence: Fence,
    heartbeat: Progress,
    last_said: Instant,
    phase: BackupPhase,
    done_bytes: u64,
    total_bytes: u64,
    start: Option<WalPoint>,
}

impl<'a> Voice<'a> {
    pub(crate) fn new(
        world: &'a World,
        request: &'a BackupRequested,
        causation: String,
        fence: Fence,
        heartbeat: Progress,
    ) -> Self {
        Voice {
            world,
            request,
            causation,
            fence,
            heartbeat,
            last_said: Instant::now(),
            phase: BackupPhase::Checkpoint,
            done_bytes: 0,
            total_bytes: 0,
            start: None,
        }
    }

    /// The work got on; nothing is published.
    pub(crate) fn beat(&self) {
        self.heartbeat.advance();
    }

    /// Waits for something that takes long without a sign of life, such as a checkpoint of the server, and
    /// counts as progress meanwhile; `None` when it took longer than `limit`. Fails only as [`Self::enter`].
    pub(crate) async fn beating<T>(
        &mut self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, FenceError> {
        let beats = async {
            loop {
                self.beat();
                if self.last_said.elapsed() >= SIGN_OF_LIFE {
                    let (phase, done, total) = (self.phase, self.done_bytes, self.total_bytes);
                    if let Err(error) = self.enter(phase, done, total).await {
                        return error;
                    }
                }
                tokio::time::sleep(BEAT_EVERY).await;
            }
        };
        let done = tokio::select! {
            biased;
            done = tokio::time::timeout(limit, work) => Ok(done.ok()),
            lost = beats => Err(lost),
        };
        self.beat();
        done
    }

    /// The server has said where the backup's WAL begins: published at once, because retention keeps it from then on.
    pub(crate) async fn begun(&mut self, start: WalPoint, total: u64) -> Result<(), FenceError> {
        self.start = Some(start);
        self.enter(BackupPhase::Copying, 0, total).await
    }

    /// Bytes were copied: published now and then.
    pub(crate) async fn copied(&mut self, done: u64, total: u64) -> Result<(), FenceError> {
        self.beat();
        let interval = self.world.config.backup_progress_interval;
        if self.last_said.elapsed() < interval.min(SIGN_OF_LIFE) {
            return Ok(());
        }
        self.enter(BackupPhase::Copying, done, total).await
    }

    /// A phase begins, or goes on. Fails only if the attempt was taken over, or for what waiting does not
    /// mend.
    pub(crate) async fn enter(
        &mut self,
        phase: BackupPhase,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<(), FenceError> {
        let event = self.progressed(phase, done_bytes, total_bytes);
        match self.say(event).await {
            Err(FenceError::Bus(error)) if error.is_transient() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "progress was not heard; the backup goes on"
                );
                self.last_said = Instant::now();
                Ok(())
            }
            said => said,
        }
    }

    /// Waits until the bus has said that the attempt is still this backup's: one that stood still for days may have been
    /// given up long ago, and what it stored deleted. A bus that is away is waited for; a copy is not lost by that.
    pub(crate) async fn assured(
        &mut self,
        phase: BackupPhase,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<(), FenceError> {
        loop {
            self.beat();
            let event = self.progressed(phase, done_bytes, total_bytes);
            match self.say(event).await {
                Err(FenceError::Bus(error)) if error.is_transient() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the backup is stored; it is committed when the bus is there again"
                    );
                }
                said => return said,
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    fn progressed(&mut self, phase: BackupPhase, done_bytes: u64, total_bytes: u64) -> Event {
        self.last_said = Instant::now();
        (self.phase, self.done_bytes, self.total_bytes) = (phase, done_bytes, total_bytes);
        Event::BackupProgressed(BackupProgressed {
            backup_id: self.request.backup_id,
            instance: self.request.instance.clone(),
            branch: self.request.branch.clone(),
            phase,
            done_bytes,
            total_bytes: total_bytes.max(done_bytes),
            start: self.start,
            problem: None,
        })
    }

    /// The attempt came to nothing, and another one follows: whoever waits for the backup is told why. If nobody hears
    /// it, the log has it.
    pub(crate) async fn tell_problem(&mut self, problem: String) {
        let event = match self.progressed(self.phase, self.done_bytes, self.total_bytes) {
            Event::BackupProgressed(progressed) => Event::BackupProgressed(BackupProgressed {
                problem: Some(problem),
                ..progressed
            }),
            other => other,
        };
        if let Err(error) = self.say(event).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "why the attempt failed was not heard"
            );
        }
    }

    /// Publishes an event of the attempt.
    pub(crate) async fn say(&mut self, event: Event) -> Result<(), FenceError> {
        let outgoing = outgoing(self.world, self.request, &self.causation, event);
        let _token = self.fence.publish(outgoing).await?;
        Ok(())
    }
}

/// An event about a backup, caused by its request.
pub(crate) fn outgoing(
    world: &World,
    request: &BackupRequested,
    causation: &str,
    event: Event,
) -> Outgoing<Event> {
    let id = MessageId::new(uuid::Uuid::now_v7().to_string());
    Outgoing::new(event, id, world.clock.now())
        .correlated(request.backup_id)
        .caused_by(causation)
}

#[cfg(test)]
mod tests;

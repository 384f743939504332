//! What an attempt says while it works: progress events, each through the fence, and the heartbeat.

use bus::{Fence, FenceError, Outgoing, Progress};
use events::event::{BackupPhase, BackupProgressed, BackupRequested};
use events::{Event, MessageId};
use tokio::time::Instant;

use crate::attempt::World;

/// Speaks for one attempt. Once the fence is lost, it cannot say anything more.
pub(crate) struct Voice<'a> {
    world: &'a World,
    request: &'a BackupRequested,
    causation: String,
    fence: Fence,
    heartbeat: Progress,
    last_said: Instant,
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
        }
    }

    /// The work got on; nothing is published.
    pub(crate) fn beat(&self) {
        self.heartbeat.advance();
    }

    /// Bytes were copied: published now and then.
    pub(crate) async fn copied(&mut self, done: u64, total: u64) -> Result<(), FenceError> {
        self.beat();
        if self.last_said.elapsed() < self.world.config.backup_progress_interval {
            return Ok(());
        }
        self.enter(BackupPhase::Copying, done, total).await
    }

    /// A phase begins, or goes on.
    pub(crate) async fn enter(
        &mut self,
        phase: BackupPhase,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<(), FenceError> {
        self.last_said = Instant::now();
        self.say(Event::BackupProgressed(BackupProgressed {
            backup_id: self.request.backup_id,
            instance: self.request.instance.clone(),
            branch: self.request.branch.clone(),
            phase,
            done_bytes,
            total_bytes: total_bytes.max(done_bytes),
        }))
        .await
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

//! Turns due schedules into requested backups.
//!
//! Any number of schedulers may run this: a scheduled backup's id comes from schedule and fire time, and its
//! request expects nothing on the backup's fence, so that a fire has one effect however many replicas
//! publish it, and whenever.

use std::collections::HashMap;
use std::time::Duration;

use events::document::{Branch, Schedule};
use events::envelope::rfc3339;
use events::event::BackupRequested;
use events::{
    BackupId, BackupType, InstanceDocument, InstanceName, ScheduleId, Timestamp, Trigger,
};
use tokio_util::sync::CancellationToken;

use crate::commands::World;
use crate::fires::Fires;
use crate::recall::recall_documents;
use crate::refusal::Unfinished;

/// How often due fires are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often the documents are read anew, so that a missed change is a short delay and nothing more.
const RELOAD_EVERY_TICKS: u32 = 5;

/// Publishes due backups until shutdown.
pub(crate) async fn run(world: World, shutdown: CancellationToken) {
    let mut firing = Firing::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tick: u32 = 0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if tick.is_multiple_of(RELOAD_EVERY_TICKS)
            && let Err(error) = firing.reload(&world).await
        {
            tracing::warn!(error = %error, "the instance documents cannot be read; firing from memory");
            if let Err(error) = world.bus.apply_topology().await {
                tracing::debug!(error = %error, "the topology of the bus cannot be applied");
            }
        }
        tick = tick.wrapping_add(1);
        firing.fire_due(&world).await;
    }
}

/// The documents, and what was published already.
#[derive(Default)]
pub(crate) struct Firing {
    documents: Vec<InstanceDocument>,
    settled: HashMap<ScheduleId, Timestamp>,
    /// Whether the mirror was looked at since the start.
    recalled: bool,
}

impl Firing {
    /// Reads the documents. Where one is gone that was there, and at the start, the mirror is asked: NATS may
    /// have been lost.
    pub(crate) async fn reload(&mut self, world: &World) -> Result<(), Unfinished> {
        let mut documents = world.bus.instances().list().await?;
        let there = |wanted: &InstanceName| documents.iter().any(|d| d.instance == *wanted);
        let some_gone = self.documents.iter().any(|known| !there(&known.instance));
        if some_gone || !self.recalled {
            world.bus.apply_topology().await?;
            recall_documents(world).await?;
            documents = world.bus.instances().list().await?;
        }
        self.recalled = true;
        self.documents = documents;
        let known: std::collections::HashSet<ScheduleId> = self
            .documents
            .iter()
            .flat_map(|document| &document.schedules)
            .map(|s| s.id)
            .collect();
        self.settled.retain(|id, _| known.contains(id));
        Ok(())
    }

    pub(crate) async fn fire_due(&mut self, world: &World) {
        let now = world.clock.now();
        for document in self.documents.iter().filter(|document| !document.removing) {
            for (schedule, fire_at) in due(document, now) {
                if self.settled.get(&schedule.id) == Some(&fire_at) {
                    continue;
                }
                match request(world, &document.instance, schedule, fire_at).await {
                    Ok(()) => {
                        let _before = self.settled.insert(schedule.id, fire_at);
                    }
                    Err(error) => tracing::warn!(
                        instance = %document.instance, schedule = schedule.name, error = %error,
                        "a due backup could not be requested; trying again"
                    ),
                }
            }
        }
    }
}

/// The schedules of a document that have a fire due at `now`. Pure.
fn due(document: &InstanceDocument, now: Timestamp) -> Vec<(&Schedule, Timestamp)> {
    let active = |schedule: &&Schedule| {
        document
            .branches
            .get(&schedule.branch)
            .and_then(Branch::active)
            .is_some()
    };
    document
        .schedules
        .iter()
        .filter(active)
        .filter_map(|schedule| Some((schedule, Fires::of(schedule).ok()?.due(now)?)))
        .collect()
}

#[tracing::instrument(skip_all, fields(instance = %instance, schedule = schedule.name, fire_at = %fire_at))]
async fn request(
    world: &World,
    instance: &InstanceName,
    schedule: &Schedule,
    fire_at: Timestamp,
) -> Result<(), Unfinished> {
    let backup_id = BackupId::scheduled(schedule.id, fire_at);
    let requested = BackupRequested {
        backup_id,
        instance: instance.clone(),
        branch: schedule.branch.clone(),
        name: format!("{} {}", schedule.name, rfc3339(fire_at)),
        backup_type: BackupType::Auto,
        trigger: Trigger::Schedule,
        schedule_id: Some(schedule.id),
        retention: Some(schedule.retention),
        wal: events::WalKeep::AsLongAsBackup,
        pool: None,
        requested_at: world.clock.now(),
    };
    Ok(world.request_backup(requested, None).await?)
}

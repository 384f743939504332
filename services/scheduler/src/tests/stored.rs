//! Backups that are stored already, for tests of what becomes of them.

use chrono::TimeDelta;
use events::event::{BackupCompleted, BackupFailed, FailureCause};
use events::{BackupId, BackupSummary, BranchName, Event, MessageId, Trigger, example};
use repository::BackupOptions;

use super::{Place, instance};

impl Place {
    /// A backup that ended now: its manifest and its last event.
    pub(super) async fn complete(&self, id: BackupId, trigger: Trigger) -> BackupSummary {
        let summary = self.store(id, trigger).await;
        self.announce(summary.clone()).await;
        summary
    }

    /// A backup whose manifest stands, and of which nobody has heard yet.
    pub(super) async fn store(&self, id: BackupId, trigger: Trigger) -> BackupSummary {
        let now = self.world.clock.now();
        let writer = self
            .world
            .repository
            .writer(&instance(), &BranchName::main());
        let pieces = writer.begin_backup(id, "one", BackupOptions::default());
        let stored = pieces.unwrap().finish().await.unwrap();
        let summary = BackupSummary {
            backup_id: id,
            instance: instance(),
            attempt: "one".to_owned(),
            files: 0,
            logical_bytes: 0,
            stored_bytes: stored.totals.stored_bytes,
            trigger,
            requested_at: now - TimeDelta::seconds(60),
            started_at: now - TimeDelta::seconds(50),
            backed_up_at: now,
            expires_at: Some(now + TimeDelta::days(7)),
            ..example::backup_summary()
        };
        let _committed = stored.commit(summary.clone()).await.unwrap();
        summary
    }

    /// The end of a backup that is stored.
    pub(super) async fn announce(&self, summary: BackupSummary) {
        let event = Event::BackupCompleted(BackupCompleted {
            backup_id: summary.backup_id,
            instance: instance(),
            branch: BranchName::main(),
            summary,
        });
        self.say(event).await;
    }

    /// A backup that was given up.
    pub(super) async fn give_up(&self, id: BackupId) -> Event {
        let event = Event::BackupFailed(BackupFailed {
            backup_id: id,
            instance: instance(),
            branch: BranchName::main(),
            cause: FailureCause::Storage,
            transient: None,
            message: "no".to_owned(),
            hint: String::new(),
            failed_at: self.world.clock.now(),
        });
        self.say(event.clone()).await;
        event
    }

    /// What a worker says.
    pub(super) async fn say(&self, event: Event) {
        let id = MessageId::new(uuid::Uuid::now_v7().to_string());
        let outgoing = bus::Outgoing::new(event, id, self.world.clock.now());
        let _sequence = self.world.bus.publish(outgoing).await.unwrap();
    }

    /// Deletes a backup, as the worker that has a sweep does.
    pub(super) async fn sweep_away(&self, id: BackupId) {
        let repository = &self.world.repository;
        let writer = repository.writer(&instance(), &BranchName::main());
        let named = writer.packs_named_by_others(&[id]).await.unwrap();
        let _deleted = writer.delete_backup(id, &named, &|| {}).await.unwrap();
    }
}

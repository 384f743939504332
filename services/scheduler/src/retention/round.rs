//! One round: each branch of an instance is looked at, what has expired is marked, what is due is swept.

use bus::{FenceError, Outgoing, Sequence};
use events::event::BackupUpdated;
use events::mark::{BackupMark, DeletedBy, Deletion};
use events::{
    BackupId, BackupSummary, BranchName, Event, InstanceDocument, InstanceName, MessageId, SweepId,
    subject,
};
use repository::PutMark;
use retention::Plan;
use uuid::Uuid;

use super::Rounds;
use super::memory::{Quiet, quiet_until};
use super::stored::{self, Found, Life, life};
use crate::alerts;
use crate::commands::manual;
use crate::refusal::Unfinished;

impl Rounds {
    /// Looks at every branch of an instance. What fails is left to the next round.
    #[tracing::instrument(name = "retention.round", skip_all, fields(%instance))]
    pub(crate) async fn round(&self, instance: &InstanceName) {
        match self.branches(instance).await {
            Ok(branches) => {
                for branch in branches {
                    if let Err(error) = self.branch(instance, &branch).await {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(%branch, error, "retention is late here; the next round tries again");
                    }
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "retention is late here; the next round tries again");
            }
        }
    }

    async fn branches(&self, instance: &InstanceName) -> Result<Vec<BranchName>, Unfinished> {
        let Some(document) = self.document(instance).await? else {
            return Ok(Vec::new());
        };
        let mut branches = self.world.repository.list_branches_of(instance).await?;
        branches.extend(document.sweeps.keys().cloned());
        branches.sort();
        branches.dedup();
        Ok(branches)
    }

    /// The instance's document, if something may be deleted by it.
    async fn document(
        &self,
        instance: &InstanceName,
    ) -> Result<Option<InstanceDocument>, Unfinished> {
        let found = self.world.bus.instances().get(instance).await?;
        let document = found.map(|(document, _revision)| document);
        Ok(document.filter(|document| !document.removing))
    }

    /// Looks at one branch.
    pub(crate) async fn branch(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), Unfinished> {
        let Some(document) = self.document(instance).await? else {
            return Ok(());
        };
        if let Some(sweep) = document.sweeps.get(branch) {
            return self.push_on(instance, branch, sweep).await;
        }
        let life = life(&document, branch);
        if life == Life::Between {
            return Ok(());
        }
        let (live, place) = (life == Life::Live, (instance, branch));
        let reader = self.world.repository.reader(instance, branch);
        let digest = reader.backups_digest().await?;
        let since = self.world.clock.now();
        if self.memory.is_quiet(place, (digest, live), since) {
            return Ok(());
        }
        self.memory.keep(instance, branch, None);
        let known = Some(&self.memory.manifests);
        let Some(found) = stored::find(&self.world, place, known).await? else {
            if !live {
                let _is = self.clear_hollow(instance, branch).await?;
            }
            return Ok(());
        };
        if stored::life(&found.document, branch) != life {
            return Ok(());
        }
        if live {
            alerts::tell_wal(&self.world, place, &found.archive.objects).await;
        }
        let plan = retention::plan(&found.stored);
        // What stays although it has expired, such as the newest, is not counted any more.
        let ends = found
            .archive
            .backups
            .iter()
            .filter_map(|one| one.expires_at);
        let next_end = ends.filter(|end| *end > plan.now).min();
        let quiet = quiet_until(&plan).map(|until| Quiet {
            digest,
            live,
            since,
            until: next_end.map_or(until, |end| end.min(until)),
        });
        self.carry_out(place, &found, &plan).await?;
        let nothing = plan.backups.is_empty() && plan.wal.is_empty() && plan.leftovers.is_empty();
        if !live && nothing && plan.in_the_way.is_empty() {
            let _is = self.clear_hollow(instance, branch).await?;
        }
        self.memory.keep(instance, branch, quiet);
        Ok(())
    }

    async fn carry_out(
        &self,
        (instance, branch): (&InstanceName, &BranchName),
        found: &Found,
        plan: &Plan,
    ) -> Result<(), Unfinished> {
        for (backup, mut deletion) in plan.marks() {
            // Whose clock is behind must not shorten the time of grace.
            let begins = found
                .store_now
                .unwrap_or(plan.now)
                .max(self.world.clock.now());
            let end = begins.checked_add_signed(found.stored.grace);
            deletion.delete_after =
                end.map_or(deletion.delete_after, |end| end.max(deletion.delete_after));
            let planned = found.archive.marks.of(backup);
            self.mark(instance, branch, backup, &planned, deletion)
                .await?;
        }
        // A scheduler may have been killed between the mark and its event.
        for (backup, mark) in &found.archive.marks.known {
            let there = || plan.backups.iter().any(|one| one.backup_id == *backup);
            let by_us = |deletion: Deletion| deletion.by == DeletedBy::Retention;
            if mark.deletion.is_some_and(by_us) && there() {
                self.tell(instance, branch, *backup, mark).await?;
            }
        }
        if let Some(sweep) = plan.sweep(SweepId(Uuid::now_v7())) {
            self.begin_sweep(instance, branch, found.stored.live, sweep)
                .await?;
        }
        match places_are_wrong(branch, found, plan) {
            true => self.world.reconcile_manual_backups(instance).await,
            false => Ok(()),
        }
    }

    /// Marks what has expired, unless something else is wanted of it since it was decided.
    async fn mark(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        backup: BackupId,
        planned: &BackupMark,
        deletion: Deletion,
    ) -> Result<(), Unfinished> {
        let writer = self.world.repository.writer(instance, branch);
        let read = writer.mark(backup).await?;
        if read.mark != *planned {
            return Ok(());
        }
        let marked = BackupMark {
            deletion: Some(deletion),
            ..planned.clone()
        };
        match writer.put_mark(backup, &marked, &read).await? {
            PutMark::Changed(_) => Ok(()),
            PutMark::Written(_) => {
                tracing::info!(%branch, %backup, delete_after = %deletion.delete_after, "a backup has expired and is marked");
                self.tell(instance, branch, backup, &marked).await
            }
        }
    }

    /// Publishes the mark, unless that is the last that was said of the backup.
    async fn tell(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        backup: BackupId,
        mark: &BackupMark,
    ) -> Result<(), Unfinished> {
        let world = &self.world;
        let fence = subject::backup_fence(instance, branch, backup);
        let head = world.bus.last_on(&fence).await?;
        match head.as_ref().map(|head| &head.envelope.message) {
            Some(Event::BackupUpdated(told)) if told.mark == *mark => return Ok(()),
            // It is gone meanwhile.
            Some(Event::BackupExpired(_)) => return Ok(()),
            _ => {}
        }
        let updated_at = world.clock.now();
        let event = Event::BackupUpdated(BackupUpdated {
            backup_id: backup,
            instance: instance.clone(),
            branch: branch.clone(),
            mark: mark.clone(),
            updated_at,
        });
        let last = head.map_or(Sequence::NONE, |head| head.sequence);
        let id = MessageId::new(format!("backup.updated:retention:{backup}:{}", last.0));
        let outgoing = Outgoing::new(event, id, updated_at).correlated(backup);
        match world.bus.publish_expecting(outgoing, &fence, last).await {
            // Whoever was faster tells the mark as it is, or the next round does.
            Ok(_) | Err(FenceError::Lost { .. }) => Ok(()),
            Err(FenceError::Bus(error)) => Err(error.into()),
        }
    }
}

/// Whether a manual backup that is marked, expired or gone has a place still, or one that counts has none.
fn places_are_wrong(branch: &BranchName, found: &Found, plan: &Plan) -> bool {
    let (places, archive) = (&found.document.manual_backups, &found.archive);
    let marked: Vec<BackupId> = plan.marks().into_iter().map(|(id, _)| id).collect();
    let stored = |id: &BackupId| archive.backups.iter().any(|one| one.backup_id == *id);
    let wrong = |backup: &BackupSummary| {
        let (id, mark) = (backup.backup_id, archive.marks.of(backup.backup_id));
        let counts = manual::counts(backup, &mark, plan.now) && !marked.contains(&id);
        counts != places.contains_key(&id)
    };
    let mut of_this = places.iter().filter(|(_, place)| place.branch == *branch);
    archive.backups.iter().any(wrong) || of_this.any(|(id, _)| !stored(id))
}

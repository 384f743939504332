//! The limit of active manual backups. They are counted in the instance document, so that two replicas cannot both
//! give the last place away.
//!
//! A place is taken before a backup is asked for and given back when it is known not to be needed; whoever dies in
//! between leaves a place taken, and [`World::reconcile_manual_backups`] finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use events::document::ManualBackup;
use events::event::RefusalCode;
use events::mark::BackupMark;
use events::{
    BackupId, BackupSummary, BranchName, Event, InstanceDocument, InstanceName, Timestamp, Trigger,
    subject,
};
use repository::effective;
use tokio::time::Instant;

use super::World;
use crate::refusal::{Refusal, Unfinished};

/// A place that was taken so shortly ago belongs to a request that may be on its way.
const ON_ITS_WAY: TimeDelta = TimeDelta::hours(1);
/// Places that are taken for nothing are looked for so often, however many are refused. By the monotonic clock.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl World {
    /// Takes a place for a manual backup, or refuses. One that has a place keeps it.
    pub(super) async fn take_manual_place(
        &self,
        instance: &InstanceName,
        backup_id: BackupId,
        branch: &BranchName,
    ) -> Result<(), Unfinished> {
        let limit = self.config.limit_manual_backups;
        let requested_at = self.clock.now();
        let wanted = ManualBackup {
            branch: branch.clone(),
            requested_at,
        };
        let taken = |document| with_place(document, backup_id, &wanted, limit);
        let refused = match self.update_document(instance, taken).await {
            Ok(_document) => return self.mirror(instance).await,
            Err(error @ Unfinished::Refused(_)) => error,
            Err(error) => return Err(error),
        };
        // Nobody is refused because of a place that is taken for nothing.
        let document = self.document(instance).await?;
        let mut places = document.manual_backups.values();
        if places.all(|place| place.requested_at > requested_at - ON_ITS_WAY) {
            return Err(refused);
        }
        if !self.looks.may(instance) {
            return Err(refused);
        }
        if let Err(error) = self.reconcile_manual_backups(instance).await {
            self.looks.forget(instance);
            return Err(error);
        }
        let _document = self.update_document(instance, taken).await?;
        self.mirror(instance).await
    }

    /// A manual backup counts no longer: it failed, was refused, is gone, is to be deleted, or is damaged. Any other has
    /// no place to lose.
    pub(crate) async fn give_manual_place_back(
        &self,
        instance: &InstanceName,
        backup_id: BackupId,
    ) -> Result<(), Unfinished> {
        let Some((document, _)) = self.bus.instances().get(instance).await? else {
            return Ok(());
        };
        if !document.manual_backups.contains_key(&backup_id) {
            return Ok(());
        }
        let changed = self
            .update_document(instance, |mut document| {
                let _place = document.manual_backups.remove(&backup_id);
                Ok(document)
            })
            .await;
        match changed {
            Ok(_document) => self.mirror(instance).await,
            // The instance went meanwhile.
            Err(Unfinished::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes the places those of the backups that count.
    pub(crate) async fn reconcile_manual_backups(
        &self,
        instance: &InstanceName,
    ) -> Result<(), Unfinished> {
        let Some((document, _)) = self.bus.instances().get(instance).await? else {
            return Ok(());
        };
        let now = self.clock.now();
        let (mut counting, mut ended) = (BTreeMap::new(), BTreeSet::new());
        for branch in self.repository.list_branches_of(instance).await? {
            let reader = self.repository.reader(instance, &branch);
            let marks = reader.marks().await?;
            for summary in reader.summaries().await? {
                let mark = marks.of(summary.backup_id);
                let (id, place) = (summary.backup_id, place_of(&summary));
                match counts(&effective(summary, &mark), &mark, now) {
                    true => drop(counting.insert(id, place)),
                    false => drop(ended.insert(id)),
                }
            }
        }
        let mut gone = Vec::new();
        for (id, place) in &document.manual_backups {
            let young = place.requested_at > now - ON_ITS_WAY;
            let kept =
                counting.contains_key(id) || young || self.is_under_way(instance, *id).await?;
            if ended.contains(id) || !kept {
                gone.push(*id);
            }
        }
        let mut stored = counting;
        stored.retain(|id, _| !document.manual_backups.contains_key(id));
        if gone.is_empty() && stored.is_empty() {
            return Ok(());
        }
        tracing::info!(instance = %instance, ?gone, missing = stored.len(), "places of manual backups set right");
        let changed = self
            .update_document(instance, |mut document| {
                document.manual_backups.retain(|id, _| !gone.contains(id));
                document.manual_backups.extend(stored.clone());
                Ok(document)
            })
            .await;
        match changed {
            Ok(_document) => self.mirror(instance).await,
            Err(Unfinished::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the backup waits or is being taken.
    async fn is_under_way(
        &self,
        instance: &InstanceName,
        backup_id: BackupId,
    ) -> Result<bool, Unfinished> {
        let fence = format!("{}.backup.*.{instance}.*.{backup_id}", subject::ROOT);
        let last = self.bus.last_on(&fence).await?;
        Ok(last.is_some_and(|last| is_under_way(&last.envelope.message)))
    }
}

/// For which instances a refusal has made a replica look through the backups lately. A look reads all their manifests,
/// and whoever is refused may ask again at once.
#[derive(Default)]
pub(crate) struct Looks {
    last: Mutex<BTreeMap<InstanceName, Instant>>,
}

impl Looks {
    fn may(&self, instance: &InstanceName) -> bool {
        let (mut last, now) = (self.last(), Instant::now());
        last.retain(|_, at| now.duration_since(*at) < LOOK_EVERY);
        let is_first = !last.contains_key(instance);
        if is_first {
            let _ = last.insert(instance.clone(), now);
        }
        is_first
    }

    /// The look did not come to its end.
    fn forget(&self, instance: &InstanceName) {
        let _ = self.last().remove(instance);
    }

    fn last(&self) -> MutexGuard<'_, BTreeMap<InstanceName, Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a completed backup is an active manual one, with its mark taken into account. One that is damaged protects
/// nothing, and must not stand in the way of the one that is to be taken instead.
pub(crate) fn counts(backup: &BackupSummary, mark: &BackupMark, now: Timestamp) -> bool {
    backup.trigger == Trigger::Manual
        && mark.deletion.is_none()
        && !mark.is_damaged()
        && backup.expires_at.is_none_or(|end| end > now)
}

fn place_of(summary: &BackupSummary) -> ManualBackup {
    ManualBackup {
        branch: summary.branch.clone(),
        requested_at: summary.requested_at,
    }
}

/// Whether a backup of which this is the last word waits or is being taken.
pub(crate) fn is_under_way(last: &Event) -> bool {
    matches!(
        last,
        Event::BackupQueued(_)
            | Event::BackupRequested(_)
            | Event::BackupStarted(_)
            | Event::BackupProgressed(_)
    )
}

fn with_place(
    mut document: InstanceDocument,
    backup_id: BackupId,
    wanted: &ManualBackup,
    limit: usize,
) -> Result<InstanceDocument, Refusal> {
    let instance = &document.instance;
    if document.removing {
        return Err(Refusal::no_such_instance(instance));
    }
    if document.manual_backups.contains_key(&backup_id) {
        return Ok(document);
    }
    if document.manual_backups.len() >= limit {
        return Err(Refusal::new(
            RefusalCode::Limit,
            format!("instance {instance} has {limit} active manual backups, which is the limit"),
            format!(
                "List them with `zektor backup list {instance} --trigger manual` and delete one with `zektor \
                 backup delete {instance} ID`; or raise ZEKTOR_LIMIT_MANUAL_BACKUPS."
            ),
        ));
    }
    let _none = document.manual_backups.insert(backup_id, wanted.clone());
    Ok(document)
}

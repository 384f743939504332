//! The slot of a branch: taken, held, freed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bus::{CasError, FenceError, Revision, Sequence};
use chrono::TimeDelta;
use events::event::BackupRequested;
use events::slot::{self, BackupSlot};
use events::{BackupId, BranchName, InstanceName, MessageId, subject};
use tokio::time::Instant;

use crate::commands::World;
use crate::refusal::Unfinished;
use crate::slots::{Asked, Life, encoded, made};

/// A claim whose backup nobody has asked for by then is nobody's: whoever made it died, or will not use it any more.
const UNUSED: TimeDelta = TimeDelta::minutes(1);
/// Whoever claimed a slot asks within this time, or not at all: well before others take it for unused.
const USED_WITHIN: Duration = Duration::from_secs(30);
/// Lost races in a row after which the wish is put off.
const MOST_RACES: usize = 8;
/// The mark of a freed slot stays so long for those who watch the bucket.
pub(crate) const MARK: Duration = Duration::from_secs(60);

/// How an attempt to take the slot came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The slot names the wanted backup.
    Ours(Claimed),
    /// Another backup has it.
    Taken(BackupId),
}

/// A slot that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claimed {
    revision: Revision,
    since: Instant,
}

impl World {
    /// Takes the branch's slot for a backup, unless another has it. One that has it already keeps it.
    pub(crate) async fn claim(&self, request: &BackupRequested) -> Result<Claim, Unfinished> {
        let bucket = self.slots_bucket();
        let key = slot::backup_slot(&request.instance, &request.branch);
        let mine = BackupSlot {
            backup_id: request.backup_id,
            claimed_at: self.clock.now(),
        };
        let value = encoded(&mine)?;
        let since = Instant::now();
        let ours = |revision| Ok(Claim::Ours(Claimed { revision, since }));
        for _ in 0..MOST_RACES {
            let whole_up_to = self.slots.whole_up_to.load(Ordering::Relaxed);
            match bucket.create(&key, value.clone()).await {
                Ok(revision) => {
                    let Some(running) = self.overlooked(request, revision, whole_up_to).await?
                    else {
                        return ours(revision);
                    };
                    let backup_id = running;
                    let theirs = encoded(&BackupSlot { backup_id, ..mine })?;
                    let _ = made(bucket.update(&key, theirs, revision).await)?;
                    return Ok(Claim::Taken(running));
                }
                Err(CasError::Conflict { .. }) => {}
                Err(CasError::Bus(error)) => return Err(error.into()),
            }
            let Some((found, revision)) = bucket.get(&key).await? else {
                continue;
            };
            if let Ok(found) = serde_json::from_slice::<BackupSlot>(&found) {
                if found.backup_id == mine.backup_id {
                    return ours(revision);
                }
                if self.is_held(request, found).await? {
                    return Ok(Claim::Taken(found.backup_id));
                }
            }
            match bucket.update(&key, value.clone(), revision).await {
                Ok(revision) => return ours(revision),
                Err(CasError::Conflict { .. }) => {}
                Err(CasError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(Unfinished::NotYet(format!(
            "the slot of branch {} of {} changes hands too fast",
            request.branch, request.instance
        )))
    }

    /// Whether a slot's backup is being taken, or about to be asked for.
    async fn is_held(&self, of: &BackupRequested, slot: BackupSlot) -> Result<bool, Unfinished> {
        let fence = subject::backup_fence(&of.instance, &of.branch, slot.backup_id);
        let last = self.bus.last_on(&fence).await?;
        Ok(match Life::of(last.as_ref()) {
            Life::Running => true,
            Life::Ended => false,
            Life::Unborn | Life::Queued => (self.clock.now() - slot.claimed_at).abs() < UNUSED,
        })
    }

    /// A running backup of the branch that the slots do not know of, because their bucket was lost. Asked after each
    /// fresh claim, and answered from memory while the bucket is known to be whole: it was, up to `whole_up_to`, before
    /// the claim was made.
    async fn overlooked(
        &self,
        request: &BackupRequested,
        revision: Revision,
        whole_up_to: u64,
    ) -> Result<Option<BackupId>, Unfinished> {
        let known = &self.slots.whole_up_to;
        if whole_up_to > 0 && revision.0 > whole_up_to {
            let _before = known.fetch_max(revision.0, Ordering::Relaxed);
            return Ok(None);
        }
        if self.slots_are_whole().await? {
            known.store(revision.0, Ordering::Relaxed);
            return Ok(None);
        }
        known.store(0, Ordering::Relaxed);
        let (instance, branch) = (&request.instance, &request.branch);
        let pool = request.pool.as_ref();
        let running = self.running_backup(instance, branch, pool).await?;
        Ok(running.filter(|running| *running != request.backup_id))
    }

    /// Asks the workers for the backup that the slot names.
    pub(crate) async fn request_claimed(
        &self,
        request: BackupRequested,
        cause: Option<&MessageId>,
        claimed: &Claimed,
    ) -> Result<Asked, Unfinished> {
        self.make_pool(request.pool.as_ref()).await?;
        let mut expected = Sequence::NONE;
        loop {
            if claimed.since.elapsed() > USED_WITHIN {
                return Err(Unfinished::NotYet(
                    "the bus was too slow for a claim to be used".to_owned(),
                ));
            }
            match self.publish_request(&request, cause, expected).await {
                Ok(_sequence) => return Ok(Asked::Requested),
                Err(FenceError::Bus(error)) => return Err(error.into()),
                Err(FenceError::Lost { .. }) => {}
            }
            let last = self.last_of(&request).await?;
            match (Life::of(last.as_ref()), last) {
                (Life::Running, _) => return Ok(Asked::Requested),
                (Life::Queued, Some(queued)) if queued.sequence != expected => {
                    expected = queued.sequence;
                }
                _ => {
                    let key = slot::backup_slot(&request.instance, &request.branch);
                    let bucket = self.slots_bucket();
                    let _ = made(bucket.forget(&key, claimed.revision, MARK).await)?;
                    return Ok(Asked::Settled);
                }
            }
        }
    }

    /// Frees the branch's slot if the backup has it, which has ended; the next one that waits is asked for.
    pub(crate) async fn free_slot(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        ended: BackupId,
    ) -> Result<(), Unfinished> {
        let bucket = self.slots_bucket();
        let key = slot::backup_slot(instance, branch);
        if let Some((found, revision)) = bucket.get(&key).await? {
            let found = serde_json::from_slice::<BackupSlot>(&found);
            if found.is_ok_and(|found| found.backup_id != ended) {
                return Ok(());
            }
            if !made(bucket.forget(&key, revision, MARK).await)? {
                return Ok(());
            }
        }
        self.start_next(instance, branch).await
    }
}

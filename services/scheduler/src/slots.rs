//! One backup of a branch at a time.
//!
//! Every wish for a backup, whoever has it, goes through [`World::ask_for_backup`]. A key in the bucket of slots is the
//! branch's one place: created by whoever asks, it names the backup that may be asked of the workers; removed when that
//! backup's ending is heard. A wish that finds it taken waits ([`WhenBusy::Queue`]) or is dropped, with an event that says
//! why ([`WhenBusy::Skip`]): but only if what is being taken is kept at least as long as it would be.
//!
//! What must stay true:
//!
//! - The *fence* of a backup decides what has become of it; a slot is only who comes next. Each step looks at the fence or
//!   publishes under it, so any step may be repeated, by any replica, after any other.
//! - A slot whose backup has ended is nobody's: whoever meets it takes it over.
//! - The bucket may be lost: what runs is found by the events of the branch ([`recover`]), what waits by its
//!   `backup.queued`.

mod claim;
mod kept;
mod moved;
mod pools;
mod queue;
mod recover;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use bus::{Bucket, CasError, FenceError, Outgoing, Sequence, Stored};
use events::event::{BackupQueued, BackupRequested, BackupSkipped};
use events::slot::WaitingBackup;
use events::{
    BackupId, BranchName, Event, InstanceName, MessageId, PoolName, Timestamp, subject, topology,
};
use futures::StreamExt as _;

use crate::commands::World;
use crate::refusal::{Unfinished, published_once};
pub(crate) use crate::slots::claim::{Claim, MARK};
pub(crate) use crate::slots::kept::Kept;
pub(crate) use crate::slots::pools::keep_limits;

/// What a replica remembers of the slots; shared by all that it does.
#[derive(Default)]
pub(crate) struct Memory {
    /// The highest revision of the bucket since it was known to be whole; 0 while that is not known.
    whole_up_to: AtomicU64,
    /// The pools whose consumers are there.
    pools: Mutex<BTreeSet<PoolName>>,
}

/// What becomes of a wish while another backup of the branch is being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenBusy {
    /// It is dropped, and said so: the fire that was due then. One that would be kept for longer than what is being
    /// taken waits, unless an earlier fire of its schedule does.
    Skip {
        /// When it was due.
        due_at: Timestamp,
    },
    /// It waits for its turn.
    Queue,
    /// Nothing is done or said: whoever asks will ask again.
    Leave,
}

/// What has become of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The workers are asked, now or by somebody before.
    Requested,
    /// It had an outcome before.
    Settled,
    /// Another backup is being taken.
    Busy(BackupId),
}

/// What the last event on its fence says of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Nobody has asked for it.
    Unborn,
    /// It waits for its turn.
    Queued,
    /// A worker has it, or is to have it.
    Running,
    /// It has ended, or is not to be begun.
    Ended,
}

impl Life {
    pub(crate) fn of(last: Option<&Stored<Event>>) -> Self {
        match last.map(|last| &last.envelope.message) {
            None => Life::Unborn,
            Some(Event::BackupQueued(_)) => Life::Queued,
            Some(
                Event::BackupRequested(_) | Event::BackupStarted(_) | Event::BackupProgressed(_),
            ) => Life::Running,
            Some(_) => Life::Ended,
        }
    }
}

impl World {
    pub(crate) fn slots_bucket(&self) -> Bucket {
        self.bus.bucket(topology::SLOTS)
    }

    /// Asks for a backup. The same wish may be uttered any number of times, by any replica: it has one effect.
    pub(crate) async fn ask_for_backup(
        &self,
        request: BackupRequested,
        cause: Option<&MessageId>,
        busy: WhenBusy,
    ) -> Result<Asked, Unfinished> {
        match self.claim(&request).await? {
            Claim::Ours(claimed) => self.request_claimed(request, cause, &claimed).await,
            Claim::Taken(running) => {
                match busy {
                    WhenBusy::Skip { due_at } => {
                        match self.in_its_place(&request, running).await? {
                            Some(reason) => {
                                self.skip(request, due_at, Some(running), reason).await?;
                            }
                            None => self.enqueue(request, cause, running).await?,
                        }
                    }
                    WhenBusy::Queue => self.enqueue(request, cause, running).await?,
                    WhenBusy::Leave => {}
                }
                Ok(Asked::Busy(running))
            }
        }
    }

    /// The last event of a backup.
    pub(crate) async fn last_of(
        &self,
        request: &BackupRequested,
    ) -> Result<Option<Stored<Event>>, Unfinished> {
        Ok(self.bus.last_on(&fence_of(request)).await?)
    }

    /// Publishes a request that expects `last` on the backup's fence.
    async fn publish_request(
        &self,
        request: &BackupRequested,
        cause: Option<&MessageId>,
        last: Sequence,
    ) -> Result<Sequence, FenceError> {
        let backup_id = request.backup_id;
        let id = MessageId::new(format!("backup.requested:{backup_id}"));
        let event = Event::BackupRequested(request.clone());
        let mut outgoing = Outgoing::new(event, id, self.clock.now()).correlated(backup_id);
        if let Some(cause) = cause {
            outgoing = outgoing.caused_by(cause);
        }
        let fence = fence_of(request);
        self.bus.publish_expecting(outgoing, &fence, last).await
    }

    /// Why a fire needs no backup of its own while `running` is being taken, one sentence; none if it does.
    async fn in_its_place(
        &self,
        request: &BackupRequested,
        running: BackupId,
    ) -> Result<Option<String>, Unfinished> {
        let (instance, branch) = (&request.instance, &request.branch);
        let asked = self.asked_for(instance, branch, running).await?;
        if asked.is_some_and(|asked| Kept::of(&asked).covers(Kept::of(request))) {
            let fence = subject::backup_fence(instance, branch, running);
            let last = self.bus.last_on(&fence).await?;
            let so_far = match last.as_ref().map(|last| &last.envelope.message) {
                Some(Event::BackupRequested(asked)) => {
                    let pool = asked
                        .pool
                        .as_ref()
                        .map_or(PoolName::DEFAULT, PoolName::as_str);
                    format!("was still waiting for a worker of pool {pool}")
                }
                _ => "was still being taken".to_owned(),
            };
            return Ok(Some(format!(
                "backup {running} of this branch, which is kept at least as long, {so_far}"
            )));
        }
        let waits = self.waiting_of_schedule(request).await?;
        Ok(waits.map(|waits| {
            format!("backup {waits} of this schedule was still waiting for backup {running} of this branch")
        }))
    }

    /// What was asked when a backup was asked for, as far as it is still known.
    pub(crate) async fn asked_for(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        id: BackupId,
    ) -> Result<Option<BackupRequested>, Unfinished> {
        let verb = subject::backup_requested(None);
        let request = format!("{}.{verb}.{instance}.{branch}.{id}", subject::ROOT);
        let last = self.bus.last_on(&request).await?;
        if let Some(Event::BackupRequested(asked)) = last.map(|last| last.envelope.message) {
            return Ok(Some(asked));
        }
        self.asked_last(instance, branch, id).await
    }

    /// The same, as it was asked last: of whichever workers.
    pub(crate) async fn asked_last(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        id: BackupId,
    ) -> Result<Option<BackupRequested>, Unfinished> {
        let fence = subject::backup_fence(instance, branch, id);
        let said = self
            .bus
            .history(vec![fence], Sequence::NONE, topology::EVENTS);
        let (mut said, mut last) = (said.await?, None);
        while let Some(stored) = said.next().await {
            match stored?.envelope.message {
                Event::BackupRequested(asked) => last = Some(asked),
                Event::BackupQueued(queued) => last = Some(queued.request),
                // What has begun is asked of nobody else.
                _ => break,
            }
        }
        Ok(last)
    }

    /// Says that a fire has no backup. If its fence says something already, that stands.
    pub(crate) async fn skip(
        &self,
        request: BackupRequested,
        due_at: Timestamp,
        running: Option<BackupId>,
        reason: String,
    ) -> Result<(), Unfinished> {
        let (backup_id, fence) = (request.backup_id, fence_of(&request));
        let Some(schedule_id) = request.schedule_id else {
            return Ok(());
        };
        let skipped = Event::BackupSkipped(BackupSkipped {
            backup_id,
            instance: request.instance,
            branch: request.branch,
            schedule_id,
            name: request.name,
            due_at,
            running,
            reason,
        });
        let id = MessageId::new(format!("backup.skipped:{backup_id}"));
        let outgoing = Outgoing::new(skipped, id, self.clock.now()).correlated(backup_id);
        let published = self.bus.publish_expecting(outgoing, &fence, Sequence::NONE);
        Ok(published_once(published.await)?)
    }

    /// Puts a wish into the branch's queue. The key comes before the event, so that one who dies between them leaves a
    /// wish that is seen by every round of the watchdog.
    async fn enqueue(
        &self,
        request: BackupRequested,
        cause: Option<&MessageId>,
        running: BackupId,
    ) -> Result<(), Unfinished> {
        let (instance, branch) = (request.instance.clone(), request.branch.clone());
        let backup_id = request.backup_id;
        if Life::of(self.last_of(&request).await?.as_ref()) == Life::Unborn {
            self.put_waiting(&request, cause, self.clock.now()).await?;
            let queued = Event::BackupQueued(BackupQueued {
                backup_id,
                instance: instance.clone(),
                branch: branch.clone(),
                behind: running,
                request: request.clone(),
            });
            let id = MessageId::new(format!("backup.queued:{backup_id}"));
            let mut outgoing = Outgoing::new(queued, id, self.clock.now()).correlated(backup_id);
            if let Some(cause) = cause {
                outgoing = outgoing.caused_by(cause);
            }
            let fence = fence_of(&request);
            let published = self.bus.publish_expecting(outgoing, &fence, Sequence::NONE);
            published_once(published.await)?;
        }
        // The slot may have been freed before the key was there to be seen.
        self.start_next(&instance, &branch).await
    }
}

pub(crate) fn fence_of(request: &BackupRequested) -> String {
    subject::backup_fence(&request.instance, &request.branch, request.backup_id)
}

/// Whether a conditional write was made; that another was faster is no error.
pub(crate) fn made<T>(written: Result<T, CasError>) -> Result<bool, Unfinished> {
    match written {
        Ok(_) => Ok(true),
        Err(CasError::Conflict { .. }) => Ok(false),
        Err(CasError::Bus(error)) => Err(error.into()),
    }
}

/// The value of a key as it is stored.
pub(crate) fn encoded<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Unfinished> {
    serde_json::to_vec(value)
        .map_err(|error| Unfinished::NotYet(format!("a value cannot be encoded: {error}")))
}

/// A wish that waits, from a change of its key.
pub(crate) fn waiting(change: &bus::Change) -> Option<WaitingBackup> {
    let read = serde_json::from_slice(change.value.as_deref()?);
    read.inspect_err(
        |error| tracing::warn!(key = change.key, %error, "a waiting backup cannot be read"),
    )
    .ok()
}

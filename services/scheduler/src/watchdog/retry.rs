//! A scheduled backup that failed for a reason that may pass is asked for again: after 5, 15 and 45 minutes, unless the
//! schedule's next fire comes before, or another backup of the branch that is kept as long has completed meanwhile.
//!
//! Which attempt a failed backup was follows from its id: that of the fire, or [`BackupId::again`] of it. So nothing must
//! be remembered but the wish itself, and a failure that is heard twice is one wish.

use bus::Change;
use chrono::TimeDelta;
use events::document::{Branch, Schedule};
use events::event::{BackupFailed, BackupRequested, FailureCause};
use events::slot::{self, WaitingBackup};
use events::{BackupId, Event, InstanceDocument, MessageId, Timestamp, Trigger, subject};

use crate::commands::World;
use crate::fires::Fires;
use crate::refusal::Unfinished;
use crate::slots::{Asked, Kept, MARK, WhenBusy, encoded, made, waiting};
use crate::watchdog::unless_of_all;

/// Before each further attempt, in minutes.
const PAUSES: [i64; 3] = [5, 15, 45];

impl World {
    /// Keeps the wish for another attempt, if the failed backup is to have one.
    pub(crate) async fn keep_retry(
        &self,
        failed: &BackupFailed,
        cause: &MessageId,
    ) -> Result<(), Unfinished> {
        if !may_pass(failed) {
            return Ok(());
        }
        let instances = self.bus.instances();
        let Some((document, _)) = instances.get(&failed.instance).await? else {
            return Ok(());
        };
        let (instance, branch, id) = (&failed.instance, &failed.branch, failed.backup_id);
        let Some(asked) = self.asked_for(instance, branch, id).await? else {
            return Ok(());
        };
        let Some(schedule) = schedule_of(&document, &asked) else {
            return Ok(());
        };
        let now = self.clock.now();
        let Some((attempt, backup_id, due_at)) = next_attempt(schedule, &asked, now) else {
            return Ok(());
        };
        let first_name = asked.name.split(" (attempt ").next().unwrap_or_default();
        let wish = WaitingBackup {
            due_at,
            request: BackupRequested {
                backup_id,
                name: format!("{first_name} (attempt {})", attempt + 1),
                pool: document.pool.clone(),
                requested_at: now,
                ..asked.clone()
            },
            cause: Some(cause.to_string()),
        };
        let key = slot::retried(&failed.instance, &failed.branch, backup_id);
        if made(self.slots_bucket().create(&key, encoded(&wish)?).await)? {
            tracing::info!(instance = %failed.instance, branch = %failed.branch, failed = %failed.backup_id, %due_at, "a failed backup is tried again");
        }
        Ok(())
    }

    /// Asks for the attempts that are due.
    pub(super) async fn retry_due(&self) -> Result<(), Unfinished> {
        for entry in self.slots_bucket().under("retry").await? {
            let Some(wish) = waiting(&entry) else {
                continue;
            };
            let _done = unless_of_all(&entry.key, self.retry(&entry, wish).await)?;
        }
        Ok(())
    }

    async fn retry(&self, entry: &Change, wish: WaitingBackup) -> Result<(), Unfinished> {
        let now = self.clock.now();
        let longest = TimeDelta::minutes(PAUSES[PAUSES.len() - 1]);
        // One that is further away than any pause was made by a clock that was ahead.
        if wish.due_at > now && wish.due_at - now <= longest {
            return Ok(());
        }
        if let Some(document) = self.still_wanted_by(&wish, now).await? {
            let request = BackupRequested {
                pool: document.pool,
                requested_at: now,
                ..wish.request
            };
            let cause = wish.cause.map(MessageId::new);
            let asking = self.ask_for_backup(request, cause.as_ref(), WhenBusy::Leave);
            if matches!(asking.await?, Asked::Busy(_)) {
                return Ok(());
            }
        }
        let bucket = self.slots_bucket();
        let _ = made(bucket.forget(&entry.key, entry.revision, MARK).await)?;
        Ok(())
    }

    /// The document of the instance, if its schedule still wants the backup.
    async fn still_wanted_by(
        &self,
        wish: &WaitingBackup,
        now: Timestamp,
    ) -> Result<Option<InstanceDocument>, Unfinished> {
        let request = &wish.request;
        let instances = self.bus.instances();
        let Some((document, _)) = instances.get(&request.instance).await? else {
            return Ok(None);
        };
        let fires = schedule_of(&document, request).map(Fires::of);
        let Some(Ok(fires)) = fires else {
            return Ok(None);
        };
        // The schedule has fired since: that one counts.
        if fires.due(now) != fires.due(request.requested_at) {
            return Ok(None);
        }
        // Nothing can be read from a server that somebody stopped meanwhile.
        if self.is_stopped(&request.instance, &request.branch).await? {
            return Ok(None);
        }
        let taken = self.is_taken_instead(request).await?;
        Ok((!taken).then_some(document))
    }

    /// Whether another backup of the branch that is kept as long has completed meanwhile.
    async fn is_taken_instead(&self, request: &BackupRequested) -> Result<bool, Unfinished> {
        let (instance, branch) = (&request.instance, &request.branch);
        let completed = format!("{}.backup.completed.{instance}.{branch}.*", subject::ROOT);
        let Some(completed) = self.bus.last_on(&completed).await? else {
            return Ok(false);
        };
        let Event::BackupCompleted(backup) = completed.envelope.message else {
            return Ok(false);
        };
        if completed.envelope.time < request.requested_at {
            return Ok(false);
        }
        let asked = self.asked_for(instance, branch, backup.backup_id).await?;
        Ok(asked.is_some_and(|asked| Kept::of(&asked).covers(Kept::of(request))))
    }
}

/// Whether a failure may go away by itself: as whoever met it says, or by its cause.
fn may_pass(failed: &BackupFailed) -> bool {
    failed.transient.unwrap_or(match failed.cause {
        FailureCause::Storage | FailureCause::Connection | FailureCause::Internal => true,
        FailureCause::Wal
        | FailureCause::Source
        | FailureCause::Compute
        | FailureCause::Cancelled => false,
    })
}

/// The schedule that asked, if it still backs up that branch.
fn schedule_of<'a>(
    document: &'a InstanceDocument,
    asked: &BackupRequested,
) -> Option<&'a Schedule> {
    let branch = document.branches.get(&asked.branch);
    if document.removing || branch.and_then(Branch::active).is_none() {
        return None;
    }
    if asked.trigger != Trigger::Schedule {
        return None;
    }
    let mut schedules = document.schedules.iter();
    schedules.find(|schedule| {
        Some(schedule.id) == asked.schedule_id
            && schedule.branch == asked.branch
            && !schedule.paused
    })
}

/// The number of the next attempt (from 1), its backup and when it is due; none when there were enough, or the schedule
/// fires before. Pure.
fn next_attempt(
    schedule: &Schedule,
    failed: &BackupRequested,
    now: Timestamp,
) -> Option<(u32, BackupId, Timestamp)> {
    let fires = Fires::of(schedule).ok()?;
    let first = BackupId::scheduled(schedule.id, fires.due(failed.requested_at)?);
    let before = if failed.backup_id == first {
        0
    } else {
        let mut attempts = 1..=u32::try_from(PAUSES.len()).ok()?;
        attempts.find(|attempt| BackupId::again(first, *attempt) == failed.backup_id)?
    };
    let pause = PAUSES.get(usize::try_from(before).ok()?)?;
    let due_at = now.checked_add_signed(TimeDelta::minutes(*pause))?;
    let fires_before = fires.next(failed.requested_at)? <= due_at;
    let attempt = before + 1;
    (!fires_before).then(|| (attempt, BackupId::again(first, attempt), due_at))
}

//! A scheduled backup that failed for a reason that may pass is asked for again: after 5, 15 and 45 minutes, unless the
//! schedule's next fire comes before, or another backup of the branch has completed meanwhile.
//!
//! Which attempt a failed backup was follows from its id: that of the fire, or [`BackupId::again`] of it. So nothing must
//! be remembered but the wish itself, and a failure that is heard twice is one wish.

use bus::Stored;
use chrono::TimeDelta;
use events::document::{Branch, Schedule};
use events::event::{BackupFailed, BackupRequested, FailureCause};
use events::slot::{self, WaitingBackup};
use events::{BackupId, Event, InstanceDocument, MessageId, Timestamp, Trigger, subject};

use crate::commands::World;
use crate::fires::Fires;
use crate::refusal::Unfinished;
use crate::slots::{Asked, MARK, WhenBusy, encoded, made, waiting};

/// Before each further attempt, in minutes.
const PAUSES: [i64; 3] = [5, 15, 45];

impl World {
    /// Keeps the wish for another attempt, if the failed backup is to have one.
    pub(crate) async fn keep_retry(
        &self,
        failed: &BackupFailed,
        cause: &MessageId,
    ) -> Result<(), Unfinished> {
        if !may_pass(failed.cause) {
            return Ok(());
        }
        let instances = self.bus.instances();
        let Some((document, _)) = instances.get(&failed.instance).await? else {
            return Ok(());
        };
        let Some(asked) = self.asked_for(failed, &document).await? else {
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

    /// What was asked when the backup was that failed.
    async fn asked_for(
        &self,
        failed: &BackupFailed,
        document: &InstanceDocument,
    ) -> Result<Option<BackupRequested>, Unfinished> {
        for pool in [document.pool.as_ref(), None] {
            let verb = subject::backup_requested(pool);
            let (instance, branch, id) = (&failed.instance, &failed.branch, failed.backup_id);
            let request = format!("{}.{verb}.{instance}.{branch}.{id}", subject::ROOT);
            let last: Option<Stored<Event>> = self.bus.last_on(&request).await?;
            if let Some(Event::BackupRequested(asked)) = last.map(|last| last.envelope.message) {
                return Ok(Some(asked));
            }
        }
        Ok(None)
    }

    /// Asks for the attempts that are due.
    pub(super) async fn retry_due(&self) -> Result<(), Unfinished> {
        let bucket = self.slots_bucket();
        for entry in bucket.under("retry").await? {
            let Some(wish) = waiting(&entry) else {
                continue;
            };
            let now = self.clock.now();
            let longest = TimeDelta::minutes(PAUSES[PAUSES.len() - 1]);
            // One that is further away than any pause was made by a clock that was ahead.
            if wish.due_at > now && wish.due_at - now <= longest {
                continue;
            }
            let over = if self.is_still_wanted(&wish, now).await? {
                let request = BackupRequested {
                    requested_at: now,
                    ..wish.request
                };
                let cause = wish.cause.map(MessageId::new);
                let asking = self.ask_for_backup(request, cause.as_ref(), WhenBusy::Leave);
                !matches!(asking.await?, Asked::Busy(_))
            } else {
                true
            };
            if over {
                let _ = made(bucket.forget(&entry.key, entry.revision, MARK).await)?;
            }
        }
        Ok(())
    }

    async fn is_still_wanted(
        &self,
        wish: &WaitingBackup,
        now: Timestamp,
    ) -> Result<bool, Unfinished> {
        let request = &wish.request;
        let (instance, branch) = (&request.instance, &request.branch);
        let Some((document, _)) = self.bus.instances().get(instance).await? else {
            return Ok(false);
        };
        let Some(schedule) = schedule_of(&document, request) else {
            return Ok(false);
        };
        let Ok(fires) = Fires::of(schedule) else {
            return Ok(false);
        };
        // The schedule has fired since: that one counts.
        if fires.due(now) != fires.due(request.requested_at) {
            return Ok(false);
        }
        let completed = format!("{}.backup.completed.{instance}.{branch}.*", subject::ROOT);
        let completed = self.bus.last_on(&completed).await?;
        Ok(completed.is_none_or(|completed| completed.envelope.time < request.requested_at))
    }
}

/// Whether a failure may go away by itself.
fn may_pass(cause: FailureCause) -> bool {
    match cause {
        FailureCause::Storage | FailureCause::Connection | FailureCause::Internal => true,
        FailureCause::Wal | FailureCause::Source | FailureCause::Compute => false,
    }
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

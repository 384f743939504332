//! WAL that is missing for good is answered at once with a base backup that begins behind it: until there is one,
//! nothing later can be restored.
//!
//! The message of the gap is held until such a backup is complete. What is to be done is read anew at every delivery
//! from the stream and the repository, and the backup's id comes from the gap, so that one gap makes one backup
//! however many schedulers hear of it, and however often. One that failed is followed by another after a growing
//! pause, a limited number of times; from then on the schedules must do.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bus::{Delivery, Handler, Outcome, Sequence};
use chrono::TimeDelta;
use events::document::Branch;
use events::event::{BackupRequested, BackupSummary, GapCause, WalGapDetected};
use events::{
    BackupId, BackupType, Event, InstanceDocument, MessageId, PoolName, Retention, Timestamp,
    Trigger, WalKeep, subject, topology,
};
use futures::StreamExt as _;
use repository::{BranchReader, ErrorClass, RepositoryError, WalGap};

use crate::commands::{World, default_wal_keep};
use crate::recall::recall_document;
use crate::refusal::{Unfinished, outcome_of};
use crate::slots::Life;

/// Backups that are asked for because of one gap, the failed ones included: about four hours of them.
const MOST_ATTEMPTS: u32 = 8;
/// Before the second one; then four times as long each time.
const FIRST_PAUSE: TimeDelta = TimeDelta::minutes(1);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);
/// How often it is looked whether a backup has ended.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// A request that nobody has taken for so long is not relied on.
const REQUEST_AGE: TimeDelta = TimeDelta::days(1);
/// Archiver and worker have two clocks: a backup counts as begun after the gap was found only if it was so by this.
const CLOCKS_MARGIN: TimeDelta = TimeDelta::seconds(5);

/// The consumer of gaps.
pub(crate) struct Gaps {
    pub(crate) world: World,
}

#[async_trait]
impl Handler<Event> for Gaps {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let Event::WalGapDetected(gap) = &delivery.envelope.message else {
            return Outcome::Done;
        };
        match self.world.close(gap, &delivery.envelope.id).await {
            Ok(Step::Closed) => Outcome::Done,
            Ok(Step::LookAgain { after, reason }) => Outcome::Retry {
                after: after.unwrap_or_else(|| looking_after(delivery.attempt)),
                reason: reason.to_owned(),
            },
            Err(error) => outcome_of(&error, delivery.attempt),
        }
    }
}

/// Where a gap stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Nothing is left to be done.
    Closed,
    LookAgain {
        after: Option<Duration>,
        reason: &'static str,
    },
}

/// What has become of the backups that this gap asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answered {
    /// This many have failed, the last one at this moment; the next one may be asked for.
    Failed(u32, Option<Timestamp>),
    UnderWay,
    Behind,
}

impl World {
    /// Goes one step: looks what there is, and asks for a backup if one is missing.
    #[tracing::instrument(skip_all, fields(instance = %gap.instance, branch = %gap.branch, from = %gap.from_lsn, to = %gap.to_lsn))]
    async fn close(&self, gap: &WalGapDetected, cause: &MessageId) -> Result<Step, Unfinished> {
        let Some(document) = self.document_of(gap).await? else {
            return Ok(Step::Closed);
        };
        if gap.cause == GapCause::Damaged {
            self.keep_damage(gap).await?;
        }
        let failed = match self.answered(gap).await? {
            Answered::Behind => return Ok(Step::Closed),
            Answered::UnderWay => {
                return Ok(looking("a backup that answers this gap is under way"));
            }
            Answered::Failed(failed, at) => {
                let due = at.map(|at| at + pause_after(failed));
                match due.map(|due| due - self.clock.now()) {
                    Some(wait) if wait > TimeDelta::zero() && failed < MOST_ATTEMPTS => {
                        return Ok(Step::LookAgain {
                            after: Some(wait.to_std().unwrap_or(LONGEST_LOOK)),
                            reason: "the backup after this gap failed; it is tried again later",
                        });
                    }
                    _ => failed,
                }
            }
        };
        if self.another_is_coming(gap, document.pool.as_ref()).await? {
            return Ok(looking("another backup begins behind this gap"));
        }
        let reader = self.repository.reader(&gap.instance, &gap.branch);
        if behind_in_repository(&reader, gap).await? {
            return Ok(Step::Closed);
        }
        if failed >= MOST_ATTEMPTS {
            tracing::error!(
                attempts = failed,
                "no backup behind a wal gap could be taken; nothing after it can be restored until there is one"
            );
            return Ok(Step::Closed);
        }
        let requested = backup_after(gap, &document, failed, self.clock.now());
        tracing::warn!(backup = %requested.backup_id, attempt = failed + 1, "wal is missing; a base backup behind it is requested");
        self.request_backup_because(requested, Some(cause)).await?;
        Ok(looking("a backup that answers this gap is requested"))
    }

    /// What was found damaged stays beside the WAL, so that whoever looks at the window finds it missing. What the archiver
    /// misses it records itself.
    async fn keep_damage(&self, gap: &WalGapDetected) -> Result<(), Unfinished> {
        let writer = self.repository.writer(&gap.instance, &gap.branch);
        let found = WalGap {
            timeline: gap.timeline,
            from_lsn: gap.from_lsn,
            to_lsn: gap.to_lsn,
            cause: gap.cause,
            detected_at: gap.detected_at,
            proven: None,
        };
        let known = writer.reader().wal_gaps().await?;
        let later = |other: &WalGap| {
            let same = (other.timeline, other.from_lsn) == (found.timeline, found.from_lsn);
            same && other.detected_at >= found.detected_at
        };
        if !known.iter().any(later) {
            writer.put_wal_gap(&found).await?;
        }
        Ok(())
    }

    /// The instance's document, if the branch is one that is archived and backed up.
    async fn document_of(
        &self,
        gap: &WalGapDetected,
    ) -> Result<Option<InstanceDocument>, Unfinished> {
        let instances = self.bus.instances();
        let mut found = instances.get(&gap.instance).await?;
        if found.is_none() {
            recall_document(self, &gap.instance).await?;
            found = instances.get(&gap.instance).await?;
        }
        let document = found.map(|(document, _revision)| document);
        Ok(document.filter(|document| {
            let branch = document.branches.get(&gap.branch);
            !document.removing && branch.and_then(Branch::active).is_some()
        }))
    }

    async fn answered(&self, gap: &WalGapDetected) -> Result<Answered, Unfinished> {
        let mut last_failure = None;
        for attempt in 0..MOST_ATTEMPTS {
            let id = id_after(gap, attempt);
            let fence = subject::backup_fence(&gap.instance, &gap.branch, id);
            let Some(last) = self.bus.last_on(&fence).await? else {
                return Ok(Answered::Failed(attempt, last_failure));
            };
            match &last.envelope.message {
                Event::BackupCompleted(completed) if begins_behind(&completed.summary, gap) => {
                    return Ok(Answered::Behind);
                }
                _ if matches!(Life::of(Some(&last)), Life::Queued | Life::Running) => {
                    return Ok(Answered::UnderWay);
                }
                // It failed; or a standby's backup began at a restart point before the gap's end; or it was marked or
                // read since, and the repository knows where it begins.
                _ => last_failure = Some(last.envelope.time),
            }
        }
        Ok(Answered::Failed(MOST_ATTEMPTS, last_failure))
    }

    /// Whether somebody else has asked for a backup of the branch that begins, or has begun, after the gap was
    /// found. One that was running by then may have begun before the gap.
    async fn another_is_coming(
        &self,
        gap: &WalGapDetected,
        pool: Option<&PoolName>,
    ) -> Result<bool, Unfinished> {
        let (instance, branch) = (&gap.instance, &gap.branch);
        let since = self.clock.now() - REQUEST_AGE;
        let verbs = [
            subject::backup_requested(None),
            subject::backup_requested(pool),
        ];
        let subjects = BTreeSet::from(verbs)
            .into_iter()
            .map(|verb| format!("{}.{verb}.{instance}.{branch}.*", subject::ROOT))
            .collect();
        let requests = self
            .bus
            .history(subjects, Sequence::NONE, topology::EVENTS)
            .await?;
        let recent = requests.filter_map(async |stored| match stored.ok()?.envelope.message {
            Event::BackupRequested(request) if request.requested_at >= since => {
                Some(request.backup_id)
            }
            _ => None,
        });
        let mut recent: Vec<_> = recent.collect().await;
        // One that was asked of the instance's former pool.
        if let Some(running) = self.running_backup(instance, branch, pool).await?
            && let Some(asked) = self.asked_for(instance, branch, running).await?
            && asked.requested_at >= since
        {
            recent.push(running);
        }
        for id in recent {
            if self.is_coming(gap, id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_coming(&self, gap: &WalGapDetected, id: BackupId) -> Result<bool, Unfinished> {
        let (instance, branch) = (&gap.instance, &gap.branch);
        let fence = subject::backup_fence(instance, branch, id);
        let last = self.bus.last_on(&fence).await?;
        match last.map(|last| last.envelope.message) {
            Some(Event::BackupRequested(_)) => return Ok(true),
            Some(Event::BackupStarted(_) | Event::BackupProgressed(_)) => {}
            _ => return Ok(false),
        }
        let started = format!("{}.backup.started.{instance}.{branch}.{id}", subject::ROOT);
        let started = self.bus.last_on(&started).await?;
        let safely = gap.detected_at + CLOCKS_MARGIN;
        Ok(started.is_some_and(|started| started.envelope.time >= safely))
    }
}

/// Whether a completed backup begins behind the gap. Damaged manifests and those of newer versions are no backups.
async fn behind_in_repository(
    reader: &BranchReader,
    gap: &WalGapDetected,
) -> Result<bool, RepositoryError> {
    for id in reader.list_backups().await? {
        match reader.manifest(id).await {
            Ok(manifest) if begins_behind(&manifest.summary, gap) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.class() == ErrorClass::Transient => return Err(error),
            Err(error) => tracing::warn!(backup = %id, error = %error, "passed over a manifest"),
        }
    }
    Ok(false)
}

fn begins_behind(backup: &BackupSummary, gap: &WalGapDetected) -> bool {
    backup.start_lsn >= gap.to_lsn && backup.timeline >= gap.timeline
}

fn id_after(gap: &WalGapDetected, attempt: u32) -> BackupId {
    BackupId::after_gap(
        (&gap.instance, &gap.branch),
        (gap.timeline, gap.from_lsn),
        attempt,
    )
}

fn backup_after(
    gap: &WalGapDetected,
    document: &InstanceDocument,
    attempt: u32,
    now: Timestamp,
) -> BackupRequested {
    // It is there for the moments after the gap: it goes when the branch's window has left it behind.
    let retention = match default_wal_keep(document, &gap.branch, None) {
        WalKeep::For(window) => window,
        WalKeep::AsLongAsBackup | WalKeep::Standalone => Retention::SEVEN_DAYS,
    };
    BackupRequested {
        backup_id: id_after(gap, attempt),
        instance: gap.instance.clone(),
        branch: gap.branch.clone(),
        name: format!("after a WAL gap at {}", gap.from_lsn),
        backup_type: BackupType::Auto,
        trigger: Trigger::Schedule,
        schedule_id: None,
        retention: Some(retention),
        wal: default_wal_keep(document, &gap.branch, Some(retention)),
        pool: document.pool.clone(),
        requested_at: now,
    }
}

fn pause_after(failed: u32) -> TimeDelta {
    let factor = 4_i32.saturating_pow(failed.saturating_sub(1));
    let pause = FIRST_PAUSE.checked_mul(factor);
    pause.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE)
}

fn looking(reason: &'static str) -> Step {
    let after = None;
    Step::LookAgain { after, reason }
}

fn looking_after(delivery: u64) -> Duration {
    let seconds = 1_u64 << delivery.min(6);
    Duration::from_secs(seconds).min(LONGEST_LOOK)
}

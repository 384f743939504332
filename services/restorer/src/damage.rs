//! Damage that a restore or drill comes upon is made known: from then on it counts as if a verification had found it,
//! so that the next restore goes round the backup and an alert is raised (`docs/decisions/0017`).
//!
//! What must stay true: only what the store itself answers, at a second look too, is damage; a store that cannot be asked, or
//! has lost the manifest as well, proves nothing. As with every verdict (`services/backup-worker`, `verify`): of a backup that
//! is let go nothing is told, and nothing is told over a backup that has not ended.

use std::ops::Range;

use bus::{BusError, FenceError, Outgoing, Sequence};
use events::event::{BackupVerified, GapCause, WalGapDetected};
use events::{BackupSummary, CommandId, Event, MessageId, subject};
use pg_format::{Lsn, SegmentName, TimelineHistory, WalSegmentSize};
use repository::{BranchReader, ErrorClass, Manifest, Problem, RepositoryError};

use crate::error::RestoreError;
use crate::restorer::Restorer;

/// Problems that an event names.
const NAMED_PROBLEMS: usize = 100;
/// Others may say something of the backup at the same time; so often it is looked anew.
const MOST_ATTEMPTS: u32 = 16;

/// Stretches of WAL that are looked at more closely.
const MOST_UNREAD: usize = 4;

const MARKED: &str = "it is marked as damaged now";
const NOT_MARKED: &str = "it could not be marked as damaged, so run `zektor backup verify` on it";
const ADVICE: &str =
    "restores go round it where a sound backup leads to their target; take a new backup now";

impl Restorer {
    /// What it means that the files of a backup could not be written. `by` is the restore or drill.
    pub async fn judged(
        &self,
        by: CommandId,
        manifest: &Manifest,
        error: RepositoryError,
    ) -> RestoreError {
        let (RepositoryError::Corrupt { key, .. } | RepositoryError::Absent { key }) = &error
        else {
            return error.into();
        };
        let problems = match self.looked_again(manifest, key).await {
            Ok(problems) if problems.is_empty() => return error.into(),
            Ok(problems) => problems,
            Err(error) => return error.into(),
        };
        let summary = &manifest.summary;
        tracing::error!(
            instance = %summary.instance, branch = %summary.branch, backup = %summary.backup_id,
            error = service::run::chain(&error),
            "a stored backup is not what was stored"
        );
        let told = match self.tell(by, summary, &problems).await {
            Ok(true) => MARKED,
            Ok(false) => NOT_MARKED,
            Err(error) => {
                tracing::warn!(
                    backup = %summary.backup_id, error = service::run::chain(&error),
                    "the damage of a backup could not be told"
                );
                NOT_MARKED
            }
        };
        RestoreError::Damaged {
            backup_id: summary.backup_id,
            told,
            advice: ADVICE,
            source: error,
        }
    }

    /// What is wrong with the object; nothing, if it is right now or the backup is not there any more.
    async fn looked_again(
        &self,
        manifest: &Manifest,
        key: &str,
    ) -> Result<Vec<Problem>, RepositoryError> {
        let summary = &manifest.summary;
        let reader = self.repository.reader(&summary.instance, &summary.branch);
        let report = reader.verify_object(manifest, key).await?;
        // Behind what is missing: where the manifest is gone too, that is why.
        let there = reader.manifest(summary.backup_id).await;
        match RepositoryError::absent_as_none(there) {
            Ok(None) => Ok(Vec::new()),
            Err(error) if error.class() != ErrorClass::Corrupt => Err(error),
            _ => Ok(report.problems),
        }
    }

    /// Gives the verdict; false if there is nobody to give it to.
    async fn tell(
        &self,
        by: CommandId,
        summary: &BackupSummary,
        problems: &[Problem],
    ) -> Result<bool, RestoreError> {
        let (instance, branch, id) = (&summary.instance, &summary.branch, summary.backup_id);
        let mark = self.repository.reader(instance, branch).mark(id).await;
        if mark.is_ok_and(|read| read.mark.is_damaged()) {
            return Ok(true);
        }
        let now = self.clock.now();
        let verdict = Event::BackupVerified(BackupVerified {
            backup_id: id,
            instance: instance.clone(),
            branch: branch.clone(),
            command_id: by,
            sound: false,
            problems: problems.iter().take(NAMED_PROBLEMS).map(sentence).collect(),
            files: 0,
            bytes: 0,
            verified_at: now,
            duration_ms: 0,
        });
        let fence = subject::backup_fence(instance, branch, id);
        for _ in 0..MOST_ATTEMPTS {
            let Some(head) = self.head(summary, &fence).await? else {
                return Ok(false);
            };
            // The same of every attempt at this restore.
            let message = MessageId::new(format!("{}:{by}:{id}", verdict.type_name()));
            let outgoing = Outgoing::new(verdict.clone(), message, now)
                .correlated(id)
                .caused_by(by);
            match self.bus.publish_expecting(outgoing, &fence, head).await {
                Ok(_) | Err(FenceError::Bus(BusError::MessageIdReused { .. })) => return Ok(true),
                Err(FenceError::Lost { .. }) => {}
                Err(FenceError::Bus(error)) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Makes known that a segment cannot be used, if it cannot at a second look either: it counts as missing from then on,
    /// for the window and the next plan, and is alarming. Nothing else depends on whether that succeeds.
    pub(crate) async fn tell_damaged_wal(
        &self,
        reader: &BranchReader,
        size: WalSegmentSize,
        error: &RepositoryError,
    ) {
        let (RepositoryError::Corrupt { key, .. } | RepositoryError::Absent { key }) = error else {
            return;
        };
        let file = key.rsplit('/').next().unwrap_or_default();
        let Ok(name) = SegmentName::parse(file, size) else {
            return;
        };
        let damaged = match reader.get_segment(name).await {
            Err(RepositoryError::Corrupt { .. }) => true,
            // Where the branch's record is gone too, it is the store that is.
            Err(RepositoryError::Absent { .. }) => reader.record().await.is_ok(),
            _ => false,
        };
        if !damaged {
            return;
        }
        let (instance, branch) = (reader.instance(), reader.branch());
        let (from_lsn, now) = (name.start(size), self.clock.now());
        tracing::error!(
            %instance, %branch, segment = file, error = service::run::chain(error),
            "archived wal is not what was stored"
        );
        let event = Event::WalGapDetected(WalGapDetected {
            instance: instance.clone(),
            branch: branch.clone(),
            timeline: name.timeline,
            from_lsn,
            to_lsn: name.end(size),
            cause: GapCause::Damaged,
            detected_at: now,
        });
        // As the archiver calls it that finds it recorded.
        let id = format!(
            "wal.gap.detected:{instance}:{branch}:{}:{from_lsn}",
            name.timeline
        );
        let told = Outgoing::new(event, MessageId::new(id), now);
        if let Err(error) = self.bus.publish(told).await {
            let error = service::run::chain(&error);
            tracing::warn!(%instance, %branch, segment = file, error, "damaged wal could not be told");
        }
    }

    /// Whether WAL that could not be looked into is damaged, which is then known. It is looked at where what cannot be read
    /// begins; what is only not archived yet is no damage.
    pub(crate) async fn look_at_unread_wal(
        &self,
        reader: &BranchReader,
        size: WalSegmentSize,
        history: &TimelineHistory,
        unread: &[Range<Lsn>],
    ) {
        for range in unread.iter().take(MOST_UNREAD) {
            // The record that cannot be read may begin in the segment before.
            let first = size.segment_of(range.start);
            for number in [first, first + 1] {
                let start = size.start_of(number).max(range.start);
                if start >= range.end {
                    break;
                }
                let name = SegmentName::new(history.timeline_at(start), number, size);
                if let Err(error @ RepositoryError::Corrupt { .. }) = reader.get_segment(name).await
                {
                    self.tell_damaged_wal(reader, size, &error).await;
                }
            }
        }
    }

    /// What was last said of a backup that has ended and is not let go.
    async fn head(
        &self,
        summary: &BackupSummary,
        fence: &str,
    ) -> Result<Option<Sequence>, RestoreError> {
        let sweep = self.sweep_of(&summary.instance, &summary.branch).await?;
        if sweep.is_some_and(|sweep| sweep.backups.contains(&summary.backup_id)) {
            return Ok(None);
        }
        let Some(last) = self.bus.last_on(fence).await? else {
            return Ok(Some(Sequence::NONE));
        };
        Ok(match last.envelope.message {
            Event::BackupQueued(_)
            | Event::BackupRequested(_)
            | Event::BackupStarted(_)
            | Event::BackupProgressed(_)
            | Event::BackupExpired(_) => None,
            _ => Some(last.sequence),
        })
    }
}

fn sentence(problem: &Problem) -> String {
    match &problem.file {
        Some(file) => format!("{file}: {}", problem.reason),
        None => problem.reason.clone(),
    }
}

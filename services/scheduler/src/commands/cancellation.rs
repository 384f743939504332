//! A backup that is to be deleted before it is completed is ended instead.
//!
//! Its end is said under the backup's fence, after the last that was said of it. Whoever is given the request later finds
//! it there and does not begin, and an attempt that is at it loses the fence, and with it the right to commit.
//!
//! What must stay true: nothing is said to be cancelled that may be committed all the same. An attempt commits only after
//! the bus has heard that it waits for its WAL; from that word on it is refused. (One that lost the fence to another
//! attempt just between that word and its manifest may still write it: then the manifest stands, and is deleted as any
//! other.)

use bus::{FenceError, Outgoing};
use events::command::BackupDelete;
use events::event::{BackupFailed, BackupPhase, FailureCause, RefusalCode};
use events::{Event, MessageId, subject};
use repository::RepositoryError;

use super::manual::is_under_way;
use super::{Given, World};
use crate::refusal::{Refusal, Unfinished};

/// An attempt may speak meanwhile; so often it is decided anew.
const MOST_ATTEMPTS: u32 = 16;

/// Where a backup that is under way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No worker has begun it.
    Waits,
    /// One has, and cannot have committed it.
    Runs,
    /// It may be committed at any moment.
    Commits,
}

impl Stage {
    /// By the last that was said of it.
    fn of(last: &Event) -> Stage {
        match last {
            Event::BackupQueued(_) | Event::BackupRequested(_) => Stage::Waits,
            Event::BackupStarted(_) => Stage::Runs,
            Event::BackupProgressed(progressed) => match progressed.phase {
                _ if progressed.problem.is_some() => Stage::Runs,
                BackupPhase::Checkpoint | BackupPhase::Copying => Stage::Runs,
                BackupPhase::WaitingForWal | BackupPhase::Unknown => Stage::Commits,
            },
            _ => Stage::Commits,
        }
    }
}

impl World {
    /// Ends a backup that is under way, or deletes one that is stored.
    pub(super) async fn cancel_or_delete_backup(
        &self,
        given: &Given,
        delete: &BackupDelete,
    ) -> Result<(), Unfinished> {
        let (instance, branch, id) = (&delete.instance, &delete.branch, delete.backup_id);
        let fence = subject::backup_fence(instance, branch, id);
        for _ in 0..MOST_ATTEMPTS {
            let last = self.bus.last_on(&fence).await?;
            let Some(last) = last.filter(|last| is_under_way(&last.envelope.message)) else {
                return self.delete_backup(given, delete).await;
            };
            // In this order: a manifest that is written after this look was announced by a later word.
            let reader = self.repository.reader(instance, branch);
            let manifest = RepositoryError::absent_as_none(reader.manifest(id).await)?;
            if manifest.is_some() {
                return self.delete_backup(given, delete).await;
            }
            let message = match Stage::of(&last.envelope.message) {
                Stage::Waits => "cancelled before a worker had begun it",
                Stage::Runs => "cancelled while it was being taken",
                Stage::Commits => return Err(too_late(delete).into()),
            };
            let cancelled = Event::BackupFailed(BackupFailed {
                backup_id: id,
                instance: instance.clone(),
                branch: branch.clone(),
                cause: FailureCause::Cancelled,
                transient: Some(false),
                message: message.to_owned(),
                hint: String::new(),
                failed_at: self.clock.now(),
            });
            let message_id = MessageId::new(format!("backup.cancelled:{}", given.id));
            let outgoing = Outgoing::new(cancelled, message_id, self.clock.now())
                .correlated(id)
                .caused_by(given.id.to_string());
            let said = self.bus.publish_expecting(outgoing, &fence, last.sequence);
            match said.await {
                Ok(_sequence) => {
                    tracing::info!(%instance, %branch, backup = %id, message, "a backup is cancelled");
                    return Ok(());
                }
                Err(FenceError::Lost { .. }) => {}
                Err(FenceError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(Unfinished::NotYet(format!(
            "backup {id} is spoken of by others all the time"
        )))
    }
}

fn too_late(delete: &BackupDelete) -> Refusal {
    let (instance, id) = (&delete.instance, delete.backup_id);
    Refusal::new(
        RefusalCode::Invalid,
        format!("backup {id} is copied and about to be completed"),
        format!(
            "Wait until it has ended (`zektor backup show {instance} {id}`), and delete it then."
        ),
    )
}

#[cfg(test)]
mod tests {
    use events::event::{BackupPhase, BackupProgressed};
    use events::{Event, example};

    use super::Stage;

    fn progressed(phase: BackupPhase, problem: Option<&str>) -> Event {
        let mut examples = example::events().into_iter();
        let example = examples.find_map(|event| match event {
            Event::BackupProgressed(progressed) => Some(progressed),
            _ => None,
        });
        Event::BackupProgressed(BackupProgressed {
            phase,
            problem: problem.map(str::to_owned),
            ..example.unwrap()
        })
    }

    #[test]
    fn what_waits_for_its_wal_may_be_committed_unless_its_attempt_came_to_nothing() {
        let check = |phase, problem, expected| {
            assert_eq!(
                Stage::of(&progressed(phase, problem)),
                expected,
                "{phase:?}"
            );
        };
        check(BackupPhase::Checkpoint, None, Stage::Runs);
        check(BackupPhase::Copying, None, Stage::Runs);
        check(BackupPhase::WaitingForWal, None, Stage::Commits);
        check(BackupPhase::Unknown, None, Stage::Commits);
        check(BackupPhase::WaitingForWal, Some("no route"), Stage::Runs);
    }
}

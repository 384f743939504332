//! What is wanted of a stored backup: its name, its end, that it is held, that it is to go.
//!
//! All of that is in the backup's mark, beside its manifest; the events only tell of it. What must stay true:
//!
//! - What is said to be kept is kept. A mark that keeps a backup is written first, and then it is looked whether a
//!   sweep has the backup already; the sweep does it the other way round, so one of the two sees the other.
//! - The last `backup.updated` tells the mark as it is: each is published over the event that was last before the mark
//!   was read. What a verification found is in the mark too, and told by the verification itself.
//! - A command changes a mark once. One that is delivered again, after others were, tells the mark and leaves it.

mod place;
mod refused;
mod updated;

use refused::{busy, held, invalid, refuse_to_go};
use updated::updated;

use bus::FenceError;
use bus::Sequence;
use chrono::SubsecRound as _;
use events::command::{BackupDelete, BackupHold, BackupRelease, BackupUndelete, BackupUpdate};
use events::event::{BackupUpdated, BackupVerified, RefusalCode};
use events::mark::{BackupMark, DeletedBy, Deletion, Expiry, Hold, Verification};
use events::{
    BackupId, BackupSummary, BranchName, CommandId, Event, InstanceName, MessageId, Trigger,
    subject,
};
use repository::{PutMark, RepositoryError, effective};

use super::backups::no_such_backup;
use super::manual::is_under_way;
use super::{Given, World, names};
use crate::refusal::{Refusal, Unfinished};
use crate::retention;

/// Others may change the same mark meanwhile; so often it is decided anew.
const MOST_ATTEMPTS: u32 = 16;

/// The backup that a command is about.
#[derive(Clone, Copy)]
struct Of<'a> {
    instance: &'a InstanceName,
    branch: &'a BranchName,
    id: BackupId,
}

impl World {
    pub(super) async fn update_backup(
        &self,
        given: &Given,
        update: &BackupUpdate,
    ) -> Result<(), Unfinished> {
        let of = Of {
            instance: &update.instance,
            branch: &update.branch,
            id: update.backup_id,
        };
        let name = names::given(update.name.as_deref(), "name of a backup")?;
        let Some(summary) = self.stored(given, of).await? else {
            return Ok(());
        };
        let placed = self.take_place_to_keep(given, of, &summary, update).await?;
        let changed = self
            .name_and_keep(given, of, &summary, update, name.as_deref())
            .await;
        if placed && matches!(changed, Err(Unfinished::Refused(_))) {
            self.give_manual_place_back(of.instance, of.id).await?;
        }
        changed?;
        self.tell_mark(given, of).await
    }

    pub(super) async fn hold_backup(
        &self,
        given: &Given,
        hold: &BackupHold,
    ) -> Result<(), Unfinished> {
        let of = Of {
            instance: &hold.instance,
            branch: &hold.branch,
            id: hold.backup_id,
        };
        let reason = names::given(hold.reason.as_deref(), "reason of a hold")?;
        let now = self.clock.now().trunc_subsecs(6);
        let Some(_summary) = self.stored(given, of).await? else {
            return Ok(());
        };
        let before = self
            .change_mark(of, Some(given.id), |mark| {
                // After its release retention decides anew, with all of the grace.
                refuse_to_go(of, mark, DeletedBy::User)?;
                let held = mark.hold.as_ref();
                // Held again without a word, it is held for the reason it has; a blank one takes that away.
                let known = || held.and_then(|held| held.reason.clone());
                let hold = Hold {
                    reason: hold.reason.as_ref().map_or_else(known, |_| reason.clone()),
                    since: held.map_or(now, |held| held.since),
                };
                Ok(BackupMark {
                    hold: Some(hold),
                    deletion: None,
                    ..mark.clone()
                })
            })
            .await?;
        self.refuse_if_swept(of, &before).await?;
        self.tell_mark(given, of).await
    }

    pub(super) async fn release_backup(
        &self,
        given: &Given,
        release: &BackupRelease,
    ) -> Result<(), Unfinished> {
        let of = Of {
            instance: &release.instance,
            branch: &release.branch,
            id: release.backup_id,
        };
        let Some(_summary) = self.stored(given, of).await? else {
            return Ok(());
        };
        let _before = self
            .change_mark(of, Some(given.id), |mark| {
                // Not at the first delivery: an earlier one may have written the mark and told nobody.
                if mark.hold.is_none() && given.attempt == 1 {
                    return Err(invalid(
                        format!("backup {} is not held", of.id),
                        "There is nothing to release.",
                    ));
                }
                Ok(BackupMark {
                    hold: None,
                    ..mark.clone()
                })
            })
            .await?;
        self.tell_mark(given, of).await
    }

    pub(super) async fn delete_backup(
        &self,
        given: &Given,
        delete: &BackupDelete,
    ) -> Result<(), Unfinished> {
        let of = Of {
            instance: &delete.instance,
            branch: &delete.branch,
            id: delete.backup_id,
        };
        let Some(summary) = self.stored(given, of).await? else {
            return Ok(());
        };
        let now = self.clock.now().trunc_subsecs(6);
        let delete_after = retention::end_of_grace(self, of.instance, of.branch).await?;
        let deletion = Deletion {
            by: DeletedBy::User,
            asked_at: now,
            delete_after: delete_after.trunc_subsecs(6),
        };
        let _before = self
            .change_mark(of, Some(given.id), |mark| {
                if mark.hold.is_some() {
                    return Err(held(of));
                }
                Ok(BackupMark {
                    deletion: Some(mark.deletion.unwrap_or(deletion)),
                    ..mark.clone()
                })
            })
            .await?;
        if summary.trigger == Trigger::Manual {
            self.give_manual_place_back(of.instance, of.id).await?;
            self.keep_place_of(of, &summary).await?;
        }
        self.tell_mark(given, of).await
    }

    pub(super) async fn undelete_backup(
        &self,
        given: &Given,
        undelete: &BackupUndelete,
    ) -> Result<(), Unfinished> {
        let of = Of {
            instance: &undelete.instance,
            branch: &undelete.branch,
            id: undelete.backup_id,
        };
        let Some(summary) = self.stored(given, of).await? else {
            return Ok(());
        };
        let now = self.clock.now().trunc_subsecs(6);
        let mark = self.read_mark(of).await?;
        let marked = mark.deletion.is_some();
        if marked && mark.commands.contains(&given.id) {
            // It was undeleted by this, and deleted again.
            return self.tell_mark(given, of).await;
        }
        if !marked && given.attempt == 1 {
            return Err(invalid(
                format!("backup {} is not marked for deletion", of.id),
                "It is kept as it is; see `zektor backup show`.",
            )
            .into());
        }
        let manual = summary.trigger == Trigger::Manual && !mark.is_damaged();
        if manual {
            self.take_manual_place(of.instance, of.id, of.branch)
                .await?;
        }
        let kept = self
            .change_mark(of, Some(given.id), |mark| {
                let expires_at = effective(summary.clone(), mark).expires_at;
                let expiry = match undelete.retention {
                    Some(retention) => Some(Some(retention.expires_at(now))),
                    None => expires_at.is_some_and(|end| end <= now).then_some(None),
                };
                Ok(BackupMark {
                    deletion: None,
                    expiry: expiry
                        .map(|expires_at| Expiry { expires_at })
                        .or(mark.expiry),
                    ..mark.clone()
                })
            })
            .await;
        let kept = match kept {
            Ok(before) => self.refuse_if_swept(of, &before).await,
            Err(error) => Err(error),
        };
        match kept {
            Ok(()) => self.tell_mark(given, of).await,
            Err(error) => {
                if manual && matches!(error, Unfinished::Refused(_)) {
                    self.give_manual_place_back(of.instance, of.id).await?;
                }
                Err(error)
            }
        }
    }

    /// What the manifest says of the backup; nothing if this command's outcome was told already. Refuses what is not
    /// stored. Between the manifest and its announcement the command waits: what is told of a mark then would be taken
    /// for the backup's end, and nobody would announce it.
    async fn stored(&self, given: &Given, of: Of<'_>) -> Result<Option<BackupSummary>, Unfinished> {
        let fence = subject::backup_fence(of.instance, of.branch, of.id);
        if self.has_told(given, fence).await? {
            return Ok(None);
        }
        let _document = self.document(of.instance).await?;
        let Some(summary) = self.manifest(of).await? else {
            return Err(self.not_stored(of).await?.into());
        };
        let fence = subject::backup_fence(of.instance, of.branch, of.id);
        let last = self.bus.last_on(&fence).await?;
        match last.is_some_and(|last| is_under_way(&last.envelope.message)) {
            true => Err(Unfinished::NotYet(format!(
                "backup {} is stored, but that was not announced yet",
                of.id
            ))),
            false => Ok(Some(summary)),
        }
    }

    async fn manifest(&self, of: Of<'_>) -> Result<Option<BackupSummary>, Unfinished> {
        let reader = self.repository.reader(of.instance, of.branch);
        let manifest = RepositoryError::absent_as_none(reader.manifest(of.id).await)?;
        Ok(manifest.map(|manifest| manifest.summary))
    }

    /// Why there is no manifest, and what to do then.
    async fn not_stored(&self, of: Of<'_>) -> Result<Refusal, Unfinished> {
        let Of {
            instance,
            branch,
            id,
        } = of;
        let fence = subject::backup_fence(instance, branch, id);
        let last = self.bus.last_on(&fence).await?;
        let last = last.map(|last| last.envelope.message);
        Ok(match &last {
            Some(last) if is_under_way(last) => invalid(
                format!("backup {id} is not completed yet"),
                format!("Wait until it has ended: `zektor backup show {instance} {id}`."),
            ),
            Some(Event::BackupFailed(_)) => invalid(
                format!("backup {id} has failed; nothing is stored that could be kept or deleted"),
                format!("Take it once more: `zektor backup retry {instance} {id}`."),
            ),
            Some(Event::BackupSkipped(_)) => invalid(
                format!("backup {id} was never taken"),
                "Nothing is stored that could be kept or deleted.",
            ),
            Some(Event::BackupExpired(_)) => Refusal::new(
                RefusalCode::NotFound,
                format!("backup {id} is gone from the repository"),
                format!("See what is there: `zektor backup list {instance}`."),
            ),
            _ => no_such_backup(instance, branch, id),
        })
    }

    async fn read_mark(&self, of: Of<'_>) -> Result<BackupMark, Unfinished> {
        let reader = self.repository.reader(of.instance, of.branch);
        Ok(reader.mark(of.id).await?.mark)
    }

    /// Writes what `change` makes of the mark over the mark that it saw, and gives that back. A command does it once.
    async fn change_mark(
        &self,
        of: Of<'_>,
        by: Option<CommandId>,
        change: impl Fn(&BackupMark) -> Result<BackupMark, Refusal>,
    ) -> Result<BackupMark, Unfinished> {
        let writer = self.repository.writer(of.instance, of.branch);
        let mut read = writer.mark(of.id).await?;
        for _ in 0..MOST_ATTEMPTS {
            // What an earlier delivery of this command wrote may have been changed by others since.
            if by.is_some_and(|by| read.mark.commands.contains(&by)) {
                return Ok(read.mark);
            }
            let mut wanted = change(&read.mark)?;
            if wanted == read.mark {
                return Ok(read.mark);
            }
            if let Some(by) = by {
                wanted = wanted.changed_by(by);
            }
            match writer.put_mark(of.id, &wanted, &read).await? {
                PutMark::Written(_) => return Ok(read.mark),
                PutMark::Changed(now) => read = now,
            }
        }
        Err(busy(of))
    }

    /// A backup was read whole: what that showed stays with it, because a live branch relies on a sound one.
    pub(crate) async fn keep_verification(
        &self,
        verified: &BackupVerified,
    ) -> Result<(), Unfinished> {
        let of = Of {
            instance: &verified.instance,
            branch: &verified.branch,
            id: verified.backup_id,
        };
        let reader = self.repository.reader(of.instance, of.branch);
        // One whose manifest is damaged is there.
        match reader.manifest(of.id).await {
            Err(error) if error.is_absent() => return Ok(()),
            Ok(_) | Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // One that cannot be read is left for somebody to mend; until then the backup counts as held.
        if let Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) =
            reader.mark(of.id).await
        {
            tracing::warn!(backup = %of.id, sound = verified.sound, "the mark cannot be read and keeps no finding");
            return Ok(());
        }
        let found = Verification {
            sound: verified.sound,
            at: verified.verified_at,
        };
        let changed = self.change_mark(of, None, |mark| {
            let later = mark.verified.is_some_and(|known| known.at > found.at);
            Ok(BackupMark {
                verified: mark.verified.filter(|_| later).or(Some(found)),
                ..mark.clone()
            })
        });
        let _before = changed.await?;
        self.place_as_found(of).await
    }

    /// A backup that a sweep has is lost, whatever its mark says: what was changed is taken back.
    async fn refuse_if_swept(&self, of: Of<'_>, before: &BackupMark) -> Result<(), Unfinished> {
        // In this order: a sweep that is over has left the document, and the manifest is gone.
        let document = self.document(of.instance).await?;
        let sweep = document.sweeps.get(of.branch);
        let swept = sweep.is_some_and(|sweep| sweep.backups.contains(&of.id));
        if !swept && self.manifest(of).await?.is_some() {
            return Ok(());
        }
        let _ours = self
            .change_mark(of, None, |mark| {
                Ok(BackupMark {
                    hold: before.hold.clone(),
                    deletion: before.deletion,
                    expiry: before.expiry,
                    ..mark.clone()
                })
            })
            .await?;
        Err(Refusal::new(
            RefusalCode::NotFound,
            format!(
                "backup {} is being deleted and cannot be kept any more",
                of.id
            ),
            format!(
                "Take a new one: `zektor backup create {} --branch {}`.",
                of.instance, of.branch
            ),
        )
        .into())
    }

    /// Publishes the mark as it is.
    async fn tell_mark(&self, given: &Given, of: Of<'_>) -> Result<(), Unfinished> {
        let fence = subject::backup_fence(of.instance, of.branch, of.id);
        let cause = given.id.to_string();
        for _ in 0..MOST_ATTEMPTS {
            // First where the mark is told, then what: see the module.
            let head = self.bus.last_on(&fence).await?;
            if let Some(head) = &head
                && head.envelope.causation.as_ref() == Some(&cause)
            {
                return Ok(());
            }
            let head = head.map_or(Sequence::NONE, |head| head.sequence);
            let event = Event::BackupUpdated(BackupUpdated {
                backup_id: of.id,
                instance: of.instance.clone(),
                branch: of.branch.clone(),
                mark: self.read_mark(of).await?,
                updated_at: self.clock.now(),
            });
            let id = MessageId::new(format!("backup.updated:{cause}"));
            let outgoing = self.outgoing(given, id, Some(of.id.to_string()), event);
            match self.bus.publish_expecting(outgoing, &fence, head).await {
                Ok(_sequence) => return Ok(()),
                Err(FenceError::Lost { .. }) => {}
                Err(FenceError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(busy(of))
    }
}

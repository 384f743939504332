//! A built branch becomes a part of its instance, or nothing.
//!
//! The scheduler decides, by what the instance document says; `restore.completed` is said only when the document
//! shows the branch. When the claim was lost meanwhile (the instance was removed, the restore was given up for
//! dead), the branch is removed again: nobody would archive it, list it or ever delete it.

use std::time::Duration;

use bus::Bus;
use events::command::BranchOrigin;
use events::document::Branch;
use events::event::Event;
use events::{BranchName, Command, InstanceDocument, InstanceName, MessageId, RestoreId};
use repository::{ParentBranch, RepositoryError, archive};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::RestoreError;
use crate::outcome::FinishedBranch;
use crate::restorer::Restorer;
use crate::site::Site;

const LOOK: Duration = Duration::from_millis(200);
/// Longer than the bus remembers ids, so that what it lost is sent again and nothing else is.
const SEND_AGAIN: Duration = Duration::from_secs(150);

/// Where a branch left the one it was restored from, as its record in the repository has it.
fn parent_of(origin: &BranchOrigin) -> ParentBranch {
    ParentBranch {
        branch: origin.branch.clone(),
        backup_id: origin.backup_id,
        fork_timeline: origin.fork_timeline,
        fork_lsn: origin.fork_lsn,
    }
}

/// How a built branch stands with its instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is part of it.
    Registered,
    /// Its name is claimed for it; the scheduler has not decided yet, or the document is not to be seen.
    Awaited,
    /// It will never be.
    Lost(Loss),
}

/// Why a built branch will never be part of its instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// One sentence.
    pub(crate) reason: String,
    /// What can be done.
    pub(crate) hint: String,
    /// Whether somebody else has the name by now.
    taken: bool,
}

fn lost(reason: &str, hint: &str) -> Standing {
    Standing::Lost(Loss {
        reason: reason.to_owned(),
        hint: hint.to_owned(),
        taken: false,
    })
}

/// What the document says of the branch that `restore` has built.
fn standing(
    document: Option<&InstanceDocument>,
    branch: &BranchName,
    restore: RestoreId,
) -> Standing {
    // A document that is not there may be recalled from its mirror; what is really gone, the scheduler refuses.
    let Some(document) = document else {
        return Standing::Awaited;
    };
    let of_this = |origin: Option<RestoreId>| origin == Some(restore);
    match document.branches.get(branch) {
        Some(Branch::Active(active))
            if of_this(active.origin.as_ref().map(|origin| origin.restore_id)) =>
        {
            Standing::Registered
        }
        Some(Branch::Restoring { restore_id, .. }) if *restore_id == restore => Standing::Awaited,
        Some(Branch::Deleting(_)) => lost(
            "the branch was deleted meanwhile",
            "if that was not meant, restore again",
        ),
        Some(_) => Standing::Lost(Loss {
            reason: "the branch's name is another restore's by now".to_owned(),
            hint: "the branch was removed again; restore again under another name".to_owned(),
            taken: true,
        }),
        None => lost(
            "the branch's name is no longer claimed by this restore",
            "the branch was removed again, and its name is free; restore again",
        ),
    }
}

/// The id of the command that registers what `restore` has built: a repetition is the same command.
fn command_id(restore: RestoreId) -> Uuid {
    Uuid::new_v5(&restore.0, b"branch.register")
}

/// Whether the branch's name is not another's: this restore's, or nobody's any more.
///
/// # Errors
/// The bus failed.
pub(super) async fn may_give_back(
    bus: &Bus,
    instance: &InstanceName,
    branch: &BranchName,
    restore: RestoreId,
) -> Result<bool, RestoreError> {
    let document = bus.instances().get(instance).await?;
    let held = document.and_then(|(document, _)| document.branches.get(branch).cloned());
    Ok(match held {
        None => true,
        Some(Branch::Restoring { restore_id, .. }) => restore_id == restore,
        Some(_) => false,
    })
}

/// How the branch of `finished` stands now.
///
/// # Errors
/// The bus failed.
pub(crate) async fn look(bus: &Bus, finished: &FinishedBranch) -> Result<Standing, RestoreError> {
    let (instance, branch) = (&finished.register.instance, &finished.register.branch);
    let document = bus.instances().get(instance).await?;
    let document = document.map(|(document, _)| document);
    let standing = standing(document.as_ref(), branch, finished.restore_id);
    if standing != Standing::Awaited {
        return Ok(standing);
    }
    let refused = format!("zektor.branch.refused.{instance}.{branch}");
    let last = bus.last_on(&refused).await?;
    match last.map(|last| last.envelope.message) {
        Some(Event::BranchRefused(refused))
            if refused.command_id.0 == command_id(finished.restore_id) =>
        {
            let removed = "the branch was removed again";
            Ok(lost(
                &format!("the scheduler refused to register it: {}", refused.message),
                &match refused.hint.trim_end_matches('.') {
                    "" => removed.to_owned(),
                    hint => format!("{hint}; {removed}"),
                },
            ))
        }
        _ => Ok(standing),
    }
}

impl Restorer {
    /// Has the branch registered and waits until it is, for as long as the scheduler needs: what is built is
    /// built. The site's lock must be held. `alive` is called while the bus answers.
    ///
    /// # Errors
    /// [`RestoreError::ClaimLost`], after the branch was removed; or the bus failed.
    pub(super) async fn join(
        &self,
        site: &Site,
        mut finished: FinishedBranch,
        alive: impl Fn(),
    ) -> Result<FinishedBranch, RestoreError> {
        if finished.registered {
            return Ok(finished);
        }
        let mut sent: Option<Instant> = None;
        loop {
            match look(&self.bus, &finished).await? {
                Standing::Registered => {
                    finished.registered = true;
                    finished.store(site)?;
                    return Ok(finished);
                }
                Standing::Lost(loss) => {
                    tracing::warn!(
                        instance = %site.instance, branch = %site.branch, reason = loss.reason,
                        "the branch is removed again"
                    );
                    self.remove_lost(site, &finished, &loss).await?;
                    let Loss { reason, hint, .. } = loss;
                    return Err(RestoreError::ClaimLost { reason, hint });
                }
                Standing::Awaited => {}
            }
            if sent.is_none_or(|at| at.elapsed() >= SEND_AGAIN) {
                if sent.is_some() {
                    tracing::warn!(
                        instance = %site.instance, branch = %site.branch,
                        "the branch is built and still not registered; does the scheduler run?"
                    );
                }
                self.send_register(&finished).await?;
                sent = Some(Instant::now());
            }
            alive();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Removes a branch that will never be part of its instance. Its name in the repository goes first: what is here
    /// still tells that it was ours when that has to be done again.
    ///
    /// # Errors
    /// The repository failed, or it cannot be removed.
    pub(crate) async fn remove_lost(
        &self,
        site: &Site,
        finished: &FinishedBranch,
        loss: &Loss,
    ) -> Result<(), RestoreError> {
        // Who has the name may have found our record and taken it for its own.
        if !loss.taken {
            let register = &finished.register;
            let parent = parent_of(&register.origin);
            self.give_name_back(&register.instance, &register.branch, &parent)
                .await?;
        }
        Ok(self.compute.remove(site).await?)
    }

    /// Deletes the record by which a restore has claimed the branch's prefix of the repository, if it is this restore's
    /// and nothing else was ever stored there: then the name is as if it had not been used.
    ///
    /// # Errors
    /// The repository failed.
    pub(crate) async fn give_name_back(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        parent: &ParentBranch,
    ) -> Result<(), RestoreError> {
        let reader = self.repository.reader(instance, branch);
        let record = RepositoryError::absent_as_none(reader.record().await)?;
        if record.and_then(|record| record.parent).as_ref() != Some(parent) {
            return Ok(());
        }
        let (archive, _) = archive::read_all(&reader).await?;
        let stored = !archive.backups.is_empty()
            || !archive.unreadable.is_empty()
            || !archive.objects.is_empty()
            || !archive.open.is_empty()
            || archive.position.is_some();
        if !stored {
            let _ = self.repository.delete_branch(instance, branch).await?;
        }
        Ok(())
    }

    async fn send_register(&self, finished: &FinishedBranch) -> Result<(), RestoreError> {
        let command = bus::Outgoing::new(
            Command::BranchRegister(finished.register.clone()),
            MessageId::new(command_id(finished.restore_id).to_string()),
            self.clock.now(),
        );
        let command = command
            .correlated(finished.restore_id)
            .caused_by(finished.restore_id);
        let _ = self.bus.send(command).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use events::command::BranchOrigin;
    use events::document::{ActiveBranch, Branch};
    use events::{
        BranchName, CommandId, Event, InstanceDocument, RestoreId, SealedSecret, example,
    };
    use uuid::Uuid;

    use super::{Standing, standing};

    fn active(restore_id: RestoreId) -> ActiveBranch {
        let registered = example::events().into_iter().find_map(|event| match event {
            Event::BranchRegistered(registered) => Some(registered.registered),
            _ => None,
        });
        let registered = registered.unwrap();
        ActiveBranch {
            dsn: SealedSecret::from_base64(String::new()),
            system_identifier: registered.system_identifier,
            timeline: registered.timeline,
            server_version: registered.server_version,
            wal_segment_size: registered.wal_segment_size,
            origin: registered.origin.map(|origin| BranchOrigin {
                restore_id,
                ..origin
            }),
            size: registered.size,
            created_at: registered.created_at,
            archive_mode: events::ArchiveMode::default(),
            disk_risk: events::DiskRiskPolicy::default(),
        }
    }

    #[test]
    fn only_its_own_claim_makes_a_branch() {
        let (ours, theirs) = (RestoreId(Uuid::from_u128(1)), RestoreId(Uuid::from_u128(2)));
        let branch = BranchName::new("b").unwrap();
        let told = |held: Option<Branch>| {
            let document = InstanceDocument {
                branches: held
                    .map(|held| (branch.clone(), held))
                    .into_iter()
                    .collect(),
                schedules: Vec::new(),
                ..InstanceDocument::new(example::instance(), CommandId(Uuid::nil()), example::at(0))
            };
            standing(Some(&document), &branch, ours)
        };
        let restoring = |restore_id| {
            Some(Branch::Restoring {
                restore_id,
                source: None,
            })
        };
        assert_eq!(told(restoring(ours)), Standing::Awaited);
        assert_eq!(
            told(Some(Branch::Active(active(ours)))),
            Standing::Registered
        );
        assert_eq!(standing(None, &branch, ours), Standing::Awaited);
        for held in [
            None,
            restoring(theirs),
            Some(Branch::Active(active(theirs))),
            Some(Branch::Deleting(active(ours))),
        ] {
            let found = told(held.clone());
            assert!(matches!(found, Standing::Lost(_)), "{held:?}: {found:?}");
        }
    }
}

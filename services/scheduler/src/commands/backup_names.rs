//! The names that people give to backups: no two that are there have the same, whichever replicas decide.
//!
//! A name is taken in the instance document before the backup is asked for or its mark is written, and stands there as
//! long as nobody else wants it: whoever finds it taken looks whether its backup is still there. One that failed, was
//! never taken, is gone or is called otherwise by now has no name to lose.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use events::document::NamedBackup;
use events::event::RefusalCode;
use events::{BackupId, BranchName, Event, InstanceDocument, InstanceName, subject};
use repository::{RepositoryError, effective};

use super::World;
use super::manual::is_under_way;
use crate::refusal::{Refusal, Unfinished};

/// A name that was taken so shortly ago belongs to a command that may be on its way.
const ON_ITS_WAY: TimeDelta = TimeDelta::minutes(10);
/// Others may take and leave the same name meanwhile; so often it is decided anew.
const MOST_ATTEMPTS: u32 = 8;
/// With so many names, and at each doubling, those that are free are forgotten.
const SWEPT_AT: usize = 64;

/// How backups are called that nobody has named, beside those that end with their moment.
const GENERATED: [&str; 2] = ["first backup of ", "after a WAL gap at "];

/// Refuses what a backup without a name could be called.
pub(super) fn refuse_generated(name: &str) -> Result<(), Refusal> {
    let last = name.split_whitespace().next_back().unwrap_or_default();
    let of_moment = DateTime::parse_from_rfc3339(last).is_ok();
    if !of_moment && !GENERATED.iter().any(|begin| name.starts_with(begin)) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Invalid,
        format!("{name:?} is how a backup is called that nobody has named"),
        "Choose another name.",
    ))
}

impl World {
    /// Takes a name for a backup, or refuses because another one that is there has it.
    pub(super) async fn take_name(
        &self,
        instance: &InstanceName,
        name: &str,
        (branch, backup_id): (&BranchName, BackupId),
    ) -> Result<(), Unfinished> {
        let wanted = NamedBackup {
            branch: branch.clone(),
            backup_id,
            since: self.clock.now(),
        };
        for _ in 0..MOST_ATTEMPTS {
            let taken = |document| with_name(document, name, &wanted);
            let refused = match self.update_document(instance, taken).await {
                Ok(document) => {
                    self.forget_free_names(instance, &document.backup_names)
                        .await?;
                    return self.mirror(instance).await;
                }
                Err(error @ Unfinished::Refused(_)) => error,
                Err(error) => return Err(error),
            };
            let document = self.document(instance).await?;
            let Some(holder) = document.backup_names.get(name) else {
                continue;
            };
            if self.is_called(instance, name, holder).await? {
                return Err(match self.may_be_undeleted(instance, holder).await? {
                    true => marked(instance, name, holder).into(),
                    false => refused,
                });
            }
            self.remove_name(instance, name, holder).await?;
        }
        Err(Unfinished::NotYet(format!(
            "the name {name:?} is taken and left by others all the time"
        )))
    }

    /// The backup is not called so, or no longer.
    pub(super) async fn leave_name(
        &self,
        instance: &InstanceName,
        name: &str,
        backup_id: BackupId,
    ) -> Result<(), Unfinished> {
        let document = self.document(instance).await?;
        match document.backup_names.get(name) {
            Some(holder) if holder.backup_id == backup_id => {
                self.remove_name(instance, name, holder).await?;
                self.mirror(instance).await
            }
            _ => Ok(()),
        }
    }

    async fn remove_name(
        &self,
        instance: &InstanceName,
        name: &str,
        holder: &NamedBackup,
    ) -> Result<(), Unfinished> {
        let _document = self
            .update_document(instance, |mut document| {
                if document.backup_names.get(name) == Some(holder) {
                    let _free = document.backup_names.remove(name);
                }
                Ok(document)
            })
            .await?;
        Ok(())
    }

    /// Whether the holder of a name waits, is being taken, or is stored under it.
    async fn is_called(
        &self,
        instance: &InstanceName,
        name: &str,
        holder: &NamedBackup,
    ) -> Result<bool, Unfinished> {
        let NamedBackup {
            branch,
            backup_id,
            since,
        } = holder;
        let fence = subject::backup_fence(instance, branch, *backup_id);
        let last = self.bus.last_on(&fence).await?;
        let last = last.map(|last| last.envelope.message);
        if last.as_ref().is_some_and(is_under_way) {
            return Ok(true);
        }
        let reader = self.repository.reader(instance, branch);
        let manifest = match RepositoryError::absent_as_none(reader.manifest(*backup_id).await) {
            Ok(manifest) => manifest,
            // It is there, whatever is wrong with it.
            Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => {
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        let on_its_way = *since > self.clock.now() - ON_ITS_WAY;
        let Some(manifest) = manifest else {
            let ended = matches!(
                last,
                Some(
                    Event::BackupFailed(_)
                        | Event::BackupSkipped(_)
                        | Event::BackupRefused(_)
                        | Event::BackupExpired(_)
                )
            );
            return Ok(on_its_way && !ended);
        };
        let mark = reader.mark(*backup_id).await?.mark;
        Ok(on_its_way || effective(manifest.summary, &mark).name == name)
    }

    /// Whether the holder of a name is there, and is to go.
    async fn may_be_undeleted(
        &self,
        instance: &InstanceName,
        holder: &NamedBackup,
    ) -> Result<bool, Unfinished> {
        let reader = self.repository.reader(instance, &holder.branch);
        match reader.mark(holder.backup_id).await {
            Ok(read) => Ok(read.mark.deletion.is_some()),
            Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn forget_free_names(
        &self,
        instance: &InstanceName,
        names: &BTreeMap<String, NamedBackup>,
    ) -> Result<(), Unfinished> {
        if names.len() < SWEPT_AT || !names.len().is_power_of_two() {
            return Ok(());
        }
        for (name, holder) in names {
            if !self.is_called(instance, name, holder).await? {
                self.remove_name(instance, name, holder).await?;
            }
        }
        Ok(())
    }
}

fn marked(instance: &InstanceName, name: &str, holder: &NamedBackup) -> Refusal {
    let id = holder.backup_id;
    Refusal::new(
        RefusalCode::NameTaken,
        format!("backup {id}, which is marked for deletion, is called {name:?} still"),
        format!(
            "Keep that one with `zektor backup undelete {instance} {id}`, rename it with `zektor backup rename`, or choose \
             another name."
        ),
    )
}

fn with_name(
    mut document: InstanceDocument,
    name: &str,
    wanted: &NamedBackup,
) -> Result<InstanceDocument, Refusal> {
    if document.removing {
        return Err(Refusal::no_such_instance(&document.instance));
    }
    match document.backup_names.get(name) {
        Some(holder) if holder.backup_id == wanted.backup_id => Ok(document),
        Some(holder) => Err(Refusal::new(
            RefusalCode::NameTaken,
            format!("backup {} is called {name:?} already", holder.backup_id),
            "Choose another name, or rename that one once it is completed.",
        )),
        None => {
            let _none = document
                .backup_names
                .insert(name.to_owned(), wanted.clone());
            Ok(document)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::refuse_generated;

    #[test]
    fn what_nobody_has_named_keeps_its_names_for_itself() {
        for name in [
            "daily 2026-01-01T02:30:00Z",
            "2026-01-01T02:30:00Z",
            "first backup of fix",
            "after a WAL gap at 0/5000000",
        ] {
            assert!(refuse_generated(name).is_err(), "{name}");
        }
        for name in ["before 2026-01-01", "the first backup of fix", "daily 2"] {
            assert!(refuse_generated(name).is_ok(), "{name}");
        }
    }
}

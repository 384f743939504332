//! Branches that restores made: registered when they are open, deleted when nobody wants them.

use bus::{BusError, Decision, Outgoing};
use events::command::{BranchDelete, BranchRegister};
use events::document::{ActiveBranch, Branch};
use events::envelope::rfc3339;
use events::event::{
    BackupRequested, BranchDeletionRequested, BranchRegistered, InstanceUpdated, RefusalCode,
    RegisteredBranch, ScheduleDeleted,
};
use events::{
    BackupId, BackupType, BranchName, Event, InstanceDocument, InstanceName, MessageId, RestoreId,
    Retention, Trigger, subject,
};

use super::{Given, World, default_wal_keep};
use crate::refusal::{Refusal, Unfinished};
use crate::retention::nothing_reads;

impl World {
    /// From here on the archiver sees the branch; its slot has held its WAL since before it was open.
    pub(super) async fn register_branch(
        &self,
        given: &Given,
        register: &BranchRegister,
    ) -> Result<(), Unfinished> {
        let active = ActiveBranch {
            dsn: register.dsn.clone(),
            system_identifier: register.system_identifier,
            timeline: register.timeline,
            server_version: register.server_version,
            wal_segment_size: register.wal_segment_size,
            origin: Some(register.origin.clone()),
            size: Some(register.size),
            created_at: register.created_at,
            archive_mode: events::ArchiveMode::default(),
            disk_risk: events::DiskRiskPolicy::default(),
        };
        let document = self
            .update_document(&register.instance, |document| {
                open(document, register, &active)
            })
            .await?;
        self.mirror(&register.instance).await?;
        let event = Event::BranchRegistered(BranchRegistered {
            instance: register.instance.clone(),
            branch: register.branch.clone(),
            registered: RegisteredBranch::from(&active),
        });
        let restore_id = register.origin.restore_id;
        let id = MessageId::new(format!("branch.registered:{restore_id}"));
        self.announce(given, id, Some(restore_id.to_string()), event)
            .await?;
        self.request_first_backup(given, register, &document).await
    }

    /// Without a base backup of its own, a new branch has no past to return to.
    async fn request_first_backup(
        &self,
        given: &Given,
        register: &BranchRegister,
        document: &InstanceDocument,
    ) -> Result<(), Unfinished> {
        let first = (register.origin.restore_id, 0);
        let requested = self.first_backup(document, &register.branch, first);
        self.request_backup(requested, Some(given.id)).await
    }

    /// The `attempt`th (from 0) first base backup of a branch that a restore made. It goes when its retention ends, as
    /// those of schedules do; while it is the newest of a live branch it stays all the same.
    pub(crate) fn first_backup(
        &self,
        document: &InstanceDocument,
        branch: &BranchName,
        (restore_id, attempt): (RestoreId, u32),
    ) -> BackupRequested {
        let of_branch = document.schedules.iter().filter(|s| s.branch == *branch);
        let retentions = of_branch.map(|schedule| schedule.retention);
        let longest = retentions.max_by(|one, other| retention::compare_retentions(*one, *other));
        let retention = longest.unwrap_or(Retention::SEVEN_DAYS);
        let name = format!("first backup of {branch}");
        BackupRequested {
            backup_id: BackupId::first_of_branch_again(restore_id, attempt),
            instance: document.instance.clone(),
            branch: branch.clone(),
            name: match attempt {
                0 => name,
                failed => format!("{name} (attempt {})", failed + 1),
            },
            backup_type: BackupType::Auto,
            trigger: Trigger::Schedule,
            schedule_id: None,
            retention: Some(retention),
            wal: default_wal_keep(document, branch, Some(retention)),
            pool: document.pool.clone(),
            requested_at: self.clock.now(),
        }
    }

    /// Whether somebody stopped the server of a branch by hand, as far as the bus remembers: nothing can be read from it.
    pub(crate) async fn is_stopped(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<bool, BusError> {
        // The protected server is nothing that Zektor stops.
        if *branch == BranchName::main() {
            return Ok(false);
        }
        let last = async |what: &str| {
            let said = format!("{}.branch.{what}.{instance}.{branch}", subject::ROOT);
            let last = self.bus.last_on(&said).await?;
            Ok::<_, BusError>(last.map(|last| last.sequence))
        };
        let Some(stopped) = last("stopped").await? else {
            return Ok(false);
        };
        // A branch of this name that was there before may have been stopped, too.
        let (started, registered) = (last("started").await?, last("registered").await?);
        Ok(Some(stopped) > started && Some(stopped) > registered)
    }

    pub(super) async fn delete_branch(
        &self,
        given: &Given,
        delete: &BranchDelete,
    ) -> Result<(), Unfinished> {
        let (instance, branch) = (&delete.instance, &delete.branch);
        let told = format!(
            "{}.branch.deletion_requested.{instance}.{branch}",
            subject::ROOT
        );
        let document = self.document(instance).await?;
        if !document.branches.contains_key(branch) && *branch != BranchName::main() {
            if self.has_told(given, told).await? {
                return Ok(());
            }
            return match delete.purge {
                true => self.purge_gone(given.id, delete).await,
                false => Err(self.is_gone(instance, branch).await?.into()),
            };
        }
        let change = |document: InstanceDocument| {
            let begun = matches!(document.branches.get(branch), Some(Branch::Deleting(_)));
            if delete.purge && !begun {
                nothing_reads(&document, branch)?;
            }
            mark_deleting(document, branch)
        };
        // The next branch of this name may be there by the time it is written, or told: see [`super::once`].
        self.change_and_tell(given, (instance, &told), change, |document| {
            let event = Event::BranchDeletionRequested(BranchDeletionRequested {
                instance: instance.clone(),
                branch: branch.clone(),
                purge: delete.purge,
                restore_id: document.branches.get(branch).and_then(Branch::made_by),
            });
            let id = MessageId::new(format!("branch.deletion_requested:{}", given.id));
            Ok(self.outgoing(given, id, Some(given.id.to_string()), event))
        })
        .await
    }

    /// Takes a name out of the document: the restore that claimed it failed, or its compute is gone. What was wanted of
    /// the branch goes with it, so that the next one of this name begins with nothing.
    pub(crate) async fn forget_branch(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        forget: impl Fn(&Branch) -> bool,
    ) -> Result<(), Unfinished> {
        if let Some((document, _)) = self.bus.instances().get(instance).await?
            && document.branches.get(branch).is_some_and(&forget)
        {
            self.tell_forgotten(&document, branch).await?;
        }
        let updated = self
            .update_document(instance, |mut document| {
                if document.branches.get(branch).is_some_and(&forget) {
                    let _branch = document.branches.remove(branch);
                    // What it still had to delete is planned anew: the next branch of this name may need it.
                    let _sweep = document.sweeps.remove(branch);
                    document.schedules.retain(|one| one.branch != *branch);
                    document.drills = document.drills.filter(|drills| drills.branch != *branch);
                }
                Ok(document)
            })
            .await;
        match updated {
            Ok(_document) => self.mirror(instance).await,
            Err(Unfinished::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Said before they go, so that whoever dies between the two says it again.
    async fn tell_forgotten(
        &self,
        document: &InstanceDocument,
        branch: &BranchName,
    ) -> Result<(), BusError> {
        let instance = &document.instance;
        let mut told = Vec::new();
        for schedule in document.schedules.iter().filter(|s| s.branch == *branch) {
            let id = MessageId::new(format!("schedule.deleted:{}", schedule.id));
            let deleted = Event::ScheduleDeleted(ScheduleDeleted {
                instance: instance.clone(),
                branch: branch.clone(),
                schedule_id: schedule.id,
                name: schedule.name.clone(),
            });
            told.push((id, deleted, Some(schedule.id)));
        }
        let drills = document.drills.as_ref();
        if let Some(drills) = drills.filter(|drills| drills.branch == *branch) {
            let since = rfc3339(drills.created_at);
            let id = MessageId::new(format!("drills.forgotten:{instance}:{branch}:{since}"));
            let without = Event::InstanceUpdated(InstanceUpdated {
                instance: instance.clone(),
                branch: BranchName::main(),
                pool: document.pool.clone(),
                drills: None,
                warnings: Vec::new(),
            });
            told.push((id, without, None));
        }
        for (id, event, of) in told {
            let mut outgoing = Outgoing::new(event, id, self.clock.now());
            if let Some(of) = of {
                outgoing = outgoing.correlated(of);
            }
            let _sequence = self.bus.publish(outgoing).await?;
        }
        Ok(())
    }

    /// Changes the document by compare-and-set; an unchanged document is not written.
    pub(crate) async fn update_document(
        &self,
        instance: &InstanceName,
        change: impl Fn(InstanceDocument) -> Result<InstanceDocument, Refusal>,
    ) -> Result<InstanceDocument, Unfinished> {
        let decided = self
            .bus
            .instances()
            .update(instance, |before| {
                let Some(before) = before else {
                    return Decision::Keep(Err(Refusal::no_such_instance(instance)));
                };
                match change(before.clone()) {
                    Ok(after) if after == *before => Decision::Keep(Ok(after)),
                    Ok(after) => Decision::Put(Box::new(after.clone()), Ok(after)),
                    Err(refusal) => Decision::Keep(Err(refusal)),
                }
            })
            .await?;
        Ok(decided?)
    }
}

fn open(
    mut document: InstanceDocument,
    register: &BranchRegister,
    active: &ActiveBranch,
) -> Result<InstanceDocument, Refusal> {
    if document.removing {
        return Err(Refusal::no_such_instance(&register.instance));
    }
    match document.branches.get(&register.branch) {
        Some(Branch::Restoring { restore_id, .. }) if *restore_id == register.origin.restore_id => {
            let _claim = document
                .branches
                .insert(register.branch.clone(), Branch::Active(active.clone()));
            Ok(document)
        }
        Some(Branch::Active(open)) if open.origin.as_ref() == Some(&register.origin) => {
            Ok(document)
        }
        _ => Err(Refusal::new(
            RefusalCode::NameTaken,
            format!(
                "the name {} is not claimed by this restore",
                register.branch
            ),
            "The restore was given up meanwhile; its branch is not part of the instance.",
        )),
    }
}

fn mark_deleting(
    mut document: InstanceDocument,
    branch: &BranchName,
) -> Result<InstanceDocument, Refusal> {
    if *branch == BranchName::main() {
        return Err(Refusal::new(
            RefusalCode::Invalid,
            "main is the database that is protected; zektor never deletes it",
            format!(
                "To stop protecting it: `zektor instance remove {}`.",
                document.instance
            ),
        ));
    }
    match document.branches.get(branch).cloned() {
        Some(Branch::Active(active) | Branch::Deleting(active)) => {
            let _before = document
                .branches
                .insert(branch.clone(), Branch::Deleting(active));
            Ok(document)
        }
        Some(Branch::Restoring { .. }) => Err(Refusal::new(
            RefusalCode::Invalid,
            format!("branch {branch} is being restored"),
            "Wait until the restore has ended.",
        )),
        None => Err(Refusal::no_such_branch(&document.instance, branch)),
    }
}

#[cfg(test)]
mod tests {
    use events::command::BranchRegister;
    use events::document::{ActiveBranch, Branch};
    use events::{BranchName, Command, CommandId, InstanceDocument, RestoreId, example};

    use super::open;

    fn register() -> BranchRegister {
        let mut commands = example::commands().into_iter();
        let found = commands.find_map(|command| match command {
            Command::BranchRegister(register) => Some(register),
            _ => None,
        });
        found.unwrap()
    }

    fn active(register: &BranchRegister) -> ActiveBranch {
        ActiveBranch {
            dsn: register.dsn.clone(),
            system_identifier: register.system_identifier,
            timeline: register.timeline,
            server_version: register.server_version,
            wal_segment_size: register.wal_segment_size,
            origin: Some(register.origin.clone()),
            size: Some(register.size),
            created_at: register.created_at,
            archive_mode: events::ArchiveMode::default(),
            disk_risk: events::DiskRiskPolicy::default(),
        }
    }

    #[test]
    fn a_branch_is_opened_once_by_who_claimed_its_name_while_there_is_an_instance() {
        let register = register();
        let active = active(&register);
        let document = |removing, held: Option<Branch>| InstanceDocument {
            removing,
            branches: held
                .map(|held| (register.branch.clone(), held))
                .into_iter()
                .collect(),
            schedules: Vec::new(),
            ..InstanceDocument::new(
                register.instance.clone(),
                CommandId(uuid::Uuid::nil()),
                example::at(0),
            )
        };
        let restore_id = register.origin.restore_id;
        let claim = |restore_id| {
            Some(Branch::Restoring {
                restore_id,
                source: Some(BranchName::main()),
            })
        };
        let opened = open(document(false, claim(restore_id)), &register, &active).unwrap();
        assert_eq!(open(opened.clone(), &register, &active).unwrap(), opened);
        let other = RestoreId(uuid::Uuid::from_u128(7));
        for refused in [
            document(false, None),
            document(false, claim(other)),
            document(false, Some(Branch::Deleting(active.clone()))),
            document(true, claim(restore_id)),
        ] {
            assert!(
                open(refused.clone(), &register, &active).is_err(),
                "{refused:?}"
            );
        }
    }
}

//! Registration and removal of instances.

use std::collections::BTreeMap;

use bus::{Decision, Revision};
use events::command::{InstanceAdd, InstanceRemove};
use events::document::{ActiveBranch, Branch, Schedule, slot_name};
use events::event::{InstanceRegistered, InstanceRemoved, RefusalCode, RegisteredBranch};
use events::{
    ArchiveMode, BranchName, Event, InstanceDocument, InstanceName, MessageId, Retention,
    ScheduleId, subject,
};
use pg_replication::{ConnectionSettings, ReplicationConnection, SlotCreation};
use repository::{BranchRecord, RepositoryError};
use secrecy::ExposeSecret;
use service::seal::dsn_context;

use super::once::contended;
use super::{Given, World};
use crate::recall::recall_document;
use crate::refusal::{Refusal, Unfinished};
use crate::source;

/// SQLSTATE `object_in_use`.
const SLOT_IN_USE: &str = "55006";

impl World {
    /// The document with its default schedule is one write: an instance is never registered without the
    /// schedule that it was promised.
    pub(super) async fn add_instance(
        &self,
        given: &Given,
        add: &InstanceAdd,
    ) -> Result<(), Unfinished> {
        if self.bus.instances().get(&add.instance).await?.is_none() {
            recall_document(self, &add.instance).await?;
        }
        let fence = fence(&add.instance);
        let last = self.last_told(&fence).await?;
        let (there, revision) = self.bus.instances().standing(&add.instance).await?;
        // After it was read: one that was removed since must not come back.
        if self.has_told(given, fence.clone()).await? {
            return Ok(());
        }
        let document = match there {
            Some(document) if document.registration == given.id => document,
            Some(document) if document.removing => {
                let reason = format!("instance {} is still being removed", add.instance);
                return Err(Unfinished::NotYet(reason));
            }
            Some(_) => return Err(name_taken(&add.instance).into()),
            None => self.register(given, add, revision).await?,
        };
        self.mirror(&add.instance).await?;
        let Some(main) = document
            .branches
            .get(&BranchName::main())
            .and_then(Branch::active)
        else {
            return Err(Unfinished::NotYet(format!(
                "instance {} has no main",
                add.instance
            )));
        };
        let event = Event::InstanceRegistered(InstanceRegistered {
            instance: add.instance.clone(),
            branch: BranchName::main(),
            main: RegisteredBranch::from(main),
            schedules: document.schedules.clone(),
            created_at: document.created_at,
        });
        let id = MessageId::new(format!("instance.registered:{}", given.id));
        let outgoing = self.outgoing(given, id, None, event);
        match self.tell_after(outgoing, (&fence, last)).await? {
            true => Ok(()),
            false => Err(contended(&add.instance)),
        }
    }

    async fn register(
        &self,
        given: &Given,
        add: &InstanceAdd,
        absent: Revision,
    ) -> Result<InstanceDocument, Unfinished> {
        let main = BranchName::main();
        let dsn = self.open_dsn(&add.instance, &main, &add.dsn)?;
        let mut source = source::inspect(&dsn).await?;
        let created_at = self.clock.now();
        let active = ActiveBranch {
            dsn: add.dsn.clone(),
            system_identifier: source.system_identifier,
            timeline: source.timeline,
            server_version: source.server_version.0,
            wal_segment_size: source.wal_segment_size,
            origin: None,
            size: None,
            created_at,
            archive_mode: add.archive_mode,
            disk_risk: add.disk_risk,
        };
        self.claim_prefix(&add.instance, &active).await?;
        // Whoever comes late leaves no slot behind.
        if self.bus.instances().standing(&add.instance).await?.1 != absent {
            return Err(contended(&add.instance));
        }
        // A server that pushes its WAL offers no slot, or is not to hold WAL for one.
        let slot = slot_name(&add.instance, &main);
        let mut made = SlotCreation::AlreadyExists;
        if add.archive_mode == ArchiveMode::Stream {
            made = source.reserve_wal(&slot).await?;
            if made == SlotCreation::AlreadyExists && given.attempt == 1 {
                return Err(slot_taken(&slot).into());
            }
        }

        let schedule = Schedule {
            id: ScheduleId::default_of(given.id),
            name: "daily".to_owned(),
            cron: calendar::nightly(add.instance.as_str()).to_string(),
            timezone: "UTC".to_owned(),
            retention: Retention::SEVEN_DAYS,
            branch: main.clone(),
            created_at,
            wal: None,
            paused: false,
        };
        let document = InstanceDocument {
            branches: BTreeMap::from([(main, Branch::Active(active))]),
            schedules: add
                .default_schedule
                .then_some(schedule)
                .into_iter()
                .collect(),
            ..InstanceDocument::new(add.instance.clone(), given.id, created_at)
        };
        if self.replace(&document, absent).await? {
            return Ok(document);
        }
        // Another replica, or another user, was faster. What they have made may be gone again by now.
        match self.bus.instances().get(&add.instance).await? {
            Some((there, _)) if there.registration == given.id => Ok(there),
            Some(_) => Err(contended(&add.instance)),
            None => {
                if made == SlotCreation::Created {
                    drop_unused(&dsn, &slot).await;
                }
                Err(contended(&add.instance))
            }
        }
    }

    /// A prefix that holds another cluster's backups must never be written to.
    async fn claim_prefix(
        &self,
        instance: &InstanceName,
        active: &ActiveBranch,
    ) -> Result<(), Unfinished> {
        let writer = self.repository.writer(instance, &BranchName::main());
        let record = BranchRecord {
            instance: instance.clone(),
            branch: BranchName::main(),
            system_identifier: active.system_identifier,
            server_version: active.server_version,
            wal_segment_size: active.wal_segment_size,
            parent: None,
            created_at: active.created_at,
        };
        match writer.claim_branch(&record).await {
            Ok(_claim) => Ok(()),
            Err(RepositoryError::BranchTaken { .. }) => Err(Refusal::new(
                RefusalCode::NameTaken,
                format!(
                    "the repository already holds backups of another cluster under the name {instance}"
                ),
                "Choose another name; the stored backups are kept as they are.",
            )
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn remove_instance(
        &self,
        given: &Given,
        remove: &InstanceRemove,
    ) -> Result<(), Unfinished> {
        let (instance, fence) = (&remove.instance, fence(&remove.instance));
        let last = self.last_told(&fence).await?;
        let (there, revision) = self.bus.instances().standing(instance).await?;
        // After the document was read: what is written is bound to that, and to nobody's who came since.
        let removed = self.has_told(given, fence.clone()).await?;
        let document = match there {
            // An instance of the same name that was registered since is none of this command's business.
            Some(document) if removed && !document.removing => return Ok(()),
            Some(document) => document,
            None if removed => return Ok(()),
            None => return Err(Refusal::no_such_instance(instance).into()),
        };
        if document
            .branches
            .keys()
            .any(|branch| *branch != BranchName::main())
        {
            return Err(Refusal::new(
                RefusalCode::Invalid,
                format!("instance {instance} still has restored branches"),
                format!("Delete them first: `zektor branch list {instance}`."),
            )
            .into());
        }
        let marked = InstanceDocument {
            removing: true,
            ..document.clone()
        };
        if !document.removing && !self.replace(&marked, revision).await? {
            return Err(contended(instance));
        }
        let slot_left = self.drop_slot(given, &marked).await?;
        self.mirror(instance).await?;
        // Said before the document goes: a redelivery then knows what it has done.
        let event = Event::InstanceRemoved(InstanceRemoved {
            slot_left,
            instance: instance.clone(),
            branch: BranchName::main(),
        });
        let id = MessageId::new(format!("instance.removed:{}", given.id));
        let outgoing = self.outgoing(given, id, None, event);
        if !removed && !self.tell_after(outgoing, (&fence, last)).await? {
            return Err(contended(instance));
        }
        let remove_marked = |there: Option<&InstanceDocument>| match there {
            Some(there) if is_same(there, &marked) => Decision::Remove(()),
            _ => Decision::Keep(()),
        };
        Ok(self.bus.instances().update(instance, remove_marked).await?)
    }

    /// A slot left behind would fill the customer's disk. A server that cannot be reached any more does not
    /// keep the instance alive for ever, though; then the slot's name is given back.
    async fn drop_slot(
        &self,
        given: &Given,
        document: &InstanceDocument,
    ) -> Result<Option<String>, Unfinished> {
        let main = BranchName::main();
        let Some(active) = document.branches.get(&main).and_then(Branch::active) else {
            return Ok(None);
        };
        let slot = slot_name(&document.instance, &main);
        let dsn = self.open_dsn(&document.instance, &main, &active.dsn)?;
        let connected = ReplicationConnection::connect(&dsn).await;
        // The slot of the next instance of this name is called the same.
        let there = self.bus.instances().get(&document.instance).await?;
        if !there.is_some_and(|(there, _)| is_same(&there, document)) {
            return Err(contended(&document.instance));
        }
        let dropped = match connected {
            Ok(mut connection) => connection.drop_slot(&slot).await,
            Err(error) => Err(error),
        };
        match dropped {
            Ok(_removal) => Ok(None),
            // None was made; only one that is there all the same, and in use, is worth another try.
            Err(error)
                if active.archive_mode == ArchiveMode::Command
                    && error.sqlstate() != Some(SLOT_IN_USE) =>
            {
                tracing::info!(instance = %document.instance, slot, error = %error, "no slot was dropped");
                Ok(None)
            }
            Err(error) if given.attempt < 4 => Err(Unfinished::NotYet(format!(
                "slot {slot} of instance {} is not dropped yet: {error}",
                document.instance
            ))),
            Err(error) => {
                tracing::error!(
                    instance = %document.instance, slot, error = %error,
                    "the slot stays on the server and holds its WAL; drop it there by hand"
                );
                Ok(Some(slot))
            }
        }
    }

    pub(super) fn open_dsn(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sealed: &events::SealedSecret,
    ) -> Result<ConnectionSettings, Refusal> {
        let dsn = self
            .master_key
            .open(sealed, &dsn_context(instance, branch))
            .map_err(|error| {
                Refusal::new(
                    RefusalCode::Invalid,
                    format!("the connection URI cannot be opened: {error}"),
                    "The command and the services must use the same ZEKTOR_MASTER_KEY_FILE.",
                )
            })?;
        ConnectionSettings::parse(dsn.expose_secret()).map_err(|error| {
            Refusal::new(
                RefusalCode::Invalid,
                format!("the connection URI cannot be used: {error}"),
                "Write it as postgres://user:password@host:port/database.",
            )
        })
    }
}

/// Every event of an instance itself.
fn fence(instance: &InstanceName) -> String {
    let main = BranchName::main();
    format!("{}.instance.*.{instance}.{main}", subject::ROOT)
}

/// Whether it is the instance that is being removed, and none that was registered under its name since.
fn is_same(there: &InstanceDocument, marked: &InstanceDocument) -> bool {
    there.removing && there.registration == marked.registration
}

/// Nobody else would: the instance that it was made for is gone already.
async fn drop_unused(dsn: &ConnectionSettings, slot: &str) {
    let dropped = async {
        let mut connection = ReplicationConnection::connect(dsn).await?;
        connection.drop_slot(slot).await
    };
    if let Err(error) = dropped.await {
        tracing::error!(slot, %error, "a slot that nobody uses stays on the server and holds its WAL; drop it there by hand");
    }
}

/// Two that confirm on one slot would each lose what the other confirmed.
fn slot_taken(slot: &str) -> Refusal {
    Refusal::new(
        RefusalCode::NameTaken,
        format!("the server already has a replication slot {slot}"),
        format!(
            "Another zektor protects this database under this name, or one did: choose another name, or, if \
             nobody uses the slot, run SELECT pg_drop_replication_slot('{slot}') there and add it again."
        ),
    )
}

fn name_taken(instance: &InstanceName) -> Refusal {
    Refusal::new(
        RefusalCode::NameTaken,
        format!("instance {instance} is registered already"),
        "Choose another name, or remove the other instance first.",
    )
}

//! Backups by hand: a new one, and a failed one once more.

use bus::Sequence;
use events::command::{BackupCreate, BackupRetry};
use events::document::Branch;
use events::envelope::rfc3339;
use events::event::{BackupRequested, RefusalCode};
use events::{
    BackupId, BackupType, BranchName, CommandId, Event, InstanceDocument, InstanceName, MessageId,
    Retention, Timestamp, Trigger, WalKeep, subject, topology,
};
use futures::TryStreamExt as _;

use super::backup_names::refuse_generated;
use super::manual::is_under_way;
use super::schedules::keeps_no_longer;
use super::{Given, World, names};
use crate::refusal::{Refusal, Unfinished};
use crate::slots::WhenBusy;

impl World {
    /// The backup has the command's id: delivered twice, it is requested once.
    pub(super) async fn create_backup(
        &self,
        given: &Given,
        create: &BackupCreate,
    ) -> Result<(), Unfinished> {
        let backup_id = BackupId::from(given.id);
        let fence = subject::backup_fence(&create.instance, &create.branch, backup_id);
        // Requested by an earlier delivery; whatever has become of it since is not to be done again.
        if self.bus.last_on(&fence).await?.is_some() {
            return Ok(());
        }
        let document = self.document(&create.instance).await?;
        refuse_unless_active(&document, &create.branch)?;
        if create.backup_type == BackupType::Incremental {
            return Err(Refusal::new(
                RefusalCode::Invalid,
                "incremental backups cannot be taken by this version",
                "Use --type auto or --type full.",
            )
            .into());
        }
        let name = names::given(create.name.as_deref(), "name of a backup")?;
        if let Some(name) = &name {
            refuse_generated(name)?;
        }
        keeps_no_longer(create.retention, create.wal)?;
        let requested_at = self.clock.now();
        let default_wal = || default_wal_keep(&document, &create.branch, create.retention);
        let requested = BackupRequested {
            backup_id,
            instance: create.instance.clone(),
            branch: create.branch.clone(),
            name: name.clone().unwrap_or_else(|| unnamed(requested_at)),
            backup_type: create.backup_type,
            trigger: Trigger::Manual,
            schedule_id: None,
            retention: create.retention,
            wal: create.wal.unwrap_or_else(default_wal),
            pool: document.pool.clone(),
            requested_at,
        };
        let (instance, branch) = (&create.instance, &create.branch);
        if let Some(name) = &name {
            self.take_name(instance, name, (branch, backup_id)).await?;
        }
        let placed = self.take_manual_place(instance, backup_id, branch).await;
        if let (Some(name), Err(Unfinished::Refused(_))) = (&name, &placed) {
            self.leave_name(instance, name, backup_id).await?;
        }
        placed?;
        self.request_backup(requested, Some(given.id)).await
    }

    /// The new backup has the command's id, the instance's pool, and everything else of the one that failed; its name
    /// only if no other has it by now.
    pub(super) async fn retry_backup(
        &self,
        given: &Given,
        retry: &BackupRetry,
    ) -> Result<(), Unfinished> {
        let (instance, branch) = (&retry.instance, &retry.branch);
        let backup_id = BackupId::from(given.id);
        let fence = subject::backup_fence(instance, branch, backup_id);
        if self.bus.last_on(&fence).await?.is_some() {
            return Ok(());
        }
        let document = self.document(instance).await?;
        refuse_unless_active(&document, branch)?;
        let failed = self.failed(instance, branch, retry.backup_id).await?;
        if failed.trigger == Trigger::Manual {
            self.take_manual_place(instance, backup_id, branch).await?;
        }
        let requested_at = self.clock.now();
        let name = match self
            .take_name(instance, &failed.name, (branch, backup_id))
            .await
        {
            Ok(()) => failed.name.clone(),
            Err(Unfinished::Refused(refusal)) if refusal.code == RefusalCode::NameTaken => {
                unnamed(requested_at)
            }
            Err(error) => return Err(error),
        };
        let requested = BackupRequested {
            backup_id,
            name,
            pool: document.pool.clone(),
            requested_at,
            ..failed
        };
        self.request_backup(requested, Some(given.id)).await
    }

    /// What was asked when the backup was that failed; refuses any other.
    async fn failed(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        id: BackupId,
    ) -> Result<BackupRequested, Unfinished> {
        let fence = subject::backup_fence(instance, branch, id);
        let history = self
            .bus
            .history(vec![fence], Sequence::NONE, topology::EVENTS);
        let events: Vec<_> = history.await?.try_collect().await?;
        let events = events.into_iter().map(|stored| stored.envelope.message);
        let (mut asked, mut last) = (None, None);
        for event in events {
            match &event {
                Event::BackupRequested(requested) => asked = Some(requested.clone()),
                Event::BackupQueued(queued) => asked = Some(queued.request.clone()),
                _ => {}
            }
            last = Some(event);
        }
        let anew = format!("Take a new one: `zektor backup create {instance} --branch {branch}`.");
        let refuse = |message: String| Refusal::new(RefusalCode::Invalid, message, anew.clone());
        match (asked, last) {
            (Some(asked), Some(Event::BackupFailed(_))) => Ok(asked),
            (_, Some(last)) if is_under_way(&last) => Err(Refusal::new(
                RefusalCode::Invalid,
                format!("backup {id} has not failed; it waits or is being taken"),
                format!("Follow it: `zektor backup show {instance} {id}`."),
            )
            .into()),
            (_, Some(Event::BackupFailed(_) | Event::BackupRefused(_))) => Err(refuse(format!(
                "it is no longer known how backup {id} was asked for"
            ))
            .into()),
            (_, Some(_)) => Err(refuse(format!(
                "backup {id} has not failed; only a failed one can be tried again"
            ))
            .into()),
            (_, None) => Err(no_such_backup(instance, branch, id).into()),
        }
    }

    /// Requests a backup that a command led to; it waits while another one of the branch is being taken.
    pub(crate) async fn request_backup(
        &self,
        requested: BackupRequested,
        cause: Option<CommandId>,
    ) -> Result<(), Unfinished> {
        let cause = cause.map(|cause| MessageId::new(cause.to_string()));
        self.request_backup_because(requested, cause.as_ref()).await
    }

    /// As [`Self::request_backup`], of whatever message led to it.
    pub(crate) async fn request_backup_because(
        &self,
        requested: BackupRequested,
        cause: Option<&MessageId>,
    ) -> Result<(), Unfinished> {
        let asking = self.ask_for_backup(requested, cause, WhenBusy::Queue);
        let _asked = asking.await?;
        Ok(())
    }
}

/// What a backup by hand is called that nobody has named.
fn unnamed(requested_at: Timestamp) -> String {
    format!("manual {}", rfc3339(requested_at))
}

fn refuse_unless_active(document: &InstanceDocument, branch: &BranchName) -> Result<(), Refusal> {
    match document.branches.get(branch).and_then(Branch::active) {
        Some(_) => Ok(()),
        None => Err(Refusal::no_such_branch(&document.instance, branch)),
    }
}

pub(super) fn no_such_backup(
    instance: &InstanceName,
    branch: &BranchName,
    id: BackupId,
) -> Refusal {
    Refusal::new(
        RefusalCode::NotFound,
        format!("branch {branch} of instance {instance} has no backup {id}"),
        format!("See `zektor backup list {instance}`."),
    )
}

/// How long WAL is kept because of a backup of the branch, unless somebody says otherwise.
pub(crate) fn default_wal_keep(
    document: &InstanceDocument,
    branch: &BranchName,
    retention: Option<Retention>,
) -> WalKeep {
    let of_branch = document.schedules.iter().filter(|s| s.branch == *branch);
    retention::default_wal_keep(retention, of_branch.map(|schedule| schedule.retention))
}

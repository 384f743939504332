//! Manual backups.

use bus::{BusError, Outgoing, Sequence};
use events::command::BackupCreate;
use events::document::Branch;
use events::envelope::rfc3339;
use events::event::{BackupRequested, RefusalCode};
use events::{BackupId, BackupType, CommandId, Event, MessageId, Trigger, subject};

use super::{Given, World};
use crate::refusal::{Refusal, Unfinished, published_once};

/// It stands in tables.
const LONGEST_NAME: usize = 100;

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
        if document
            .branches
            .get(&create.branch)
            .and_then(Branch::active)
            .is_none()
        {
            return Err(Refusal::no_such_branch(&create.instance, &create.branch).into());
        }
        if create.backup_type == BackupType::Incremental {
            return Err(Refusal::new(
                RefusalCode::Invalid,
                "incremental backups cannot be taken by this version",
                "Use --type auto or --type full.",
            )
            .into());
        }
        let requested_at = self.clock.now();
        let name = match create.name.as_deref().map(str::trim) {
            None | Some("") => format!("manual {}", rfc3339(requested_at)),
            Some(name) if name.len() > LONGEST_NAME || name.contains(char::is_control) => {
                return Err(Refusal::new(
                    RefusalCode::Invalid,
                    "this cannot be the name of a backup",
                    format!("Use at most {LONGEST_NAME} bytes, on one line."),
                )
                .into());
            }
            Some(name) => name.to_owned(),
        };
        let requested = BackupRequested {
            backup_id,
            instance: create.instance.clone(),
            branch: create.branch.clone(),
            name,
            backup_type: create.backup_type,
            trigger: Trigger::Manual,
            schedule_id: None,
            retention: create.retention,
            wal: events::WalKeep::AsLongAsBackup,
            pool: None,
            requested_at,
        };
        Ok(self.request_backup(requested, Some(given.id)).await?)
    }

    /// Requests a backup that a command, or nothing but the time, led to.
    pub(crate) async fn request_backup(
        &self,
        requested: BackupRequested,
        cause: Option<CommandId>,
    ) -> Result<(), BusError> {
        let cause = cause.map(|cause| MessageId::new(cause.to_string()));
        self.request_backup_because(requested, cause.as_ref()).await
    }

    /// Publishes a request that expects nothing on the backup's fence: whoever publishes it again, and
    /// whenever, the backup is requested once.
    pub(crate) async fn request_backup_because(
        &self,
        requested: BackupRequested,
        cause: Option<&MessageId>,
    ) -> Result<(), BusError> {
        let backup_id = requested.backup_id;
        let fence = subject::backup_fence(&requested.instance, &requested.branch, backup_id);
        let id = MessageId::new(format!("backup.requested:{backup_id}"));
        let event = Event::BackupRequested(requested);
        let mut outgoing = Outgoing::new(event, id, self.clock.now()).correlated(backup_id);
        if let Some(cause) = cause {
            outgoing = outgoing.caused_by(cause);
        }
        let published = self.bus.publish_expecting(outgoing, &fence, Sequence::NONE);
        published_once(published.await)
    }
}

//! What the schedulers agree on while backups run: small values in the bucket [`crate::topology::SLOTS`]. All of it may
//! be lost; what runs is known from the fences, what is wanted from the instance documents.

use serde::{Deserialize, Serialize};

use crate::event::BackupRequested;
use crate::{BackupId, BranchName, InstanceName, Timestamp};

/// The one backup of a branch that may be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSlot {
    /// The backup.
    pub backup_id: BackupId,
    /// Since when.
    pub claimed_at: Timestamp,
}

/// A backup that is to be asked for later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitingBackup {
    /// Not before.
    pub due_at: Timestamp,
    /// What is asked.
    pub request: BackupRequested,
    /// The message that led to it.
    pub cause: Option<String>,
}

/// Key of a branch's slot.
#[must_use]
pub fn backup_slot(instance: &InstanceName, branch: &BranchName) -> String {
    format!("backup.{instance}.{branch}")
}

/// Key of a backup that waits until the slot is free.
#[must_use]
pub fn queued(instance: &InstanceName, branch: &BranchName, id: BackupId) -> String {
    format!("queue.{instance}.{branch}.{id}")
}

/// Key of a backup that is tried again after a pause.
#[must_use]
pub fn retried(instance: &InstanceName, branch: &BranchName, id: BackupId) -> String {
    format!("retry.{instance}.{branch}.{id}")
}

/// Key of an instance's round of retention.
#[must_use]
pub fn retention_round(instance: &InstanceName) -> String {
    format!("retention.{instance}")
}

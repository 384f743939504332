//! `branch.json`: which cluster a branch's backups and WAL are of.
//!
//! Written once, before anything else of the branch. It is what keeps WAL of two clusters from ever
//! resting under one name.

use chrono::{DateTime, Utc};
use events::{BackupId, BranchName, InstanceName};
use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use serde::{Deserialize, Serialize};

use crate::{BranchReader, BranchWriter, RepositoryError, Result, document};

const FORMAT: &str = "zektor-branch";

/// What is recorded of a branch when it is first archived. Never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchRecord {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The cluster's system identifier.
    pub system_identifier: SystemIdentifier,
    /// `server_version_num` when the branch was made.
    pub server_version: u32,
    /// The cluster's WAL segment size in bytes.
    pub wal_segment_size: WalSegmentSize,
    /// Where a restored branch came from; `None` for `main`.
    pub parent: Option<ParentBranch>,
    /// When the branch was made.
    pub created_at: DateTime<Utc>,
}

/// Where a branch left the one it was restored from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentBranch {
    /// The branch it was restored from, of the same instance.
    pub branch: BranchName,
    /// The base backup that was used.
    pub backup_id: BackupId,
    /// The timeline that recovery ended on.
    pub fork_timeline: TimelineId,
    /// Where it ended.
    pub fork_lsn: Lsn,
}

/// Who made the record of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// This call did.
    Claimed,
    /// It was there, for the same cluster.
    AlreadyOurs,
}

impl BranchReader {
    /// Which cluster this branch is.
    ///
    /// # Errors
    /// The branch was never claimed, the record is damaged, or the store failed.
    pub async fn record(&self) -> Result<BranchRecord> {
        let key = self.layout.record();
        decode(&key, &self.store.get(&key).await?)
    }
}

impl BranchWriter {
    /// Records which cluster this branch is, unless that is recorded already.
    ///
    /// # Errors
    /// [`RepositoryError::BranchTaken`] when it is another cluster (another system identifier,
    /// segment size, or fork from the parent); or the store failed.
    pub async fn claim_branch(&self, record: &BranchRecord) -> Result<ClaimOutcome> {
        if record.instance != self.instance || record.branch != self.branch {
            return Err(RepositoryError::refused(format!(
                "the record of branch {} of {} cannot be stored as branch {} of {}",
                record.branch, record.instance, self.branch, self.instance
            )));
        }
        let key = self.layout.record();
        let created = self
            .store
            .create_or_get(&key, document::encode(FORMAT, record)?)
            .await?;
        let Some(existing) = created else {
            return Ok(ClaimOutcome::Claimed);
        };
        let existing = decode(&key, &existing)?;
        // A restored branch has its parent's system identifier, so the fork counts too, where known.
        let one_fork = match (&existing.parent, &record.parent) {
            (Some(existing), Some(ours)) => existing == ours,
            _ => true,
        };
        let same = one_fork
            && existing.system_identifier == record.system_identifier
            && existing.wal_segment_size == record.wal_segment_size;
        if same {
            Ok(ClaimOutcome::AlreadyOurs)
        } else {
            Err(RepositoryError::BranchTaken {
                existing: Box::new(existing),
            })
        }
    }
}

fn decode(key: &str, text: &[u8]) -> Result<BranchRecord> {
    document::decode(FORMAT, key, text)
}

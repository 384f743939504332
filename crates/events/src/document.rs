//! The instance document: everything that is *wanted* of one instance, in one value.
//!
//! It rests in the KV bucket [`crate::topology::INSTANCES`] under the instance's name, is changed by
//! compare-and-set by the scheduler alone, and is mirrored into the repository.

use std::collections::BTreeMap;

use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::command::BranchOrigin;
use crate::{
    ArchiveMode, BackupId, BranchName, ClusterSize, CommandId, DiskRiskPolicy, DrillId,
    InstanceName, PoolName, RestoreId, Retention, ScheduleId, SealedSecret, SweepId, Timestamp,
    WalKeep,
};

/// The desired state of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceDocument {
    /// The document's format version: 1.
    pub version: u32,
    /// The instance.
    pub instance: InstanceName,
    /// The registration that made it.
    pub registration: CommandId,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Set when removal was asked for: archiving stops and slots are dropped, then the document goes.
    #[serde(default)]
    pub removing: bool,
    /// Its branches; `main` is always among them.
    pub branches: BTreeMap<BranchName, Branch>,
    /// Its schedules.
    pub schedules: Vec<Schedule>,
    /// Its active manual backups: asked for and not failed, deleted or expired. The limit counts these.
    #[serde(default)]
    pub manual_backups: BTreeMap<BackupId, ManualBackup>,
    /// The names that people gave to backups, so that no two that are there have the same. Of a backup that is gone or
    /// has failed one may be left; it is free.
    #[serde(default)]
    pub backup_names: BTreeMap<String, NamedBackup>,
    /// What is being deleted now, by branch. Whoever restores acts as if it were gone already.
    #[serde(default)]
    pub sweeps: BTreeMap<BranchName, Sweep>,
    /// When and how restores of it are rehearsed; never when absent.
    #[serde(default)]
    pub drills: Option<DrillSettings>,
    /// The drill under way, if there is one. Nothing of the branch it reads is deleted meanwhile.
    #[serde(default)]
    pub running_drill: Option<RunningDrill>,
    /// The workers that take its backups; those of the default pool when absent.
    #[serde(default)]
    pub pool: Option<PoolName>,
}

impl InstanceDocument {
    /// A document without branches and schedules.
    #[must_use]
    pub fn new(instance: InstanceName, registration: CommandId, created_at: Timestamp) -> Self {
        InstanceDocument {
            version: 1,
            instance,
            registration,
            created_at,
            removing: false,
            branches: BTreeMap::new(),
            schedules: Vec::new(),
            manual_backups: BTreeMap::new(),
            backup_names: BTreeMap::new(),
            sweeps: BTreeMap::new(),
            drills: None,
            running_drill: None,
            pool: None,
        }
    }
}

/// A manual backup that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManualBackup {
    /// Its branch.
    pub branch: BranchName,
    /// When it was asked for.
    pub requested_at: Timestamp,
}

/// Whose a name is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamedBackup {
    /// The backup's branch.
    pub branch: BranchName,
    /// The backup.
    pub backup_id: BackupId,
    /// Since when it has the name.
    pub since: Timestamp,
}

/// What a worker deletes for good. Everything in it has been without use, and marked, for the time of grace; but for a
/// purge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sweep {
    /// The sweep.
    pub sweep_id: SweepId,
    /// When it was decided.
    pub asked_at: Timestamp,
    /// The backups.
    pub backups: Vec<BackupId>,
    /// Stretches of WAL, whole segments each.
    pub wal: Vec<WalStretch>,
    /// History files of these timelines.
    #[serde(default)]
    pub histories: Vec<TimelineId>,
    /// What backups left over that have no manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<BackupId>,
    /// The branch is gone and nothing of it is left: its record and what is beside that go too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hollow: bool,
    /// The branch is gone and somebody wants its name, or its place: all of it goes, whatever its retention, and holds, say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purge: bool,
    /// Since when it is not to be carried out after all. A worker may be at a piece of it still, so it stands for a
    /// while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_at: Option<Timestamp>,
}

/// Whole segments of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WalStretch {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte of the first segment.
    pub from_lsn: Lsn,
    /// The byte after the last segment.
    pub to_lsn: Lsn,
}

/// When and how restores of an instance are rehearsed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrillSettings {
    /// Five-field cron expression, in the time zone below; only by hand when absent.
    pub cron: Option<String>,
    /// IANA time zone.
    pub timezone: String,
    /// The branch whose past is restored.
    pub branch: BranchName,
    /// What must be true of the restored data.
    pub checks: Vec<DrillCheck>,
    /// No fire before this counts.
    pub created_at: Timestamp,
}

/// A statement about the restored data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DrillCheck {
    /// A name for people.
    pub name: String,
    /// The database it is asked in; that of the connection URI when absent.
    pub database: Option<String>,
    /// One SELECT. Holds when it succeeds and its first column of every row is neither false nor NULL.
    pub sql: String,
}

/// A claim on the past of a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunningDrill {
    /// The drill.
    pub drill_id: DrillId,
    /// The branch it reads.
    pub branch: BranchName,
    /// When it was claimed.
    pub since: Timestamp,
}

/// One branch of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Branch {
    /// The name is claimed; the restorer is building it.
    Restoring {
        /// The restore that claimed it.
        restore_id: RestoreId,
        /// The branch it reads: nothing of that is deleted meanwhile. Absent in claims of older versions.
        #[serde(default)]
        source: Option<BranchName>,
    },
    /// It runs (or could run) and is archived.
    Active(ActiveBranch),
    /// Its compute is being removed; its backups stay until their own retention ends.
    Deleting(ActiveBranch),
}

impl Branch {
    /// The branch's cluster, if there is one to archive and back up.
    #[must_use]
    pub fn active(&self) -> Option<&ActiveBranch> {
        match self {
            Branch::Active(active) => Some(active),
            Branch::Restoring { .. } | Branch::Deleting(_) => None,
        }
    }

    /// The restore that makes or made it: two branches of one name have different ones. None of `main`.
    #[must_use]
    pub fn made_by(&self) -> Option<RestoreId> {
        match self {
            Branch::Restoring { restore_id, .. } => Some(*restore_id),
            Branch::Active(active) | Branch::Deleting(active) => {
                active.origin.as_ref().map(|origin| origin.restore_id)
            }
        }
    }
}

/// A branch with a cluster behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveBranch {
    /// Connection URI, sealed for (instance, branch).
    pub dsn: SealedSecret,
    /// The cluster's system identifier.
    pub system_identifier: SystemIdentifier,
    /// The timeline it was on when it was registered.
    pub timeline: TimelineId,
    /// `server_version_num` when it was registered.
    pub server_version: u32,
    /// The cluster's WAL segment size in bytes.
    pub wal_segment_size: WalSegmentSize,
    /// What it was restored from; absent for `main`.
    pub origin: Option<BranchOrigin>,
    /// Compute tier of a branch that Zektor runs; absent for `main`.
    pub size: Option<ClusterSize>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// How its WAL comes into the repository.
    #[serde(default)]
    pub archive_mode: ArchiveMode,
    /// What is done when the slot threatens the source's disk.
    #[serde(default)]
    pub disk_risk: DiskRiskPolicy,
}

/// When a branch is backed up, and how long those backups are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Schedule {
    /// The schedule.
    pub id: ScheduleId,
    /// A name for people.
    pub name: String,
    /// Five-field cron expression, in the time zone below.
    pub cron: String,
    /// IANA time zone.
    pub timezone: String,
    /// Fixed on each backup when it is made.
    pub retention: Retention,
    /// The branch it backs up.
    pub branch: BranchName,
    /// No fire before this counts.
    pub created_at: Timestamp,
    /// How long WAL is kept because of its backups; the default rule when absent.
    #[serde(default)]
    pub wal: Option<WalKeep>,
    /// It does not fire while this is set.
    #[serde(default)]
    pub paused: bool,
}

/// The physical replication slot of a branch, on its server.
///
/// A slot name has at most 63 of `[a-z0-9_]`; a name that had to be changed to fit carries a digest of the
/// original, so that two branches never share a slot.
#[must_use]
pub fn slot_name(instance: &InstanceName, branch: &BranchName) -> String {
    use sha2::Digest;

    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let readable: String = format!("{instance}_{branch}")
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if plain(c) { c } else { '_' })
        .take(45)
        .collect();
    let digest = sha2::Sha256::digest(format!("{instance}/{branch}").as_bytes());
    let tag: String = digest
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("zektor_{readable}_{tag}")
}

#[cfg(test)]
mod tests {
    use super::slot_name;
    use crate::{BranchName, InstanceName};

    #[test]
    fn slot_names_are_legal_and_distinct() {
        let name = |i: &str, b: &str| {
            slot_name(&InstanceName::new(i).unwrap(), &BranchName::new(b).unwrap())
        };
        let long = "X".repeat(40);
        for slot in [name("orders", "main"), name(&long, &long)] {
            assert!(slot.len() <= 63, "{slot}");
            assert!(
                slot.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            );
        }
        assert_ne!(name("a-b", "main"), name("a_b", "main"));
        assert_ne!(name("a", "b_c"), name("a_b", "c"));
    }
}

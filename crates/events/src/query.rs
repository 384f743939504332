//! Questions to the catalog and their answers: request and reply on [`crate::subject::catalog_query`], JSON in
//! and out, never stored.
//!
//! Field names are those of the public contract. Moments are RFC 3339, sizes are bytes, LSNs are text.

use std::collections::BTreeMap;

use pg_format::{Lsn, SystemIdentifier, TimelineId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::{DamagedPage, ExtensionCheck, GapCause};
use crate::{
    BackupId, BackupType, BranchName, ClusterSize, InstanceName, RestoreId, RestoreTarget,
    Retention, ScheduleId, Timestamp, Trigger,
};

/// A question with the type of its answer.
pub trait Question: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its name: the last tokens of its subject.
    const NAME: &'static str;
    /// What is answered.
    type Answer: Serialize + DeserializeOwned + Send + Sync + 'static;
}

macro_rules! questions {
    ($($question:ty => $name:literal, $answer:ty;)+) => {
        $(impl Question for $question {
            const NAME: &'static str = $name;
            type Answer = $answer;
        })+

        /// The names of all questions.
        pub const NAMES: &[&str] = &[$($name),+];
    };
}

questions! {
    InstanceList => "instance.list", Instances;
    InstanceShow => "instance.show", InstanceDetail;
    BranchList => "branch.list", Branches;
    BranchShow => "branch.show", BranchView;
    ScheduleList => "schedule.list", Schedules;
    BackupList => "backup.list", Backups;
    BackupShow => "backup.show", BackupView;
    RestoreList => "restore.list", Restores;
    RestoreShow => "restore.show", RestoreView;
    WalSummary => "wal.summary", WalView;
    Status => "status", CatalogStatus;
    Rebuild => "rebuild", RebuildAccepted;
}

/// Error code of an answer: what the question names is not in the catalog. Its hint says what is.
pub const NOT_FOUND: &str = "not_found";
/// Error code of an answer: the question makes no sense.
pub const INVALID: &str = "invalid";
/// Error code of an answer: the catalog failed; asking again may help.
pub const FAILED: &str = "failed";

/// Which instances are there?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceList {}

/// Instances, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instances {
    /// The instances.
    pub instances: Vec<InstanceView>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its name.
    pub name: InstanceName,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Its branches.
    pub branches: u64,
    /// Its completed backups, over all branches.
    pub backups: u64,
    /// What they store.
    pub stored_bytes: u64,
    /// The newest of them.
    pub last_backup_at: Option<Timestamp>,
}

/// Everything about one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceShow {
    /// The instance.
    pub instance: InstanceName,
}

/// An instance with its branches and schedules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceDetail {
    /// The instance.
    #[serde(flatten)]
    pub instance: InstanceView,
    /// Its branches, by name.
    pub branch_list: Vec<BranchView>,
    /// Its schedules, by name.
    pub schedules: Vec<ScheduleView>,
}

/// Which branches has an instance?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchList {
    /// The instance.
    pub instance: InstanceName,
}

/// Branches, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Branches {
    /// The branches.
    pub branches: Vec<BranchView>,
}

/// Everything about one branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchShow {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

/// What a branch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchState {
    /// It is archived and backed up.
    Active,
    /// Its server was stopped; its files are kept.
    Stopped,
    /// Its compute is being removed.
    Deleting,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BranchView {
    /// Its instance.
    pub instance: InstanceName,
    /// Its name.
    pub name: BranchName,
    /// What it is doing.
    pub state: BranchState,
    /// The branch it was restored from; absent for `main`.
    pub source_branch: Option<BranchName>,
    /// The restore that made it.
    pub restore_id: Option<RestoreId>,
    /// The backup that restore began from.
    pub backup_id: Option<BackupId>,
    /// Where it left the branch it was restored from.
    pub fork_lsn: Option<Lsn>,
    /// The timeline it left.
    pub fork_timeline: Option<TimelineId>,
    /// The timeline it was on when it was registered.
    pub timeline: TimelineId,
    /// The cluster's system identifier.
    pub system_identifier: SystemIdentifier,
    /// `server_version_num` when it was registered.
    pub server_version: u32,
    /// The cluster's WAL segment size in bytes.
    pub wal_segment_size: u64,
    /// Compute tier of a branch that Zektor runs.
    pub size: Option<ClusterSize>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Its newest completed backup.
    pub last_backup_at: Option<Timestamp>,
}

/// Which schedules has an instance?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleList {
    /// The instance.
    pub instance: InstanceName,
}

/// Schedules, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedules {
    /// The schedules.
    pub schedules: Vec<ScheduleView>,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleView {
    /// The schedule.
    pub id: ScheduleId,
    /// Its instance.
    pub instance: InstanceName,
    /// A name for people.
    pub name: String,
    /// Five-field cron expression, in the time zone below.
    pub cron: String,
    /// IANA time zone.
    pub timezone: String,
    /// How long its backups are kept.
    pub retention: Retention,
    /// The branch it backs up.
    pub branch: BranchName,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last asked for a backup.
    pub last_at: Option<Timestamp>,
}

/// Where a backup is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStatus {
    /// It waits for a worker.
    Requested,
    /// A worker is taking it.
    InProgress,
    /// It was given up.
    Failed,
    /// It is in the repository and restorable.
    Completed,
    /// Its retention ended and it was deleted.
    Expired,
}

/// Backups, newest first; only those that match every filter that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupList {
    /// Of this instance.
    pub instance: Option<InstanceName>,
    /// Of branches of this name.
    pub branch: Option<BranchName>,
    /// In this state.
    pub status: Option<BackupStatus>,
    /// At most so many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
    /// After so many.
    pub offset: u32,
}

/// Backups, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backups {
    /// The backups.
    pub backups: Vec<BackupView>,
}

/// Everything about one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupShow {
    /// Its instance; any when absent.
    #[serde(default)]
    pub instance: Option<InstanceName>,
    /// The backup.
    pub id: BackupId,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupView {
    /// The backup.
    pub id: BackupId,
    /// A name for people.
    pub name: String,
    /// Its instance.
    pub instance: InstanceName,
    /// Its branch.
    pub branch: BranchName,
    /// As it was asked for until it is completed, then as it was taken.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// Where it is in its life.
    pub status: BackupStatus,
    /// Its end by the server's clock.
    pub backed_up_at: Option<Timestamp>,
    /// What it added to the repository.
    pub size_bytes: Option<u64>,
    /// Size of the cluster's files.
    pub logical_bytes: Option<u64>,
    /// Where replay begins.
    pub start_lsn: Option<Lsn>,
    /// Where the copy becomes consistent.
    pub stop_lsn: Option<Lsn>,
    /// The timeline of both.
    pub timeline: Option<TimelineId>,
    /// What asked for it; absent only if its request has expired from the bus.
    pub trigger: Option<Trigger>,
    /// The schedule, if one asked.
    pub schedule_id: Option<ScheduleId>,
    /// When it expires; never when absent.
    pub expires_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
    /// What can be done about it.
    pub hint: Option<String>,
    /// Pages with a wrong checksum on the source.
    pub damaged_pages: Vec<DamagedPage>,
    /// When it was asked for.
    pub requested_at: Option<Timestamp>,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// From the start of the successful attempt to its end, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Files in it.
    pub files: Option<u64>,
    /// `server_version_num`.
    pub server_version: Option<u32>,
    /// Who takes it, while it is in progress.
    pub worker: Option<String>,
    /// Bytes copied so far, while it is in progress.
    pub done_bytes: Option<u64>,
    /// Bytes in all as estimated, while it is in progress.
    pub total_bytes: Option<u64>,
}

/// Where a restore is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStatus {
    /// It waits for a restorer.
    Requested,
    /// A restorer is at it.
    InProgress,
    /// A rule forbids it; nothing was started.
    Refused,
    /// It was given up.
    Failed,
    /// The branch was opened.
    Completed,
}

/// Restores, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreList {
    /// Of this instance.
    pub instance: Option<InstanceName>,
    /// At most so many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
    /// After so many.
    pub offset: u32,
}

/// Restores, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restores {
    /// The restores.
    pub restores: Vec<RestoreView>,
}

/// Everything about one restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreShow {
    /// The restore.
    pub id: RestoreId,
}

/// A restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreView {
    /// The restore.
    pub id: RestoreId,
    /// Where it is in its life.
    pub status: RestoreStatus,
    /// Its instance.
    pub instance: InstanceName,
    /// The branch it makes.
    pub branch: BranchName,
    /// The branch whose past is restored; absent only if its request has expired from the bus.
    pub source_branch: Option<BranchName>,
    /// The moment.
    pub target: Option<RestoreTarget>,
    /// The compute tier.
    pub size: Option<ClusterSize>,
    /// The base backup.
    pub backup_id: Option<BackupId>,
    /// The last WAL position replayed.
    pub stop_lsn: Option<Lsn>,
    /// The timeline the branch writes.
    pub timeline: Option<TimelineId>,
    /// Time of the last replayed commit.
    pub last_commit_at: Option<Timestamp>,
    /// Host the branch listened on when it was opened.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Milliseconds from start to open.
    pub duration_ms: Option<u64>,
    /// Milliseconds of each phase.
    pub phases: BTreeMap<String, u64>,
    /// The branch's extensions.
    pub extensions: Vec<ExtensionCheck>,
    /// When it was asked for.
    pub requested_at: Option<Timestamp>,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When the branch was opened.
    pub completed_at: Option<Timestamp>,
    /// Why it failed or was refused.
    pub error: Option<String>,
    /// What can be done about it.
    pub hint: Option<String>,
}

/// What WAL is archived of a branch?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSummary {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

/// The archived WAL of a branch, as announced: complete segments, history files and ends of timelines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalView {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The newest timeline with a segment.
    pub timeline: Option<TimelineId>,
    /// The oldest segment.
    pub first_segment: Option<String>,
    /// The newest segment of the newest timeline.
    pub last_segment: Option<String>,
    /// The end of it.
    pub archived_lsn: Option<Lsn>,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// What all of it takes in the repository.
    pub stored_bytes: u64,
    /// Complete segments.
    pub segments: u64,
    /// What is missing between them, oldest first.
    pub gaps: Vec<WalGap>,
}

/// WAL that is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WalGap {
    /// The timeline.
    pub timeline: TimelineId,
    /// First missing byte.
    pub from_lsn: Lsn,
    /// First byte that is there again.
    pub to_lsn: Lsn,
    /// Why, if the archiver announced it; otherwise it was seen between two segments.
    pub cause: Option<GapCause>,
    /// When it was announced.
    pub detected_at: Option<Timestamp>,
}

/// How is the catalog?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {}

/// The catalog's own state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogStatus {
    /// `sqlite` or `postgres`.
    pub backend: String,
    /// How far each stream is projected, by the stream's name.
    pub streams: BTreeMap<String, StreamProgress>,
    /// A rebuild that is wanted and not done yet. Until it is, answers come from the old rows.
    pub rebuilding: Option<RebuildSource>,
    /// Why the last attempt at it failed.
    pub rebuild_error: Option<String>,
    /// What the rows were last built from.
    pub rebuilt_from: Option<RebuildSource>,
    /// When that was.
    pub rebuilt_at: Option<Timestamp>,
}

/// How far a stream is projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamProgress {
    /// When the projected stream was made: its identity.
    pub created: Option<Timestamp>,
    /// The last sequence in the rows.
    pub applied_sequence: u64,
    /// Sequences that are not in the rows yet; absent if the stream cannot be asked.
    pub lag: Option<u64>,
}

/// What to build the rows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildSource {
    /// What the streams still hold.
    Stream,
    /// A listing of the repository, and what the streams hold over it.
    Repository,
}

/// Build the rows anew. The answer comes at once; [`CatalogStatus::rebuilding`] says when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// What from.
    pub from: RebuildSource,
}

/// The rebuild will be done, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildAccepted {
    /// What from.
    pub from: RebuildSource,
}

/// Why a text is not a [`BackupStatus`] or [`RebuildSource`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not one of {expected}")]
pub struct UnknownWord {
    text: String,
    expected: &'static str,
}

impl std::str::FromStr for BackupStatus {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        word(text, "requested, in_progress, completed, failed, expired")
    }
}

impl std::str::FromStr for RebuildSource {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        word(text, "stream, repository")
    }
}

fn word<T: DeserializeOwned>(text: &str, expected: &'static str) -> Result<T, UnknownWord> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|_| UnknownWord {
        text: text.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::{BackupList, BackupStatus, NAMES, RebuildSource};

    #[test]
    fn words_are_those_of_the_contract() {
        assert_eq!("in_progress".parse(), Ok(BackupStatus::InProgress));
        assert_eq!("repository".parse(), Ok(RebuildSource::Repository));
        let error = "done".parse::<BackupStatus>().unwrap_err().to_string();
        assert!(error.contains("completed"), "{error}");
    }

    #[test]
    fn names_are_distinct_and_filters_may_be_left_out() {
        let distinct: std::collections::BTreeSet<_> = NAMES.iter().collect();
        assert_eq!(distinct.len(), NAMES.len());
        let list: BackupList = serde_json::from_str("{}").unwrap();
        assert_eq!(list, BackupList::default());
    }
}

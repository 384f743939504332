//! Questions to the catalog and their answers: request and reply on [`crate::subject::catalog_query`], JSON in
//! and out, never stored.
//!
//! Field names are those of the public contract. Moments are RFC 3339, sizes are bytes, LSNs are text.

mod alert;
mod backup;
mod drill;
mod instance;
mod restore;
mod series;

use std::collections::BTreeMap;

use pg_format::{Lsn, TimelineId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use alert::*;
pub use backup::*;
pub use drill::*;
pub use instance::*;
pub use restore::*;
pub use series::*;

use crate::event::{GapCause, SlotRiskLevel};
use crate::{BranchName, InstanceName, Timestamp};

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
    DrillList => "drill.list", Drills;
    DrillShow => "drill.show", DrillView;
    AlertList => "alert.list", Alerts;
    Series => "series", SeriesView;
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
    /// What the WAL that is held back for the archive means for the source's disk; absent while nobody said so.
    #[serde(default)]
    pub slot_risk: Option<SlotRisk>,
}

/// The risk that a branch's slot is to its source's disk, as announced last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotRisk {
    /// How much there is to fear.
    pub level: SlotRiskLevel,
    /// Bytes of WAL that the slot held back.
    pub held_bytes: u64,
    /// Bytes it may hold back before something happens; absent when nothing is known.
    pub limit_bytes: Option<u64>,
    /// One sentence: why, and what can be done.
    pub message: String,
    /// When it changed.
    pub changed_at: Timestamp,
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
        word(
            text,
            "requested, in_progress, completed, failed, expired, skipped",
        )
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

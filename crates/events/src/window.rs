//! The question "from when to when can this branch be restored?", and its answer.
//!
//! Asked on [`crate::subject::restorer_window`], payload JSON. The answer is read from the repository: it is as true as
//! the repository, whatever the catalog knows.

use pg_format::{Lsn, TimelineId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackupId, BranchName, InstanceName, Timestamp};

/// Which branch is asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WindowQuestion {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
}

/// What a restorer says to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum WindowAnswer {
    /// The window.
    Known(WindowReport),
    /// The restorer could not find out, most likely because the object store cannot be reached.
    Unknown {
        /// One sentence.
        message: String,
        /// What can be done.
        hint: String,
    },
}

/// A window, and what a restorer knows about using it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WindowReport {
    /// The window.
    #[serde(flatten)]
    pub window: Window,
    /// Backups that were found damaged in the repository, the first to end first. While there is a sound one, the window
    /// does without them.
    #[serde(default)]
    pub damaged: Vec<DamagedBackup>,
    /// A time can be asked for once it is so many seconds old; absent where nobody knows.
    #[serde(default)]
    pub min_target_age_secs: Option<u64>,
}

/// A backup that was found damaged when it was last read whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DamagedBackup {
    /// The backup.
    pub backup_id: BackupId,
    /// Its end (consistency point).
    pub backed_up_at: Timestamp,
    /// When the damage was found.
    pub found_at: Option<Timestamp>,
}

/// The moments of a branch that can be restored.
///
/// Every moment from `earliest` to `latest` can be, but those in `gaps`. All times are by the source server's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// The end (consistency point) of the first backup that can be restored; absent when none can be.
    pub earliest: Option<Timestamp>,
    /// The latest moment that can be restored.
    pub latest: Option<Timestamp>,
    /// Where the WAL that `latest` needs ends.
    pub latest_lsn: Option<Lsn>,
    /// What cannot be restored in between, the earliest first.
    pub gaps: Vec<WindowGap>,
    /// Whether every moment from `earliest` to `latest` can be restored.
    pub complete: bool,
    /// The backup that `earliest` is the end of.
    pub earliest_backup_id: Option<BackupId>,
    /// The timeline that is archived now.
    pub timeline: Option<TimelineId>,
}

/// Moments inside a window that cannot be restored, because WAL is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WindowGap {
    /// The timeline the missing WAL is on.
    pub timeline: TimelineId,
    /// The first missing byte.
    pub from_lsn: Lsn,
    /// The first byte that is there again; absent when nothing is yet.
    pub to_lsn: Option<Lsn>,
    /// The last moment before it that can be restored: up to which the WAL before it was proven complete, or the time of the
    /// last commit in that.
    pub from: Option<Timestamp>,
    /// The end of the first backup after it: from then on the branch can be restored again. Absent when there is
    /// none yet, and the window then ends at `from`.
    pub restorable_again_at: Option<Timestamp>,
}

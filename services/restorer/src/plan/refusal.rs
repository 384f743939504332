//! Why a restore is refused, with the nearest target that would work.

use std::time::Duration;

use events::envelope::rfc3339;
use events::event::{BackupSummary, RefusalCode};
use events::{BackupId, BranchName, Timestamp};
use pg_format::{Lsn, TimelineId};

/// A rule forbids the restore. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The rule.
    pub code: RefusalCode,
    /// One sentence.
    pub message: String,
    /// What can be done.
    pub hint: String,
}

impl Refusal {
    /// A refusal for any rule.
    #[must_use]
    pub fn new(code: RefusalCode, message: String, hint: impl Into<String>) -> Self {
        Refusal {
            code,
            message,
            hint: hint.into(),
        }
    }

    fn outside(message: String, hint: impl Into<String>) -> Self {
        Self::new(RefusalCode::OutsideWindow, message, hint)
    }

    pub(super) fn no_backup() -> Self {
        let message = "the branch has no completed backup".to_owned();
        Self::new(
            RefusalCode::NotFound,
            message,
            "take one with `zektor backup create`",
        )
    }

    pub(super) fn no_backup_on(timeline: TimelineId) -> Self {
        let message =
            format!("no completed backup leads to timeline {timeline}, which is archived now");
        Self::outside(
            message,
            "take a new backup, or restore an older one by its id with --backup",
        )
    }

    pub(super) fn nothing_archived() -> Self {
        let message = "no wal of the branch was archived yet".to_owned();
        Self::outside(
            message,
            "wait for the archiver, or restore a backup by its id with --backup",
        )
    }

    pub(super) fn no_history(timeline: TimelineId) -> Self {
        let message = format!("the history file of timeline {timeline} is not in the archive");
        Self::outside(
            message,
            "check the archiver; without the history no path leads there",
        )
    }

    pub(super) fn unknown_backup(id: BackupId, known: &[BackupSummary]) -> Self {
        let latest = known.iter().max_by_key(|backup| backup.backed_up_at);
        let hint = latest.map_or_else(String::new, |latest| {
            format!("; the latest one is {}", latest.backup_id)
        });
        let message = format!("the branch has no completed backup {id}");
        Self::new(
            RefusalCode::NotFound,
            message,
            format!("see `zektor backup list`{hint}"),
        )
    }

    pub(super) fn too_young(at: Timestamp, latest: Timestamp, age: Duration) -> Self {
        let message = format!(
            "{} is less than {} seconds ago; the latest restorable time is {}",
            rfc3339(at),
            age.as_secs(),
            rfc3339(latest)
        );
        Self::outside(message, "wait, choose an earlier time, or use --latest")
    }

    pub(super) fn not_archived_yet(at: Timestamp, latest: Timestamp) -> Self {
        let message = format!(
            "{} is not archived yet; the latest restorable time is {}",
            rfc3339(at),
            rfc3339(latest)
        );
        Self::outside(
            message,
            "wait for the archiver, choose an earlier time, or use --latest",
        )
    }

    pub(super) fn before_first_backup(at: Timestamp, earliest: Timestamp) -> Self {
        let message = format!(
            "{} is before the end of the first backup; the earliest restorable time is {}",
            rfc3339(at),
            rfc3339(earliest)
        );
        Self::outside(message, "choose a later time")
    }

    pub(super) fn time_in_gap(at: Timestamp, base: &BackupSummary, gap: Lsn) -> Self {
        let message = format!(
            "{} lies in or behind a gap of the archived wal that begins at {gap}; backup {} of {} is the \
             nearest before it",
            rfc3339(at),
            base.backup_id,
            rfc3339(base.backed_up_at)
        );
        Self::outside(
            message,
            "choose a time outside the gap; see `zektor window`",
        )
    }

    pub(super) fn lsn_not_archived(lsn: Lsn, end: Lsn) -> Self {
        let message = format!("{lsn} is not archived yet; the latest restorable position is {end}");
        Self::outside(
            message,
            "wait for the archiver, or choose an earlier position",
        )
    }

    pub(super) fn lsn_before_first_backup(lsn: Lsn, earliest: Lsn) -> Self {
        let message = format!(
            "{lsn} is before the end of the first backup; the earliest restorable position is {earliest}"
        );
        Self::outside(message, "choose a later position")
    }

    pub(super) fn lsn_in_gap(lsn: Lsn, gap: Lsn) -> Self {
        let message = format!("{lsn} lies behind a gap of the archived wal that begins at {gap}");
        Self::outside(
            message,
            format!("choose a position before {gap}, or after the next backup"),
        )
    }

    pub(super) fn gap_before_latest(base: &BackupSummary, gap: Lsn) -> Self {
        let message = format!(
            "wal is missing from {gap} on, so the latest moment cannot be reached from backup {}",
            base.backup_id
        );
        let hint = format!("take a new backup; or restore to a position before {gap} with --lsn");
        Self::outside(message, hint)
    }

    pub(super) fn backup_without_wal(backup: &BackupSummary, gap: Lsn) -> Self {
        let message = format!(
            "wal that backup {} needs to become consistent is missing at {gap}",
            backup.backup_id
        );
        Self::outside(message, "choose another backup")
    }

    pub(super) fn not_a_restore_point(name: &str) -> Self {
        let message = format!("{name:?} cannot be the name of a restore point");
        Self::new(
            RefusalCode::Invalid,
            message,
            "a name has 1 to 63 bytes, on one line",
        )
    }

    /// The new branch's name has backups or WAL of an earlier branch in the repository.
    #[must_use]
    pub fn name_used(branch: &BranchName) -> Self {
        let message =
            format!("the repository already holds backups or wal of another branch named {branch}");
        Self::new(
            RefusalCode::NameTaken,
            message,
            "choose another name with --as",
        )
    }
}

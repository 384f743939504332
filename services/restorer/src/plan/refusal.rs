//! Why a restore is refused, with the nearest target that would work.

use std::time::Duration;

use events::envelope::rfc3339;
use events::event::{BackupSummary, RefusalCode};
use events::{BackupId, BranchName, InstanceName, Timestamp};
use pg_format::{Lsn, TimelineId};
use retention::Taken;

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

    /// It stands in a sweep.
    pub(crate) fn being_deleted(id: BackupId, since: Timestamp) -> Self {
        let message = format!(
            "backup {id} is being deleted since {}; its time of grace was over",
            rfc3339(since)
        );
        let hint =
            "choose another backup or a moment: see `zektor window` and `zektor backup list`";
        Self::new(RefusalCode::NotFound, message, hint)
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

    pub(crate) fn no_history(timeline: TimelineId) -> Self {
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

    pub(super) fn in_the_future(at: Timestamp, latest: Timestamp) -> Self {
        let message = format!(
            "{} is in the future; the latest restorable time is {}",
            rfc3339(at),
            rfc3339(latest)
        );
        Self::outside(message, "choose an earlier time, or use --latest")
    }

    pub(super) fn before_consistency(
        at: Timestamp,
        base: &BackupSummary,
        nearest: Timestamp,
    ) -> Self {
        let message = format!(
            "a transaction later than {} had ended when backup {} began to be consistent, and no older backup leads \
             there; the nearest restorable time is {}",
            rfc3339(at),
            base.backup_id,
            rfc3339(nearest)
        );
        Self::outside(message, "choose a later time")
    }

    pub(super) fn time_in_gap(
        at: Timestamp,
        gap: Lsn,
        before: Timestamp,
        again: Option<Timestamp>,
    ) -> Self {
        let again = again.map_or_else(
            || "no backup was taken since".to_owned(),
            |again| format!("the next one after it is {}", rfc3339(again)),
        );
        let message = format!(
            "{} lies in a gap of the archived wal that begins at {gap}; the last restorable time before it is {}, and \
             {again}",
            rfc3339(at),
            rfc3339(before)
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

    pub(super) fn lsn_in_gap(lsn: Lsn, gap: Lsn, nearest: Lsn) -> Self {
        let message = format!(
            "{lsn} lies behind a gap of the archived wal that begins at {gap}; the last restorable position before it \
             is {nearest}"
        );
        Self::outside(
            message,
            format!("choose {nearest} or less, or a position after the next backup"),
        )
    }

    pub(super) fn behind_a_gap(lsn: Lsn, again: Option<&BackupSummary>) -> Self {
        let message = format!("it is at {lsn}, behind a gap of the archived wal");
        let hint = match again {
            Some(base) => format!(
                "the next restorable position is {} ({})",
                base.stop_lsn,
                rfc3339(base.backed_up_at)
            ),
            None => "no backup was taken since; see `zektor window`".to_owned(),
        };
        Self::outside(message, hint)
    }

    pub(super) fn gap_before_latest(base: &BackupSummary, gap: Lsn, nearest: Lsn) -> Self {
        let message = format!(
            "wal is missing from {gap} on, so the latest moment cannot be reached from backup {}; the last restorable \
             position before it is {nearest}",
            base.backup_id
        );
        let hint = format!("take a new backup; or restore with --lsn {nearest}");
        Self::outside(message, hint)
    }

    pub(crate) fn damaged(from: Lsn, to: Lsn, why: &str) -> Self {
        let message = format!("wal between {from} and {to} is needed and is damaged: {why}");
        Self::outside(
            message,
            format!(
                "choose a target well before {from}, or after the next backup; see `zektor window`"
            ),
        )
    }

    pub(super) fn minimal_wal(lsn: Lsn) -> Self {
        let message = format!(
            "the source ran with wal_level minimal from {lsn} on, and no earlier backup can be brought past that"
        );
        Self::outside(
            message,
            format!("choose a target before {lsn}, or after the next backup"),
        )
    }

    pub(super) fn unreadable_wal(major: u32) -> Self {
        let message =
            format!("this version of zektor cannot look into the wal of postgresql {major}");
        Self::new(
            RefusalCode::UnsuitableSource,
            message,
            "use --latest, or restore a backup by its id with --backup",
        )
    }

    pub(super) fn unknown_restore_point(name: &str, known: &[&str]) -> Self {
        let message = format!("there is no restore point {name:?} in the archived wal");
        let nearest = nearest(name, known);
        let hint = match nearest.is_empty() {
            true => "there are none at all; see `zektor moments`".to_owned(),
            false => format!("there is {}", nearest.join(", ")),
        };
        Self::new(RefusalCode::NotFound, message, hint)
    }

    pub(super) fn rolled_back(xid: u32, at: Timestamp) -> Self {
        let message = format!(
            "transaction {xid} was rolled back at {}; nothing of it can be restored",
            rfc3339(at)
        );
        let hint = format!("restore to that time, {}, instead", rfc3339(at));
        Self::new(RefusalCode::Invalid, message, hint)
    }

    pub(super) fn unknown_transaction(xid: u32, last: Option<u32>) -> Self {
        let message = format!(
            "no transaction {xid} ended in the archived wal: it is still in progress, changed nothing, is a \
             subtransaction, or ended before the first backup"
        );
        let hint = match last {
            Some(last) => {
                format!("the last transaction that committed is {last}; see `zektor moments`")
            }
            None => "no transaction has committed since the first backup".to_owned(),
        };
        Self::new(RefusalCode::NotFound, message, hint)
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

    /// The new branch cannot have its name.
    #[must_use]
    pub fn name_taken(taken: &Taken, instance: &InstanceName, branch: &BranchName) -> Self {
        let (message, hint) = taken.refusal(instance, branch);
        Self::new(RefusalCode::NameTaken, message, hint)
    }
}

/// The known names that are most alike, quoted; at most three.
fn nearest(name: &str, known: &[&str]) -> Vec<String> {
    const MOST: usize = 3;
    let mut names: Vec<(usize, &str)> = known
        .iter()
        .map(|other| (distance(name, other), *other))
        .collect();
    names.sort_unstable();
    names.dedup();
    let names = names.into_iter().take(MOST);
    names.map(|(_, name)| format!("{name:?}")).collect()
}

/// Levenshtein's, without regard to case.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (deleted, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = deleted + 1;
        for (at, right) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

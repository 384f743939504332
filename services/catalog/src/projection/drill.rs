//! The life of a drill's row: requested, in progress, then skipped, failed or completed. Never backwards.

use events::event::{DrillFailed, DrillRequested, DrillStarted, DrillSummary, Refused};
use events::query::DrillStatus;
use events::{BranchName, DrillId, Event, InstanceName, Timestamp, Trigger};

use super::Change;
use crate::store::rows::DrillRow;

/// What happened to a drill.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DrillChange {
    Requested(DrillRequested),
    Started(DrillStarted),
    Skipped {
        due_at: Timestamp,
        reason: String,
    },
    /// By a restorer; the refusal of a command has no row to end.
    Refused {
        why: Refused,
        at: Timestamp,
    },
    Failed(DrillFailed),
    Completed(DrillSummary),
}

/// The change that `event` makes to a drill, if it is about one.
pub(super) fn of_event(event: &Event) -> Option<Change> {
    let (instance, branch, id, change) = match event {
        Event::DrillRequested(e) => {
            let change = DrillChange::Requested(e.clone());
            (&e.instance, &e.branch, e.drill_id, change)
        }
        Event::DrillStarted(e) => {
            let change = DrillChange::Started(e.clone());
            (&e.instance, &e.branch, e.drill_id, change)
        }
        Event::DrillSkipped(e) => {
            let (due_at, reason) = (e.due_at, e.reason.clone());
            let change = DrillChange::Skipped { due_at, reason };
            (&e.instance, &e.branch, e.drill_id, change)
        }
        Event::DrillFailed(e) => {
            let change = DrillChange::Failed(e.clone());
            (&e.instance, &e.branch, e.drill_id, change)
        }
        Event::DrillCompleted(e) => {
            let change = DrillChange::Completed(e.summary.clone());
            (&e.instance, &e.branch, e.drill_id, change)
        }
        _ => return None,
    };
    let change = Box::new(change);
    Some(Change::Drill(instance.clone(), branch.clone(), id, change))
}

/// The end of a drill that is refused at `at`, if it had been asked for.
pub(super) fn refused(refused: &Refused, at: Timestamp) -> Change {
    let why = refused.clone();
    Change::Drill(
        refused.instance.clone(),
        refused.branch.clone(),
        DrillId(refused.command_id.0),
        Box::new(DrillChange::Refused { why, at }),
    )
}

/// A drill of which nothing is known but that it exists.
pub(crate) fn unknown(instance: InstanceName, branch: BranchName, id: DrillId) -> DrillRow {
    DrillRow {
        instance,
        branch,
        id,
        status: DrillStatus::Requested,
        triggered_by: None,
        target: None,
        backup_id: None,
        last_commit_at: None,
        checks: Vec::new(),
        restore_ms: None,
        duration_ms: None,
        failed_step: None,
        error: None,
        hint: None,
        requested_at: None,
        ended_at: None,
        listed_at: Timestamp::UNIX_EPOCH,
    }
}

/// How far in its life a drill is.
fn reached(status: DrillStatus) -> u8 {
    match status {
        DrillStatus::Requested => 0,
        DrillStatus::InProgress => 1,
        DrillStatus::Skipped => 2,
        DrillStatus::Failed => 3,
        DrillStatus::Completed => 4,
    }
}

impl DrillChange {
    fn status(&self) -> DrillStatus {
        match self {
            DrillChange::Requested(_) => DrillStatus::Requested,
            DrillChange::Started(_) => DrillStatus::InProgress,
            DrillChange::Skipped { .. } | DrillChange::Refused { .. } => DrillStatus::Skipped,
            DrillChange::Failed(_) => DrillStatus::Failed,
            DrillChange::Completed(_) => DrillStatus::Completed,
        }
    }

    /// Whether there is nothing to show where nothing was known before.
    pub(crate) fn only_ends(&self) -> bool {
        matches!(self, DrillChange::Refused { .. })
    }

    /// The row after this.
    pub(crate) fn apply(self, mut row: DrillRow) -> DrillRow {
        if reached(self.status()) < reached(row.status) {
            return row;
        }
        row.status = self.status();
        match self {
            DrillChange::Requested(requested) => {
                row.triggered_by = Some(requested.trigger);
                row.requested_at = Some(requested.requested_at);
            }
            DrillChange::Started(started) => {
                row.target = Some(started.target);
                row.backup_id = Some(started.plan.backup_id);
            }
            DrillChange::Skipped { due_at, reason } => {
                row.triggered_by = Some(Trigger::Schedule);
                row.requested_at = Some(due_at);
                row.ended_at = Some(due_at);
                row.error = Some(reason);
            }
            DrillChange::Refused { why, at } => {
                row.ended_at = Some(at);
                row.error = Some(why.message);
                row.hint = Some(why.hint).filter(|hint| !hint.is_empty());
            }
            DrillChange::Failed(failed) => {
                row.target = failed.target;
                row.backup_id = failed.backup_id;
                row.checks = failed.checks;
                row.failed_step = Some(failed.step);
                row.error = Some(failed.message);
                row.hint = Some(failed.hint);
                row.ended_at = Some(failed.failed_at);
            }
            DrillChange::Completed(summary) => row = completed(row, summary),
        }
        row.listed_at = row.requested_at.or(row.ended_at).unwrap_or(row.listed_at);
        row
    }
}

fn completed(row: DrillRow, summary: DrillSummary) -> DrillRow {
    DrillRow {
        target: Some(summary.target),
        backup_id: Some(summary.backup_id),
        last_commit_at: summary.last_commit.map(|commit| commit.at),
        checks: summary.checks,
        restore_ms: Some(summary.restore_ms),
        duration_ms: Some(summary.duration_ms),
        failed_step: None,
        error: None,
        hint: None,
        ended_at: Some(summary.completed_at),
        ..row
    }
}

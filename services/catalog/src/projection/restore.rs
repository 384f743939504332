//! The life of a restore's row: requested, in progress, then refused, failed or completed. Never backwards.

use std::collections::BTreeMap;

use events::event::RestoreRequested;
use events::query::RestoreStatus;
use events::{BackupId, BranchName, Event, InstanceName, RestoreId, RestoreSummary, Timestamp};

use super::Change;
use crate::store::rows::RestoreRow;

/// What happened to a restore.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RestoreChange {
    Requested(RestoreRequested),
    Started { backup_id: BackupId, at: Timestamp },
    Progressed,
    Refused { message: String, hint: String },
    Failed { message: String, hint: String },
    Completed(RestoreSummary),
}

/// The change that `event` makes to a restore, if it is about one.
pub(super) fn of_event(event: &Event) -> Option<Change> {
    let (instance, branch, id, change) = match event {
        Event::RestoreRequested(e) => (
            &e.instance,
            &e.branch,
            e.restore_id,
            RestoreChange::Requested(e.clone()),
        ),
        Event::RestoreStarted(e) => {
            let change = RestoreChange::Started {
                backup_id: e.plan.backup_id,
                at: e.started_at,
            };
            (&e.instance, &e.branch, e.restore_id, change)
        }
        Event::RestoreProgressed(e) => (
            &e.instance,
            &e.branch,
            e.restore_id,
            RestoreChange::Progressed,
        ),
        Event::RestoreCompleted(e) => {
            let change = RestoreChange::Completed(e.summary.clone());
            (&e.instance, &e.branch, e.restore_id, change)
        }
        Event::RestoreFailed(e) => {
            let (message, hint) = (e.message.clone(), e.hint.clone());
            let change = RestoreChange::Failed { message, hint };
            (&e.instance, &e.branch, e.restore_id, change)
        }
        // A refused restore has the id that it would have had.
        Event::RestoreRefused(e) => {
            let (message, hint) = (e.message.clone(), e.hint.clone());
            let change = RestoreChange::Refused { message, hint };
            (&e.instance, &e.branch, e.command_id.into(), change)
        }
        _ => return None,
    };
    let change = Box::new(change);
    Some(Change::Restore(
        instance.clone(),
        branch.clone(),
        id,
        change,
    ))
}

/// A restore of which nothing is known but that it exists.
pub(crate) fn unknown(instance: InstanceName, branch: BranchName, id: RestoreId) -> RestoreRow {
    RestoreRow {
        instance,
        branch,
        id,
        status: RestoreStatus::Requested,
        source_branch: None,
        target: None,
        size: None,
        backup_id: None,
        stop_lsn: None,
        timeline: None,
        last_commit_at: None,
        host: None,
        port: None,
        duration_ms: None,
        phases: BTreeMap::new(),
        extensions: Vec::new(),
        requested_at: None,
        started_at: None,
        completed_at: None,
        error: None,
        hint: None,
    }
}

impl RestoreChange {
    /// The row after this.
    pub(crate) fn apply(self, mut row: RestoreRow) -> RestoreRow {
        let reached = match &self {
            RestoreChange::Requested(_) => RestoreStatus::Requested,
            RestoreChange::Started { .. } | RestoreChange::Progressed => RestoreStatus::InProgress,
            RestoreChange::Refused { .. } => RestoreStatus::Refused,
            RestoreChange::Failed { .. } => RestoreStatus::Failed,
            RestoreChange::Completed(_) => RestoreStatus::Completed,
        };
        if reached < row.status {
            return row;
        }
        row.status = reached;
        match self {
            RestoreChange::Requested(requested) => {
                row.source_branch = Some(requested.source_branch);
                row.target = Some(requested.target);
                row.size = Some(requested.size);
                row.requested_at = Some(requested.requested_at);
            }
            RestoreChange::Started { backup_id, at } => {
                row.backup_id = Some(backup_id);
                row.started_at = Some(at);
            }
            RestoreChange::Progressed => {}
            RestoreChange::Refused { message, hint } | RestoreChange::Failed { message, hint } => {
                row.error = Some(message);
                row.hint = Some(hint);
            }
            RestoreChange::Completed(summary) => row = completed(row, summary),
        }
        row
    }
}

fn completed(row: RestoreRow, summary: RestoreSummary) -> RestoreRow {
    RestoreRow {
        source_branch: Some(summary.source_branch),
        target: Some(summary.target),
        size: Some(summary.size),
        backup_id: Some(summary.backup_id),
        stop_lsn: Some(summary.stop_lsn),
        timeline: Some(summary.timeline),
        last_commit_at: summary.last_commit_at,
        host: Some(summary.host),
        port: Some(summary.port),
        duration_ms: Some(summary.duration_ms),
        phases: summary.phases,
        extensions: summary.extensions,
        completed_at: Some(summary.completed_at),
        error: None,
        hint: None,
        ..row
    }
}

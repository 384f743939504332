//! The life of a backup's row: requested, in progress, failed or completed, expired. Never backwards.

use events::event::BackupRequested;
use events::query::BackupStatus;
use events::{BackupId, BackupSummary, BackupType, BranchName, Event, InstanceName, Timestamp};

use super::{Change, completed_backup};
use crate::store::rows::BackupRow;

/// What happened to a backup.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum BackupChange {
    Requested(BackupRequested),
    Started { worker: String, at: Timestamp },
    Progressed { done_bytes: u64, total_bytes: u64 },
    Completed(BackupSummary),
    Failed { message: String, hint: String },
}

/// The change that `event` makes to a backup, if it is about one.
pub(super) fn of_event(event: &Event) -> Option<Change> {
    let (instance, branch, id, change) = match event {
        Event::BackupRequested(e) => (
            &e.instance,
            &e.branch,
            e.backup_id,
            BackupChange::Requested(e.clone()),
        ),
        Event::BackupStarted(e) => {
            let worker = e.worker.clone();
            let at = e.started_at;
            let change = BackupChange::Started { worker, at };
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupProgressed(e) => {
            let change = BackupChange::Progressed {
                done_bytes: e.done_bytes,
                total_bytes: e.total_bytes,
            };
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupCompleted(e) => return Some(completed_backup(&e.summary)),
        Event::BackupFailed(e) => {
            let change = failed(&e.message, &e.hint);
            (&e.instance, &e.branch, e.backup_id, change)
        }
        _ => return None,
    };
    let change = Box::new(change);
    Some(Change::Backup(instance.clone(), branch.clone(), id, change))
}

fn failed(message: &str, hint: &str) -> BackupChange {
    BackupChange::Failed {
        message: message.to_owned(),
        hint: hint.to_owned(),
    }
}

/// A backup of which nothing is known but that it exists.
pub(crate) fn unknown(instance: InstanceName, branch: BranchName, id: BackupId) -> BackupRow {
    BackupRow {
        instance,
        branch,
        id,
        name: String::new(),
        backup_type: BackupType::Auto,
        status: BackupStatus::Requested,
        triggered_by: None,
        schedule_id: None,
        requested_at: None,
        started_at: None,
        backed_up_at: None,
        expires_at: None,
        size_bytes: None,
        logical_bytes: None,
        files: None,
        start_lsn: None,
        stop_lsn: None,
        timeline: None,
        server_version: None,
        damaged_pages: Vec::new(),
        error: None,
        hint: None,
        worker: None,
        done_bytes: None,
        total_bytes: None,
    }
}

impl BackupChange {
    /// The row after this.
    pub(crate) fn apply(self, mut row: BackupRow) -> BackupRow {
        let reached = match &self {
            BackupChange::Requested(_) => BackupStatus::Requested,
            BackupChange::Started { .. } | BackupChange::Progressed { .. } => {
                BackupStatus::InProgress
            }
            BackupChange::Failed { .. } => BackupStatus::Failed,
            BackupChange::Completed(_) => BackupStatus::Completed,
        };
        if reached < row.status {
            return row;
        }
        row.status = reached;
        match self {
            BackupChange::Requested(requested) => {
                row.name = requested.name;
                row.backup_type = requested.backup_type;
                row.triggered_by = Some(requested.trigger);
                row.schedule_id = requested.schedule_id;
                row.requested_at = Some(requested.requested_at);
            }
            BackupChange::Started { worker, at } => {
                row.worker = Some(worker);
                row.started_at = Some(at);
                (row.done_bytes, row.total_bytes) = (None, None);
            }
            BackupChange::Progressed {
                done_bytes,
                total_bytes,
            } => {
                row.done_bytes = Some(done_bytes);
                row.total_bytes = Some(total_bytes);
            }
            BackupChange::Failed { message, hint } => {
                row = ended(row);
                row.error = Some(message);
                row.hint = Some(hint);
            }
            BackupChange::Completed(summary) => row = completed(row, summary),
        }
        row
    }
}

/// Nobody is at it any more.
fn ended(row: BackupRow) -> BackupRow {
    BackupRow {
        worker: None,
        done_bytes: None,
        total_bytes: None,
        ..row
    }
}

/// A summary knows everything: what the row had before does not show through, so that a row from the
/// repository and a row from the stream are the same.
fn completed(row: BackupRow, summary: BackupSummary) -> BackupRow {
    BackupRow {
        name: summary.name,
        backup_type: summary.backup_type,
        status: BackupStatus::Completed,
        triggered_by: Some(summary.trigger),
        schedule_id: summary.schedule_id,
        requested_at: Some(summary.requested_at),
        started_at: Some(summary.started_at),
        backed_up_at: Some(summary.backed_up_at),
        expires_at: summary.expires_at,
        size_bytes: Some(summary.stored_bytes),
        logical_bytes: Some(summary.logical_bytes),
        files: Some(summary.files),
        start_lsn: Some(summary.start_lsn),
        stop_lsn: Some(summary.stop_lsn),
        timeline: Some(summary.timeline),
        server_version: Some(summary.server_version),
        damaged_pages: summary.damaged_pages,
        error: None,
        hint: None,
        ..ended(row)
    }
}

#[cfg(test)]
mod tests {
    use events::query::BackupStatus;
    use events::{Event, example};

    use super::{Change, of_event, unknown};
    use crate::store::rows::BackupRow;

    fn life() -> Vec<Event> {
        let of_backups = |event: &Event| event.type_name().starts_with("backup.");
        let order = ["requested", "started", "progressed", "failed", "completed"];
        let mut events: Vec<Event> = example::events().into_iter().filter(of_backups).collect();
        let place = |event: &Event| {
            order
                .iter()
                .position(|word| event.type_name() == format!("backup.{word}"))
        };
        events.retain(|event| place(event).is_some());
        events.sort_by_key(place);
        events
    }

    fn apply(row: Option<BackupRow>, event: &Event) -> BackupRow {
        let Some(Change::Backup(instance, branch, id, change)) = of_event(event) else {
            panic!("{} is not about a backup", event.type_name());
        };
        change.apply(row.unwrap_or_else(|| unknown(instance, branch, id)))
    }

    #[test]
    fn a_completed_backup_stays_completed_whatever_comes() {
        let life = life();
        let completed = apply(None, life.last().unwrap());
        assert_eq!(completed.status, BackupStatus::Completed);
        for late in &life {
            assert_eq!(apply(Some(completed.clone()), late), completed);
        }
        let in_order = life.iter().fold(None, |row, event| Some(apply(row, event)));
        assert_eq!(in_order, Some(completed));
    }

    #[test]
    fn each_event_goes_one_step() {
        let mut row = None;
        let mut seen = Vec::new();
        for event in life() {
            let next = apply(row, &event);
            seen.push(next.status);
            row = Some(next);
        }
        use BackupStatus::{Completed, Failed, InProgress, Requested};
        assert_eq!(seen, [Requested, InProgress, InProgress, Failed, Completed]);
    }
}

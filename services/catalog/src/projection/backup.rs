//! The life of a backup's row: requested, skipped, in progress, failed, completed, expired. Never backwards.
//!
//! Its manifest, its mark and its end are three facts that may be told in any order; what is shown of it is made of
//! those that are known.

use events::event::{BackupRequested, BackupSkipped};
use events::mark::BackupMark;
use events::query::BackupStatus;
use events::{
    BackupId, BackupSummary, BackupType, BranchName, Event, InstanceName, Timestamp, Trigger,
};

use super::{Change, completed_backup};
use crate::store::rows::{BackupRow, OwnTerms};

/// Characters of a name that are searched: what an index takes.
const SEARCHED: usize = 256;

/// What happened to a backup.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum BackupChange {
    Requested(BackupRequested),
    Skipped(BackupSkipped),
    Started {
        worker: String,
        at: Timestamp,
    },
    Progressed {
        done_bytes: u64,
        total_bytes: u64,
    },
    Completed(BackupSummary),
    Failed {
        message: String,
        hint: String,
    },
    /// The moment is absent when it is the repository that says so, which says no when.
    Marked {
        mark: BackupMark,
        at: Option<Timestamp>,
    },
    Verified {
        at: Timestamp,
        sound: bool,
    },
    Expired {
        at: Timestamp,
    },
}

/// The change that `event` makes to a backup, if it is about one.
pub(super) fn of_event(event: &Event) -> Option<Change> {
    let (instance, branch, id, change) = match event {
        Event::BackupQueued(e) => {
            let change = BackupChange::Requested(e.request.clone());
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupRequested(e) => {
            let change = BackupChange::Requested(e.clone());
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupSkipped(e) => {
            let change = BackupChange::Skipped(e.clone());
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupStarted(e) => {
            let (worker, at) = (e.worker.clone(), e.started_at);
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
            let (message, hint) = (e.message.clone(), e.hint.clone());
            let change = BackupChange::Failed { message, hint };
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupUpdated(e) => {
            let (mark, at) = (e.mark.clone(), Some(e.updated_at));
            let change = BackupChange::Marked { mark, at };
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupVerified(e) => {
            let (at, sound) = (e.verified_at, e.sound);
            let change = BackupChange::Verified { at, sound };
            (&e.instance, &e.branch, e.backup_id, change)
        }
        Event::BackupExpired(e) => {
            let change = BackupChange::Expired { at: e.expired_at };
            (&e.instance, &e.branch, e.backup_id, change)
        }
        _ => return None,
    };
    let change = Box::new(change);
    Some(Change::Backup(instance.clone(), branch.clone(), id, change))
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
        wal_until: None,
        own: None,
        mark: None,
        marked_at: None,
        deleted_at: None,
        verified_at: None,
        sound: None,
        folded_name: String::new(),
        listed_at: Timestamp::UNIX_EPOCH,
        hidden: false,
    }
}

/// How far in its life a backup is. What was completed may expire, and be kept after all.
fn reached(status: BackupStatus) -> u8 {
    match status {
        BackupStatus::Requested => 0,
        BackupStatus::Skipped => 1,
        BackupStatus::InProgress => 2,
        BackupStatus::Failed => 3,
        BackupStatus::Completed | BackupStatus::Expired => 4,
    }
}

impl BackupChange {
    fn status(&self) -> BackupStatus {
        match self {
            BackupChange::Requested(_) => BackupStatus::Requested,
            BackupChange::Skipped(_) => BackupStatus::Skipped,
            BackupChange::Started { .. } | BackupChange::Progressed { .. } => {
                BackupStatus::InProgress
            }
            BackupChange::Failed { .. } => BackupStatus::Failed,
            // Only what is in the repository is marked, verified or gone from there.
            BackupChange::Completed(_)
            | BackupChange::Marked { .. }
            | BackupChange::Verified { .. } => BackupStatus::Completed,
            BackupChange::Expired { .. } => BackupStatus::Expired,
        }
    }

    /// Whether it may make a backup a completed one, or take that away.
    pub(crate) fn may_count(&self) -> bool {
        reached(self.status()) == reached(BackupStatus::Completed)
    }

    /// The row after this.
    pub(crate) fn apply(self, mut row: BackupRow) -> BackupRow {
        if reached(self.status()) < reached(row.status) {
            return row;
        }
        row.status = self.status();
        match self {
            BackupChange::Requested(requested) => {
                row.name = requested.name;
                row.backup_type = requested.backup_type;
                row.triggered_by = Some(requested.trigger);
                row.schedule_id = requested.schedule_id;
                row.requested_at = Some(requested.requested_at);
            }
            BackupChange::Skipped(skipped) => {
                row.name = skipped.name;
                row.triggered_by = Some(Trigger::Schedule);
                row.schedule_id = Some(skipped.schedule_id);
                row.requested_at = Some(skipped.due_at);
                row.error = Some(skipped.reason);
            }
            BackupChange::Started { worker, at } => {
                if row.started_at.is_none_or(|started_at| at > started_at) {
                    row.worker = Some(worker);
                    row.started_at = Some(at);
                    (row.done_bytes, row.total_bytes) = (None, None);
                }
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
            BackupChange::Marked { mark, at } => row = marked(ended(row), mark, at),
            BackupChange::Verified { at, sound } => row = verified(ended(row), at, sound),
            BackupChange::Expired { at } => {
                row = ended(row);
                row.deleted_at = row.deleted_at.or(Some(at));
            }
        }
        shown(row)
    }
}

/// What follows from the rest.
fn shown(mut row: BackupRow) -> BackupRow {
    let deletion = row.mark.as_ref().and_then(|mark| mark.deletion);
    if reached(row.status) == reached(BackupStatus::Completed) {
        row.status = match deletion.is_some() || row.deleted_at.is_some() {
            true => BackupStatus::Expired,
            false => BackupStatus::Completed,
        };
    }
    row.folded_name = row.name.to_lowercase().chars().take(SEARCHED).collect();
    let first = row.requested_at.or(row.started_at).or(row.deleted_at);
    row.listed_at = first.unwrap_or(row.listed_at);
    row.hidden = row.deleted_at.is_some() || row.status == BackupStatus::Skipped;
    row
}

/// The row with its own terms, or with those of its mark.
fn on_terms(mut row: BackupRow, own: OwnTerms) -> BackupRow {
    let mark = row.mark.clone().unwrap_or_default();
    let expires_at = match mark.expiry {
        Some(expiry) => expiry.expires_at,
        None => own.expires_at,
    };
    // Never longer than the backup itself, and than was promised when it was made.
    let promised = own.wal_until.or(own.expires_at);
    let longer = |until: &Timestamp| expires_at.is_some_and(|expires_at| expires_at <= *until);
    let terms = OwnTerms {
        name: mark.name.unwrap_or_else(|| own.name.clone()),
        expires_at,
        wal_until: promised.filter(|until| !longer(until)),
    };
    row.own = (terms != own).then_some(own);
    (row.name, row.expires_at, row.wal_until) = (terms.name, terms.expires_at, terms.wal_until);
    row
}

/// What was wanted before, in a mark, is not wanted any more.
fn marked(mut row: BackupRow, mark: BackupMark, at: Option<Timestamp>) -> BackupRow {
    if at < row.marked_at {
        return row;
    }
    let own = row.own.take().unwrap_or_else(|| OwnTerms {
        name: row.name.clone(),
        expires_at: row.expires_at,
        wal_until: row.wal_until,
    });
    row.marked_at = at;
    if let Some(found) = mark.verified {
        row = verified(row, found.at, found.sound);
    }
    // What was found and by which commands is no wish. Findings are remembered in a mark without a word of it, and what
    // is made of the repository must be what is made of events.
    let wished = BackupMark {
        verified: None,
        commands: Vec::new(),
        ..mark
    };
    row.mark = (wished != BackupMark::default()).then_some(wished);
    on_terms(row, own)
}

/// The last finding counts, whether its event or the mark that remembers it comes first.
fn verified(row: BackupRow, at: Timestamp, sound: bool) -> BackupRow {
    if row.verified_at.is_some_and(|verified_at| at < verified_at) {
        return row;
    }
    BackupRow {
        verified_at: Some(at),
        sound: Some(sound),
        ..row
    }
}

/// Nobody is at it any more.
fn ended(row: BackupRow) -> BackupRow {
    BackupRow {
        worker: None,
        done_bytes: None,
        total_bytes: None,
        error: None,
        hint: None,
        ..row
    }
}

/// A summary knows everything that was so when the backup was made: what the row had before does not show through, so
/// that a row from the repository and a row from the stream are the same.
fn completed(row: BackupRow, summary: BackupSummary) -> BackupRow {
    let own = OwnTerms {
        name: summary.name,
        expires_at: summary.expires_at,
        wal_until: summary.wal_until,
    };
    let row = BackupRow {
        backup_type: summary.backup_type,
        triggered_by: Some(summary.trigger),
        schedule_id: summary.schedule_id,
        requested_at: Some(summary.requested_at),
        started_at: Some(summary.started_at),
        backed_up_at: Some(summary.backed_up_at),
        size_bytes: Some(summary.stored_bytes),
        logical_bytes: Some(summary.logical_bytes),
        files: Some(summary.files),
        start_lsn: Some(summary.start_lsn),
        stop_lsn: Some(summary.stop_lsn),
        timeline: Some(summary.timeline),
        server_version: Some(summary.server_version),
        damaged_pages: summary.damaged_pages,
        ..ended(row)
    };
    on_terms(row, own)
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

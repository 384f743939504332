//! `zektor backup rename|keep|hold|release|delete|undelete`: what is wanted of a stored backup.

use events::event::FailureCause;
use events::mark::BackupMark;
use events::query::{self, BackupStatus, BackupView, BranchState};
use events::{Command, Event, command};

use super::found::find;
use crate::arguments::{BackupHold, BackupKeep, BackupRename, BackupUndelete, OfBackup};
use crate::failure::{Failure, word};
use crate::outcome::{ACCEPTED_WITHIN, unless_interrupted};
use crate::output::{Reply, moment};
use crate::session::Session;

/// Gives a backup another name.
pub(crate) async fn rename(session: &Session, given: BackupRename) -> Result<Reply, Failure> {
    let backup = find(session, &given.of).await?;
    if given.name.trim().is_empty() {
        return Err(Failure::usage(
            "a backup cannot be without a name",
            "give the new name",
        ));
    }
    let command = Command::BackupUpdate(command::BackupUpdate {
        name: Some(given.name),
        ..unchanged(&backup)
    });
    let view = changed(session, command, backup).await?;
    let text = format!("Backup {} is called {:?} now.", view.id, view.name);
    Reply::new(&view, text)
}

/// Keeps a backup for another time.
pub(crate) async fn keep(session: &Session, given: BackupKeep) -> Result<Reply, Failure> {
    let backup = find(session, &given.of).await?;
    let command = Command::BackupUpdate(command::BackupUpdate {
        retention: given.time.retention,
        forever: given.time.forever,
        ..unchanged(&backup)
    });
    let view = changed(session, command, backup).await?;
    let text = format!("Backup {} is kept {}.", view.id, until(&view));
    Reply::new(&view, text)
}

fn unchanged(backup: &BackupView) -> command::BackupUpdate {
    command::BackupUpdate {
        instance: backup.instance.clone(),
        branch: backup.branch.clone(),
        backup_id: backup.id,
        name: None,
        retention: None,
        forever: false,
    }
}

/// Keeps a backup whatever its retention.
pub(crate) async fn hold(session: &Session, given: BackupHold) -> Result<Reply, Failure> {
    let backup = find(session, &given.of).await?;
    let command = Command::BackupHold(command::BackupHold {
        instance: backup.instance.clone(),
        branch: backup.branch.clone(),
        backup_id: backup.id,
        reason: given.reason,
    });
    let view = changed(session, command, backup).await?;
    let reason = view.hold.as_ref().and_then(|hold| hold.reason.as_deref());
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let text = format!(
        "Backup {} is held{reason}: it stays until `zektor backup release {} {}`.",
        view.id, view.instance, view.id
    );
    Reply::new(&view, text)
}

/// Keeps it no longer than its retention says.
pub(crate) async fn release(session: &Session, of: OfBackup) -> Result<Reply, Failure> {
    let backup = find(session, &of).await?;
    let command = Command::BackupRelease(command::BackupRelease {
        instance: backup.instance.clone(),
        branch: backup.branch.clone(),
        backup_id: backup.id,
    });
    let view = changed(session, command, backup).await?;
    let text = format!(
        "Backup {} is released; it is kept {}.",
        view.id,
        until(&view)
    );
    Reply::new(&view, text)
}

/// Deletes a backup, after the time of grace.
pub(crate) async fn delete(session: &Session, of: OfBackup) -> Result<Reply, Failure> {
    let backup = find(session, &of).await?;
    let command = Command::BackupDelete(command::BackupDelete {
        instance: backup.instance.clone(),
        branch: backup.branch.clone(),
        backup_id: backup.id,
    });
    let view = match changed(session, command, backup.clone()).await {
        Err(failure) if failure.code == word(FailureCause::Cancelled) => {
            return cancelled(backup, failure);
        }
        view => view?,
    };
    let goes = view.deletion.map(|deletion| moment(deletion.delete_after));
    let mut text = format!(
        "Backup {} is to be deleted: it goes after {}. Until then: zektor backup undelete {} {}",
        view.id,
        goes.unwrap_or_default(),
        view.instance,
        view.id
    );
    if is_newest(session, &view).await {
        text.push_str(&format!(
            "\nIt is the newest backup of branch {}, which could not be restored without it: it goes only when a newer \
             one is complete.",
            view.branch
        ));
    }
    Reply::new(&view, text)
}

/// It was not completed yet, and will not be.
fn cancelled(backup: BackupView, failure: Failure) -> Result<Reply, Failure> {
    let text = format!(
        "Backup {} was {}. What may be stored of it goes by itself.",
        backup.id, failure.message
    );
    let view = BackupView {
        status: BackupStatus::Failed,
        error: Some(failure.message),
        ..backup
    };
    Reply::new(&view, text)
}

/// Keeps a backup that was to be deleted.
pub(crate) async fn undelete(session: &Session, given: BackupUndelete) -> Result<Reply, Failure> {
    let backup = find(session, &given.of).await?;
    let command = Command::BackupUndelete(command::BackupUndelete {
        instance: backup.instance.clone(),
        branch: backup.branch.clone(),
        backup_id: backup.id,
        retention: given.retention,
    });
    let view = changed(session, command, backup).await?;
    let text = format!("Backup {} stays; it is kept {}.", view.id, until(&view));
    Reply::new(&view, text)
}

fn until(view: &BackupView) -> String {
    match (&view.hold, view.expires_at) {
        (Some(_), _) => "until it is released".to_owned(),
        (None, Some(expires_at)) => format!("until {}", moment(expires_at)),
        (None, None) => "until it is deleted".to_owned(),
    }
}

/// Sends a command, and gives back the backup as it is wanted then.
async fn changed(
    session: &Session,
    command: Command,
    backup: BackupView,
) -> Result<BackupView, Failure> {
    let mut sent = session.send(command, &["backup"]).await?;
    let updated = sent.until(ACCEPTED_WITHIN, |event| match event {
        Event::BackupUpdated(updated) => Some(updated.mark),
        _ => None,
    });
    let how = format!("zektor backup show {} {}", backup.instance, backup.id);
    let mark = unless_interrupted(updated, "the command", &how).await?;
    session.projected(sent.seen).await;
    // As the catalog will show it, also if that lags behind.
    let shown = query::BackupShow {
        instance: Some(backup.instance.clone()),
        id: backup.id,
    };
    let shown = session.ask(&shown).await.unwrap_or(backup);
    Ok(with_mark(shown, mark))
}

fn with_mark(backup: BackupView, mark: BackupMark) -> BackupView {
    let to_go = mark.deletion.is_some();
    BackupView {
        name: mark.name.unwrap_or(backup.name),
        expires_at: mark
            .expiry
            .map_or(backup.expires_at, |expiry| expiry.expires_at),
        hold: mark.hold,
        deletion: mark.deletion,
        status: match (backup.status, to_go) {
            (BackupStatus::Completed, true) => BackupStatus::Expired,
            (BackupStatus::Expired, false) => BackupStatus::Completed,
            (status, _) => status,
        },
        ..backup
    }
}

/// Whether the branch lives and has no newer backup. What cannot be found out is not said.
async fn is_newest(session: &Session, backup: &BackupView) -> bool {
    let branch = query::BranchShow {
        instance: backup.instance.clone(),
        branch: backup.branch.clone(),
    };
    let lives = session.ask(&branch).await.map(|branch| branch.state);
    if !matches!(lives, Ok(BranchState::Active | BranchState::Stopped)) {
        return false;
    }
    let completed = query::BackupList {
        instance: Some(backup.instance.clone()),
        branch: Some(backup.branch.clone()),
        status: Some(BackupStatus::Completed),
        ..query::BackupList::default()
    };
    let Ok(others) = session.ask(&completed).await else {
        return false;
    };
    others
        .backups
        .iter()
        .all(|other| other.id == backup.id || other.backed_up_at < backup.backed_up_at)
}

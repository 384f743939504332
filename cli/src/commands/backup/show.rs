//! `zektor backup show`.

use events::mark::DeletedBy;
use events::query::{BackupStatus, BackupView};

use super::found::find;
use crate::arguments::OfBackup;
use crate::commands::instance;
use crate::failure::{Failure, word};
use crate::output::{Reply, moment, pairs, size, span};
use crate::session::Session;

/// Shows one backup.
pub(crate) async fn show(session: &Session, of: OfBackup) -> Result<Reply, Failure> {
    let backup = find(session, &of).await?;
    let text = text(&backup);
    Reply::new(&backup, text)
}

pub(super) fn text(backup: &BackupView) -> String {
    let copied = backup.done_bytes.zip(backup.total_bytes);
    let lsns = backup.start_lsn.zip(backup.stop_lsn);
    let timeline = backup.timeline;
    let pages = backup.damaged_pages.iter().map(|page| match page.block {
        Some(block) => format!("{} block {block}", page.file),
        None => page.file.clone(),
    });
    let pages = pages.collect::<Vec<_>>().join(", ");
    pairs(&[
        ("id", Some(backup.id.to_string())),
        ("name", Some(backup.name.clone())),
        (
            "of",
            Some(format!("{}, branch {}", backup.instance, backup.branch)),
        ),
        ("type", Some(word(backup.backup_type))),
        ("status", Some(word(backup.status))),
        ("error", backup.error.clone()),
        ("hint", backup.hint.clone()),
        ("worker", backup.worker.clone()),
        (
            "copied",
            copied.map(|(done, total)| format!("{} of {}", size(done), size(total))),
        ),
        ("backed up", backup.backed_up_at.map(moment)),
        (
            "took",
            backup
                .duration_ms
                .map(|ms| span(std::time::Duration::from_millis(ms))),
        ),
        ("database", backup.logical_bytes.map(size)),
        ("stored", backup.size_bytes.map(size)),
        ("files", backup.files.map(|files| files.to_string())),
        (
            "WAL",
            lsns.map(|(start, stop)| format!("{start} to {stop}")),
        ),
        ("timeline", timeline.map(|timeline| timeline.to_string())),
        ("postgresql", backup.server_version.map(instance::version)),
        ("trigger", backup.trigger.map(word)),
        ("kept", Some(kept(backup))),
        ("pitr", every_moment(backup)),
        ("verified", verified(backup)),
        ("damaged", (!pages.is_empty()).then_some(pages)),
    ])
}

/// Until when it stays, and why.
fn kept(backup: &BackupView) -> String {
    if let Some(gone) = backup.deleted_at {
        return format!("it is gone since {}", moment(gone));
    }
    if let Some(hold) = &backup.hold {
        let reason = hold.reason.as_deref().map(|reason| format!(": {reason}"));
        let since = moment(hold.since);
        return format!("held since {since}{}", reason.unwrap_or_default());
    }
    if let Some(deletion) = &backup.deletion {
        let why = match deletion.by {
            DeletedBy::Retention => "its retention is over",
            DeletedBy::User => "it was deleted",
        };
        let goes = moment(deletion.delete_after);
        return format!(
            "until {goes}: {why}; keep it with `zektor backup undelete {} {}`",
            backup.instance, backup.id
        );
    }
    match backup.expires_at {
        Some(expires_at) => format!("until {}", moment(expires_at)),
        None => "until it is deleted".to_owned(),
    }
}

/// Until when every moment after it can be restored because of it. Only of what is stored.
fn every_moment(backup: &BackupView) -> Option<String> {
    let stored = matches!(
        backup.status,
        BackupStatus::Completed | BackupStatus::Expired
    );
    if !stored || backup.deleted_at.is_some() {
        return None;
    }
    Some(match (backup.wal_until, backup.backed_up_at) {
        (None, _) => "every moment from it on, as long as it is kept".to_owned(),
        (Some(until), Some(end)) if until <= end => {
            "only the backup itself; no WAL is kept because of it".to_owned()
        }
        (Some(until), _) => format!("every moment from it on until {}", moment(until)),
    })
}

fn verified(backup: &BackupView) -> Option<String> {
    let at = moment(backup.verified_at?);
    Some(match backup.sound {
        Some(false) => format!("{at}: it is damaged"),
        _ => format!("{at}: it is sound"),
    })
}

#[cfg(test)]
pub(crate) mod tests;

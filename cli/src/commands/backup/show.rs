//! `zektor backup show`.

use events::mark::{DeletedBy, Deletion};
use events::query::{self, BackupStatus, BackupView};
use events::{BackupId, Event, PoolName, Timestamp, subject};
use serde::Serialize;

use super::found::find;
use crate::arguments::OfBackup;
use crate::commands::instance;
use crate::commands::pool::{self, Served, Waits};
use crate::failure::{Ending, Failure, once_more, word};
use crate::output::{Reply, moment, pairs, size, span};
use crate::session::Session;

/// Of what is wrong with a backup so many are shown; JSON has all.
const MOST_PROBLEMS: usize = 5;

/// What the catalog has no rows for; as long as the bus has the event.
#[derive(Debug, Default, Serialize)]
struct Last {
    /// When it was given up.
    failed_at: Option<Timestamp>,
    /// What was wrong when it was last read whole.
    problems: Vec<String>,
    /// It failed, and its branch was deleted: nothing is to be done again.
    #[serde(skip)]
    branch_is_gone: bool,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    /// Why an attempt came to nothing that is followed by another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What a backup waits for that no worker has begun.
#[derive(Debug, Default, Serialize)]
struct Waiting {
    /// The pool whose workers were asked, for this backup or for the one before it.
    pool: Option<String>,
    /// Whether any worker serves it now, as far as that is known.
    served: Option<bool>,
    /// The backup that is to end first.
    behind: Option<BackupId>,
    /// The same, for people.
    #[serde(skip)]
    text: String,
}

impl From<Waits> for Waiting {
    fn from(waits: Waits) -> Self {
        let text = waits.text();
        let known = |served: Option<Served>| served.map(|served| served != Served::Nobody);
        let called = |pool: &Option<PoolName>| Some(pool::called(pool.as_ref()).to_owned());
        match waits {
            Waits::Worker { pool, served } => Waiting {
                pool: called(&pool),
                served: known(served),
                behind: None,
                text,
            },
            Waits::End { of, unbegun } => Waiting {
                pool: unbegun.as_ref().and_then(|(pool, _)| called(pool)),
                served: unbegun.and_then(|(_, served)| known(served)),
                behind: Some(of),
                text,
            },
        }
    }
}

/// A backup in the fields of the contract and some more.
#[derive(Debug, Serialize)]
struct BackupDocument<'a> {
    #[serde(flatten)]
    backup: &'a BackupView,
    #[serde(flatten)]
    last: &'a Last,
}

/// Shows one backup.
pub(crate) async fn show(session: &Session, of: OfBackup) -> Result<Reply, Failure> {
    let backup = find(session, &of).await?;
    let last = last(session, &backup).await;
    let text = text_of(&backup, &last, session.setting.clock.now());
    let document = BackupDocument {
        backup: &backup,
        last: &last,
    };
    Reply::new(&document, text)
}

async fn last(session: &Session, backup: &BackupView) -> Last {
    let mut last = Last {
        branch_is_gone: backup.status == BackupStatus::Failed && is_gone(session, backup).await,
        ..Last::default()
    };
    let word = match (backup.status, backup.sound) {
        (BackupStatus::Failed, _) => "failed",
        (BackupStatus::InProgress, _) => "progressed",
        (BackupStatus::Requested, _) => {
            let of = (&backup.instance, &backup.branch);
            let waits = pool::waits(session, of, backup.id).await;
            last.waiting = waits.map(Waiting::from);
            return last;
        }
        (_, Some(false)) => "verified",
        _ => return last,
    };
    let fence = subject::backup_fence(&backup.instance, &backup.branch, backup.id);
    let told = session.bus.last_on(&fence.replacen('*', word, 1)).await;
    match told.ok().flatten().map(|told| told.envelope.message) {
        Some(Event::BackupFailed(failed)) => last.failed_at = Some(failed.failed_at),
        Some(Event::BackupVerified(verified)) => last.problems = verified.problems,
        Some(Event::BackupProgressed(progressed)) => last.problem = progressed.problem,
        _ => {}
    }
    last
}

/// Whether its branch was deleted. What cannot be found out is not said.
async fn is_gone(session: &Session, backup: &BackupView) -> bool {
    let question = query::BranchShow {
        instance: backup.instance.clone(),
        branch: backup.branch.clone(),
    };
    let shown = session.ask(&question).await;
    shown.is_err_and(|failure| failure.ending == Ending::NotFound)
}

/// The status, and what should not be overlooked beside it.
pub(super) fn state(backup: &BackupView) -> String {
    // What can be kept after all is not over yet, though the status has one word for both.
    let status = match (backup.status, backup.deleted_at) {
        (BackupStatus::Expired, None) => "marked".to_owned(),
        (BackupStatus::Expired, Some(_)) => "gone".to_owned(),
        (status, _) => word(status),
    };
    match (backup.sound, backup.damaged_pages.is_empty()) {
        (Some(false), _) => format!("{status}, damaged"),
        (_, false) => format!("{status}, bad pages"),
        _ => status,
    }
}

/// What the second word of [`state`] means.
pub(super) fn why_damaged(backup: &BackupView) -> Option<String> {
    match (backup.sound, backup.damaged_pages.len()) {
        (Some(false), _) => Some("damaged: it was read whole and cannot be relied on".to_owned()),
        (_, 0) => None,
        (_, pages) => Some(format!(
            "bad pages: {pages} with wrong checksums on the server itself; the backup has them as they are"
        )),
    }
}

fn hint(backup: &BackupView, last: &Last) -> Option<String> {
    let BackupView {
        instance, branch, ..
    } = backup;
    match backup.status {
        BackupStatus::Failed if last.branch_is_gone => Some(format!(
            "branch {branch} is deleted, and there is nothing to take once more; what the backup stored goes by itself, or \
             at once with `zektor branch delete {instance} {branch} --purge`"
        )),
        BackupStatus::Failed => {
            let hint = backup.hint.as_deref().unwrap_or_default();
            Some(once_more(hint, &backup.instance, backup.id))
        }
        _ => backup.hint.clone(),
    }
}

/// What can be done about a backup that is damaged.
fn next_step(backup: &BackupView) -> Option<String> {
    let BackupView {
        instance, branch, ..
    } = backup;
    let anew = format!("`zektor backup create {instance} --branch {branch} --wait`");
    match (backup.sound, backup.damaged_pages.is_empty()) {
        (Some(false), _) => Some(format!(
            "take a new one, {anew}; restores with --time or --latest go round this one by themselves"
        )),
        (_, false) => Some(format!(
            "repair the relation on the server, then take a new one, {anew}"
        )),
        _ => None,
    }
}

pub(super) fn text(backup: &BackupView, now: Timestamp) -> String {
    text_of(backup, &Last::default(), now)
}

fn text_of(backup: &BackupView, last: &Last, now: Timestamp) -> String {
    let ended = backup.status == BackupStatus::Completed || backup.backed_up_at.is_some();
    let skipped = backup.status == BackupStatus::Skipped;
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
        ("status", Some(state(backup))),
        ("error", backup.error.clone()),
        ("hint", hint(backup, last)),
        ("worker", backup.worker.clone()),
        (
            "copied",
            copied.map(|(done, total)| format!("{} of {}", size(done), size(total))),
        ),
        (
            if skipped { "due" } else { "requested" },
            backup.requested_at.filter(|_| !ended).map(moment),
        ),
        (
            "waiting",
            last.waiting.as_ref().map(|waiting| waits(waiting, backup)),
        ),
        ("last attempt", last.problem.clone()),
        ("failed", last.failed_at.map(moment)),
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
        ("kept", kept(backup, now)),
        ("pitr", every_moment(backup)),
        ("verified", verified(backup)),
        ("bad pages", (!pages.is_empty()).then_some(pages)),
        ("damaged", problems(backup, last)),
        ("what to do", next_step(backup)),
    ])
}

fn waits(waiting: &Waiting, backup: &BackupView) -> String {
    let (instance, id) = (&backup.instance, waiting.behind.unwrap_or(backup.id));
    let cancel = match waiting.served {
        Some(false) => format!("; or cancel it: zektor backup delete {instance} {id}"),
        _ => String::new(),
    };
    let text = waiting
        .text
        .strip_prefix("waiting ")
        .unwrap_or(&waiting.text);
    format!("{text}{cancel}")
}

fn problems(backup: &BackupView, last: &Last) -> Option<String> {
    if backup.sound != Some(false) {
        return None;
    }
    let shown = &last.problems[..last.problems.len().min(MOST_PROBLEMS)];
    Some(match last.problems.len() - shown.len() {
        _ if shown.is_empty() => format!(
            "what it is has left the bus; read it again: `zektor backup verify {} {} --wait`",
            backup.instance, backup.id
        ),
        0 => shown.join("; "),
        more => format!("{}; and {more} more (--output json)", shown.join("; ")),
    })
}

/// Until when it stays, and why. Nothing of what was never stored.
fn kept(backup: &BackupView, now: Timestamp) -> Option<String> {
    match backup.status {
        BackupStatus::Failed | BackupStatus::Skipped => None,
        _ => Some(kept_until(backup, now)),
    }
}

fn kept_until(backup: &BackupView, now: Timestamp) -> String {
    if let Some(gone) = backup.deleted_at {
        return format!("it is gone since {}", moment(gone));
    }
    if let Some(hold) = &backup.hold {
        let reason = hold.reason.as_deref().map(|reason| format!(": {reason}"));
        let since = moment(hold.since);
        return format!("held since {since}{}", reason.unwrap_or_default());
    }
    if let Some(deletion) = &backup.deletion {
        return until_deletion(backup, deletion, now);
    }
    match backup.expires_at {
        Some(expires_at) => format!("until {}", moment(expires_at)),
        None => "until it is deleted".to_owned(),
    }
}

fn until_deletion(backup: &BackupView, deletion: &Deletion, now: Timestamp) -> String {
    let why = match deletion.by {
        DeletedBy::Retention => "its retention is over",
        DeletedBy::User => "it was deleted",
    };
    let goes = moment(deletion.delete_after);
    let keep = format!(
        "keep it with `zektor backup undelete {} {}`",
        backup.instance, backup.id
    );
    match deletion.delete_after <= now {
        true => format!(
            "{why}, and it may go since {goes}: with the next round, if it is not the newest of its branch (that one \
             waits for a newer one) and nothing that runs reads it; until then {keep}"
        ),
        false => format!(
            "until {goes}: {why}, and it goes then if it is not the newest of its branch (that one waits for a newer \
             one); {keep}"
        ),
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
        (Some(until), _) => format!(
            "every moment from it on until {}; its WAL goes a time of grace later",
            moment(until)
        ),
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

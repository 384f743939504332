//! `zektor backup create|list|show`.

use events::event::{BackupCompleted, BackupPhase, BackupProgressed, BackupRequested};
use events::query::{self, BackupStatus, BackupView, Backups};
use events::{BackupId, Command, Event, command};

use crate::arguments::{BackupCreate, BackupList, OfBackup};
use crate::failure::{Failure, word};
use crate::outcome::{ACCEPTED_WITHIN, Sent, unless_interrupted};
use crate::output::{Reply, moment, or_dash, pairs, size, span, table};
use crate::progress::Progress;
use crate::session::Session;

/// As many as the catalog gives at once.
pub(crate) const PAGE: u32 = 1000;

/// Asks for a backup; with `--wait`, until it is taken or given up.
pub(crate) async fn create(session: &Session, create: BackupCreate) -> Result<Reply, Failure> {
    let instance = create.instance.clone();
    let command = Command::BackupCreate(command::BackupCreate {
        instance: create.instance,
        branch: create.branch,
        name: create.name,
        backup_type: create.backup_type.into(),
        retention: create.retention,
        wal: None,
    });
    let mut sent = session.send(command, &["backup"]).await?;
    let id = BackupId(sent.id.0);
    let how = format!("zektor backup show {instance} {id}");
    let taken = async {
        let requested = sent.until(ACCEPTED_WITHIN, |event| match event {
            Event::BackupRequested(requested) => Some(requested),
            _ => None,
        });
        let requested = requested.await?;
        match session.setting.wait {
            true => Ok((Some(completed(&mut sent).await?), requested)),
            false => Ok((None, requested)),
        }
    };
    let (completed, requested) = unless_interrupted(taken, "the backup", &how).await?;
    session.projected(sent.seen).await;
    let view = view_of(&requested, completed.as_ref());
    let text = match completed {
        Some(_) => format!("Backup {id} is completed.\n\n{}", show_text(&view)),
        None => format!("Backup {id} is requested. Follow it: {how}"),
    };
    Reply::new(&view, text)
}

async fn completed(sent: &mut Sent) -> Result<BackupCompleted, Failure> {
    let mut progress = Progress::start("waiting for a worker");
    loop {
        match sent.next().await? {
            Event::BackupStarted(started) => {
                progress.enter(&format!("taken by {}", started.worker))
            }
            Event::BackupProgressed(progressed) => show_progress(&mut progress, &progressed),
            Event::BackupCompleted(completed) => return Ok(completed),
            _ => {}
        }
    }
}

fn show_progress(progress: &mut Progress, progressed: &BackupProgressed) {
    match progressed.phase {
        BackupPhase::Checkpoint => progress.enter("waiting for the server's checkpoint"),
        BackupPhase::WaitingForWal => progress.enter("waiting for the archive to have its WAL"),
        BackupPhase::Copying | BackupPhase::Unknown => {
            progress.show("copying", progressed.done_bytes, progressed.total_bytes);
        }
    }
}

/// The backup as the catalog will show it.
fn view_of(requested: &BackupRequested, completed: Option<&BackupCompleted>) -> BackupView {
    let summary = completed.map(|completed| &completed.summary);
    let took = summary.map(|summary| summary.backed_up_at - summary.started_at);
    BackupView {
        id: requested.backup_id,
        name: requested.name.clone(),
        instance: requested.instance.clone(),
        branch: requested.branch.clone(),
        backup_type: summary.map_or(requested.backup_type, |summary| summary.backup_type),
        status: summary.map_or(BackupStatus::Requested, |_| BackupStatus::Completed),
        backed_up_at: summary.map(|summary| summary.backed_up_at),
        size_bytes: summary.map(|summary| summary.stored_bytes),
        logical_bytes: summary.map(|summary| summary.logical_bytes),
        start_lsn: summary.map(|summary| summary.start_lsn),
        stop_lsn: summary.map(|summary| summary.stop_lsn),
        timeline: summary.map(|summary| summary.timeline),
        trigger: Some(requested.trigger),
        schedule_id: requested.schedule_id,
        expires_at: summary.and_then(|summary| summary.expires_at),
        wal_until: summary.and_then(|summary| summary.wal_until),
        hold: None,
        deletion: None,
        deleted_at: None,
        verified_at: None,
        sound: None,
        error: None,
        hint: None,
        damaged_pages: summary.map_or_else(Vec::new, |summary| summary.damaged_pages.clone()),
        requested_at: Some(requested.requested_at),
        started_at: summary.map(|summary| summary.started_at),
        duration_ms: took.and_then(|took| took.num_milliseconds().try_into().ok()),
        files: summary.map(|summary| summary.files),
        server_version: summary.map(|summary| summary.server_version),
        worker: None,
        done_bytes: None,
        total_bytes: None,
    }
}

/// Lists an instance's backups, newest first.
pub(crate) async fn list(session: &Session, list: BackupList) -> Result<Reply, Failure> {
    let question = query::BackupList {
        instance: Some(list.instance.clone()),
        branch: list.branch,
        status: list.status,
        limit: Some(PAGE),
        ..query::BackupList::default()
    };
    let backups = all(session, question).await?;
    if backups.is_empty() {
        // Tells "no backup" from "no such instance".
        let question = query::InstanceShow {
            instance: list.instance.clone(),
        };
        let _detail = session.ask_patiently(&question).await?;
    }
    let text = match backups.is_empty() {
        true => format!(
            "No backup. Take one: zektor backup create {} --wait",
            list.instance
        ),
        false => list_text(&backups),
    };
    Reply::new(&Backups { backups }, text)
}

/// Every backup that matches, page by page.
pub(crate) async fn all(
    session: &Session,
    mut question: query::BackupList,
) -> Result<Vec<BackupView>, Failure> {
    let mut backups = Vec::new();
    loop {
        let page = session.ask(&question).await?.backups;
        let last = page.len() < PAGE as usize;
        backups.extend(page);
        if last {
            return Ok(backups);
        }
        question.offset = question.offset.saturating_add(PAGE);
    }
}

fn list_text(backups: &[BackupView]) -> String {
    let rows = backups.iter().map(|backup| {
        vec![
            backup.id.to_string(),
            backup.name.clone(),
            backup.branch.to_string(),
            word(backup.backup_type),
            state(backup),
            or_dash(backup.backed_up_at.map(moment)),
            or_dash(backup.size_bytes.map(size)),
            or_dash(backup.expires_at.map(moment)),
        ]
    });
    let header = [
        "id",
        "name",
        "branch",
        "type",
        "status",
        "backed up",
        "size",
        "expires",
    ];
    table(&header, rows.collect())
}

/// The status, and what should not be overlooked beside it.
fn state(backup: &BackupView) -> String {
    let status = word(backup.status);
    match backup.damaged_pages.len() {
        0 => status,
        pages => format!("{status}, {pages} damaged pages"),
    }
}

/// Shows one backup.
pub(crate) async fn show(session: &Session, of: OfBackup) -> Result<Reply, Failure> {
    let question = query::BackupShow {
        instance: Some(of.instance),
        id: of.id,
    };
    let backup = session.ask_patiently(&question).await?;
    let text = show_text(&backup);
    Reply::new(&backup, text)
}

fn show_text(backup: &BackupView) -> String {
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
        (
            "postgresql",
            backup.server_version.map(super::instance::version),
        ),
        ("trigger", backup.trigger.map(word)),
        (
            "expires",
            Some(backup.expires_at.map_or_else(|| "never".to_owned(), moment)),
        ),
        ("damaged", (!pages.is_empty()).then_some(pages)),
    ])
}

#[cfg(test)]
mod tests;

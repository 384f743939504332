//! `zektor backup`: takes backups here; what becomes of them then is below.

mod found;
mod list;
mod marks;
mod show;
mod verify;

use events::event::{BackupCompleted, BackupPhase, BackupProgressed, BackupRequested};
use events::query::{BackupStatus, BackupView};
use events::{BackupId, Command, Event, InstanceName, command};

use std::time::Duration;

use super::pool::{self, Waits};
use crate::arguments::{BackupCreate, OfBackup};
use crate::failure::Failure;
use crate::outcome::{ACCEPTED_WITHIN, Sent, unless_interrupted};
use crate::output::{Reply, note};
use crate::progress::{Progress, attempt_after};
use crate::session::Session;

pub(crate) use found::find;
pub(crate) use list::{PAGE, all, list};
pub(crate) use marks::{delete, hold, keep, release, rename, undelete};
pub(crate) use show::show;
#[cfg(test)]
pub(crate) use show::tests::completed as completed_backup;
pub(crate) use verify::verify;

/// How often it is looked what a backup still waits for.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A backup that was asked for.
struct Asked {
    request: BackupRequested,
    /// The one that is being taken before it.
    behind: Option<BackupId>,
}

/// Asks for a backup; with `--wait`, until it is taken or given up.
pub(crate) async fn create(session: &Session, create: BackupCreate) -> Result<Reply, Failure> {
    let instance = create.instance.clone();
    let command = Command::BackupCreate(command::BackupCreate {
        instance: create.instance,
        branch: create.branch,
        name: create.name,
        backup_type: create.backup_type.into(),
        retention: create.retention,
        wal: create.wal.keep(),
    });
    ask(session, command, &instance).await
}

/// Asks once more for a backup that failed.
pub(crate) async fn retry(session: &Session, of: OfBackup) -> Result<Reply, Failure> {
    let failed = found::find_failed(session, &of).await?;
    let command = Command::BackupRetry(command::BackupRetry {
        instance: of.instance.clone(),
        branch: failed.branch,
        backup_id: failed.id,
    });
    let mut reply = ask(session, command, &of.instance).await?;
    let document: serde_json::Value = serde_json::from_str(&reply.document).unwrap_or_default();
    if let Some(other) = document["name"]
        .as_str()
        .filter(|name| *name != failed.name)
    {
        reply.text.push_str(&format!(
            "\nIt is called {other:?}: another backup has the name {:?} by now.",
            failed.name
        ));
    }
    Ok(reply)
}

/// Sends a command whose backup has its id.
async fn ask(
    session: &Session,
    command: Command,
    instance: &InstanceName,
) -> Result<Reply, Failure> {
    let mut sent = session.send(command, &["backup"]).await?;
    let id = BackupId(sent.id.0);
    let how = format!("zektor backup show {instance} {id}");
    let taken = async {
        let asked = sent.until(ACCEPTED_WITHIN, |event| match event {
            Event::BackupRequested(request) => Some(Asked {
                request,
                behind: None,
            }),
            Event::BackupQueued(queued) => Some(Asked {
                request: queued.request,
                behind: Some(queued.behind),
            }),
            _ => None,
        });
        let asked = asked.await?;
        match session.setting.wait {
            true => Ok((
                Some(until_completed(session, &mut sent, &asked).await?),
                asked,
            )),
            false => Ok((None, asked)),
        }
    };
    let (completed, asked) = unless_interrupted(taken, "the backup", &how).await?;
    session.projected(sent.seen).await;
    if completed.is_none() {
        warn_if_unserved(session, &asked).await;
    }
    let view = view_of(&asked.request, completed.as_ref());
    let text = match (completed, asked.behind) {
        (Some(_), _) => format!(
            "Backup {id} is completed.\n\n{}",
            show::text(&view, session.setting.clock.now())
        ),
        (None, None) => format!("Backup {id} is requested. Follow it: {how}"),
        (None, Some(behind)) => {
            format!("Backup {id} is taken after {behind}, which is being taken. Follow it: {how}")
        }
    };
    Reply::new(&view, text)
}

/// What the backup waits for, as long as no worker has begun it.
async fn waits(session: &Session, asked: &Asked) -> Option<Waits> {
    let request = &asked.request;
    let of = (&request.instance, &request.branch);
    pool::waits(session, of, request.backup_id).await
}

async fn warn_if_unserved(session: &Session, asked: &Asked) {
    let waits = waits(session, asked).await;
    if let Some(pool) = waits.as_ref().and_then(Waits::for_nobody) {
        note(&format!("warning: {}", pool::unserved(pool)));
    }
}

async fn until_completed(
    session: &Session,
    sent: &mut Sent,
    asked: &Asked,
) -> Result<BackupCompleted, Failure> {
    let first = match asked.behind {
        None => "waiting for a worker".to_owned(),
        Some(behind) => format!("waiting for the end of backup {behind}"),
    };
    let mut said = waits(session, asked)
        .await
        .map_or(first, |waits| waits.text());
    let mut progress = Progress::start(&said);
    let (mut attempts, mut problem) = (0, None);
    loop {
        // The wait for the next event goes on while it is looked what the backup waits for.
        let mut next = Box::pin(sent.next());
        let event = loop {
            tokio::select! {
                event = &mut next => break event?,
                () = tokio::time::sleep(LOOK_INTERVAL), if attempts == 0 => {
                    let Some(waits) = waits(session, asked).await else { continue };
                    if waits.text() != said {
                        said = waits.text();
                        progress.enter(&said);
                    }
                }
            }
        };
        drop(next);
        match event {
            Event::BackupRequested(_) => {
                if let Some(waits) = waits(session, asked).await {
                    said = waits.text();
                    progress.enter(&said);
                }
            }
            Event::BackupStarted(started) => {
                attempts += 1;
                let by = format!("taken by {}", started.worker);
                progress.enter(&attempt_after(attempts, problem.as_deref(), &by));
                problem = None;
            }
            Event::BackupProgressed(progressed) => match progressed.problem {
                Some(why) => {
                    progress.enter(&format!(
                        "this attempt came to nothing; another one follows: {why}"
                    ));
                    problem = Some(why);
                }
                None => show_progress(&mut progress, &progressed),
            },
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

//! `zektor restore`.

mod plan;

use std::collections::BTreeMap;
use std::time::Duration;

use events::event::{
    ExtensionCheck, RestoreCompleted, RestorePhase, RestorePlan, RestoreProgressed,
    RestoreRequested,
};
use events::plan::{CheckState, PlanCheck, RestoreQuestion};
use events::query::RestoreStatus;
use events::{
    BackupId, BranchName, Command, Event, InstanceName, RestoreId, RestoreTarget, Timestamp,
    command,
};
use futures::StreamExt as _;
use pg_format::Lsn;
use serde::Serialize;

use super::backup;
use super::extensions::extensions_text;
use crate::arguments::{OfBackup, OfBranch, RestoreArguments};
use crate::failure::{Ending, Failure};
use crate::outcome::{ACCEPTED_WITHIN, Sent, unless_interrupted};
use crate::output::{Reply, exact, note, pairs, span};
use crate::progress::{Progress, attempt};
use crate::session::{Session, Setting};

/// Shorter than the acceptance's limit. A plan takes a second, and a few more when the archive is to catch up.
const STARTED_WITHIN: Duration = Duration::from_secs(12);
/// From "the branch is open" to its place in the instance document.
const REGISTERED_WITHIN: Duration = Duration::from_secs(30);

/// A restore, in the fields of the contract.
#[derive(Debug, Serialize)]
struct RestoreDocument {
    id: RestoreId,
    status: RestoreStatus,
    instance: InstanceName,
    branch: BranchName,
    source_branch: BranchName,
    connection_uri: Option<String>,
    target: RestoreTarget,
    /// Of a restore that has ended, where the last record that was replayed ends; of one that is only planned, where the
    /// last one to replay begins, as `stop_record_lsn` of a dry run.
    stop_lsn: Option<Lsn>,
    last_commit_at: Option<Timestamp>,
    backup_id: Option<BackupId>,
    duration_ms: Option<u64>,
    phases: BTreeMap<String, u64>,
    extensions: Vec<ExtensionCheck>,
    /// What in the branch could act on the world outside, and what was done about it.
    checks: Vec<PlanCheck>,
}

/// Asks for a restore, or what it would do.
pub(crate) async fn restore(setting: &Setting, given: &RestoreArguments) -> Result<Reply, Failure> {
    let (session, target) = match given.target.backup_called() {
        None => {
            let target = match given.target.target()? {
                RestoreTarget::Backup { id, .. } => RestoreTarget::Backup {
                    id,
                    even_damaged: given.even_damaged,
                },
                target => target,
            };
            (setting.connect().await?, target)
        }
        Some(called) => {
            let session = setting.connect().await?;
            let id = backup_called(&session, given, called).await?;
            let even_damaged = given.even_damaged;
            (session, RestoreTarget::Backup { id, even_damaged })
        }
    };
    let (instance, source_branch) = (given.instance.clone(), given.from.clone());
    let (of, time) = (
        OfBranch {
            instance: instance.clone(),
            branch: source_branch.clone(),
        },
        match target {
            RestoreTarget::Time { at } => Some(at),
            _ => None,
        },
    );
    let outcome = match &given.branch {
        Some(branch) if !given.dry_run => {
            let wanted = command::RestoreCreate {
                instance,
                source_branch,
                branch: branch.clone(),
                target,
                size: given.size,
                keep_passwords: given.keep_passwords,
            };
            create(&session, wanted).await
        }
        branch => {
            let question = RestoreQuestion {
                instance,
                source_branch,
                branch: branch.clone(),
                target,
                size: given.size,
            };
            plan::dry_run(&session, &question).await
        }
    };
    match (outcome, time) {
        (Err(failure), Some(at)) => Err(plan::with_position(&session, &of, failure, at).await),
        (outcome, _) => outcome,
    }
}

/// The backup of that name, or whose id begins so; one of another branch than the one that is restored is no target.
async fn backup_called(
    session: &Session,
    given: &RestoreArguments,
    called: &str,
) -> Result<BackupId, Failure> {
    let of = OfBackup {
        instance: given.instance.clone(),
        backup: called.to_owned(),
    };
    let found = backup::find(session, &of).await?;
    if found.branch != given.from {
        return Err(Failure::not_found(
            format!(
                "backup {} is of branch {}, not of {}",
                found.id, found.branch, given.from
            ),
            format!("restore it with --from {}", found.branch),
        ));
    }
    Ok(found.id)
}

/// The target as it was understood, times in UTC.
fn target_text(target: &RestoreTarget) -> String {
    match target {
        RestoreTarget::Backup { id, .. } => format!("the end of backup {id}"),
        RestoreTarget::Time { at } => exact(*at),
        RestoreTarget::Lsn { lsn } => format!("WAL position {lsn}"),
        RestoreTarget::RestorePoint { name } => format!("restore point {name}"),
        RestoreTarget::Transaction { xid } => format!("transaction {xid}"),
        RestoreTarget::Latest => "latest".to_owned(),
    }
}

async fn create(session: &Session, wanted: command::RestoreCreate) -> Result<Reply, Failure> {
    let (instance, branch) = (wanted.instance.clone(), wanted.branch.clone());
    let how = format!("zektor events --follow --instance {instance}");
    let mut sent = session
        .send(Command::RestoreCreate(wanted), &["restore"])
        .await?;
    let restored = async {
        let requested = sent.until(ACCEPTED_WITHIN, |event| match event {
            Event::RestoreRequested(requested) => Some(requested),
            _ => None,
        });
        let requested = requested.await?;
        Ok(match session.setting.wait {
            true => Asked::Completed(completed(&mut sent, &requested).await?),
            false => Asked::Planned(planned(&mut sent).await?, requested),
        })
    };
    let look = format!("zektor branch show {instance} {branch}");
    let completed = match unless_interrupted(restored, "the restore", &look).await? {
        Asked::Completed(completed) => completed,
        Asked::Planned(plan, requested) => {
            session.projected(sent.seen).await;
            return requested_reply(requested, plan, &how);
        }
    };
    let connection_uri = match registered_dsn(&sent.session, &instance, &branch).await {
        Ok(uri) => Some(uri),
        Err(failure) => {
            // The data is back; how to reach it can be asked for again.
            note(&format!(
                "the branch is open, but its connection uri is not known here: {failure}"
            ));
            note(&format!(
                "ask for it with `zektor branch credentials {instance} {branch}`"
            ));
            None
        }
    };
    session.projected(sent.seen).await;
    completed_reply(completed, connection_uri)
}

/// How far a restore was followed.
enum Asked {
    /// To its plan, if a restorer made one in time.
    Planned(Option<RestorePlan>, RestoreRequested),
    Completed(RestoreCompleted),
}

/// Waits for the restorer's plan, so that what cannot be restored is refused here and not later. A restorer
/// that is busy with others does not hold the answer up.
async fn planned(sent: &mut Sent) -> Result<Option<RestorePlan>, Failure> {
    let started = sent.until(ACCEPTED_WITHIN, |event| match event {
        Event::RestoreStarted(started) => Some(started.plan),
        _ => None,
    });
    match tokio::time::timeout(STARTED_WITHIN, started).await {
        Ok(plan) => plan.map(Some),
        Err(_busy) => Ok(None),
    }
}

async fn completed(
    sent: &mut Sent,
    requested: &RestoreRequested,
) -> Result<RestoreCompleted, Failure> {
    let waiting = format!(
        "restoring to {}: waiting for a restorer",
        target_text(&requested.target)
    );
    let mut progress = Progress::start(&waiting);
    let mut attempts = 0;
    loop {
        match sent.next().await? {
            Event::RestoreStarted(started) => {
                let from = format!("restoring from backup {}", started.plan.backup_id);
                // The same attempt, from another backup.
                if let Some(damaged) = started.passed_over.last() {
                    progress.enter(&format!("backup {damaged} is damaged; {from} instead"));
                    continue;
                }
                attempts += 1;
                progress.enter(&attempt(attempts, &from));
            }
            Event::RestoreProgressed(progressed) => show_progress(&mut progress, &progressed),
            Event::RestoreCompleted(completed) => return Ok(completed),
            _ => {}
        }
    }
}

fn show_progress(progress: &mut Progress, progressed: &RestoreProgressed) {
    let phase = match progressed.phase {
        RestorePhase::Materialise => "writing files",
        RestorePhase::Recover => "replaying WAL",
        RestorePhase::Promote => "promoting",
        RestorePhase::Open => "opening the branch",
        RestorePhase::Unknown => "restoring",
    };
    progress.show(phase, progressed.done_bytes, progressed.total_bytes);
}

/// The branch's connection URI, as soon as it stands in the instance document.
async fn registered_dsn(
    session: &Session,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<String, Failure> {
    let mut changes = session.bus.instances().watch();
    let registered = async {
        while let Some(change) = changes.next().await {
            let document = change.document.filter(|_| change.instance == *instance);
            let branches = document.map(|document| document.branches);
            let found = branches
                .as_ref()
                .and_then(|branches| branches.get(branch)?.active());
            if let Some(active) = found {
                return Some(active.dsn.clone());
            }
        }
        None
    };
    let sealed = tokio::time::timeout(REGISTERED_WITHIN, registered)
        .await
        .ok()
        .flatten();
    let sealed = sealed.ok_or_else(|| {
        let message = format!("{branch} is not part of {instance} yet");
        Failure::new(
            Ending::Failed,
            "not_registered",
            message,
            "is the scheduler running?",
        )
    })?;
    session.open_dsn(instance, branch, &sealed)
}

fn requested_reply(
    requested: RestoreRequested,
    plan: Option<RestorePlan>,
    how: &str,
) -> Result<Reply, Failure> {
    let target = target_text(&requested.target);
    let last_commit = plan.as_ref().and_then(|plan| plan.last_commit);
    let told = last_commit.map_or_else(String::new, |commit| {
        let at = exact(commit.at);
        format!(
            " The last commit in it will be transaction {} of {at}.",
            commit.xid
        )
    });
    let text = format!(
        "Restore {} of {} to {target} into branch {} is requested.{told} Follow it: {how}",
        requested.restore_id, requested.instance, requested.branch,
    );
    let document = RestoreDocument {
        id: requested.restore_id,
        status: RestoreStatus::Requested,
        instance: requested.instance,
        branch: requested.branch,
        source_branch: requested.source_branch,
        connection_uri: None,
        target: requested.target,
        stop_lsn: plan.as_ref().map(|plan| plan.end_lsn),
        last_commit_at: last_commit.map(|commit| commit.at),
        backup_id: plan.map(|plan| plan.backup_id),
        duration_ms: None,
        phases: BTreeMap::new(),
        extensions: Vec::new(),
        checks: Vec::new(),
    };
    Reply::new(&document, text)
}

fn completed_reply(
    completed: RestoreCompleted,
    connection_uri: Option<String>,
) -> Result<Reply, Failure> {
    let summary = completed.summary;
    let document = RestoreDocument {
        id: completed.restore_id,
        status: RestoreStatus::Completed,
        instance: completed.instance,
        branch: completed.branch,
        source_branch: summary.source_branch,
        connection_uri,
        target: summary.target,
        stop_lsn: Some(summary.stop_lsn),
        last_commit_at: summary.last_commit_at,
        backup_id: Some(summary.backup_id),
        duration_ms: Some(summary.duration_ms),
        phases: summary.phases,
        extensions: summary.extensions,
        checks: summary.checks,
    };
    let text = completed_text(&document);
    Reply::new(&document, text)
}

fn completed_text(document: &RestoreDocument) -> String {
    let phases = document.phases.iter();
    let phases = phases.map(|(name, ms)| format!("{name} {}", span(Duration::from_millis(*ms))));
    let phases = phases.collect::<Vec<_>>().join(", ");
    let places = pairs(&[
        ("connect", document.connection_uri.clone()),
        ("target", Some(target_text(&document.target))),
        ("last commit", document.last_commit_at.map(exact)),
        ("stopped at", document.stop_lsn.map(|lsn| lsn.to_string())),
        ("backup", document.backup_id.map(|id| id.to_string())),
        (
            "took",
            document
                .duration_ms
                .map(|ms| span(Duration::from_millis(ms))),
        ),
        ("phases", (!phases.is_empty()).then_some(phases)),
    ]);
    let RestoreDocument {
        instance,
        branch,
        source_branch,
        ..
    } = document;
    let mut text =
        format!("Branch {branch} of {instance} is open; {source_branch} is as it was.\n\n{places}");
    if !document.extensions.is_empty() {
        text.push('\n');
        text.push_str(&extensions_text(&document.extensions));
    }
    let warnings = document.checks.iter();
    let warnings: Vec<PlanCheck> = warnings
        .filter(|check| check.state == CheckState::Warning)
        .cloned()
        .collect();
    if !warnings.is_empty() {
        text.push('\n');
        text.push_str(&plan::checks_text(&warnings));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::completed_reply;

    #[test]
    fn a_completed_restore_has_the_fields_of_the_contract() {
        let completed = serde_json::from_value(json!({
            "restore_id": "0190a5d0-0000-7000-8000-000000000002",
            "instance": "orders",
            "branch": "before",
            "summary": {
                "source_branch": "main",
                "target": { "kind": "time", "at": "2026-03-01T10:30:00Z" },
                "backup_id": "0190a5d0-0000-7000-8000-000000000001",
                "size": "small",
                "stop_lsn": "0/5000060",
                "fork_timeline": 1,
                "timeline": 2,
                "last_commit_at": "2026-03-01T10:29:59.123456Z",
                "host": "127.0.0.1",
                "port": 40123,
                "duration_ms": 5250,
                "phases": { "materialise": 2000, "recover": 3000 },
                "extensions": [
                    { "database": "shop", "name": "postgis", "version": "3.5", "state": "needs_reinstalling" }
                ],
                "completed_at": "2026-03-01T11:00:00Z"
            }
        }));
        let uri = Some("postgres://zektor:pw@127.0.0.1:40123/postgres".to_owned());
        let reply = completed_reply(completed.unwrap(), uri).unwrap();
        insta::assert_snapshot!(reply.text, @r#"
        Branch before of orders is open; main is as it was.

        connect      postgres://zektor:pw@127.0.0.1:40123/postgres
        target       2026-03-01T10:30:00.000000Z
        last commit  2026-03-01T10:29:59.123456Z
        stopped at   0/5000060
        backup       0190a5d0-0000-7000-8000-000000000001
        took         5.2 s
        phases       materialise 2.0 s, recover 3.0 s

        EXTENSION  VERSION  DATABASE  STATE
        postgis    3.5      shop      its files are missing on this machine
        "#);
        insta::assert_snapshot!(reply.document, @r#"
        {
          "id": "0190a5d0-0000-7000-8000-000000000002",
          "status": "completed",
          "instance": "orders",
          "branch": "before",
          "source_branch": "main",
          "connection_uri": "postgres://zektor:pw@127.0.0.1:40123/postgres",
          "target": {
            "kind": "time",
            "at": "2026-03-01T10:30:00Z"
          },
          "stop_lsn": "0/5000060",
          "last_commit_at": "2026-03-01T10:29:59.123456Z",
          "backup_id": "0190a5d0-0000-7000-8000-000000000001",
          "duration_ms": 5250,
          "phases": {
            "materialise": 2000,
            "recover": 3000
          },
          "extensions": [
            {
              "database": "shop",
              "name": "postgis",
              "version": "3.5",
              "state": "needs_reinstalling"
            }
          ],
          "checks": []
        }
        "#);
    }
}

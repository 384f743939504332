//! `zektor branch ...` and `zektor extensions check`.

use std::time::Duration;

use events::document::Branch;
use events::event::{ExtensionCheck, ExtensionState};
use events::query::{self, BranchState, BranchView};
use events::{BranchName, Command, Event, InstanceName, command};
use serde_json::json;

use super::instance::version;
use crate::arguments::{NamedBranch, OfInstance};
use crate::failure::Failure;
use crate::outcome::{ACCEPTED_WITHIN, DONE_WITHIN, unless_interrupted};
use crate::output::{Reply, moment, or_dash, pairs, table};
use crate::progress::Progress;
use crate::session::Session;

/// A server that is removed drains first.
const DELETED_WITHIN: Duration = Duration::from_secs(600);

/// Lists an instance's branches.
pub(crate) async fn list(session: &Session, of: OfInstance) -> Result<Reply, Failure> {
    let question = query::BranchList {
        instance: of.instance,
    };
    let branches = session.ask_patiently(&question).await?;
    let table = text(&branches.branches);
    Reply::new(&branches, table)
}

/// Branches as a table.
pub(crate) fn text(branches: &[BranchView]) -> String {
    let rows = branches.iter().map(|branch| {
        let origin = branch.source_branch.as_ref().zip(branch.fork_lsn);
        vec![
            branch.name.to_string(),
            state_word(branch.state).to_owned(),
            or_dash(origin.map(|(source, lsn)| format!("{source} at {lsn}"))),
            version(branch.server_version),
            or_dash(branch.size),
            or_dash(branch.last_backup_at.map(moment)),
            moment(branch.created_at),
        ]
    });
    let header = [
        "branch",
        "state",
        "from",
        "postgresql",
        "size",
        "last backup",
        "registered",
    ];
    table(&header, rows.collect())
}

fn state_word(state: BranchState) -> &'static str {
    match state {
        BranchState::Active => "active",
        BranchState::Stopped => "stopped",
        BranchState::Deleting => "deleting",
        BranchState::Unknown => "unknown",
    }
}

/// Shows one branch.
pub(crate) async fn show(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
    let question = query::BranchShow {
        instance: of.instance,
        branch: of.branch,
    };
    let branch = session.ask_patiently(&question).await?;
    let text = show_text(&branch);
    Reply::new(&branch, text)
}

fn show_text(branch: &BranchView) -> String {
    let origin = branch.source_branch.as_ref();
    let fork = branch.fork_lsn.zip(branch.fork_timeline);
    pairs(&[
        ("branch", Some(branch.name.to_string())),
        ("instance", Some(branch.instance.to_string())),
        ("state", Some(state_word(branch.state).to_owned())),
        ("restored from", origin.map(ToString::to_string)),
        ("by restore", branch.restore_id.map(|id| id.to_string())),
        ("from backup", branch.backup_id.map(|id| id.to_string())),
        (
            "forked at",
            fork.map(|(lsn, timeline)| format!("{lsn} on timeline {timeline}")),
        ),
        ("timeline", Some(branch.timeline.to_string())),
        ("system id", Some(branch.system_identifier.to_string())),
        ("postgresql", Some(version(branch.server_version))),
        ("size", branch.size.map(|size| size.to_string())),
        ("registered", Some(moment(branch.created_at))),
        (
            "last backup",
            Some(or_dash(branch.last_backup_at.map(moment))),
        ),
    ])
}

/// Prints how to connect to a branch, unsealed with the master key.
pub(crate) async fn credentials(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
    let NamedBranch { instance, branch } = of;
    let found = session.bus.instances().get(&instance).await?;
    let Some((document, _revision)) = found else {
        let message = format!("there is no instance {instance}");
        return Err(Failure::not_found(message, "see `zektor instance list`"));
    };
    let active = match document.branches.get(&branch) {
        Some(Branch::Active(active)) => active,
        Some(Branch::Restoring { .. }) => {
            let message = format!("branch {branch} of {instance} is still being restored");
            return Err(Failure::not_found(
                message,
                "ask again when the restore has ended",
            ));
        }
        Some(Branch::Deleting(_)) | None => {
            let message = format!("instance {instance} has no branch {branch}");
            let hint = format!("see `zektor branch list {instance}`");
            return Err(Failure::not_found(message, hint));
        }
    };
    let uri = session.open_dsn(&instance, &branch, &active.dsn)?;
    let document = json!({ "instance": instance, "branch": branch, "connection_uri": uri });
    Reply::new(&document, uri)
}

/// Stops a branch's server.
pub(crate) async fn stop(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
    let NamedBranch { instance, branch } = of;
    let stop = command::BranchStop {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let stopped = |event: &Event| matches!(event, Event::BranchStopped(_));
    let done = Done {
        progress: "the server is being stopped",
        state: "stopped",
    };
    change(
        session,
        (&instance, &branch),
        Command::BranchStop(stop),
        stopped,
        done,
    )
    .await
}

/// Starts a branch's server.
pub(crate) async fn start(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
    let NamedBranch { instance, branch } = of;
    let start = command::BranchStart {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let started = |event: &Event| matches!(event, Event::BranchStarted(_));
    let done = Done {
        progress: "the server is being started",
        state: "active",
    };
    change(
        session,
        (&instance, &branch),
        Command::BranchStart(start),
        started,
        done,
    )
    .await
}

struct Done {
    progress: &'static str,
    state: &'static str,
}

async fn change(
    session: &Session,
    (instance, branch): (&InstanceName, &BranchName),
    command: Command,
    is_done: impl Fn(&Event) -> bool,
    done: Done,
) -> Result<Reply, Failure> {
    let progress = Progress::start(done.progress);
    let mut sent = session.send(command, &["branch"]).await?;
    let changed = sent.until(DONE_WITHIN, |event| is_done(&event).then_some(()));
    let how = format!("zektor branch show {instance} {branch}");
    unless_interrupted(changed, "the work", &how).await?;
    drop(progress);
    session.projected(sent.seen).await;
    let state = done.state;
    let document = json!({ "instance": instance, "branch": branch, "state": state });
    Reply::new(
        &document,
        format!("Branch {branch} of {instance} is {state}."),
    )
}

/// Asks for a branch's removal; with `--wait`, until its server and files are gone.
pub(crate) async fn delete(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
    let NamedBranch { instance, branch } = of;
    let delete = command::BranchDelete {
        instance: instance.clone(),
        branch: branch.clone(),
        purge: false,
    };
    let progress = Progress::start("the branch is being removed");
    let mut sent = session
        .send(Command::BranchDelete(delete), &["branch"])
        .await?;
    let removed = async {
        let requested = sent.until(ACCEPTED_WITHIN, |event| match event {
            Event::BranchDeletionRequested(_) => Some("deleting"),
            Event::BranchDeleted(_) => Some("deleted"),
            _ => None,
        });
        let state = requested.await?;
        if state == "deleted" || !session.setting.wait {
            return Ok(state);
        }
        let deleted = sent.until(DELETED_WITHIN, |event| match event {
            Event::BranchDeleted(_) => Some("deleted"),
            _ => None,
        });
        deleted.await
    };
    let how = format!("zektor branch list {instance}");
    let state = unless_interrupted(removed, "the removal", &how).await?;
    drop(progress);
    session.projected(sent.seen).await;
    let document = json!({ "instance": instance, "branch": branch, "state": state });
    let text = match state {
        "deleted" => format!("Branch {branch} of {instance} is removed; its backups stay."),
        _ => format!("Branch {branch} of {instance} is being removed; its backups stay."),
    };
    Reply::new(&document, text)
}

/// Shows what the restore found of a branch's extensions.
pub(crate) async fn extensions(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
    let NamedBranch { instance, branch } = of;
    let question = query::BranchShow {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let view = session.ask_patiently(&question).await?;
    let Some(id) = view.restore_id else {
        let message = format!("branch {branch} of {instance} was not restored by zektor");
        let hint = "extensions are checked when a branch is restored; name a restored one";
        return Err(Failure::not_found(message, hint));
    };
    let extensions = session
        .ask_patiently(&query::RestoreShow { id })
        .await?
        .extensions;
    let text = match extensions.is_empty() {
        true => format!("Branch {branch} of {instance} has no extensions beyond PostgreSQL's own."),
        false => extensions_text(&extensions),
    };
    let document = json!({ "instance": instance, "branch": branch, "extensions": extensions });
    Reply::new(&document, text)
}

/// Extensions as a table.
pub(crate) fn extensions_text(extensions: &[ExtensionCheck]) -> String {
    let rows = extensions.iter().map(|extension| {
        let state = match extension.state {
            ExtensionState::Present => "present",
            ExtensionState::NeedsReinstalling => "its files are missing on this machine",
            ExtensionState::Unknown => "unknown",
        };
        vec![
            extension.name.clone(),
            extension.version.clone(),
            extension.database.clone(),
            state.to_owned(),
        ]
    });
    table(
        &["extension", "version", "database", "state"],
        rows.collect(),
    )
}

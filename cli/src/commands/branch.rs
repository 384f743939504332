//! `zektor branch ...`.

mod delete;

use events::document::Branch;
use events::query::{self, BranchState, BranchView, WindowShape};
use events::{BranchName, Command, Event, InstanceName, command};
use pg_replication::ConnectionSettings;
use serde_json::json;

use super::instance::version;
use crate::arguments::{BranchCredentials, NamedBranch, OfInstance};
use crate::failure::Failure;
use crate::outcome::{DONE_WITHIN, unless_interrupted};
use crate::output::{Reply, exact, moment, note, or_dash, pairs, table};
use crate::progress::Progress;
use crate::session::Session;

pub(crate) use delete::delete;

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
            or_dash(branch.window.as_ref().map(window_column)),
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
        "restorable from",
        "registered",
    ];
    table(&header, rows.collect())
}

/// To the second: to be looked at, not to be given to anything.
fn window_column(window: &WindowShape) -> String {
    match (window.earliest, window.gaps) {
        (None, _) => "nothing yet".to_owned(),
        (Some(earliest), 0) => moment(earliest),
        (Some(earliest), 1) => format!("{}, 1 gap", moment(earliest)),
        (Some(earliest), gaps) => format!("{}, {gaps} gaps", moment(earliest)),
    }
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
        ("restorable", branch.window.as_ref().map(window_text)),
    ])
}

/// What of a branch can be restored; how far, `zektor window` says.
fn window_text(window: &WindowShape) -> String {
    let Some(earliest) = window.earliest else {
        return "nothing yet".to_owned();
    };
    let without = match window.gaps {
        0 => "without a gap".to_owned(),
        1 => "but for 1 gap".to_owned(),
        gaps => format!("but for {gaps} gaps"),
    };
    format!("from {} on, {without}", exact(earliest))
}

/// Prints how to connect to a branch, unsealed with the master key. What was given to us of somebody's own server is
/// told without its password, unless that is asked for.
pub(crate) async fn credentials(
    session: &Session,
    given: BranchCredentials,
) -> Result<Reply, Failure> {
    let BranchCredentials { of, show_password } = given;
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
    let mut uri = session.open_dsn(&instance, &branch, &active.dsn)?;
    if branch == BranchName::main() && !show_password {
        uri = masked(&uri)?;
        note(
            "main is the protected server itself, and this the user that zektor backs it up with; --show-password shows \
             the password, too",
        );
    }
    let document = json!({ "instance": instance, "branch": branch, "connection_uri": uri });
    Reply::new(&document, uri)
}

fn masked(uri: &str) -> Result<String, Failure> {
    let settings = ConnectionSettings::parse(uri);
    let settings =
        settings.map_err(|error| Failure::local("the stored uri cannot be read", &error))?;
    Ok(settings.redacted())
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

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn what_was_given_to_us_is_told_without_its_password() {
        let told = masked("postgres://backup:secret@127.0.0.1:26555/shop").unwrap();
        assert!(
            !told.contains("secret") && told.contains("127.0.0.1:26555"),
            "{told}"
        );
    }
}

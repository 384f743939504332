//! `zektor extensions ...`: what of a restored branch's extensions can be used on the machine that runs it.

use events::event::{BranchExtensionsReinstalled, ExtensionCheck, ExtensionState};
use events::{BranchName, Command, Event, InstanceName, command, query};
use serde_json::json;

use crate::arguments::NamedBranch;
use crate::failure::Failure;
use crate::outcome::{DONE_WITHIN, unless_interrupted};
use crate::output::{Reply, table};
use crate::progress::Progress;
use crate::session::Session;

/// Shows what was found of a branch's extensions when it was restored, or when they were created anew.
pub(crate) async fn check(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
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
    let question = query::RestoreShow { id };
    let restore = session.ask_patiently(&question).await?;
    let text = match restore.extensions.is_empty() {
        true => none(&instance, &branch),
        false => extensions_text(&restore.extensions),
    };
    reply(&instance, &branch, &restore.extensions, text)
}

/// Creates a branch's extensions anew whose files are there by now.
pub(crate) async fn reinstall(session: &Session, of: NamedBranch) -> Result<Reply, Failure> {
    let NamedBranch { instance, branch } = of;
    let wanted = command::ExtensionsReinstall {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let progress = Progress::start("the extensions are being created anew");
    let mut sent = session
        .send(Command::ExtensionsReinstall(wanted), &["branch"])
        .await?;
    let done = sent.until(DONE_WITHIN, |event| match event {
        Event::BranchExtensionsReinstalled(done) => Some(done),
        _ => None,
    });
    let how = format!("zektor extensions check {instance} {branch}");
    let done = unless_interrupted(done, "the work", &how).await?;
    drop(progress);
    session.projected(sent.seen).await;
    let text = reinstalled_text(&done);
    reply(&instance, &branch, &done.extensions, text)
}

fn reply(
    instance: &InstanceName,
    branch: &BranchName,
    extensions: &[ExtensionCheck],
    text: String,
) -> Result<Reply, Failure> {
    let document = json!({ "instance": instance, "branch": branch, "extensions": extensions });
    Reply::new(&document, text)
}

fn none(instance: &InstanceName, branch: &BranchName) -> String {
    format!("Branch {branch} of {instance} has no extensions beyond PostgreSQL's own.")
}

fn reinstalled_text(done: &BranchExtensionsReinstalled) -> String {
    let BranchExtensionsReinstalled {
        instance,
        branch,
        extensions,
        ..
    } = done;
    if extensions.is_empty() {
        return none(instance, branch);
    }
    let missing = extensions
        .iter()
        .filter(|extension| extension.state == ExtensionState::NeedsReinstalling)
        .count();
    let said = match missing {
        0 => format!("All extensions of branch {branch} of {instance} can be used."),
        1 => "The files of one extension are still missing on the machine that runs the branch; install them there \
              and run this again."
            .to_owned(),
        missing => format!(
            "The files of {missing} extensions are still missing on the machine that runs the branch; install them \
             there and run this again."
        ),
    };
    format!("{said}\n\n{}", extensions_text(extensions))
}

/// Extensions as a table.
pub(crate) fn extensions_text(extensions: &[ExtensionCheck]) -> String {
    let rows = extensions.iter().map(|extension| {
        let state = match extension.state {
            ExtensionState::Present => "present",
            ExtensionState::NeedsReinstalling => "its files are missing on this machine",
            ExtensionState::Unknown => "unknown",
        };
        let state = match &extension.detail {
            Some(detail) => format!("{state}: {detail}"),
            None => state.to_owned(),
        };
        vec![
            extension.name.clone(),
            extension.version.clone(),
            extension.database.clone(),
            state,
        ]
    });
    table(
        &["extension", "version", "database", "state"],
        rows.collect(),
    )
}

#[cfg(test)]
mod tests {
    use events::event::BranchExtensionsReinstalled;
    use serde_json::{Value, json};

    use super::reinstalled_text;

    fn done(extensions: Value) -> BranchExtensionsReinstalled {
        let done = json!({
            "instance": "orders", "branch": "before", "extensions": extensions,
            "reinstalled_at": "2026-03-01T10:00:00Z"
        });
        serde_json::from_value(done).unwrap()
    }

    #[test]
    fn what_is_still_missing_is_told() {
        let extensions = json!([
            { "database": "shop", "name": "postgis", "version": "3.5", "state": "needs_reinstalling",
              "detail": "postgis-3.so" },
            { "database": "shop", "name": "hstore", "version": "1.8", "state": "present" }
        ]);
        insta::assert_snapshot!(reinstalled_text(&done(extensions)), @r#"
        The files of one extension are still missing on the machine that runs the branch; install them there and run this again.

        EXTENSION  VERSION  DATABASE  STATE
        postgis    3.5      shop      its files are missing on this machine: postgis-3.so
        hstore     1.8      shop      present
        "#);
        let extensions = json!([
            { "database": "shop", "name": "hstore", "version": "1.8", "state": "present" }
        ]);
        assert!(reinstalled_text(&done(extensions)).contains("can be used"));
        assert!(reinstalled_text(&done(json!([]))).contains("no extensions"));
    }
}

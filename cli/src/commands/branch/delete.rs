//! `zektor branch delete`: the server and its files go; with `--purge` the backups and the WAL go too, and only after
//! it was said what that is.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use events::query::{self, BackupStatus};
use events::{BranchName, Command, Event, InstanceName, command};
use serde_json::json;

use crate::arguments::{BranchDelete, NamedBranch};
use crate::commands::backup::{PAGE, all};
use crate::failure::{Ending, Failure};
use crate::outcome::{ACCEPTED_WITHIN, unless_interrupted};
use crate::output::{Reply, note, size};
use crate::progress::Progress;
use crate::session::Session;

/// A server that is removed drains first.
const DELETED_WITHIN: Duration = Duration::from_secs(600);

/// Asks for a branch's removal; with `--wait`, until its server and files are gone.
pub(crate) async fn delete(session: &Session, given: BranchDelete) -> Result<Reply, Failure> {
    let BranchDelete { of, purge, yes } = given;
    // What is said of main is the scheduler's refusal.
    if purge && of.branch != BranchName::main() {
        confirm(session, &of, yes).await?;
    }
    let NamedBranch { instance, branch } = of;
    let delete = command::BranchDelete {
        instance: instance.clone(),
        branch: branch.clone(),
        purge,
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
    let document =
        json!({ "instance": instance, "branch": branch, "state": state, "purge": purge });
    Reply::new(&document, text(&instance, &branch, state, purge))
}

fn text(instance: &InstanceName, branch: &BranchName, state: &str, purge: bool) -> String {
    let stored = match (purge, state) {
        (false, _) => "its backups stay",
        (true, "deleted") => "its backups and its WAL are deleted",
        (true, _) => "its backups and its WAL are deleted with it",
    };
    match state {
        "deleted" => format!("Branch {branch} of {instance} is removed; {stored}."),
        _ => format!("Branch {branch} of {instance} is being removed; {stored}."),
    }
}

/// What a purge deletes.
#[derive(Debug)]
struct Purged {
    backups: usize,
    backup_bytes: u64,
    wal_bytes: u64,
}

/// Says what goes for good, and goes on only if that was meant.
async fn confirm(session: &Session, of: &NamedBranch, yes: bool) -> Result<(), Failure> {
    let purged = purged(session, of).await?;
    note(&warning(of, &purged));
    if yes {
        return Ok(());
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !terminal {
        return Err(Failure::usage(
            "a purge deletes backups for good and nobody is there to ask",
            "add --yes if that is meant",
        ));
    }
    let branch = of.branch.to_string();
    let typed = tokio::task::spawn_blocking(move || ask(&branch)).await;
    let typed = typed
        .map_err(|error| Failure::local("the answer cannot be read", &error))?
        .map_err(|error| Failure::local("the answer cannot be read", &error))?;
    is_confirmed(of, &typed)
}

async fn purged(session: &Session, of: &NamedBranch) -> Result<Purged, Failure> {
    let NamedBranch { instance, branch } = of;
    let question = query::BackupList {
        instance: Some(instance.clone()),
        branch: Some(branch.clone()),
        status: Some(BackupStatus::Completed),
        limit: Some(PAGE),
        ..query::BackupList::default()
    };
    let backups = all(session, question, None).await?;
    let question = query::WalSummary {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let wal = session.ask_patiently(&question).await?;
    Ok(Purged {
        backups: backups.len(),
        backup_bytes: backups.iter().filter_map(|backup| backup.size_bytes).sum(),
        wal_bytes: wal.stored_bytes,
    })
}

fn warning(of: &NamedBranch, purged: &Purged) -> String {
    let NamedBranch { instance, branch } = of;
    let backups = match purged.backups {
        1 => "1 backup".to_owned(),
        backups => format!("{backups} backups"),
    };
    format!(
        "WARNING: this deletes branch {branch} of {instance} with its server, its {backups} ({}) and all its WAL ({}), \
         at once and for good. Nothing of {branch} can be restored afterwards.",
        size(purged.backup_bytes),
        size(purged.wal_bytes),
    )
}

/// Blocks until a line was typed.
fn ask(branch: &str) -> std::io::Result<String> {
    let mut stderr = std::io::stderr();
    write!(stderr, "Type the name of the branch ({branch}) to go on: ")?;
    stderr.flush()?;
    let mut typed = String::new();
    let _bytes = std::io::stdin().read_line(&mut typed)?;
    Ok(typed)
}

fn is_confirmed(of: &NamedBranch, typed: &str) -> Result<(), Failure> {
    if typed.trim() == of.branch.as_str() {
        return Ok(());
    }
    Err(Failure::new(
        Ending::Failed,
        "not_confirmed",
        "nothing was deleted",
        format!("type {} to go on", of.branch),
    ))
}

#[cfg(test)]
mod tests {
    use super::{Purged, is_confirmed, text, warning};
    use crate::arguments::NamedBranch;

    fn of() -> NamedBranch {
        NamedBranch {
            instance: "orders".parse().unwrap(),
            branch: "before".parse().unwrap(),
        }
    }

    #[test]
    fn a_purge_says_what_goes_and_wants_the_branchs_name() {
        let purged = Purged {
            backups: 2,
            backup_bytes: 3 << 30,
            wal_bytes: 200 << 20,
        };
        insta::assert_snapshot!(warning(&of(), &purged), @r#"WARNING: this deletes branch before of orders with its server, its 2 backups (3.0 GiB) and all its WAL (200.0 MiB), at once and for good. Nothing of before can be restored afterwards."#);
        assert!(is_confirmed(&of(), "before\n").is_ok());
        for typed in ["", "y\n", "yes\n", "befor\n"] {
            assert_eq!(
                is_confirmed(&of(), typed).unwrap_err().code,
                "not_confirmed"
            );
        }
    }

    #[test]
    fn what_stays_and_what_does_not() {
        let NamedBranch { instance, branch } = of();
        let said = |state, purge| text(&instance, &branch, state, purge);
        assert!(said("deleted", false).contains("its backups stay"));
        assert!(said("deleting", true).contains("are deleted with it"));
    }
}

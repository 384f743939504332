//! `zektor branch delete`: the server and its files go; with `--purge` the backups and the WAL go too, and only after
//! it was said what that is. Of a branch that was deleted before, `--purge` deletes what is stored of it.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use events::document::Branch;
use events::query::{self, BackupStatus, BackupView};
use events::{BranchName, Command, Event, InstanceName, Timestamp, command};
use serde_json::json;

use crate::arguments::{BranchDelete, NamedBranch};
use crate::commands::backup::{PAGE, all};
use crate::failure::{Ending, Failure};
use crate::outcome::{ACCEPTED_WITHIN, unless_interrupted};
use crate::output::{Reply, moment, note, size};
use crate::progress::Progress;
use crate::session::Session;

/// A server that is removed drains first.
const DELETED_WITHIN: Duration = Duration::from_secs(600);

/// A scheduler that is there takes a name out of the instance's document at once.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// Asks for a branch's removal; with `--wait`, until its server and files are gone, and its name is free or its backups'.
pub(crate) async fn delete(session: &Session, given: BranchDelete) -> Result<Reply, Failure> {
    let BranchDelete { of, purge, yes } = given;
    // What is said of main is the scheduler's refusal.
    if purge && of.branch != BranchName::main() {
        confirm(session, &of, yes).await?;
    }
    let kept = match purge {
        true => None,
        // Nothing is deleted of what this tells of, so whoever cannot be asked is not waited for.
        false => backups(session, &of).await.ok().map(|all| Kept::of(&all)),
    };
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
            // The latter of a branch that was deleted before.
            Event::BranchDeletionRequested(_) | Event::BranchSweepRequested(_) => Some("deleting"),
            Event::BranchDeleted(_) => Some("deleted"),
            Event::BranchSwept(_) => Some("withdrawn"),
            _ => None,
        });
        let state = requested.await?;
        if state != "deleting" || !session.setting.wait {
            return Ok(state);
        }
        let deleted = sent.until(DELETED_WITHIN, |event| match event {
            Event::BranchDeleted(_) => Some("deleted"),
            Event::BranchSwept(_) => Some("withdrawn"),
            _ => None,
        });
        let state = deleted.await?;
        forgotten(session, &instance, &branch).await;
        Ok(state)
    };
    let how = format!("zektor branch list {instance}");
    let state = unless_interrupted(removed, "the removal", &how).await?;
    drop(progress);
    if state == "withdrawn" {
        return Err(Failure::new(
            Ending::Refused,
            "withdrawn",
            format!("something began to use branch {branch} of {instance}, and it was not purged"),
            "run the command again when that has ended",
        ));
    }
    session.projected(sent.seen).await;
    let document = json!({
        "instance": instance, "branch": branch, "state": state, "purge": purge,
        "kept_backups": kept.as_ref().map(|kept| kept.backups),
        "kept_until": kept.as_ref().and_then(|kept| kept.until),
    });
    Reply::new(&document, text(&instance, &branch, state, kept.as_ref()))
}

/// Waits until the name is nobody's, as far as the scheduler has heard. Somebody may have it again by then.
async fn forgotten(session: &Session, instance: &InstanceName, branch: &BranchName) {
    let forgotten = async {
        loop {
            let found = session.bus.instances().get(instance).await;
            let Ok(Some((document, _))) = found else {
                return;
            };
            let going = matches!(document.branches.get(branch), Some(Branch::Deleting(_)));
            let purged = document.sweeps.get(branch).is_some_and(|sweep| sweep.purge);
            if !going && !purged {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let _in_time = tokio::time::timeout(FORGOTTEN_WITHIN, forgotten).await;
}

/// What stays of a branch that is deleted without `--purge`.
#[derive(Debug, Default)]
struct Kept {
    backups: usize,
    /// When the last of them goes by itself, but for the time of grace; absent when one of them has no end.
    until: Option<Timestamp>,
}

impl Kept {
    fn of(backups: &[BackupView]) -> Self {
        let end = |backup: &BackupView| match (&backup.hold, &backup.deletion) {
            (Some(_), _) => None,
            (None, Some(deletion)) => Some(deletion.delete_after),
            (None, None) => backup.expires_at,
        };
        let ends: Option<Vec<Timestamp>> = backups.iter().map(end).collect();
        Kept {
            backups: backups.len(),
            until: ends.and_then(|ends| ends.into_iter().max()),
        }
    }

    fn text(&self, instance: &InstanceName, branch: &BranchName) -> String {
        let purge = format!("`zektor branch delete {instance} {branch} --purge`");
        if self.backups == 0 {
            return format!(
                "It has no backup that stays. Its WAL goes by itself, the name {branch} is free in about two days; at \
                 once with {purge}."
            );
        }
        let backups = match self.backups {
            1 => "Its backup stays".to_owned(),
            several => format!("Its {several} backups stay"),
        };
        let until = match self.until {
            Some(until) => format!("until {} and a time of grace after that", moment(until)),
            None => "until somebody deletes or releases what has no end".to_owned(),
        };
        let hold = if self.backups == 1 { "holds" } else { "hold" };
        format!(
            "{backups} {until}, and {hold} the name {branch} as long. {purge} deletes all of it and frees the name at once."
        )
    }
}

fn text(instance: &InstanceName, branch: &BranchName, state: &str, kept: Option<&Kept>) -> String {
    let removed = match state {
        "deleted" => "is removed",
        _ => "is being removed",
    };
    let stored = match (kept, state) {
        (Some(kept), _) => format!(". {}", kept.text(instance, branch)),
        (None, "deleted") => "; its backups and its WAL are deleted.".to_owned(),
        (None, _) => "; its backups and its WAL are deleted with it.".to_owned(),
    };
    format!("Branch {branch} of {instance} {removed}{stored}")
}

/// What a purge deletes.
#[derive(Debug)]
struct Purged {
    /// Whether there is a server to go with it.
    lives: bool,
    backups: usize,
    held: usize,
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

/// The backups that are stored of a branch, marked ones included.
async fn backups(session: &Session, of: &NamedBranch) -> Result<Vec<BackupView>, Failure> {
    let question = query::BackupList {
        instance: Some(of.instance.clone()),
        branch: Some(of.branch.clone()),
        limit: Some(PAGE),
        ..query::BackupList::default()
    };
    let mut backups = all(session, question, None).await?;
    backups.retain(is_stored);
    Ok(backups)
}

fn is_stored(backup: &BackupView) -> bool {
    let ended = matches!(
        backup.status,
        BackupStatus::Completed | BackupStatus::Expired
    );
    ended && backup.deleted_at.is_none()
}

async fn purged(session: &Session, of: &NamedBranch) -> Result<Purged, Failure> {
    let NamedBranch { instance, branch } = of;
    let backups = backups(session, of).await?;
    let question = query::WalSummary {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let wal_bytes = match session.ask_patiently(&question).await {
        Ok(wal) => wal.stored_bytes,
        // Of what was cut off nothing may be known; the scheduler says whether there is anything.
        Err(failure) if failure.ending == Ending::NotFound => 0,
        Err(failure) => return Err(failure),
    };
    let lives = query::BranchShow {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    Ok(Purged {
        lives: session.ask(&lives).await.is_ok(),
        backups: backups.len(),
        held: backups.iter().filter(|one| one.hold.is_some()).count(),
        backup_bytes: backups.iter().filter_map(|backup| backup.size_bytes).sum(),
        wal_bytes,
    })
}

fn warning(of: &NamedBranch, purged: &Purged) -> String {
    let NamedBranch { instance, branch } = of;
    let backups = match purged.backups {
        1 => "1 backup".to_owned(),
        backups => format!("{backups} backups"),
    };
    let held = match purged.held {
        0 => String::new(),
        held => format!("; {held} held, which does not keep it from going"),
    };
    let (what, server) = match purged.lives {
        true => ("", " with its server"),
        false => ("all that is stored of ", ""),
    };
    let (stored, wal) = (size(purged.backup_bytes), size(purged.wal_bytes));
    format!(
        "WARNING: this deletes {what}branch {branch} of {instance}{server}, its {backups} ({stored}{held}) and all its \
         WAL ({wal}), at once and for good. Nothing of {branch} can be restored afterwards."
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
    use events::mark::{DeletedBy, Deletion, Hold};
    use events::query::{BackupStatus, BackupView};

    use super::{Kept, Purged, is_confirmed, is_stored, text, warning};
    use crate::arguments::NamedBranch;
    use crate::commands::backup::completed_backup as completed;

    fn of() -> NamedBranch {
        NamedBranch {
            instance: "orders".parse().unwrap(),
            branch: "before".parse().unwrap(),
        }
    }

    #[test]
    fn a_purge_says_what_goes_and_wants_the_branchs_name() {
        let purged = Purged {
            lives: true,
            backups: 2,
            held: 0,
            backup_bytes: 3 << 30,
            wal_bytes: 200 << 20,
        };
        insta::assert_snapshot!(warning(&of(), &purged), @"WARNING: this deletes branch before of orders with its server, its 2 backups (3.0 GiB) and all its WAL (200.0 MiB), at once and for good. Nothing of before can be restored afterwards.");
        let before = Purged {
            lives: false,
            backups: 1,
            held: 1,
            ..purged
        };
        insta::assert_snapshot!(warning(&of(), &before), @"WARNING: this deletes all that is stored of branch before of orders, its 1 backup (3.0 GiB; 1 held, which does not keep it from going) and all its WAL (200.0 MiB), at once and for good. Nothing of before can be restored afterwards.");
        assert!(is_confirmed(&of(), "before\n").is_ok());
        for typed in ["", "y\n", "yes\n", "befor\n"] {
            assert_eq!(
                is_confirmed(&of(), typed).unwrap_err().code,
                "not_confirmed"
            );
        }
    }

    #[test]
    fn what_stays_until_when_and_what_does_not() {
        let NamedBranch { instance, branch } = of();
        let said = |state, kept: Option<&Kept>| text(&instance, &branch, state, kept);
        let marked = BackupView {
            status: BackupStatus::Expired,
            deletion: Some(Deletion {
                by: DeletedBy::User,
                asked_at: "2026-03-08T10:00:00Z".parse().unwrap(),
                delete_after: "2026-03-09T10:00:00Z".parse().unwrap(),
            }),
            ..completed()
        };
        let both = Kept::of(&[completed(), marked.clone()]);
        insta::assert_snapshot!(said("deleted", Some(&both)), @"Branch before of orders is removed. Its 2 backups stay until 2026-03-09 10:00:00 UTC and a time of grace after that, and hold the name before as long. `zektor branch delete orders before --purge` deletes all of it and frees the name at once.");
        let held = BackupView {
            hold: Some(Hold {
                reason: None,
                since: "2026-03-08T10:00:00Z".parse().unwrap(),
            }),
            ..marked.clone()
        };
        let text = said("deleting", Some(&Kept::of(&[held])));
        assert!(text.contains("Its backup stays until somebody"), "{text}");
        let none = said("deleted", Some(&Kept::default()));
        assert!(none.contains("no backup that stays"), "{none}");
        assert!(said("deleting", None).contains("are deleted with it"));
        assert!(is_stored(&marked));
        let gone = BackupView {
            deleted_at: marked.backed_up_at,
            ..marked
        };
        assert!(!is_stored(&gone));
    }
}

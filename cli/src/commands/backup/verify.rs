//! `zektor backup verify`: a worker reads all of a backup.

use events::event::BackupVerified;
use events::query::{self, BackupStatus, BackupView};
use events::{Command, Event, command};
use serde_json::json;

use super::found::find;
use crate::arguments::OfBackup;
use crate::failure::{Ending, Failure};
use crate::outcome::unless_interrupted;
use crate::output::{Reply, size, span};
use crate::progress::Progress;
use crate::session::Session;

/// Asks a worker to read a backup whole; with `--wait`, until it has.
pub(crate) async fn verify(session: &Session, of: OfBackup) -> Result<Reply, Failure> {
    let backup = find(session, &of).await?;
    refuse_unstored(&backup)?;
    let (instance, id) = (&backup.instance, backup.id);
    let command = Command::BackupVerify(command::BackupVerify {
        instance: instance.clone(),
        branch: backup.branch.clone(),
        backup_id: id,
    });
    let mut sent = session.send(command, &["backup"]).await?;
    let how = format!("zektor backup show {instance} {id}");
    if !session.setting.wait {
        let document = json!({ "id": id, "instance": instance, "status": "requested" });
        let text = format!("A worker will read backup {id}. What it found: {how}");
        return Reply::new(&document, text);
    }
    let progress = Progress::start("a worker reads the backup and compares every byte");
    let verified = async {
        loop {
            if let Event::BackupVerified(verified) = sent.next().await? {
                return Ok(verified);
            }
        }
    };
    let verified = unless_interrupted(verified, "the verification", &how).await?;
    drop(progress);
    session.projected(sent.seen).await;
    found_out(&verified)
}

/// Of what is not stored there is nothing to read.
fn refuse_unstored(backup: &BackupView) -> Result<(), Failure> {
    let (instance, id) = (&backup.instance, backup.id);
    let (why, hint) = match (backup.status, backup.deleted_at) {
        (_, Some(_)) => ("is gone", format!("see `zektor backup list {instance}`")),
        (BackupStatus::Failed, _) => (
            "failed, and nothing of it can be restored",
            format!("take it once more: `zektor backup retry {instance} {id}`"),
        ),
        (BackupStatus::Skipped, _) => (
            "was never taken",
            format!("see `zektor backup show {instance} {id}`"),
        ),
        (BackupStatus::Requested | BackupStatus::InProgress, _) => (
            "is not completed yet",
            format!("wait until it is; see `zektor backup show {instance} {id}`"),
        ),
        _ => return Ok(()),
    };
    Err(Failure::new(
        Ending::NotFound,
        query::NOT_FOUND,
        format!("backup {id} {why}"),
        hint,
    ))
}

/// What reading all of a backup has shown.
fn found_out(verified: &BackupVerified) -> Result<Reply, Failure> {
    let (instance, id) = (&verified.instance, verified.backup_id);
    let took = span(std::time::Duration::from_millis(verified.duration_ms));
    let mut text = match verified.sound {
        true => format!("Backup {id} is sound: "),
        false => format!("Backup {id} is damaged: "),
    };
    let (files, bytes) = (verified.files, size(verified.bytes));
    // Of what is missing nothing is read.
    text.push_str(&match verified.sound {
        true => format!("{files} files, {bytes} read in {took}.\n"),
        false => format!("of its {files} files of {bytes} not all can be had; that took {took}.\n"),
    });
    for problem in &verified.problems {
        text.push_str(&format!("  {problem}\n"));
    }
    let mut reply = Reply::new(verified, text)?;
    if !verified.sound {
        let first = verified
            .problems
            .first()
            .map_or("it cannot be restored", |first| first);
        reply.failure = Some(Failure::new(
            Ending::Failed,
            "damaged",
            format!("backup {id} is damaged: {first}"),
            format!(
                "take a new one: `zektor backup create {instance} --branch {} --wait`; it counts no longer as an active \
                 one, and restores with --time or --latest go round it by themselves",
                verified.branch
            ),
        ));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use events::event::BackupVerified;
    use events::query::{BackupStatus, BackupView};
    use events::{Event, example};

    use super::super::show::tests::completed;
    use super::{found_out, refuse_unstored};
    use crate::failure::Ending;

    fn verified(problems: &[&str]) -> BackupVerified {
        let of_type = |event: Event| match event {
            Event::BackupVerified(verified) => Some(verified),
            _ => None,
        };
        BackupVerified {
            sound: problems.is_empty(),
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
            ..example::events().into_iter().find_map(of_type).unwrap()
        }
    }

    #[test]
    fn what_is_not_stored_is_refused_at_once() {
        let of = |status| BackupView {
            status,
            ..completed()
        };
        assert!(refuse_unstored(&of(BackupStatus::Completed)).is_ok());
        // It is there until its grace is over.
        assert!(refuse_unstored(&of(BackupStatus::Expired)).is_ok());
        for status in [
            BackupStatus::Requested,
            BackupStatus::InProgress,
            BackupStatus::Failed,
            BackupStatus::Skipped,
        ] {
            let failure = refuse_unstored(&of(status)).unwrap_err();
            assert_eq!(failure.ending, Ending::NotFound, "{failure:?}");
            assert!(failure.hint.contains("`zektor backup "), "{failure:?}");
        }
    }

    #[test]
    fn a_damaged_backup_is_an_answer_with_an_error_in_it() {
        let sound = found_out(&verified(&[])).unwrap();
        let document: serde_json::Value = serde_json::from_str(&sound.json()).unwrap();
        assert_eq!((&document["sound"], sound.failure), (&true.into(), None));
        assert!(document.get("error").is_none(), "{document}");

        let damaged = found_out(&verified(&["base/5/1 is not what was stored"])).unwrap();
        let document: serde_json::Value = serde_json::from_str(&damaged.json()).unwrap();
        assert_eq!(document["sound"], false);
        assert!(!damaged.text.contains(" read in "), "{}", damaged.text);
        assert_eq!(document["error"]["code"], "damaged");
        assert!(document["error"]["hint"].is_string(), "{document}");
        assert_eq!(damaged.failure.unwrap().ending, Ending::Failed);
    }
}

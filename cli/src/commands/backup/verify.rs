//! `zektor backup verify`: a worker reads all of a backup.

use events::event::BackupVerified;
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

/// What reading all of a backup has shown.
fn found_out(verified: &BackupVerified) -> Result<Reply, Failure> {
    let (instance, id) = (&verified.instance, verified.backup_id);
    let took = span(std::time::Duration::from_millis(verified.duration_ms));
    let mut text = match verified.sound {
        true => format!("Backup {id} is sound: "),
        false => format!("Backup {id} is damaged: "),
    };
    let read = size(verified.bytes);
    text.push_str(&format!(
        "{} files, {read} read in {took}.\n",
        verified.files
    ));
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
                "take a new one: `zektor backup create {instance} --branch {}`",
                verified.branch
            ),
        ));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use events::event::BackupVerified;
    use events::{Event, example};

    use super::found_out;
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
    fn a_damaged_backup_is_an_answer_with_an_error_in_it() {
        let sound = found_out(&verified(&[])).unwrap();
        let document: serde_json::Value = serde_json::from_str(&sound.json()).unwrap();
        assert_eq!((&document["sound"], sound.failure), (&true.into(), None));
        assert!(document.get("error").is_none(), "{document}");

        let damaged = found_out(&verified(&["base/5/1 is not what was stored"])).unwrap();
        let document: serde_json::Value = serde_json::from_str(&damaged.json()).unwrap();
        assert_eq!(document["sound"], false);
        assert_eq!(document["error"]["code"], "damaged");
        assert!(document["error"]["hint"].is_string(), "{document}");
        assert_eq!(damaged.failure.unwrap().ending, Ending::Failed);
    }
}

//! `zektor backup verify`: a worker reads all of a backup.

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
    let mut reply = Reply::new(&verified, text)?;
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
                backup.branch
            ),
        ));
    }
    Ok(reply)
}

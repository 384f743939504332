//! `zektor drill run|list|show|schedule`.

mod schedule;
mod shown;

use events::event::{DrillCompleted, DrillFailed, DrillRequested, DrillStarted, Event};
use events::query::{self, DrillStatus, DrillView};
use events::{Command, DrillId, InstanceName, command};

use super::named;
use crate::arguments::{DrillRun, OfDrill, OfInstance};
use crate::failure::{Failure, word};
use crate::outcome::{ACCEPTED_WITHIN, Sent, unless_interrupted};
use crate::output::{Reply, exact, moment};
use crate::progress::Progress;
use crate::session::Session;

pub(crate) use schedule::schedule;

/// Of these the one is found that begins with what was given.
const MOST_LISTED: u32 = 1000;

/// How a drill ended.
enum Ended {
    Well(DrillCompleted),
    Badly(DrillFailed),
}

/// Asks for a drill; with `--wait`, until it has shown something.
pub(crate) async fn run(session: &Session, run: DrillRun) -> Result<Reply, Failure> {
    let instance = run.instance.clone();
    let command = Command::DrillRun(command::DrillRun {
        instance: run.instance,
        branch: run.branch,
    });
    let mut sent = session.send(command, &["drill"]).await?;
    let id = DrillId(sent.id.0);
    let how = format!("zektor drill show {instance} {id}");
    let done = async {
        let requested = sent.until(ACCEPTED_WITHIN, |event| match event {
            Event::DrillRequested(requested) => Some(requested),
            _ => None,
        });
        let requested = requested.await?;
        match session.setting.wait {
            true => Ok((Some(ended(&mut sent).await?), requested)),
            false => Ok((None, requested)),
        }
    };
    let (ended, requested) = unless_interrupted(done, "the drill", &how).await?;
    session.projected(sent.seen).await;
    let Some(ended) = ended else {
        let text = format!("Drill {id} is requested. Follow it: {how}");
        return Reply::new(&view_of(&requested, None), text);
    };
    came_out(&requested, &ended)
}

/// What a drill has shown: one that failed is an answer with an error in it.
fn came_out(requested: &DrillRequested, ended: &Ended) -> Result<Reply, Failure> {
    let view = view_of(requested, Some(ended));
    let text = shown::text(&view);
    let failure = match ended {
        Ended::Well(_) => None,
        Ended::Badly(failed) => Some(Failure::from(failed)),
    };
    Ok(Reply {
        failure,
        ..Reply::new(&view, text)?
    })
}

async fn ended(sent: &mut Sent) -> Result<Ended, Failure> {
    let mut progress = Progress::start("waiting for a restorer");
    loop {
        match sent.next().await? {
            Event::DrillStarted(started) => progress.enter(&beginning(&started)),
            Event::DrillCompleted(completed) => return Ok(Ended::Well(completed)),
            Event::DrillFailed(failed) => return Ok(Ended::Badly(failed)),
            _ => {}
        }
    }
}

fn beginning(started: &DrillStarted) -> String {
    let target = exact(started.target);
    format!("restored to {target} by {}", started.restorer)
}

/// The drill as the catalog will show it.
fn view_of(requested: &DrillRequested, ended: Option<&Ended>) -> DrillView {
    let view = DrillView {
        id: requested.drill_id,
        instance: requested.instance.clone(),
        branch: requested.branch.clone(),
        status: DrillStatus::Requested,
        trigger: Some(requested.trigger),
        target: None,
        backup_id: None,
        last_commit_at: None,
        checks: Vec::new(),
        restore_ms: None,
        duration_ms: None,
        failed_step: None,
        error: None,
        hint: None,
        requested_at: Some(requested.requested_at),
        ended_at: None,
    };
    match ended {
        None => view,
        Some(Ended::Well(DrillCompleted { summary, .. })) => DrillView {
            status: DrillStatus::Completed,
            target: Some(summary.target),
            backup_id: Some(summary.backup_id),
            last_commit_at: summary.last_commit.map(|commit| commit.at),
            checks: summary.checks.clone(),
            restore_ms: Some(summary.restore_ms),
            duration_ms: Some(summary.duration_ms),
            ended_at: Some(summary.completed_at),
            ..view
        },
        Some(Ended::Badly(failed)) => DrillView {
            status: DrillStatus::Failed,
            target: failed.target,
            backup_id: failed.backup_id,
            checks: failed.checks.clone(),
            failed_step: Some(failed.step),
            error: Some(failed.message.clone()),
            hint: Some(failed.hint.clone()),
            ended_at: Some(failed.failed_at),
            ..view
        },
    }
}

/// Lists drills.
pub(crate) async fn list(session: &Session, of: OfInstance) -> Result<Reply, Failure> {
    let question = query::DrillList {
        instance: Some(of.instance.clone()),
        ..query::DrillList::default()
    };
    let answer = session.ask(&question).await?;
    let text = match answer.drills.is_empty() {
        true => format!(
            "{} was never rehearsed. Do it: zektor drill run {} --wait",
            of.instance, of.instance
        ),
        false => shown::table_of(&answer.drills),
    };
    Reply::new(&answer, text)
}

/// All drills of an instance, page by page, the newest first. One that begins meanwhile may be there twice, at most.
async fn all_of(session: &Session, instance: &InstanceName) -> Result<Vec<DrillView>, Failure> {
    let mut known: Vec<DrillView> = Vec::new();
    let mut offset = Some(0);
    while let Some(from) = offset {
        let question = query::DrillList {
            instance: Some(instance.clone()),
            limit: Some(MOST_LISTED),
            offset: from,
        };
        let page = session.ask(&question).await?;
        offset = page.next;
        let new = |one: &DrillView| known.iter().rev().all(|other| other.id != one.id);
        let page: Vec<DrillView> = page.drills.into_iter().filter(new).collect();
        known.extend(page);
    }
    Ok(known)
}

/// Shows one.
pub(crate) async fn show(session: &Session, of: OfDrill) -> Result<Reply, Failure> {
    let unknown = || {
        Failure::not_found(
            format!("instance {} has no drill {:?}", of.instance, of.drill),
            format!("see `zektor drill list {}`", of.instance),
        )
    };
    let view = match of.drill.parse::<DrillId>() {
        Ok(id) => session.ask_patiently(&query::DrillShow { id }).await?,
        Err(_) => {
            let known = all_of(session, &of.instance).await?;
            let told = |one: &DrillView| {
                let asked = one.requested_at.map(moment).unwrap_or_default();
                format!("{} {asked}", word(one.status))
            };
            let found = named::find(&known, &of.drill, |one| one.id.0, |_| "", told)?;
            found.cloned().ok_or_else(unknown)?
        }
    };
    if view.instance != of.instance {
        return Err(unknown());
    }
    Reply::new(&view, shown::text(&view))
}

#[cfg(test)]
mod tests {
    use events::{Event, example};

    use super::{Ended, came_out};
    use crate::failure::Ending;

    #[test]
    fn a_failed_drill_is_an_answer_with_an_error_in_it() {
        let (mut requested, mut failed) = (None, None);
        for event in example::events() {
            match event {
                Event::DrillRequested(event) => requested = Some(event),
                Event::DrillFailed(event) => failed = Some(event),
                _ => {}
            }
        }
        let failed = failed.unwrap();
        let reply = came_out(&requested.unwrap(), &Ended::Badly(failed.clone())).unwrap();
        let document: serde_json::Value = serde_json::from_str(&reply.json()).unwrap();
        assert_eq!(document["status"], "failed");
        assert_eq!(document["error"]["message"], failed.message);
        for field in ["code", "hint"] {
            assert!(document["error"][field].is_string(), "{document}");
        }
        assert_eq!(reply.failure.unwrap().ending, Ending::Failed);
    }
}

//! `zektor schedule create|list|update|pause|resume|delete`.

mod preview;

use events::document::Schedule;
use events::query::{self, ScheduleView};
use events::schedules::{ScheduleAnswer, SchedulesAnswer, SchedulesQuestion};
use events::{Command, Event, InstanceName, Timestamp, WalKeep, command, subject};
use serde_json::json;

use super::named;
use crate::arguments::{OfInstance, OfSchedule, ScheduleCreate, ScheduleUpdate};
use crate::failure::Failure;
use crate::outcome::{ACCEPTED_WITHIN, unless_interrupted};
use crate::output::{Reply, Room, exact, minute, moment, or_dash, pairs, table};
use crate::session::{ANSWER_WITHIN, Session};

pub(crate) use preview::preview;

/// Names longer than this are shortened on a terminal, if they can be told apart then.
const NAME_WIDTH: usize = 16;

/// Makes a schedule.
pub(crate) async fn create(session: &Session, create: ScheduleCreate) -> Result<Reply, Failure> {
    let name = create.name.as_deref().unwrap_or_default();
    let key = format!("{}/{}/{name}", create.instance, create.branch);
    let expression = create.when.needed_expression(&key)?;
    let zone = create.when.zone()?.unwrap_or_default();
    let command = Command::ScheduleCreate(command::ScheduleCreate {
        instance: create.instance.clone(),
        branch: create.branch,
        name: create.name,
        cron: expression.to_string(),
        timezone: zone.name().to_owned(),
        retention: create.retention,
        wal: create.wal.keep(),
    });
    let (schedule, next) = decided(session, command, &create.instance).await?;
    let text = format!("Schedule {} is made.", schedule.name);
    reply(session, &create.instance, &schedule, &next, text).await
}

/// Changes a schedule.
pub(crate) async fn update(session: &Session, update: ScheduleUpdate) -> Result<Reply, Failure> {
    let instance = update.of.instance.clone();
    let found = find(session, &update.of).await?;
    let key = format!("{instance}/{}/{}", found.branch, found.name);
    let expression = update.when.next_expression(&key, Some(&found.cron))?;
    let zone = update.when.zone()?;
    let nothing = update.name.is_none()
        && expression.is_none()
        && zone.is_none()
        && update.retention.is_none()
        && update.wal.keep().is_none();
    if nothing {
        return Err(Failure::usage(
            "nothing is to be changed",
            "give what is to be changed; see `zektor schedule update --help`",
        ));
    }
    let command = command::ScheduleUpdate {
        name: update.name,
        cron: expression.map(|expression| expression.to_string()),
        timezone: zone.map(|zone| zone.name().to_owned()),
        retention: update.retention,
        wal: update.wal.keep(),
        ..unchanged(&instance, &found)
    };
    let command = Command::ScheduleUpdate(command);
    let (schedule, next) = decided(session, command, &instance).await?;
    let text = format!("Schedule {} is changed.", schedule.name);
    reply(session, &instance, &schedule, &next, text).await
}

/// Pauses or resumes a schedule.
pub(crate) async fn set_paused(
    session: &Session,
    of: OfSchedule,
    paused: bool,
) -> Result<Reply, Failure> {
    let found = find(session, &of).await?;
    let command = command::ScheduleUpdate {
        paused: Some(paused),
        ..unchanged(&of.instance, &found)
    };
    let command = Command::ScheduleUpdate(command);
    let (schedule, next) = decided(session, command, &of.instance).await?;
    let text = match paused {
        true => format!(
            "Schedule {} is paused. Resume it: zektor schedule resume {} {}",
            schedule.name, of.instance, schedule.id
        ),
        false => format!("Schedule {} is resumed.", schedule.name),
    };
    reply(session, &of.instance, &schedule, &next, text).await
}

fn unchanged(instance: &InstanceName, of: &ScheduleAnswer) -> command::ScheduleUpdate {
    command::ScheduleUpdate {
        instance: instance.clone(),
        schedule_id: of.id,
        name: None,
        cron: None,
        timezone: None,
        retention: None,
        wal: None,
        paused: None,
    }
}

/// Sends a command, and waits for the schedule as it is then, and its next fires.
async fn decided(
    session: &Session,
    command: Command,
    instance: &InstanceName,
) -> Result<(Schedule, Vec<Timestamp>), Failure> {
    let mut sent = session.send(command, &["schedule"]).await?;
    let decided = sent.until(ACCEPTED_WITHIN, |event| match event {
        Event::ScheduleCreated(created) => Some((created.schedule, created.next)),
        Event::ScheduleUpdated(updated) => Some((updated.schedule, updated.next)),
        _ => None,
    });
    let how = format!("zektor schedule list {instance}");
    let decided = unless_interrupted(decided, "the command", &how).await?;
    session.projected(sent.seen).await;
    Ok(decided)
}

/// Says how a schedule is, in the words of the list.
async fn reply(
    session: &Session,
    instance: &InstanceName,
    schedule: &Schedule,
    next: &[Timestamp],
    done: String,
) -> Result<Reply, Failure> {
    // The default rule of the WAL depends on the other schedules; the scheduler knows them.
    // That they do not answer now is no failure: what was asked for is done, and must not be asked for again.
    let known = of_instance(session, instance).await.ok();
    reply_of(schedule, next, known.as_ref(), &done)
}

fn reply_of(
    schedule: &Schedule,
    next: &[Timestamp],
    known: Option<&SchedulesAnswer>,
    done: &str,
) -> Result<Reply, Failure> {
    let mut known = known.iter().flat_map(|answer| &answer.schedules);
    let known = known.find(|one| one.id == schedule.id);
    let wal = known.map(|one| one.wal).or(schedule.wal);
    let document = json!({
        "id": schedule.id,
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "retention": schedule.retention,
        "branch": schedule.branch,
        "paused": schedule.paused,
        "wal": wal,
        "next_at": next.first(),
        "next": next,
        "created_at": exact(schedule.created_at),
    });
    let fires: Vec<String> = next.iter().copied().take(3).map(moment).collect();
    let fires = (!fires.is_empty()).then(|| fires.join(", "));
    let text = pairs(&[
        ("id", Some(schedule.id.to_string())),
        (
            "fires",
            Some(format!("{} {}", schedule.cron, schedule.timezone)),
        ),
        (
            "next",
            fires.or_else(|| Some("not while it is paused".to_owned())),
        ),
        ("branch", Some(schedule.branch.to_string())),
        ("kept", Some(schedule.retention.to_string())),
        ("every moment", wal.map(every_moment)),
    ]);
    Reply::new(&document, format!("{done}\n\n{text}"))
}

/// For how long every moment can be restored.
fn every_moment(wal: WalKeep) -> String {
    match wal {
        WalKeep::AsLongAsBackup => "as long as the backup".to_owned(),
        WalKeep::For(retention) => format!("for {retention}"),
        WalKeep::Standalone => "no, only the backups themselves".to_owned(),
    }
}

/// Forgets a schedule.
pub(crate) async fn delete(session: &Session, of: OfSchedule) -> Result<Reply, Failure> {
    let found = find(session, &of).await?;
    let command = Command::ScheduleDelete(command::ScheduleDelete {
        instance: of.instance.clone(),
        schedule_id: found.id,
    });
    let mut sent = session.send(command, &["schedule"]).await?;
    let deleted = sent.until(ACCEPTED_WITHIN, |event| match event {
        Event::ScheduleDeleted(deleted) => Some(deleted),
        _ => None,
    });
    let how = format!("zektor schedule list {}", of.instance);
    let deleted = unless_interrupted(deleted, "the deletion", &how).await?;
    session.projected(sent.seen).await;
    let document = json!({ "id": found.id, "name": deleted.name, "status": "deleted" });
    let text = format!(
        "Schedule {} is gone; its backups stay as long as they were to stay.",
        deleted.name
    );
    Reply::new(&document, text)
}

/// The schedule that is called so.
async fn find(session: &Session, of: &OfSchedule) -> Result<ScheduleAnswer, Failure> {
    found(session, &of.instance, &of.schedule).await
}

/// The schedule of an instance that is called `text`.
pub(crate) async fn found(
    session: &Session,
    instance: &InstanceName,
    text: &str,
) -> Result<ScheduleAnswer, Failure> {
    let answer = of_instance(session, instance).await?;
    let found = named::find(
        &answer.schedules,
        text,
        |one| one.id.0,
        |one| &one.name,
        |one| format!("{}: {} {}", one.name, one.cron, one.timezone),
    )?;
    found.cloned().ok_or_else(|| {
        Failure::not_found(
            format!("instance {instance} has no schedule {text:?}"),
            format!("see `zektor schedule list {instance}`"),
        )
    })
}

/// Lists an instance's schedules with their next fires, as the scheduler knows them.
pub(crate) async fn list(session: &Session, of: OfInstance) -> Result<Reply, Failure> {
    let mut answer = of_instance(session, &of.instance).await?;
    // The scheduler knows when it would have fired; the catalog, if it answers, when it did.
    let question = query::ScheduleList {
        instance: of.instance.clone(),
    };
    if let Ok(known) = session.ask(&question).await {
        for schedule in &mut answer.schedules {
            schedule.last_at = last_at(schedule, &known.schedules);
        }
    }
    let text = match answer.schedules.is_empty() {
        true => format!("{} has no schedule.", of.instance),
        false => text(&answer.schedules, Room::of_stdout()),
    };
    Reply::new(&answer, text)
}

fn last_at(schedule: &ScheduleAnswer, known: &[ScheduleView]) -> Option<Timestamp> {
    let known = known.iter().find(|one| one.id == schedule.id);
    schedule.last_at.max(known.and_then(|known| known.last_at))
}

/// The schedules of an instance.
pub(crate) async fn of_instance(
    session: &Session,
    instance: &InstanceName,
) -> Result<SchedulesAnswer, Failure> {
    let question = SchedulesQuestion {
        instance: instance.clone(),
    };
    let subject = subject::scheduler_schedules();
    Ok(session.request(&subject, &question, ANSWER_WITHIN).await?)
}

/// The schedules as a table.
fn text(schedules: &[ScheduleAnswer], room: Room) -> String {
    let header = [
        "name",
        "fires",
        "timezone",
        "branch",
        "kept",
        "pitr",
        "next (utc)",
        "last (utc)",
    ];
    let names: Vec<&str> = schedules.iter().map(|one| &*one.name).collect();
    let names = room.apart(&names, NAME_WIDTH);
    let rows = schedules.iter().zip(names).map(|(schedule, name)| {
        let next = match schedule.paused {
            true => "paused".to_owned(),
            false => or_dash(schedule.next_at.map(minute)),
        };
        let wal = match schedule.wal {
            WalKeep::AsLongAsBackup => schedule.retention.to_string(),
            WalKeep::For(retention) => retention.to_string(),
            WalKeep::Standalone => "no".to_owned(),
        };
        vec![
            name,
            schedule.cron.clone(),
            schedule.timezone.clone(),
            schedule.branch.to_string(),
            schedule.retention.to_string(),
            wal,
            next,
            or_dash(schedule.last_at.map(minute)),
        ]
    });
    table(&header, rows.collect())
}

#[cfg(test)]
mod tests;

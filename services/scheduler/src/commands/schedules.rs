//! Schedules: made, changed, paused, resumed, forgotten.
//!
//! What must stay true: a schedule in a document can be computed, its name is its own within the instance, and no
//! more are there than the limit says, whichever replicas decide at the same time. What was due while a schedule was
//! paused, or would have been by its new expression, is not caught up.

use bus::Sequence;
use calendar::Calendar;
use chrono::SubsecRound as _;
use events::command::{ScheduleCreate, ScheduleDelete, ScheduleUpdate};
use events::document::{Branch, Schedule};
use events::event::{RefusalCode, ScheduleCreated, ScheduleDeleted, ScheduleUpdated};
use events::{
    Event, InstanceDocument, InstanceName, MessageId, Retention, ScheduleId, Timestamp, WalKeep,
    subject,
};

use super::once::Told;
use super::{Given, World, names};
use crate::fires::count_from;
use crate::refusal::{Refusal, Unfinished, published_once};

/// So many fires are told beforehand.
const FIRES_TOLD: usize = 5;

impl World {
    /// The schedule has the command's id: delivered twice, it is made once.
    pub(super) async fn create_schedule(
        &self,
        given: &Given,
        create: &ScheduleCreate,
    ) -> Result<(), Unfinished> {
        let id = ScheduleId::from(given.id);
        let fence = fence(&create.instance, id);
        // Told by an earlier delivery; whatever has become of it since is not to be done again.
        if self.bus.last_on(&fence).await?.is_some() {
            return Ok(());
        }
        let name = names::given(create.name.as_deref(), "name of a schedule")?;
        let schedule = Schedule {
            id,
            name: name.clone().unwrap_or_default(),
            cron: create.cron.clone(),
            timezone: create.timezone.clone(),
            retention: create.retention,
            branch: create.branch.clone(),
            created_at: self.clock.now().trunc_subsecs(6),
            wal: create.wal,
            paused: false,
        };
        let schedule = checked(schedule)?;
        let limit = self.config.limit_schedules;
        // After the document was read: one that was made and deleted since must not come back.
        let of = (&create.instance, Told::First(&fence));
        let change = |document| with_schedule(document, &schedule, name.is_none(), limit);
        let made = self.change_once(given, of, change);
        let Some(document) = made.await? else {
            return Ok(());
        };
        self.mirror(&create.instance).await?;
        let schedule = find(&document, id)?.clone();
        let event = Event::ScheduleCreated(ScheduleCreated {
            instance: create.instance.clone(),
            branch: schedule.branch.clone(),
            schedule_id: id,
            next: next(&schedule, self.clock.now()),
            schedule,
        });
        let message_id = MessageId::new(format!("schedule.created:{id}"));
        let outgoing = self.outgoing(given, message_id, Some(id.to_string()), event);
        let published = self
            .bus
            .publish_expecting(outgoing, &fence, Sequence::NONE)
            .await;
        Ok(published_once(published)?)
    }

    pub(super) async fn update_schedule(
        &self,
        given: &Given,
        update: &ScheduleUpdate,
    ) -> Result<(), Unfinished> {
        let id = update.schedule_id;
        let (instance, fence) = (&update.instance, fence(&update.instance, id));
        let name = names::given(update.name.as_deref(), "name of a schedule")?;
        let now = self.clock.now().trunc_subsecs(6);
        let change = |document| changed(document, update, name.as_deref(), now);
        // An old command that comes again, or goes on late, must not undo a newer one.
        self.change_and_tell(given, (instance, &fence), change, |document| {
            let schedule = find(document, id)?.clone();
            let event = Event::ScheduleUpdated(ScheduleUpdated {
                instance: instance.clone(),
                branch: schedule.branch.clone(),
                schedule_id: id,
                next: next(&schedule, now),
                schedule,
            });
            let message_id = MessageId::new(format!("schedule.updated:{}", given.id));
            Ok(self.outgoing(given, message_id, Some(id.to_string()), event))
        })
        .await
    }

    /// Said before the schedule goes: a redelivery then knows what it has done.
    pub(super) async fn delete_schedule(
        &self,
        given: &Given,
        delete: &ScheduleDelete,
    ) -> Result<(), Unfinished> {
        let (instance, id) = (&delete.instance, delete.schedule_id);
        let document = self.document(instance).await?;
        match find(&document, id) {
            Ok(schedule) => {
                let event = Event::ScheduleDeleted(ScheduleDeleted {
                    instance: instance.clone(),
                    branch: schedule.branch.clone(),
                    schedule_id: id,
                    name: schedule.name.clone(),
                });
                let message_id = MessageId::new(format!("schedule.deleted:{}", given.id));
                self.announce(given, message_id, Some(id.to_string()), event)
                    .await?;
            }
            Err(refusal) => {
                if !self.has_told(given, fence(instance, id)).await? {
                    return Err(refusal.into());
                }
            }
        }
        let _document = self
            .update_document(instance, |mut document| {
                document.schedules.retain(|schedule| schedule.id != id);
                Ok(document)
            })
            .await?;
        self.mirror(instance).await
    }
}

/// Every event of one schedule.
fn fence(instance: &InstanceName, id: ScheduleId) -> String {
    format!("{}.schedule.*.{instance}.*.{id}", subject::ROOT)
}

fn find(document: &InstanceDocument, id: ScheduleId) -> Result<&Schedule, Refusal> {
    let found = document.schedules.iter().find(|schedule| schedule.id == id);
    found.ok_or_else(|| {
        Refusal::new(
            RefusalCode::NotFound,
            format!("instance {} has no schedule {id}", document.instance),
            format!("See `zektor schedule list {}`.", document.instance),
        )
    })
}

/// The next fires; none while it is paused.
fn next(schedule: &Schedule, now: Timestamp) -> Vec<Timestamp> {
    match Calendar::parse(&schedule.cron, &schedule.timezone) {
        Ok(calendar) if !schedule.paused => {
            calendar.upcoming(count_from(schedule.created_at, now), FIRES_TOLD)
        }
        _ => Vec::new(),
    }
}

/// The expression and the zone in their normal form, if they and the retention make sense.
fn checked(schedule: Schedule) -> Result<Schedule, Refusal> {
    let calendar = read_calendar(&schedule.cron, &schedule.timezone)?;
    keeps_no_longer(Some(schedule.retention), schedule.wal)?;
    Ok(Schedule {
        cron: calendar.expression().to_string(),
        timezone: calendar.zone().name().to_owned(),
        ..schedule
    })
}

/// When a schedule, or a drill, fires.
pub(super) fn read_calendar(cron: &str, timezone: &str) -> Result<Calendar, Refusal> {
    Calendar::parse(cron, timezone).map_err(|error| {
        Refusal::new(
            RefusalCode::Invalid,
            error.to_string(),
            "Try it out with `zektor schedule preview`.",
        )
    })
}

/// WAL without the backup that it begins from is worth nothing.
pub(super) fn keeps_no_longer(
    retention: Option<Retention>,
    wal: Option<WalKeep>,
) -> Result<(), Refusal> {
    let (Some(retention), Some(WalKeep::For(wal))) = (retention, wal) else {
        return Ok(());
    };
    if retention::compare_retentions(wal, retention).is_le() {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Invalid,
        format!(
            "every moment of {wal} cannot be restored from a backup that is kept for {retention}"
        ),
        format!(
            "Keep the backup as long (--retention {wal}), or the WAL shorter (--pitr {retention})."
        ),
    ))
}

fn with_schedule(
    mut document: InstanceDocument,
    schedule: &Schedule,
    generate_name: bool,
    limit: usize,
) -> Result<InstanceDocument, Refusal> {
    let instance = &document.instance;
    if document.removing {
        return Err(Refusal::no_such_instance(instance));
    }
    if find(&document, schedule.id).is_ok() {
        return Ok(document);
    }
    let branch = document.branches.get(&schedule.branch);
    if branch.and_then(Branch::active).is_none() {
        return Err(Refusal::no_such_branch(instance, &schedule.branch));
    }
    if document.schedules.len() >= limit {
        return Err(Refusal::new(
            RefusalCode::Limit,
            format!("instance {instance} has {limit} schedules already, which is the limit"),
            format!(
                "Delete or change one: `zektor schedule list {instance}`; or raise ZEKTOR_LIMIT_SCHEDULES."
            ),
        ));
    }
    let mut schedule = schedule.clone();
    match generate_name {
        true => schedule.name = free_name(&document, &schedule.cron),
        false => refuse_taken_name(&document, &schedule)?,
    }
    document.schedules.push(schedule);
    Ok(document)
}

fn changed(
    mut document: InstanceDocument,
    update: &ScheduleUpdate,
    name: Option<&str>,
    now: Timestamp,
) -> Result<InstanceDocument, Refusal> {
    if document.removing {
        return Err(Refusal::no_such_instance(&document.instance));
    }
    let before = find(&document, update.schedule_id)?.clone();
    let mut after = before.clone();
    if let Some(name) = name {
        name.clone_into(&mut after.name);
    }
    if let Some(cron) = &update.cron {
        after.cron.clone_from(cron);
    }
    if let Some(timezone) = &update.timezone {
        after.timezone.clone_from(timezone);
    }
    after.retention = update.retention.unwrap_or(before.retention);
    after.wal = update.wal.or(before.wal);
    after.paused = update.paused.unwrap_or(before.paused);
    let mut after = checked(after)?;
    refuse_taken_name(&document, &after)?;
    let fires = |schedule: &Schedule| (schedule.cron.clone(), schedule.timezone.clone());
    if fires(&before) != fires(&after) || (before.paused && !after.paused) {
        after.created_at = now;
    }
    for schedule in &mut document.schedules {
        if schedule.id == after.id {
            schedule.clone_from(&after);
        }
    }
    Ok(document)
}

fn refuse_taken_name(document: &InstanceDocument, schedule: &Schedule) -> Result<(), Refusal> {
    let mut others = document.schedules.iter().filter(|s| s.id != schedule.id);
    if others.all(|other| other.name != schedule.name) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::NameTaken,
        format!(
            "instance {} already has a schedule named {:?}",
            document.instance, schedule.name
        ),
        "Choose another name with --name.",
    ))
}

/// `weekly`, or `weekly 2` where that is taken.
fn free_name(document: &InstanceDocument, cron: &str) -> String {
    let base = how_often(cron);
    let taken = |name: &String| document.schedules.iter().any(|s| s.name == *name);
    let numbered = (2..).map(|number| format!("{base} {number}"));
    std::iter::once(base.to_owned())
        .chain(numbered)
        .find(|name| !taken(name))
        .unwrap_or_default()
}

/// In one word, from the normal text of an expression.
fn how_often(cron: &str) -> &'static str {
    let one = |field: &str| field.bytes().all(|byte| byte.is_ascii_digit());
    let fields: Vec<&str> = cron.split_whitespace().collect();
    match fields[..] {
        [minute, "*", "*", "*", "*"] if one(minute) => "hourly",
        [minute, hour, "*", "*", "*"] if one(minute) && one(hour) => "daily",
        [minute, hour, "*", "*", day] if one(minute) && one(hour) && one(day) => "weekly",
        [minute, hour, day, "*", "*"]
            if one(minute) && one(hour) && one(day.trim_end_matches('L')) =>
        {
            "monthly"
        }
        _ => "custom",
    }
}

#[cfg(test)]
mod tests {
    use super::how_often;

    #[test]
    fn a_blank_name_says_how_often() {
        for (cron, word) in [
            ("5 * * * *", "hourly"),
            ("5 2 * * *", "daily"),
            ("5 2 * * 0", "weekly"),
            ("5 2 1 * *", "monthly"),
            ("5 2 31L * *", "monthly"),
            ("5 2 L * *", "monthly"),
            ("5 2 1 * 0", "custom"),
            ("*/5 * * * *", "custom"),
            ("5 2 1 1 *", "custom"),
        ] {
            assert_eq!(how_often(cron), word, "{cron}");
        }
    }
}

//! `zektor schedule list`.

use events::schedules::{ScheduleAnswer, SchedulesAnswer, SchedulesQuestion};
use events::{InstanceName, subject};

use crate::arguments::OfInstance;
use crate::failure::Failure;
use crate::output::{Reply, moment, or_dash, table};
use crate::session::{ANSWER_WITHIN, Session};

/// Lists an instance's schedules with their next fires, as the scheduler knows them.
pub(crate) async fn list(session: &Session, of: OfInstance) -> Result<Reply, Failure> {
    let answer = of_instance(session, &of.instance).await?;
    let text = match answer.schedules.is_empty() {
        true => format!("{} has no schedule.", of.instance),
        false => text(&answer.schedules),
    };
    Reply::new(&answer, text)
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
pub(crate) fn text(schedules: &[ScheduleAnswer]) -> String {
    let header = [
        "id",
        "name",
        "cron",
        "timezone",
        "retention",
        "branch",
        "next",
        "last",
    ];
    let rows = schedules.iter().map(|schedule| {
        vec![
            schedule.id.to_string(),
            schedule.name.clone(),
            schedule.cron.clone(),
            schedule.timezone.clone(),
            schedule.retention.to_string(),
            schedule.branch.to_string(),
            or_dash(schedule.next_at.map(moment)),
            or_dash(schedule.last_at.map(moment)),
        ]
    });
    table(&header, rows.collect())
}

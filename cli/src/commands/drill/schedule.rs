//! `zektor drill schedule`: when an instance is rehearsed, and what must be true then.

use calendar::Calendar;
use events::document::DrillSettings;
use events::{Command, Event, command};
use serde_json::json;

use crate::arguments::DrillSchedule;
use crate::failure::Failure;
use crate::outcome::{ACCEPTED_WITHIN, unless_interrupted};
use crate::output::{Reply, moment, pairs};
use crate::session::Session;

/// Fires that are shown.
const NEXT: usize = 3;

/// Sets or ends it.
pub(crate) async fn schedule(session: &Session, given: DrillSchedule) -> Result<Reply, Failure> {
    let settings = settings(session, &given)?;
    let instance = given.instance.clone();
    let command = Command::InstanceUpdate(command::InstanceUpdate {
        instance: instance.clone(),
        pool: None,
        drills: settings,
        no_drills: given.off,
    });
    let mut sent = session.send(command, &["instance"]).await?;
    let updated = sent.until(ACCEPTED_WITHIN, |event| match event {
        Event::InstanceUpdated(updated) => Some(updated),
        _ => None,
    });
    let how = format!("zektor instance show {instance}");
    let updated = unless_interrupted(updated, "the command", &how).await?;
    session.projected(sent.seen).await;
    let now = session.setting.clock.now();
    let calendar = updated.drills.as_ref().and_then(|settings| {
        let cron = settings.cron.as_deref()?;
        Calendar::parse(cron, &settings.timezone).ok()
    });
    let next = calendar.map_or_else(Vec::new, |calendar| calendar.upcoming(now, NEXT));
    let document = json!({ "name": instance, "drills": updated.drills, "next": next });
    let text = match &updated.drills {
        None => format!("{instance} is rehearsed by hand only."),
        Some(settings) => {
            let fires = settings.cron.as_ref();
            let fires = fires.map(|cron| format!("{cron} {}", settings.timezone));
            let next: Vec<String> = next.into_iter().map(moment).collect();
            let checks = settings.checks.iter().map(|check| check.name.as_str());
            let checks: Vec<&str> = checks.collect();
            let rows = pairs(&[
                (
                    "fires",
                    Some(fires.unwrap_or_else(|| "by hand only".to_owned())),
                ),
                ("next", (!next.is_empty()).then(|| next.join(", "))),
                ("branch", Some(settings.branch.to_string())),
                ("checks", (!checks.is_empty()).then(|| checks.join(", "))),
            ]);
            format!("The drills of {instance} are set.\n\n{rows}")
        }
    };
    Reply::new(&document, text)
}

fn settings(session: &Session, given: &DrillSchedule) -> Result<Option<DrillSettings>, Failure> {
    if given.off {
        return Ok(None);
    }
    let key = format!("{}/{}/drill", given.instance, given.branch);
    let expression = given.when.expression(&key)?;
    if expression.is_none() && given.checks.is_empty() {
        return Err(Failure::usage(
            "it is not said when the instance is rehearsed, nor what must be true",
            "give --every weekly, --cron \"30 4 * * 0\", --check NAME=SELECT, or --off",
        ));
    }
    let zone = given.when.zone()?.unwrap_or_default();
    Ok(Some(DrillSettings {
        cron: expression.map(|expression| expression.to_string()),
        timezone: zone.name().to_owned(),
        branch: given.branch.clone(),
        checks: given.checks.iter().map(|check| check.0.clone()).collect(),
        created_at: session.setting.clock.now(),
    }))
}

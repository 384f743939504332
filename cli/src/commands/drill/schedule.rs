//! `zektor drill schedule`: when an instance is rehearsed, and what must be true then.

use calendar::{Calendar, Zone};
use events::document::DrillSettings;
use events::{BranchName, Command, Event, Timestamp, command};
use serde_json::json;

use crate::arguments::DrillSchedule;
use crate::failure::Failure;
use crate::outcome::{ACCEPTED_WITHIN, unless_interrupted};
use crate::output::{Reply, moment, note, pairs};
use crate::session::Session;

/// Fires that are shown.
const NEXT: usize = 3;

/// Sets or ends it.
pub(crate) async fn schedule(session: &Session, given: DrillSchedule) -> Result<Reply, Failure> {
    let before = match given.off {
        true => None,
        false => before(session, &given).await?,
    };
    let settings = settings(before, &given, session.setting.clock.now())?;
    let instance = given.instance.clone();
    let command = Command::InstanceUpdate(command::InstanceUpdate {
        instance: instance.clone(),
        pool: None,
        dsn: None,
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
    for warning in &updated.warnings {
        note(&format!("warning: {warning}"));
    }
    let now = session.setting.clock.now();
    let calendar = updated.drills.as_ref().and_then(|settings| {
        let cron = settings.cron.as_deref()?;
        Calendar::parse(cron, &settings.timezone).ok()
    });
    let next = calendar.map_or_else(Vec::new, |calendar| calendar.upcoming(now, NEXT));
    let document = json!({
        "name": instance,
        "drills": updated.drills,
        "next": next,
        "warnings": updated.warnings,
    });
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
                    Some(fires.unwrap_or_else(|| {
                        "by hand only; for regular ones give --every or --cron, too".to_owned()
                    })),
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

/// The drills as they are wanted until now.
async fn before(
    session: &Session,
    given: &DrillSchedule,
) -> Result<Option<DrillSettings>, Failure> {
    let found = session.bus.instances().get(&given.instance).await?;
    Ok(found.and_then(|(document, _)| document.drills))
}

/// The drills as they are wanted from now on: what is not given stays as it was.
fn settings(
    before: Option<DrillSettings>,
    given: &DrillSchedule,
    now: Timestamp,
) -> Result<Option<DrillSettings>, Failure> {
    if given.off {
        return Ok(None);
    }
    let before = before.unwrap_or_else(|| DrillSettings {
        cron: None,
        timezone: Zone::default().name().to_owned(),
        branch: BranchName::main(),
        checks: Vec::new(),
        created_at: now,
    });
    let branch = given.branch.clone().unwrap_or(before.branch);
    let key = format!("{}/{branch}/drill", given.instance);
    let expression = given.when.next_expression(&key, before.cron.as_deref())?;
    let zone = given.when.zone()?;
    let nothing =
        expression.is_none() && zone.is_none() && given.branch.is_none() && given.checks.is_empty();
    if nothing {
        return Err(Failure::usage(
            "it is not said when the instance is rehearsed, nor what must be true",
            "give --every weekly, --cron \"30 4 * * 0\", --check NAME=SELECT, or --off",
        ));
    }
    let cron = expression.map(|expression| expression.to_string());
    let checks: Vec<_> = given.checks.iter().map(|check| check.0.clone()).collect();
    Ok(Some(DrillSettings {
        cron: cron.or(before.cron),
        timezone: zone.map_or(before.timezone, |zone| zone.name().to_owned()),
        branch,
        checks: match checks.is_empty() {
            true => before.checks,
            false => checks,
        },
        created_at: now,
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use events::document::DrillSettings;

    use super::settings;
    use crate::arguments::{Arguments, Command, DrillCommand};
    use crate::failure::{Ending, Failure};

    fn given(
        before: Option<DrillSettings>,
        words: &[&str],
    ) -> Result<Option<DrillSettings>, Failure> {
        let words = ["zektor", "drill", "schedule", "orders"]
            .iter()
            .chain(words);
        let arguments = Arguments::try_parse_from(words).unwrap();
        let Command::Drill(DrillCommand::Schedule(given)) = arguments.command else {
            unreachable!("it is a schedule of drills");
        };
        settings(before, &given, "2026-03-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let words = [
            "--cron",
            "30 4 * * 0",
            "--check",
            "a=SELECT 1",
            "--branch",
            "fix",
        ];
        let zone = ["--timezone", "Asia/Tokyo"];
        let all = given(None, &[&words[..], &zone[..]].concat()).unwrap();
        let settings = given(all.clone(), &["--check", "b=SELECT 2"])
            .unwrap()
            .unwrap();
        assert_eq!(settings.cron.as_deref(), Some("30 4 * * 0"));
        assert_eq!(settings.timezone, "Asia/Tokyo");
        assert_eq!(settings.branch.as_str(), "fix");
        let names: Vec<_> = settings.checks.iter().map(|check| &*check.name).collect();
        assert_eq!(names, ["b"]);
        let settings = given(all.clone(), &["--cron", "0 5 * * 1"])
            .unwrap()
            .unwrap();
        assert_eq!(settings.cron.as_deref(), Some("0 5 * * 1"));
        assert_eq!(settings.checks.len(), 1);
        assert_eq!(given(all.clone(), &["--off"]).unwrap(), None);
        assert_eq!(given(all, &[]).unwrap_err().ending, Ending::Usage);
        let checks_alone = given(None, &["--check", "b=SELECT 2"]).unwrap().unwrap();
        assert_eq!(checks_alone.cron, None);
    }
}

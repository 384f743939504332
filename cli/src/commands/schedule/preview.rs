//! `zektor schedule preview`: asks nobody, so it can be tried out anywhere.

use calendar::{Calendar, Timestamp, Zone};
use chrono::{NaiveDate, SecondsFormat, TimeDelta};
use serde_json::{Value, json};

use crate::arguments::SchedulePreview;
use crate::failure::Failure;
use crate::output::{Reply, moment, table};

const UTC: &str = "UTC";

/// Shows the next fires of a schedule that need not exist.
pub(crate) fn preview(now: Timestamp, given: &SchedulePreview) -> Result<Reply, Failure> {
    let name = given.name.as_deref().unwrap_or_default();
    let key = match &given.instance {
        Some(instance) => format!("{instance}/{}/{name}", given.branch),
        None => String::new(),
    };
    let expression = given.when.needed_expression(&key)?;
    let zone = given.when.zone()?.unwrap_or_default();
    let calendar = Calendar::new(expression, zone);
    let begin = match &given.from {
        Some(text) => begin(text, zone)?,
        None => now,
    };
    let fires = calendar.upcoming(begin, usize::from(given.count));
    let document = json!({
        "cron": calendar.expression().to_string(),
        "timezone": zone.name(),
        "fires": fires.iter().map(|fire| described(&calendar, *fire)).collect::<Vec<_>>(),
    });
    Reply::new(&document, text(&calendar, &fires))
}

/// The moment before the first that counts: a fire at the beginning itself is one.
fn begin(text: &str, zone: Zone) -> Result<Timestamp, Failure> {
    let begin = match NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d") {
        Err(_) => crate::moment::parse(text)?,
        Ok(day) => zone.first_of(day).ok_or_else(|| {
            Failure::usage(
                format!("the day {day} does not exist in {zone}"),
                "give the day before it",
            )
        })?,
    };
    Ok(begin - TimeDelta::milliseconds(1))
}

fn described(calendar: &Calendar, fire: Timestamp) -> Value {
    let local = calendar.zone().local(fire);
    json!({
        "at": fire.to_rfc3339_opts(SecondsFormat::Secs, true),
        "local": local.to_rfc3339_opts(SecondsFormat::Secs, false),
        "after_gap": calendar.is_after_gap(fire),
        "shown_twice": calendar.is_shown_twice(fire),
    })
}

fn text(calendar: &Calendar, fires: &[Timestamp]) -> String {
    let zone = calendar.zone();
    let said = format!("{} {zone}\n\n", calendar.expression());
    let in_utc = zone.name() == UTC;
    if fires.is_empty() {
        return format!("{said}It does not fire before the year 2100.");
    }
    let rows = fires.iter().map(|fire| {
        let change = match (calendar.is_after_gap(*fire), calendar.is_shown_twice(*fire)) {
            (true, _) => "the clock skips the time that is meant",
            (_, true) => "the clock shows this time twice; the first is meant",
            _ => "",
        };
        let local = zone
            .local(*fire)
            .format("%a %Y-%m-%d %H:%M %:z")
            .to_string();
        match in_utc {
            true => vec![local],
            false => vec![local, moment(*fire), change.to_owned()],
        }
    });
    let header: &[&str] = match in_utc {
        true => &[UTC],
        false => &[zone.name(), UTC, ""],
    };
    format!("{said}{}", table(header, rows.collect()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::preview;
    use crate::arguments::{Arguments, Command, ScheduleCommand};
    use crate::failure::{Ending, Failure};
    use crate::output::Reply;

    fn preview_of(words: &str) -> Result<Reply, Failure> {
        let words = ["zektor", "schedule", "preview"]
            .into_iter()
            .chain(words.split(' ').map(|word| word.trim_matches('_')))
            .map(|word| word.replace('_', " "));
        let arguments = Arguments::try_parse_from(words).unwrap();
        let Command::Schedule(ScheduleCommand::Preview(given)) = arguments.command else {
            unreachable!("it is a preview");
        };
        preview("2026-03-27T12:00:00Z".parse().unwrap(), &given)
    }

    #[test]
    fn the_night_that_the_clock_skips() {
        let reply = preview_of("orders --cron 30_2_*_*_* --timezone Europe/Berlin --count 3");
        let reply = reply.unwrap();
        insta::assert_snapshot!(reply.text, @r#"
        30 2 * * * Europe/Berlin

        EUROPE/BERLIN                UTC
        Sat 2026-03-28 02:30 +01:00  2026-03-28 01:30:00 UTC
        Sun 2026-03-29 03:00 +02:00  2026-03-29 01:00:00 UTC  the clock skips the time that is meant
        Mon 2026-03-30 02:30 +02:00  2026-03-30 00:30:00 UTC
        "#);
        insta::assert_snapshot!(reply.document, @r#"
        {
          "cron": "30 2 * * *",
          "fires": [
            {
              "after_gap": false,
              "at": "2026-03-28T01:30:00Z",
              "local": "2026-03-28T02:30:00+01:00",
              "shown_twice": false
            },
            {
              "after_gap": true,
              "at": "2026-03-29T01:00:00Z",
              "local": "2026-03-29T03:00:00+02:00",
              "shown_twice": false
            },
            {
              "after_gap": false,
              "at": "2026-03-30T00:30:00Z",
              "local": "2026-03-30T02:30:00+02:00",
              "shown_twice": false
            }
          ],
          "timezone": "Europe/Berlin"
        }
        "#);
    }

    #[test]
    fn from_a_day_or_a_moment() {
        let words = "--cron 30_2_*_*_* --timezone Europe/Berlin --count 2 --from";
        let reply = preview_of(&format!("{words} 2026-10-25")).unwrap();
        insta::assert_snapshot!(reply.text, @r#"
        30 2 * * * Europe/Berlin

        EUROPE/BERLIN                UTC
        Sun 2026-10-25 02:30 +02:00  2026-10-25 00:30:00 UTC  the clock shows this time twice; the first is meant
        Mon 2026-10-26 02:30 +01:00  2026-10-26 01:30:00 UTC
        "#);
        let first = |from: &str| {
            let reply = preview_of(&format!("{words} {from}")).unwrap();
            reply.text.lines().nth(3).unwrap()[..16].to_owned()
        };
        assert_eq!(first("2026-10-26T01:30:00Z"), "Mon 2026-10-26 0");
        assert_eq!(first("2026-10-26T01:30:01Z"), "Tue 2026-10-27 0");
        for wrong in ["soon", "2026-13-01", "2026-10-25T02:30:00"] {
            let failure = preview_of(&format!("{words} {wrong}")).unwrap_err();
            assert_eq!(failure.ending, Ending::Usage);
        }
    }

    #[test]
    fn words_and_their_day() {
        let reply = preview_of("--every monthly --on last --at 04:00 --count 2").unwrap();
        insta::assert_snapshot!(reply.text, @r#"
        0 4 L * * UTC

        UTC
        Tue 2026-03-31 04:00 +00:00
        Thu 2026-04-30 04:00 +00:00
        "#);
    }

    #[test]
    fn what_cannot_be_is_a_usage_error_that_says_what_can() {
        let check = |words: &str, expected: &str| {
            let failure = preview_of(words).unwrap_err();
            assert_eq!(failure.ending, Ending::Usage);
            assert!(failure.message.contains(expected), "{failure}");
            assert!(!failure.hint.is_empty());
        };
        check("orders", "not said when");
        check("--at 02:30", "not enough to say when");
        check("--cron 0_0_31_2_*", "never fires");
        check("--cron 61_*_*_*_*", "minute");
        check("--cron 1_2", "five");
        check("--every daily --at 25:00", "time of day");
        check("--every daily --on monday", "no day");
        check("--cron @daily --at 03:00", "--at belongs to --every");
        check("--cron @daily --on monday", "--on belongs to --every");
        check("--every daily --timezone Europe/Berln", "Europe/Berlin");
        check("--every daily --timezone +02:00", "time zone");
    }
}

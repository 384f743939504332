//! `zektor schedule`: when backups are taken.

use calendar::{Every, EveryError, Expression, Zone};
use clap::{Args, Subcommand};
use events::{BranchName, InstanceName, Retention, WalKeep};

use super::OfInstance;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Back up a branch regularly
    Create(ScheduleCreate),
    /// List an instance's schedules and when they fire next
    List(OfInstance),
    /// Change a schedule; backups that were made stay as they were made
    Update(ScheduleUpdate),
    /// Let a schedule rest
    Pause(OfSchedule),
    /// Let it fire again; what was due meanwhile is not caught up
    Resume(OfSchedule),
    /// Forget a schedule; its backups stay as long as they were to stay
    Delete(OfSchedule),
    /// Show when such a schedule would fire; asks nobody
    Preview(SchedulePreview),
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleCreate {
    pub(crate) instance: InstanceName,
    #[command(flatten)]
    pub(crate) when: When,
    /// How long its backups are kept: 12h, 7d, 4w, 6mo, 1y
    #[arg(long)]
    pub(crate) retention: Retention,
    #[command(flatten)]
    pub(crate) wal: WalOf,
    /// A name for people, unique in the instance [default: made from how often]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The branch it backs up
    #[arg(long, default_value = "main")]
    pub(crate) branch: BranchName,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleUpdate {
    #[command(flatten)]
    pub(crate) of: OfSchedule,
    #[command(flatten)]
    pub(crate) when: When,
    /// Another retention, for backups to come
    #[arg(long)]
    pub(crate) retention: Option<Retention>,
    #[command(flatten)]
    pub(crate) wal: WalOf,
    /// Another name
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SchedulePreview {
    /// The instance that such a schedule would be made for
    pub(crate) instance: Option<InstanceName>,
    #[command(flatten)]
    pub(crate) when: When,
    /// From this day by the clock of the time zone, or this moment on: 2026-03-28, 2026-03-28T12:00:00Z [default: now]
    #[arg(long, value_name = "DAY")]
    pub(crate) from: Option<String>,
    /// So many fires
    #[arg(long, value_name = "N", default_value = "5")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) count: u16,
    /// Taken as `schedule create` takes it; changes no fire
    #[arg(long)]
    pub(crate) retention: Option<Retention>,
    #[command(flatten)]
    pub(crate) wal: WalOf,
    /// The name it would have; without --at the time of the night follows from instance, branch and name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The branch it would back up
    #[arg(long, default_value = "main")]
    pub(crate) branch: BranchName,
}

#[derive(Debug, Args)]
pub(crate) struct OfSchedule {
    pub(crate) instance: InstanceName,
    /// Its name, its id, or the first characters of that (six or more)
    #[arg(value_name = "ID")]
    pub(crate) schedule: String,
}

/// When a schedule fires, in words or as cron.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct When {
    /// hourly, daily, weekly or monthly
    #[arg(long, value_name = "HOW OFTEN", conflicts_with = "cron")]
    pub(crate) every: Option<Every>,
    /// HH:MM by the clock of the time zone; hourly :MM [default: a time of the night that is the schedule's own]
    #[arg(long, value_name = "HH:MM")]
    pub(crate) at: Option<String>,
    /// The day: weekly monday ... sunday, monthly 1 ... 31 or last
    #[arg(long, value_name = "DAY")]
    pub(crate) on: Option<String>,
    /// Five fields, as crontab(5) has them: "30 2 * * mon-fri"
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) cron: Option<String>,
    /// IANA time zone, like Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(crate) timezone: Option<String>,
}

impl When {
    /// The expression, if one was given. `key` decides the time of the night where none was given.
    pub(crate) fn expression(&self, key: &str) -> Result<Option<Expression>, Failure> {
        let said = |error: EveryError| Failure::usage(error.to_string(), PREVIEW);
        if self.cron.is_some() {
            self.refuse_words_beside_cron()?;
        }
        if self.every.is_none() && self.cron.is_none() && (self.at.is_some() || self.on.is_some()) {
            return Err(Failure::usage(
                "--at and --on are not enough to say when",
                "say how often, too: --every hourly|daily|weekly|monthly",
            ));
        }
        match (&self.every, &self.cron) {
            (Some(every), _) => {
                let (at, on) = (self.at.as_deref(), self.on.as_deref());
                every.expression(at, on, key).map(Some).map_err(said)
            }
            (None, Some(cron)) => match cron.parse() {
                Ok(expression) => Ok(Some(expression)),
                Err(error) => Err(Failure::usage(service::run::chain(&error), PREVIEW)),
            },
            (None, None) => Ok(None),
        }
    }

    fn refuse_words_beside_cron(&self) -> Result<(), Failure> {
        let option = match (&self.at, &self.on) {
            (Some(_), _) => "--at",
            (None, Some(_)) => "--on",
            (None, None) => return Ok(()),
        };
        Err(Failure::usage(
            format!(
                "{option} belongs to --every; a cron expression has its time and its days in itself"
            ),
            "leave it out and write it in --cron (\"30 2 * * mon\" is Mondays at 02:30), or say it with --every, --at and --on",
        ))
    }

    /// The same, of a schedule that fires by `before` now: of how often, when and on which day, what is not given stays.
    pub(crate) fn next_expression(
        &self,
        key: &str,
        before: Option<&str>,
    ) -> Result<Option<Expression>, Failure> {
        let asked = self.every.is_some() || self.at.is_some() || self.on.is_some();
        let words = before.filter(|_| asked && self.cron.is_none());
        let Some(before) = words else {
            return self.expression(key);
        };
        let before = Words::of(before);
        let Some(every) = self.every.or(before.every) else {
            return Err(Failure::usage(
                "it fires by an expression of its own, in which --at and --on cannot be changed",
                "say how often, too (--every daily), or write it all as --cron",
            ));
        };
        let on = before.on.filter(|_| before.every == Some(every));
        // The minute of an hour is no time of day.
        let at = before
            .at
            .filter(|_| every == Every::Hourly || before.every != Some(Every::Hourly));
        let words = When {
            every: Some(every),
            at: self.at.clone().or(at),
            on: self.on.clone().or(on),
            ..self.clone()
        };
        words.expression(key)
    }

    /// The same, of a schedule that is new.
    pub(crate) fn needed_expression(&self, key: &str) -> Result<Expression, Failure> {
        self.expression(key)?.ok_or_else(|| {
            Failure::usage(
                "it is not said when the schedule fires",
                "give --every hourly|daily|weekly|monthly, or --cron \"30 2 * * *\"",
            )
        })
    }

    /// The time zone, if one was given.
    pub(crate) fn zone(&self) -> Result<Option<Zone>, Failure> {
        let zone = self.timezone.as_deref().map(str::parse).transpose();
        zone.map_err(|error: calendar::UnknownZone| Failure::usage(error.to_string(), PREVIEW))
    }
}

/// What an expression is in words, as far as it can be said in them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    every: Option<Every>,
    at: Option<String>,
    on: Option<String>,
}

impl Words {
    fn of(cron: &str) -> Words {
        let fields: Vec<&str> = cron.split_whitespace().collect();
        let two = |field: &str| {
            field
                .parse::<u8>()
                .ok()
                .map(|number| format!("{number:02}"))
        };
        let [minute, hour, day, "*", weekday] = fields[..] else {
            return Words::default();
        };
        let (every, on) = match (hour, day, weekday) {
            ("*", "*", "*") => (Every::Hourly, None),
            (_, "*", "*") => (Every::Daily, None),
            (_, "*", on) if on.parse::<u8>().is_ok() => (Every::Weekly, Some(on.to_owned())),
            (_, "L", "*") => (Every::Monthly, Some("last".to_owned())),
            (_, on, "*") if on.trim_end_matches('L').parse::<u8>().is_ok() => {
                (Every::Monthly, Some(on.trim_end_matches('L').to_owned()))
            }
            _ => return Words::default(),
        };
        let at = match (every, two(minute), two(hour)) {
            (Every::Hourly, Some(minute), _) => format!(":{minute}"),
            (_, Some(minute), Some(hour)) => format!("{hour}:{minute}"),
            _ => return Words::default(),
        };
        Words {
            every: Some(every),
            at: Some(at),
            on,
        }
    }
}

const PREVIEW: &str =
    "docs/schedules.md has what is allowed; `zektor schedule preview` shows what is meant";

/// How long every moment after a backup can be restored because of it.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct WalOf {
    /// Every moment for so long after a backup can be restored; its WAL is kept for that [default: as long as the
    /// longest retention of at most 35 days among the branch's schedules, at most as long as the backup]
    #[arg(long, value_name = "RETENTION", conflicts_with = "standalone")]
    pub(crate) pitr: Option<Retention>,
    /// Only the backups themselves can be restored, no moment in between: no WAL is kept because of them
    #[arg(long)]
    pub(crate) standalone: bool,
}

impl WalOf {
    pub(crate) fn keep(self) -> Option<WalKeep> {
        match (self.pitr, self.standalone) {
            (Some(retention), _) => Some(WalKeep::For(retention)),
            (None, true) => Some(WalKeep::Standalone),
            (None, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::When;

    #[test]
    fn what_is_not_given_of_how_often_and_when_stays() {
        let check = |before: &str, words: [Option<&str>; 3], expected: Result<&str, &str>| {
            let [every, at, on] = words;
            let when = When {
                every: every.map(|every| every.parse().unwrap()),
                at: at.map(str::to_owned),
                on: on.map(str::to_owned),
                ..When::default()
            };
            let next = when.next_expression("key", Some(before));
            let next = next.map(|next| next.unwrap().to_string());
            match (&next, expected) {
                (Ok(next), Ok(expected)) => assert_eq!(next, expected, "{before} {when:?}"),
                (Err(failure), Err(expected)) => {
                    assert!(failure.message.contains(expected), "{failure}");
                }
                _ => panic!("{before} {when:?}: {next:?}"),
            }
        };
        check("30 4 * * *", [None, Some("03:00"), None], Ok("0 3 * * *"));
        check("30 4 * * 1", [None, Some("03:00"), None], Ok("0 3 * * 1"));
        check("30 4 15 * *", [None, None, Some("last")], Ok("30 4 L * *"));
        check(
            "30 4 31L * *",
            [None, Some("03:00"), None],
            Ok("0 3 31L * *"),
        );
        check("30 4 L * *", [None, Some("03:00"), None], Ok("0 3 L * *"));
        check("15 * * * *", [None, Some(":20"), None], Ok("20 * * * *"));
        check("30 4 * * *", [Some("weekly"), None, None], Ok("30 4 * * 0"));
        check("30 4 * * 1", [Some("daily"), None, None], Ok("30 4 * * *"));
        check(
            "30 4 * * 1",
            [Some("monthly"), None, None],
            Ok("30 4 1 * *"),
        );
        check("30 4 * * 1", [Some("weekly"), None, None], Ok("30 4 * * 1"));
        check("30 4 * * *", [Some("hourly"), None, None], Ok("30 * * * *"));
        check("30 4 * * *", [None, None, Some("monday")], Err("no day"));
        check(
            "0 8-18 * * *",
            [None, Some("03:00"), None],
            Err("of its own"),
        );
        check(
            "0 8-18 * * *",
            [Some("daily"), Some("03:00"), None],
            Ok("0 3 * * *"),
        );
        check("0 0 1 1 *", [None, Some("03:00"), None], Err("of its own"));
    }
}

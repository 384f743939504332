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
    #[arg(long, value_name = "HH:MM", requires = "every")]
    pub(crate) at: Option<String>,
    /// The day: weekly monday ... sunday, monthly 1 ... 31 or last
    #[arg(long, value_name = "DAY", requires = "every")]
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

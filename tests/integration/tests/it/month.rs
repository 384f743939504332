//! A month of schedules, backups and expiry on a real PostgreSQL, in minutes: server and services live by a clock
//! that the test moves from one due moment to the next, over a change to summer time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Europe::Berlin;
use events::envelope::rfc3339;
use events::{BackupId, ScheduleId};
use integration::{Ledger, PATIENCE, Stack};
use serde_json::Value;
use testkit::FakeClock;
use testkit::postgres::Postgres;

use crate::exactness::text;

/// The night before the first of March. In the zone of the weekly schedule clocks go forward on the 28th, 02:00.
const BEGINNING: &str = "2027-02-28T23:00:00Z";
const END: &str = "2027-04-02T12:00:00Z";
/// When the weekly backup is due, by its zone's clock; that moment does not exist on the 28th.
const WEEKLY_AT: &str = "02:30";
const GRACE: Duration = Duration::from_secs(3600);

struct Month {
    clock: FakeClock,
    postgres: Postgres,
    stack: Stack,
    ledger: Ledger,
}

/// A moment at which a backup is due.
struct Due {
    at: DateTime<Utc>,
    schedule: ScheduleId,
    retention: TimeDelta,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_of_backups_and_their_expiry() {
    a_month().await.unwrap();
}

async fn a_month() -> Result<()> {
    let mut month = Month::begin().await?;
    let due = month.schedules().await?;
    let (mut ids, end) = (Vec::new(), moment(END)?);
    for due in due.iter().filter(|due| due.at < end) {
        month.pass_until(due.at - TimeDelta::minutes(50)).await?;
        month.ledger.write(8).await?;
        month.pass_until(due.at + TimeDelta::seconds(5)).await?;
        let id = BackupId::scheduled(due.schedule, due.at);
        month
            .completed(id)
            .await
            .with_context(|| format!("due at {}", due.at))?;
        month.ledger.write(8).await?;
        ids.push((id, due));
    }
    month.pass_until(end).await?;
    month.ledger.write(8).await?;
    // What has expired by now is marked and, after its grace, gone.
    let after = end + TimeDelta::hours(3);

    // What is left is what the retentions say, neither more nor less.
    let stays = |(_, due): &&(BackupId, &Due)| due.at + due.retention > after;
    let kept: Vec<String> = ids
        .iter()
        .filter(stays)
        .map(|(id, _)| id.to_string())
        .collect();
    ensure!(
        kept.len() > 8 && kept.len() < ids.len() - 20,
        "{} of {}",
        kept.len(),
        ids.len()
    );
    month.only_these_are_left(&kept).await?;
    month.restores(&kept, end).await
}

impl Month {
    async fn begin() -> Result<Self> {
        let mut clock = FakeClock::ahead(Duration::ZERO)?;
        let machine = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::from_std(clock.now())?;
        let ahead = moment(BEGINNING)? - machine;
        clock.advance(ahead.to_std().context("the month is over")?)?;
        let postgres = Postgres::builder()
            .setting("track_commit_timestamp", "on")
            .envs(clock.environment())
            .start()
            .await?;
        let mut stack = Stack::builder()
            .env("ZEKTOR_RETENTION_GRACE", format!("{}s", GRACE.as_secs()))
            // The repository's directory lives by the machine's clock.
            .env("ZEKTOR_RETENTION_STORE_CLOCK", "false")
            .env("ZEKTOR_RETENTION_INTERVAL", "1h");
        for (name, value) in clock.environment() {
            stack = stack.env(&name, value);
        }
        let stack = stack.start().await?;
        let mut ledger = Ledger::create(&postgres).await?;
        ledger.write(8).await?;
        stack.register("orders", &postgres).await?;
        Ok(Month {
            clock,
            postgres,
            stack,
            ledger,
        })
    }

    /// Makes the schedules, and says what must become of them, by other means than theirs.
    async fn schedules(&self) -> Result<Vec<Due>> {
        let weekly = self.stack.zektor_ok(&[
            "schedule",
            "create",
            "orders",
            "--every",
            "weekly",
            "--on",
            "sunday",
            "--at",
            WEEKLY_AT,
            "--timezone",
            "Europe/Berlin",
            "--retention",
            "4w",
            "--pitr",
            "7d",
            "--name",
            "weekly",
        ]);
        let _weekly = weekly.await?;
        let monthly = self.stack.zektor_ok(&[
            "schedule",
            "create",
            "orders",
            "--every",
            "monthly",
            "--on",
            "1",
            "--at",
            "05:00",
            "--retention",
            "1y",
            "--name",
            "monthly",
        ]);
        let _monthly = monthly.await?;
        let listed = self
            .stack
            .zektor_ok(&["schedule", "list", "orders"])
            .await?;
        let of = |name: &str| {
            let all = listed["schedules"].as_array().context("schedules")?;
            let found = all.iter().find(|schedule| schedule["name"] == name);
            found
                .cloned()
                .with_context(|| format!("no schedule {name}: {listed}"))
        };
        let (daily, weekly, monthly) = (of("daily")?, of("weekly")?, of("monthly")?);
        let mut words = text(&daily, "cron")?
            .split(' ')
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let hour: u32 = words.remove(1).parse()?;
        let minute: u32 = words.remove(0).parse()?;

        let mut due = Vec::new();
        let first = moment(BEGINNING)?
            .date_naive()
            .succ_opt()
            .context("a day")?;
        for day in first.iter_days().take(40) {
            let mut push = |schedule: &Value, at: DateTime<Utc>, days: i64| {
                let schedule = text(schedule, "id")?.parse()?;
                due.push(Due {
                    at,
                    schedule,
                    retention: TimeDelta::days(days),
                });
                anyhow::Ok(())
            };
            let at = day.and_hms_opt(hour, minute, 0).context("a time")?;
            push(&daily, at.and_utc(), 7)?;
            if chrono::Datelike::weekday(&day) == chrono::Weekday::Sun {
                let local = day.and_hms_opt(2, 30, 0).context("a time")?;
                let at = match local.and_local_timezone(Berlin).earliest() {
                    Some(at) => at.to_utc(),
                    // Skipped by the clocks: right after.
                    None => day.and_hms_opt(1, 0, 0).context("a time")?.and_utc(),
                };
                push(&weekly, at, 28)?;
            }
            if chrono::Datelike::day(&day) == 1 {
                push(
                    &monthly,
                    day.and_hms_opt(5, 0, 0).context("a time")?.and_utc(),
                    365,
                )?;
            }
        }
        due.sort_by_key(|due| due.at);
        Ok(due)
    }

    /// Moves the clock to `moment`, in steps of hours: longer ones would be downtimes, not days.
    async fn pass_until(&mut self, moment: DateTime<Utc>) -> Result<()> {
        loop {
            let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::from_std(self.clock.now())?;
            let Ok(left) = (moment - now).to_std() else {
                return Ok(());
            };
            if left.is_zero() {
                return Ok(());
            }
            self.clock
                .advance(left.min(Duration::from_secs(6 * 3600)))?;
            // Lets everybody see that hour.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn completed(&self, id: BackupId) -> Result<()> {
        let id = id.to_string();
        let shown = async || self.stack.zektor(&["backup", "show", "orders", &id]).await;
        let what = format!("backup {id} to be completed");
        testkit::wait_until(&what, PATIENCE, async || {
            let Ok(answer) = shown().await else {
                return false;
            };
            answer.json["status"] == "completed"
        })
        .await
    }

    /// Lets hours pass until it is so: rounds come once an hour, at a moment of the instance's own.
    async fn only_these_are_left(&mut self, kept: &[String]) -> Result<()> {
        let repository = self.stack.repository()?;
        let reader = repository.reader(&"orders".parse()?, &"main".parse()?);
        let mut wanted = kept.to_vec();
        wanted.sort();
        let left = async || -> Result<Vec<String>> {
            let mut left: Vec<String> = reader
                .list_backups()
                .await?
                .iter()
                .map(ToString::to_string)
                .collect();
            left.sort();
            Ok(left)
        };
        for _hour in 0..8 {
            if left().await? == wanted {
                return Ok(());
            }
            self.clock.advance(Duration::from_secs(3600))?;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let waited = left().await?;
        if waited != wanted {
            let explained = self
                .stack
                .zektor_ok(&["retention", "explain", "orders"])
                .await?;
            anyhow::bail!("left {waited:?}, wanted {wanted:?}; {explained}");
        }
        Ok(())
    }

    /// The oldest and the newest backup, and a moment of the window, come back exactly; what was let go does not.
    async fn restores(&self, kept: &[String], end: DateTime<Utc>) -> Result<()> {
        let (oldest, newest) = (
            kept.first().context("the oldest")?,
            kept.last().context("the newest")?,
        );
        for (branch, backup) in [("oldest", oldest), ("newest", newest)] {
            let shown = self
                .stack
                .zektor_ok(&["backup", "show", "orders", backup])
                .await?;
            let ended: DateTime<Utc> = text(&shown, "backed_up_at")?.parse()?;
            self.comes_back(branch, &["--backup", backup], ended)
                .await?;
        }
        let daily_window = end - TimeDelta::days(6);
        self.comes_back("window", &["--time", &rfc3339(daily_window)], daily_window)
            .await?;
        let window = self.stack.zektor_ok(&["window", "orders"]).await?;
        let earliest: DateTime<Utc> = text(&window, "earliest")?.parse()?;
        ensure!(
            earliest < end - TimeDelta::days(6) && earliest > end - TimeDelta::days(9),
            "{window}"
        );

        // An hour after the oldest backup: it restores, but alone.
        let shown = self
            .stack
            .zektor_ok(&["backup", "show", "orders", oldest])
            .await?;
        let ended: DateTime<Utc> = text(&shown, "backed_up_at")?.parse()?;
        let later = rfc3339(ended + TimeDelta::hours(1));
        let refused = self
            .stack
            .zektor(&[
                "restore", "orders", "--time", &later, "--as", "gone", "--wait",
            ])
            .await?;
        ensure!(refused.code == 3, "{refused:?}");
        Ok(())
    }

    async fn comes_back(&self, branch: &str, target: &[&str], at: DateTime<Utc>) -> Result<()> {
        let mut arguments = vec!["restore", "orders", "--as", branch, "--wait"];
        arguments.extend(target);
        let restored = self.stack.zektor_ok(&arguments).await?;
        let uri = text(&restored, "connection_uri")?;
        let found = self.postgres.psql_as(&uri, integration::DIGEST).await?;
        let expected = &self.ledger.at(at).context("a state")?.digest;
        ensure!(found == *expected, "{branch}: {found}, not {expected}");
        Ok(())
    }
}

fn moment(text: &str) -> Result<DateTime<Utc>> {
    Ok(text.parse()?)
}

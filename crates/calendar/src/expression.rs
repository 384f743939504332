//! Which wall-clock minutes a schedule means.
//!
//! A five-field expression, as Vixie cron reads it. The `cron` crate joins all its fields with *and*; so an
//! expression here is up to three of its schedules, and a wall-clock minute is meant when any of them means
//! it: the numbered days, the last days of months, the weekdays.

mod field;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use cron::Schedule;

pub use field::FieldError;
use field::{Field, Fields};

/// Which minutes of a wall clock a schedule means: five fields, minute, hour, day of month, month and day of
/// week.
///
/// Lists, ranges, steps, names (`JAN`, `MON`, in any case), Sunday as 0 and as 7, `?` for `*`, and `@hourly`,
/// `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`. When day of month and day of week are
/// both restricted, either is enough; a field that begins with `*` is not restricted (crontab(5) of Vixie
/// cron). Our own are the days of month `L`, the last one, and `29L`, `30L`, `31L`: that day, or the last one
/// of a month that is shorter.
///
/// Displayed as its normal text, which reads back as the same expression.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    parts: Vec<Part>,
}

/// The text is not an expression that can fire.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    /// Not five fields.
    #[error(
        "{text:?} has {count} fields, but a schedule has five: minute, hour, day of month, month and day of \
         week, like \"30 2 * * *\" (there are no seconds)"
    )]
    FieldCount {
        /// What was to be read.
        text: String,
        /// How many fields it has.
        count: usize,
    },
    /// A word with `@` that is none of ours.
    #[error(
        "{0:?} is not known; allowed are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and \
         @annually, or five fields like \"30 2 * * *\""
    )]
    Nickname(String),
    /// A field that cannot be read.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Days that no year has.
    #[error("{text:?} never fires: none of its months has such a day")]
    Never {
        /// The expression.
        text: String,
    },
    /// The normal form was refused by the engine: a mistake of ours.
    #[error("{text:?} cannot be computed; please report this")]
    Engine {
        /// The expression.
        text: String,
        /// What the engine says.
        #[source]
        source: Box<cron::error::Error>,
    },
}

/// One normal form of the engine, and what it cannot say about days.
#[derive(Debug, Clone)]
struct Part {
    schedule: Schedule,
    days: Days,
}

#[derive(Debug, Clone, Copy)]
enum Days {
    /// All that the engine's schedule has.
    AsScheduled,
    /// Of these only the last day of a month that has fewer days than this.
    LastOfMonthShorterThan(u8),
}

/// A century has every combination of 29 February and weekday.
const CENTURY_BEGINS: NaiveDateTime = NaiveDate::from_ymd_opt(2000, 1, 1)
    .expect("a date of the calendar")
    .and_time(NaiveTime::MIN);

impl Expression {
    /// Every day at a time of the wall clock.
    pub(crate) fn daily(hour: u8, minute: u8) -> Self {
        // Callers have checked the numbers, or computed them.
        format!("{minute} {hour} * * *")
            .parse()
            .expect("an hour and a minute of a day are an expression")
    }

    /// The first minute that is meant at or after `local`.
    pub(crate) fn first_from(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        self.parts
            .iter()
            .filter_map(|part| part.first_from(local))
            .min()
    }

    /// The last minute that is meant before `local`.
    pub(crate) fn last_before(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        self.parts
            .iter()
            .filter_map(|part| part.last_before(local))
            .max()
    }

    fn of(fields: &Fields) -> Result<Self, ExpressionError> {
        let text = fields.to_string();
        let (dom, dow) = (&fields.day_of_month, &fields.day_of_week);
        let either = !dom.starred() && !dow.starred();
        let dow_of_dom = if either {
            "*".to_owned()
        } else {
            dow.engine_text()
        };
        let mut wanted = Vec::new();
        if dom.has_numbers() {
            wanted.push((dom.engine_text(), dow_of_dom.clone(), Days::AsScheduled));
        }
        if let Some(length) = dom.last_of_month_shorter_than() {
            let days = Days::LastOfMonthShorterThan(length);
            wanted.push(("28-31".to_owned(), dow_of_dom, days));
        }
        if either {
            wanted.push(("*".to_owned(), dow.engine_text(), Days::AsScheduled));
        }
        let mut parts = Vec::with_capacity(wanted.len());
        for (dom, dow, days) in wanted {
            let schedule =
                engine(fields, &dom, &dow).map_err(|source| ExpressionError::Engine {
                    text: text.clone(),
                    source: Box::new(source),
                })?;
            parts.push(Part { schedule, days });
        }
        let expression = Expression { text, parts };
        if expression.first_from(CENTURY_BEGINS).is_none() {
            return Err(ExpressionError::Never {
                text: expression.text,
            });
        }
        Ok(expression)
    }
}

fn engine(fields: &Fields, dom: &str, dow: &str) -> Result<Schedule, cron::error::Error> {
    let minute = fields.minute.engine_text();
    let hour = fields.hour.engine_text();
    let month = fields.month.engine_text();
    Schedule::from_str(&format!("0 {minute} {hour} {dom} {month} {dow}"))
}

impl Part {
    fn first_from(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let mut just_before = before(local)?;
        loop {
            let found = self.schedule.after(&just_before).next()?.naive_utc();
            if self.days.have(found.date()) {
                return Some(found);
            }
            just_before = before(found.date().succ_opt()?.and_time(NaiveTime::MIN))?;
        }
    }

    fn last_before(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let mut bound = local.and_utc();
        loop {
            let found = self.schedule.after(&bound).next_back()?.naive_utc();
            if self.days.have(found.date()) {
                return Some(found);
            }
            bound = found.date().and_time(NaiveTime::MIN).and_utc();
        }
    }
}

fn before(local: NaiveDateTime) -> Option<DateTime<Utc>> {
    Some(local.checked_sub_signed(TimeDelta::seconds(1))?.and_utc())
}

impl Days {
    fn have(self, date: NaiveDate) -> bool {
        match self {
            Days::AsScheduled => true,
            Days::LastOfMonthShorterThan(length) => {
                let last = date.num_days_in_month();
                date.day() == u32::from(last) && last < length
            }
        }
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        let text = text.trim();
        let plain = if text.starts_with('@') {
            nickname(text).ok_or_else(|| ExpressionError::Nickname(text.to_owned()))?
        } else {
            text
        };
        let words: Vec<&str> = plain.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = words[..] else {
            return Err(ExpressionError::FieldCount {
                text: text.to_owned(),
                count: words.len(),
            });
        };
        Expression::of(&Fields {
            minute: Field::minute(minute)?,
            hour: Field::hour(hour)?,
            day_of_month: Field::day_of_month(day_of_month)?,
            month: Field::month(month)?,
            day_of_week: Field::day_of_week(day_of_week)?,
        })
    }
}

fn nickname(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "@hourly" => Some("0 * * * *"),
        "@daily" | "@midnight" => Some("0 0 * * *"),
        "@weekly" => Some("0 0 * * 0"),
        "@monthly" => Some("0 0 1 * *"),
        "@yearly" | "@annually" => Some("0 0 1 1 *"),
        _ => None,
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// By their normal text.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

#[cfg(test)]
mod tests;

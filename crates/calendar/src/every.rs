//! Schedules without cron: hourly, daily, weekly, monthly, at a time, on a day.

use std::fmt;
use std::str::FromStr;

use crate::{Expression, spread::time_of_night};

/// How often, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Every {
    /// Each hour, at a minute.
    Hourly,
    /// Each day.
    Daily,
    /// Each week, on a weekday; Sunday unless said otherwise.
    Weekly,
    /// Each month, on a day; the first unless said otherwise.
    Monthly,
}

/// The words make no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EveryError {
    /// Not how often.
    #[error(
        "{0:?} is not how often; write hourly, daily, weekly or monthly, or give a cron expression"
    )]
    Every(String),
    /// Not a time of day.
    #[error("{0:?} is not a time of day; write HH:MM, from 00:00 to 23:59")]
    Time(String),
    /// Not a minute of an hour.
    #[error("{0:?} is not a minute of the hour; write :MM, from :00 to :59")]
    Minute(String),
    /// A day where there is none to choose.
    #[error(
        "a schedule that runs {every} has no day {on:?}; only weekly and monthly ones have a day"
    )]
    NoDay {
        /// How often.
        every: Every,
        /// The day that was given.
        on: String,
    },
    /// Not a weekday.
    #[error(
        "{0:?} is not a day of the week; write its name, like monday or mon, or 0 to 7 (0 and 7 are Sunday)"
    )]
    Weekday(String),
    /// Not a day of a month.
    #[error(
        "{0:?} is not a day of the month; write 1 to 31 (in a shorter month its last day) or last"
    )]
    DayOfMonth(String),
}

const WEEKDAYS: [&str; 7] = [
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
];

impl Every {
    /// The expression that is meant.
    ///
    /// `at` is `HH:MM`, hourly also `:MM` (of `HH:MM` the minutes count); without it, the time is a minute of
    /// the night (00:00 to 05:59), hourly a minute of the hour, that depends on `key` alone. `on` is the day:
    /// weekly a name or 0 to 7, monthly 1 to 31 or `last`; a day that a month does not have is its last.
    pub fn expression(
        self,
        at: Option<&str>,
        on: Option<&str>,
        key: &str,
    ) -> Result<Expression, EveryError> {
        let (hour, minute) = match at {
            Some(text) if self == Every::Hourly => (0, minute_of_hour(text)?),
            Some(text) => time_of_day(text)?,
            None => time_of_night(key),
        };
        let fields = match (self, on) {
            (Every::Hourly | Every::Daily, Some(on)) => {
                let on = on.to_owned();
                return Err(EveryError::NoDay { every: self, on });
            }
            (Every::Hourly, None) => format!("{minute} * * * *"),
            (Every::Daily, None) => format!("{minute} {hour} * * *"),
            (Every::Weekly, on) => format!("{minute} {hour} * * {}", weekday(on.unwrap_or("0"))?),
            (Every::Monthly, on) => {
                format!("{minute} {hour} {} * *", day_of_month(on.unwrap_or("1"))?)
            }
        };
        Ok(fields
            .parse()
            .expect("checked numbers in their fields are an expression"))
    }
}

fn minute_of_hour(text: &str) -> Result<u8, EveryError> {
    let wrong = || EveryError::Minute(text.to_owned());
    match text.strip_prefix(':') {
        Some(minute) => two_digits(minute, 59).ok_or_else(wrong),
        None => time_of_day(text)
            .map(|(_, minute)| minute)
            .map_err(|_| wrong()),
    }
}

fn time_of_day(text: &str) -> Result<(u8, u8), EveryError> {
    let read = || {
        let (hour, minute) = text.split_once(':')?;
        Some((two_digits(hour, 23)?, two_digits(minute, 59)?))
    };
    read().ok_or_else(|| EveryError::Time(text.to_owned()))
}

fn two_digits(text: &str, most: u8) -> Option<u8> {
    let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.then(|| text.parse().ok())??;
    (value <= most).then_some(value)
}

fn weekday(text: &str) -> Result<u8, EveryError> {
    let lower = text.to_ascii_lowercase();
    let named = || {
        let day = WEEKDAYS
            .iter()
            .position(|name| *name == lower || name[..3] == *lower)?;
        u8::try_from(day).ok()
    };
    match lower.as_str() {
        "7" => Some(0),
        "0" | "1" | "2" | "3" | "4" | "5" | "6" => lower.parse().ok(),
        _ => named(),
    }
    .ok_or_else(|| EveryError::Weekday(text.to_owned()))
}

fn day_of_month(text: &str) -> Result<String, EveryError> {
    if text.eq_ignore_ascii_case("last") {
        return Ok("L".to_owned());
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u8>() {
        Ok(day @ 1..=28) if digits => Ok(day.to_string()),
        Ok(day @ 29..=31) if digits => Ok(format!("{day}L")),
        _ => Err(EveryError::DayOfMonth(text.to_owned())),
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Every::Hourly => "hourly",
            Every::Daily => "daily",
            Every::Weekly => "weekly",
            Every::Monthly => "monthly",
        })
    }
}

impl FromStr for Every {
    type Err = EveryError;

    fn from_str(text: &str) -> Result<Self, EveryError> {
        match text {
            "hourly" => Ok(Every::Hourly),
            "daily" => Ok(Every::Daily),
            "weekly" => Ok(Every::Weekly),
            "monthly" => Ok(Every::Monthly),
            _ => Err(EveryError::Every(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Every;

    fn words(every: &str, at: Option<&str>, on: Option<&str>) -> String {
        let expression = every
            .parse::<Every>()
            .and_then(|every| every.expression(at, on, "shop"));
        match expression {
            Ok(expression) => expression.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn words_become_expressions() {
        let check = |every, at, on, expected: &str| {
            assert_eq!(words(every, Some(at), on), expected, "{every} {at} {on:?}");
        };
        check("hourly", ":05", None, "5 * * * *");
        check("hourly", "13:45", None, "45 * * * *");
        check("daily", "02:30", None, "30 2 * * *");
        check("weekly", "23:59", None, "59 23 * * 0");
        check("weekly", "00:00", Some("Monday"), "0 0 * * 1");
        check("weekly", "00:00", Some("fri"), "0 0 * * 5");
        check("weekly", "00:00", Some("7"), "0 0 * * 0");
        check("weekly", "00:00", Some("6"), "0 0 * * 6");
        check("monthly", "04:00", None, "0 4 1 * *");
        check("monthly", "04:00", Some("28"), "0 4 28 * *");
        check("monthly", "04:00", Some("31"), "0 4 31L * *");
        check("monthly", "04:00", Some("29"), "0 4 29L * *");
        check("monthly", "04:00", Some("last"), "0 4 L * *");
    }

    #[test]
    fn without_a_time_the_key_decides() {
        let night = crate::nightly("shop").to_string();
        let (minute, _) = night.split_once(' ').unwrap();
        assert_eq!(words("daily", None, None), night);
        assert_eq!(words("hourly", None, None), format!("{minute} * * * *"));
        let weekly = night.replace("* * *", "* * 3");
        assert_eq!(words("weekly", None, Some("wed")), weekly);
        let other = Every::Daily.expression(None, None, "orders").unwrap();
        assert_ne!(other.to_string(), night);
    }

    fn refused(every: &str, at: Option<&str>, on: Option<&str>, expected: &str) {
        let said = words(every, at, on);
        assert!(said.starts_with(expected), "{said}");
    }

    #[test]
    fn no_time_of_day() {
        for wrong in [
            "24:00", "2:30", ":30", "+2:30", "02:60", "0230", "", "²²:00",
        ] {
            let expected =
                format!("{wrong:?} is not a time of day; write HH:MM, from 00:00 to 23:59");
            refused("daily", Some(wrong), None, &expected);
        }
        for wrong in [":60", "5", "24:00", ":5"] {
            let expected =
                format!("{wrong:?} is not a minute of the hour; write :MM, from :00 to :59");
            refused("hourly", Some(wrong), None, &expected);
        }
    }

    #[test]
    fn no_day() {
        for wrong in ["8", "mo", "", "last", "+1"] {
            let expected =
                format!("{wrong:?} is not a day of the week; write its name, like monday");
            refused("weekly", None, Some(wrong), &expected);
        }
        for wrong in ["32", "+1", "0", "", "mon", "256"] {
            let expected =
                format!("{wrong:?} is not a day of the month; write 1 to 31 (in a shorter");
            refused("monthly", None, Some(wrong), &expected);
        }
        let expected =
            "a schedule that runs daily has no day \"mon\"; only weekly and monthly ones";
        refused("daily", None, Some("mon"), expected);
        let expected = "\"nightly\" is not how often; write hourly, daily, weekly or monthly";
        refused("nightly", None, None, expected);
    }
}

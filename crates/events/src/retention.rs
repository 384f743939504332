//! How long a backup is kept, as people write it: `12h`, `7d`, `4w`, `6mo`, `1y`.

use std::fmt;
use std::str::FromStr;

use chrono::{Months, TimeDelta};

use crate::Timestamp;

/// A retention of whole hours, days, weeks, months or years; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retention {
    count: u32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unit {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// The text is not a retention.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a retention; write a number and h, d, w, mo or y, like 12h, 7d, 6mo or 1y, up to a \
     thousand years"
)]
pub struct RetentionError(String);

impl Unit {
    /// A thousand years: what is meant to be kept longer has no retention.
    fn largest_count(self) -> u32 {
        match self {
            Unit::Hour => 8_784_000,
            Unit::Day => 366_000,
            Unit::Week => 52_200,
            Unit::Month => 12_000,
            Unit::Year => 1_000,
        }
    }
}

impl Retention {
    /// What the default schedule keeps: seven days.
    pub const SEVEN_DAYS: Retention = Retention {
        count: 7,
        unit: Unit::Day,
    };

    /// When something made at `from` expires. Months and years are the calendar's, the day clamped
    /// to the month's last; far beyond the calendar's range it is the latest representable moment.
    #[must_use]
    pub fn expires_at(self, from: Timestamp) -> Timestamp {
        let count = i64::from(self.count);
        let end = match self.unit {
            Unit::Hour => from.checked_add_signed(TimeDelta::hours(count)),
            Unit::Day => from.checked_add_signed(TimeDelta::days(count)),
            Unit::Week => from.checked_add_signed(TimeDelta::weeks(count)),
            Unit::Month => from.checked_add_months(Months::new(self.count)),
            Unit::Year => self
                .count
                .checked_mul(12)
                .and_then(|n| from.checked_add_months(Months::new(n))),
        };
        end.unwrap_or(Timestamp::MAX_UTC)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Hour => "h",
            Unit::Day => "d",
            Unit::Week => "w",
            Unit::Month => "mo",
            Unit::Year => "y",
        };
        write!(f, "{}{unit}", self.count)
    }
}

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Self, RetentionError> {
        let refuse = || RetentionError(text.to_owned());
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(refuse)?;
        let count = text[..digits]
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(refuse)?;
        let unit = match &text[digits..] {
            "h" => Unit::Hour,
            "d" => Unit::Day,
            "w" => Unit::Week,
            "mo" => Unit::Month,
            "y" => Unit::Year,
            _ => return Err(refuse()),
        };
        if count > unit.largest_count() {
            return Err(refuse());
        }
        Ok(Retention { count, unit })
    }
}

impl serde::Serialize for Retention {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Retention {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Retention {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Retention".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[1-9][0-9]*(h|d|w|mo|y)$" })
    }
}

#[cfg(test)]
mod tests {
    use crate::{Retention, Timestamp};

    fn check(retention: &str, from: &str, expected: &str) {
        let from: Timestamp = from.parse().unwrap();
        let retention: Retention = retention.parse().unwrap();
        assert_eq!(
            retention.expires_at(from),
            expected.parse::<Timestamp>().unwrap()
        );
    }

    #[test]
    fn expiry_follows_the_calendar() {
        check("12h", "2026-03-01T20:00:00Z", "2026-03-02T08:00:00Z");
        check("7d", "2026-02-25T00:00:00Z", "2026-03-04T00:00:00Z");
        check("2w", "2026-01-01T00:00:00Z", "2026-01-15T00:00:00Z");
        check("1mo", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z");
        check("1y", "2024-02-29T00:00:00Z", "2025-02-28T00:00:00Z");
    }

    #[test]
    fn refuses_what_is_not_a_retention() {
        for text in [
            "",
            "7",
            "d",
            "0d",
            "-1d",
            "7 d",
            "7m",
            "7D",
            "1.5d",
            "99999999999d",
            "1001y",
            "9000000h",
        ] {
            assert!(text.parse::<Retention>().is_err(), "{text:?}");
        }
    }
}

//! PostgreSQL's own clock values, as they stand in WAL records and in replication messages.

use std::fmt;

/// Unix time of PostgreSQL's epoch, 2000-01-01 00:00:00 UTC, in microseconds.
const EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;
const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Microseconds since 2000-01-01 00:00:00 UTC (`TimestampTz`, `src/include/datatype/timestamp.h`).
///
/// It is the *server's* clock. Displayed as RFC 3339 in UTC. JSON: the number of microseconds.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct PgTimestamp(pub i64);

impl PgTimestamp {
    /// The same moment in microseconds of Unix time, clamped to the range of `i64`.
    #[must_use]
    pub fn to_unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_UNIX_MICROS)
    }

    /// The moment `micros` microseconds after 1970-01-01 UTC, clamped to the range of `i64`.
    #[must_use]
    pub fn from_unix_micros(micros: i64) -> Self {
        PgTimestamp(micros.saturating_sub(EPOCH_UNIX_MICROS))
    }
}

impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let micros = self.0.rem_euclid(MICROS_PER_SECOND);
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let second = seconds.rem_euclid(SECONDS_PER_DAY);
        let (year, month, day) = civil_date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

/// Gregorian year, month and day, `days` days after 2000-01-01.
fn civil_date(days: i64) -> (i64, i64, i64) {
    // Years counted from March, so that the leap day is the last day of a year.
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    const MARCH_2000: i64 = 60;
    let shifted = days - MARCH_2000;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    // The 4-, 100- and 400-year corrections turn a day into a whole year.
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // 153 days in each five months from March.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = 2000 + era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::PgTimestamp;

    #[test]
    fn text_is_rfc_3339() {
        let check = |unix_micros: i64, text: &str| {
            assert_eq!(PgTimestamp::from_unix_micros(unix_micros).to_string(), text);
        };
        check(946_684_800_000_000, "2000-01-01T00:00:00.000000Z");
        check(0, "1970-01-01T00:00:00.000000Z");
        check(-1, "1969-12-31T23:59:59.999999Z");
        check(951_782_399_000_000, "2000-02-28T23:59:59.000000Z");
        check(951_782_400_000_000, "2000-02-29T00:00:00.000000Z");
        check(1_709_251_199_123_456, "2024-02-29T23:59:59.123456Z");
        check(4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z");
        check(4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z");
    }

    proptest! {
        #[test]
        fn any_value_displays_and_common_ones_round_trip(micros: i64) {
            let _ = PgTimestamp(micros).to_string();
            let unix = micros / 2;
            prop_assert_eq!(PgTimestamp::from_unix_micros(unix).to_unix_micros(), unix);
        }
    }
}

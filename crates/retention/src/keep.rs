//! How long WAL is kept because of a backup, unless the user says otherwise.

use std::cmp::Ordering;

use chrono::DateTime;
use events::{Retention, Timestamp, WalKeep};

/// Everything that is kept longer is an archive of moments, not a window of time.
const LONGEST_HORIZON_DAYS: i64 = 35;
const SECONDS_A_DAY: i64 = 24 * 3600;

/// Counted from here retentions are compared: before a month of 31 days, in a year of 365.
fn fixed() -> Timestamp {
    // 2001-01-01T00:00:00Z
    DateTime::from_timestamp(978_307_200, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

/// Which of two retentions is longer. A month has 31 days, a year 365.
#[must_use]
pub fn compare_retentions(one: Retention, other: Retention) -> Ordering {
    one.expires_at(fixed()).cmp(&other.expires_at(fixed()))
}

/// The default rule, for a backup that is kept for `retention` (until deleted when absent) of a branch whose schedules,
/// the one that takes it included, have the retentions `schedules`.
///
/// The window is as long as the longest retention of at most 35 days; if there is none, as the shortest; without any
/// schedule seven days. What is kept no longer keeps its WAL as long as itself, what is kept longer for the window.
#[must_use]
pub fn default_wal_keep(
    retention: Option<Retention>,
    schedules: impl IntoIterator<Item = Retention>,
) -> WalKeep {
    let horizon = horizon(schedules);
    match retention {
        Some(retention) if compare_retentions(retention, horizon).is_le() => {
            WalKeep::AsLongAsBackup
        }
        _ => WalKeep::For(horizon),
    }
}

fn horizon(schedules: impl IntoIterator<Item = Retention>) -> Retention {
    let (short, long): (Vec<_>, Vec<_>) = schedules.into_iter().partition(|retention| {
        let seconds = (retention.expires_at(fixed()) - fixed()).num_seconds();
        seconds <= LONGEST_HORIZON_DAYS * SECONDS_A_DAY
    });
    let longest = short
        .into_iter()
        .max_by(|one, other| compare_retentions(*one, *other));
    let shortest = || {
        long.into_iter()
            .min_by(|one, other| compare_retentions(*one, *other))
    };
    longest.or_else(shortest).unwrap_or(Retention::SEVEN_DAYS)
}

#[cfg(test)]
mod tests {
    use events::WalKeep;

    use super::default_wal_keep;

    /// The rule for a retention (`-`: until deleted) beside schedules, in words.
    fn check(retention: &str, schedules: &[&str], expected: &str) {
        let retention = (retention != "-").then(|| retention.parse().unwrap());
        let schedules = schedules.iter().map(|text| text.parse().unwrap());
        let found = match default_wal_keep(retention, schedules) {
            WalKeep::AsLongAsBackup => "as long as the backup".to_owned(),
            WalKeep::For(retention) => retention.to_string(),
            WalKeep::Standalone => "standalone".to_owned(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_window_is_that_of_the_short_schedules() {
        const BACKUP: &str = "as long as the backup";
        // The specification's example: seven days of every moment, a year of months.
        check("7d", &["7d", "1y"], BACKUP);
        check("1y", &["7d", "1y"], "7d");
        // Only a monthly one: its words are taken literally.
        check("1y", &["1y"], BACKUP);
        check("1y", &["1y", "2y"], BACKUP);
        check("2y", &["1y", "2y"], "1y");
        // By hand.
        check("-", &["7d", "1y"], "7d");
        check("-", &[], "7d");
        check("3d", &[], BACKUP);
        check("1w", &[], BACKUP);
        check("8d", &[], "7d");
        // At most 35 days; a month is less.
        check("1mo", &["1d", "1mo", "6mo"], BACKUP);
        check("30d", &["1d", "1mo", "6mo"], BACKUP);
        check("6mo", &["1d", "1mo", "6mo"], "1mo");
        check("5w", &["1d", "5w"], BACKUP);
        check("36d", &["1d", "36d"], "1d");
        check("12mo", &["1y"], BACKUP);
        check("1000y", &["1000y"], BACKUP);
    }
}

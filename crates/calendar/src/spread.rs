//! Where in the night a schedule falls whose time nobody chose.
//!
//! It depends on a key alone, so ten thousand instances do not begin at once, and each keeps its time.

use sha2::{Digest, Sha256};

use crate::Expression;

/// Minutes from 00:00 to 05:59.
const NIGHT_MINUTES: u16 = 6 * 60;

/// A minute of the night, 0 to 359.
fn minute_of_night(key: &str) -> u16 {
    let digest = Sha256::digest(key.as_bytes());
    u16::from_be_bytes([digest[0], digest[1]]) % NIGHT_MINUTES
}

/// The hour (0 to 5) and minute that `key` gets.
pub(crate) fn time_of_night(key: &str) -> (u8, u8) {
    let minute = minute_of_night(key);
    // Both are below 60.
    ((minute / 60) as u8, (minute % 60) as u8)
}

/// Once a day at a minute of the night (00:00 to 05:59) that depends on `key` alone: an instance's default
/// schedule, with its name as the key.
#[must_use]
pub fn nightly(key: &str) -> Expression {
    let (hour, minute) = time_of_night(key);
    Expression::daily(hour, minute)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::nightly;

    #[test]
    fn a_key_keeps_its_time() {
        // Written down when instances got their first default schedules: these may not change.
        for (key, expected) in [
            ("orders", "50 5 * * *"),
            ("shop", "0 4 * * *"),
            ("db0", "5 4 * * *"),
            ("db9999", "12 4 * * *"),
        ] {
            assert_eq!(nightly(key).to_string(), expected, "{key}");
        }
    }

    #[test]
    fn keys_are_spread_over_the_whole_night() {
        let times: BTreeSet<String> = (0..2000)
            .map(|n| nightly(&format!("db{n}")).to_string())
            .collect();
        assert!(times.len() > 350, "{} different minutes", times.len());
        assert!(times.iter().all(|time| {
            let hour: u8 = time.split(' ').nth(1).unwrap().parse().unwrap();
            hour < 6
        }));
    }
}

//! The clock on the wall: an IANA time zone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveTime, Offset, TimeDelta, TimeZone as _};
use chrono_tz::{TZ_VARIANTS, Tz};

use crate::Timestamp;

/// An IANA time zone; UTC unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone(Tz);

/// There is no such time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone {name:?}; {}", hint(*suggestion))]
pub struct UnknownZone {
    name: String,
    suggestion: Option<&'static str>,
}

impl UnknownZone {
    /// The zone that was probably meant.
    #[must_use]
    pub fn suggestion(&self) -> Option<&'static str> {
        self.suggestion
    }
}

fn hint(suggestion: Option<&str>) -> String {
    match suggestion {
        Some(name) => format!("did you mean {name:?}?"),
        None => "write an IANA name like \"Europe/Berlin\" or \"UTC\"".to_owned(),
    }
}

impl Zone {
    /// Coordinated universal time: no gaps, no folds.
    pub const UTC: Zone = Zone(Tz::UTC);

    /// Its IANA name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// What the clock shows at `at`, and its distance from UTC.
    #[must_use]
    pub fn local(self, at: Timestamp) -> DateTime<FixedOffset> {
        let local = at.with_timezone(&self.0);
        let offset = local.offset().fix();
        local.with_timezone(&offset)
    }

    /// When a day begins; `None` for one that the zone has left out.
    #[must_use]
    pub fn first_of(self, day: NaiveDate) -> Option<Timestamp> {
        let midnight = day.and_time(NaiveTime::MIN);
        // Where midnight is skipped, the day begins when the clock goes on.
        (0..24 * 4)
            .filter_map(|quarter| {
                let local = midnight + TimeDelta::minutes(15 * quarter);
                self.0.from_local_datetime(&local).earliest()
            })
            .map(|at| at.to_utc())
            .next()
    }

    pub(crate) fn tz(self) -> Tz {
        self.0
    }
}

impl Default for Zone {
    fn default() -> Self {
        Zone::UTC
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(text: &str) -> Result<Self, UnknownZone> {
        text.parse().map(Zone).map_err(|_| UnknownZone {
            name: text.to_owned(),
            suggestion: suggestion(text),
        })
    }
}

/// The same name in another case, a city without its region, or a name with a typing mistake or two.
fn suggestion(text: &str) -> Option<&'static str> {
    let plain = |name: &str| name.trim().replace(' ', "_").to_ascii_lowercase();
    let text = plain(text);
    let names = || TZ_VARIANTS.iter().map(|zone| zone.name());
    let city = |name: &str| name.rsplit('/').next().map(plain);
    if let Some(same) = names().find(|name| plain(name) == text) {
        return Some(same);
    }
    if let Some(same) = names().find(|name| city(name).as_ref() == Some(&text)) {
        return Some(same);
    }
    // Short names are near to many others.
    let most = if text.len() < 6 { 1 } else { 2 };
    let distance = |name: &str| {
        let whole = strsim::osa_distance(&plain(name), &text);
        let of_city = city(name).map_or(usize::MAX, |city| strsim::osa_distance(&city, &text));
        whole.min(of_city)
    };
    names()
        .map(|name| (distance(name), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::Zone;

    #[test]
    fn names_are_exact() {
        for name in [
            "UTC",
            "Europe/Berlin",
            "America/Argentina/Buenos_Aires",
            "Asia/Kathmandu",
        ] {
            assert_eq!(name.parse::<Zone>().unwrap().to_string(), name);
        }
        assert_eq!(Zone::default(), "UTC".parse().unwrap());
    }

    #[test]
    fn near_misses_get_a_suggestion() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Zone>().unwrap_err().to_string();
            assert_eq!(error, format!("there is no time zone {text:?}; {expected}"));
        };
        check("Europe/Berln", "did you mean \"Europe/Berlin\"?");
        check("europe/berlin", "did you mean \"Europe/Berlin\"?");
        check("Berlin", "did you mean \"Europe/Berlin\"?");
        check("new york", "did you mean \"America/New_York\"?");
        check("Amercia/Sao_Paulo", "did you mean \"America/Sao_Paulo\"?");
        check("utc", "did you mean \"UTC\"?");
        let general = "write an IANA name like \"Europe/Berlin\" or \"UTC\"";
        check("", general);
        check("+02:00", general);
        check("Mars/Olympus_Mons", general);
    }
}

//! Ten zones, and when their clocks are set between 2010 and 2030: found by looking.

use std::sync::LazyLock;

use calendar::Timestamp;
use chrono::{NaiveDateTime, TimeDelta};
use chrono_tz::Tz;

/// Half-hour and quarter-hour offsets, gaps at midnight, half an hour of DST, a day that was skipped, a
/// fold across midnight, DST twice a year for Ramadan, and the usual.
pub(crate) const ZONES: [Tz; 10] = [
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::America__Sao_Paulo,
    Tz::America__St_Johns,
    Tz::Africa__Cairo,
    Tz::Africa__Casablanca,
    Tz::Asia__Tehran,
    Tz::Asia__Kathmandu,
    Tz::Australia__Lord_Howe,
    Tz::Pacific__Apia,
];

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn begin() -> Timestamp {
    at("2010-01-01T00:00:00Z")
}

pub(crate) fn end() -> Timestamp {
    at("2030-01-01T00:00:00Z")
}

/// What the clock shows.
pub(crate) fn local(tz: Tz, at: Timestamp) -> NaiveDateTime {
    at.with_timezone(&tz).naive_local()
}

/// Seconds that the clock is ahead of UTC.
pub(crate) fn ahead(tz: Tz, at: Timestamp) -> i64 {
    (local(tz, at) - at.naive_utc()).num_seconds()
}

/// A moment at which a clock is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) at: Timestamp,
    /// Forward: a gap; back: a fold.
    pub(crate) seconds: i64,
}

impl Change {
    /// In the second run of what is shown twice.
    pub(crate) fn shows_again(&self, moment: Timestamp) -> bool {
        let since = (moment - self.at).num_seconds();
        self.seconds < 0 && (0..-self.seconds).contains(&since)
    }

    pub(crate) fn ends_gap(&self, moment: Timestamp) -> bool {
        self.seconds > 0 && moment == self.at
    }
}

static CHANGES: LazyLock<Vec<Vec<Change>>> = LazyLock::new(|| ZONES.map(find).to_vec());

/// The changes of the zone with this number.
pub(crate) fn changes(zone: usize) -> &'static [Change] {
    &CHANGES[zone]
}

fn find(tz: Tz) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut before = begin() - TimeDelta::days(5);
    while before < end() {
        // No zone was set twice within six hours.
        let mut after = before + TimeDelta::hours(6);
        let next = after;
        let old = ahead(tz, before);
        if ahead(tz, after) != old {
            while after - before > TimeDelta::minutes(1) {
                let middle = before + TimeDelta::minutes((after - before).num_minutes() / 2);
                if ahead(tz, middle) == old {
                    before = middle;
                } else {
                    after = middle;
                }
            }
            changes.push(Change {
                at: after,
                seconds: ahead(tz, after) - old,
            });
        }
        before = next;
    }
    changes
}

#[test]
fn the_zones_have_what_they_were_chosen_for() {
    let shown = |zone: Tz| {
        let changes = changes(ZONES.iter().position(|one| *one == zone).unwrap());
        let shown = changes.iter().map(|change| {
            let from = change.at - TimeDelta::seconds(1);
            format!(
                "{} {}",
                local(zone, from).format("%F %R"),
                change.seconds / 60
            )
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(shown(Tz::Europe__Berlin).len(), 40);
    assert_eq!(shown(Tz::Asia__Kathmandu).len(), 0);
    assert!(shown(Tz::Pacific__Apia).contains(&"2011-12-29 23:59 1440".to_owned()));
    assert!(shown(Tz::Australia__Lord_Howe).contains(&"2026-10-04 01:59 30".to_owned()));
    assert!(shown(Tz::America__Sao_Paulo).contains(&"2018-11-03 23:59 60".to_owned()));
    assert!(shown(Tz::Africa__Cairo).contains(&"2026-04-23 23:59 60".to_owned()));
    assert!(shown(Tz::America__St_Johns).contains(&"2010-11-07 00:00 -60".to_owned()));
    assert!(shown(Tz::Africa__Casablanca).len() > 50);
}

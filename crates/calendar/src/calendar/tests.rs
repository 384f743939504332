use super::Calendar;
use crate::Timestamp;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The first fires after a moment, as the clock of the zone shows them.
fn check(cron: &str, zone: &str, after: &str, expected: &[&str]) {
    let calendar = Calendar::parse(cron, zone).unwrap();
    let fires = calendar.upcoming(at(after), expected.len());
    let shown: Vec<String> = fires
        .iter()
        .map(|fire| calendar.zone().local(*fire).format("%F %R %:z").to_string())
        .collect();
    assert_eq!(shown, expected, "{cron} {zone}");
    for pair in fires.windows(2) {
        assert_eq!(calendar.latest_at_or_before(pair[1]), Some(pair[1]));
        let between = pair[1] - chrono::TimeDelta::nanoseconds(1);
        assert_eq!(calendar.latest_at_or_before(between), Some(pair[0]));
        assert_eq!(calendar.next_after(between), Some(pair[1]));
    }
}

#[test]
fn a_time_that_does_not_exist_fires_once_right_after() {
    let (zone, eve) = ("Europe/Berlin", "2026-03-28T12:00:00Z");
    check(
        "30 2 * * *",
        zone,
        eve,
        &["2026-03-29 03:00 +02:00", "2026-03-30 02:30 +02:00"],
    );
    let quarters = ["2026-03-29 03:00 +02:00", "2026-03-30 02:00 +02:00"];
    check("*/15 2 * * *", zone, eve, &quarters);
    // What is meant for the gap's end anyway is the same fire.
    check("0 2,3 * * *", zone, eve, &quarters);
    check(
        "30 2,3 * * *",
        zone,
        eve,
        &["2026-03-29 03:00 +02:00", "2026-03-29 03:30 +02:00"],
    );
}

#[test]
fn a_time_that_exists_twice_fires_the_first_time() {
    let (zone, eve) = ("Europe/Berlin", "2026-10-24T12:00:00Z");
    check(
        "30 2 * * *",
        zone,
        eve,
        &["2026-10-25 02:30 +02:00", "2026-10-26 02:30 +01:00"],
    );
    let hours = ["2026-10-25 02:00 +02:00", "2026-10-25 03:00 +01:00"];
    check("0 2,3 * * *", zone, eve, &hours);
    let night = "2026-10-25T00:40:00Z";
    check(
        "*/30 * * * *",
        zone,
        night,
        &["2026-10-25 03:00 +01:00", "2026-10-25 03:30 +01:00"],
    );
}

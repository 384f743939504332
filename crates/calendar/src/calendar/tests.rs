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
    // In the first run of what is shown twice, in the second, and at the turn.
    for night in [
        "2026-10-25T00:40:00Z",
        "2026-10-25T01:10:00Z",
        "2026-10-25T01:00:00Z",
    ] {
        let halves = ["2026-10-25 03:00 +01:00", "2026-10-25 03:30 +01:00"];
        check("*/30 * * * *", zone, night, &halves);
        let calendar = Calendar::parse("*/30 * * * *", zone).unwrap();
        let latest = Some(at("2026-10-25T00:30:00Z"));
        assert_eq!(calendar.latest_at_or_before(at(night)), latest);
    }
}

#[test]
fn months_have_last_days() {
    let after = "2028-01-30T12:00:00Z";
    let days = |cron: &str, expected: [&str; 4]| {
        let expected = expected.map(|day| format!("{day} 04:00 +00:00"));
        check(cron, "UTC", after, &expected.each_ref().map(String::as_str));
    };
    days(
        "0 4 L * *",
        ["2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"],
    );
    days(
        "0 4 31L * *",
        ["2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"],
    );
    days(
        "0 4 30L * *",
        ["2028-02-29", "2028-03-30", "2028-04-30", "2028-05-30"],
    );
    days(
        "0 4 29L * *",
        ["2028-02-29", "2028-03-29", "2028-04-29", "2028-05-29"],
    );
    days(
        "0 4 31 * *",
        ["2028-01-31", "2028-03-31", "2028-05-31", "2028-07-31"],
    );
    days(
        "0 4 L,1 2 *",
        ["2028-02-01", "2028-02-29", "2029-02-01", "2029-02-28"],
    );
    days(
        "0 4 29 2 *",
        ["2028-02-29", "2032-02-29", "2036-02-29", "2040-02-29"],
    );
    // A last day that is a Sunday (a field that begins with * restricts nothing on its own).
    days(
        "0 4 L * */7",
        ["2028-04-30", "2028-12-31", "2029-09-30", "2030-03-31"],
    );
}

#[test]
fn day_of_month_or_day_of_week() {
    let after = "2026-11-05T12:00:00Z";
    let days = |cron: &str, expected: [&str; 4]| {
        let expected = expected.map(|day| format!("{day} 00:00 +00:00"));
        check(cron, "UTC", after, &expected.each_ref().map(String::as_str));
    };
    days(
        "0 0 13 * 5",
        ["2026-11-06", "2026-11-13", "2026-11-20", "2026-11-27"],
    );
    days(
        "0 0 12 * FRI",
        ["2026-11-06", "2026-11-12", "2026-11-13", "2026-11-20"],
    );
    days(
        "0 0 * * 1",
        ["2026-11-09", "2026-11-16", "2026-11-23", "2026-11-30"],
    );
    days(
        "0 0 * * 7",
        ["2026-11-08", "2026-11-15", "2026-11-22", "2026-11-29"],
    );
    days(
        "0 0 L * 0",
        ["2026-11-08", "2026-11-15", "2026-11-22", "2026-11-29"],
    );
    days(
        "0 0 */10 * MON",
        ["2026-12-21", "2027-01-11", "2027-02-01", "2027-03-01"],
    );
}

#[test]
fn clocks_that_are_set_at_midnight() {
    let (zone, eve) = ("America/Sao_Paulo", "2018-11-02T12:00:00Z");
    let daily = [
        "2018-11-03 00:00 -03:00",
        "2018-11-04 01:00 -02:00",
        "2018-11-05 00:00 -02:00",
    ];
    check("0 0 * * *", zone, eve, &daily);
    check(
        "59 23 * * SAT",
        zone,
        eve,
        &["2018-11-03 23:59 -03:00", "2018-11-10 23:59 -02:00"],
    );
    let spring = "2018-02-17T12:00:00Z";
    check(
        "30 23 * * *",
        zone,
        spring,
        &["2018-02-17 23:30 -02:00", "2018-02-18 23:30 -03:00"],
    );
    let friday = ["2026-04-24 01:00 +03:00", "2026-05-01 00:15 +03:00"];
    check(
        "15 0 * * FRI",
        "Africa/Cairo",
        "2026-04-20T00:00:00Z",
        &friday,
    );
    // At 00:01 it was 23:01 again: this midnight is shown twice.
    let twice = ["2010-11-07 00:00 -02:30", "2010-11-08 00:00 -03:30"];
    check(
        "0 0 * * *",
        "America/St_Johns",
        "2010-11-06T12:00:00Z",
        &twice,
    );
}

#[test]
fn half_an_hour_and_a_whole_day() {
    let zone = "Australia/Lord_Howe";
    let gap = ["2026-10-04 02:30 +11:00", "2026-10-05 02:15 +11:00"];
    check("15 2 * * *", zone, "2026-10-03T12:00:00Z", &gap);
    let fold = ["2026-04-05 01:45 +11:00", "2026-04-06 01:45 +10:30"];
    check("45 1 * * *", zone, "2026-04-04T12:00:00Z", &fold);
    // It went from 29 to 31 December.
    let (zone, eve) = ("Pacific/Apia", "2011-12-29T20:00:00Z");
    let daily = [
        "2011-12-29 12:00 -10:00",
        "2011-12-31 00:00 +14:00",
        "2011-12-31 12:00 +14:00",
    ];
    check("0 12 * * *", zone, eve, &daily);
    check(
        "0 12 30 12 *",
        zone,
        eve,
        &["2011-12-31 00:00 +14:00", "2012-12-30 12:00 +14:00"],
    );
    let hourly = [
        "2011-12-29 23:00 -10:00",
        "2011-12-31 00:00 +14:00",
        "2011-12-31 01:00 +14:00",
    ];
    check("0 * * * *", zone, "2011-12-30T08:30:00Z", &hourly);
}

#[test]
fn years_end() {
    let zone = "Asia/Kathmandu";
    let years = ["2026-12-31 23:59 +05:45", "2027-12-31 23:59 +05:45"];
    check("59 23 31 12 *", zone, "2026-12-31T18:13:59.999Z", &years);
    check("59 23 31 12 *", zone, "2026-12-31T18:14:00Z", &years[1..]);
    check(
        "0 0 1 1 *",
        "UTC",
        "2099-06-01T00:00:00Z",
        &["2100-01-01 00:00 +00:00"],
    );
    let daily = Calendar::parse("@daily", "UTC").unwrap();
    assert_eq!(
        daily.next_after(at("2100-12-31T00:00:00Z")),
        None,
        "as far as it is known"
    );
    assert_eq!(daily.latest_at_or_before(at("1969-12-31T00:00:00Z")), None);
    for far in [Timestamp::MIN_UTC, Timestamp::MAX_UTC] {
        let _ = (daily.next_after(far), daily.latest_at_or_before(far));
    }
}

#[test]
fn a_fire_after_a_gap_is_known_as_one() {
    let calendar = Calendar::parse("30 2,3 * * *", "Europe/Berlin").unwrap();
    assert!(calendar.is_after_gap(at("2026-03-29T01:00:00Z")));
    assert!(!calendar.is_after_gap(at("2026-03-29T01:30:00Z")));
}

#[test]
fn stored_texts_that_make_no_calendar() {
    let said = |cron, zone| Calendar::parse(cron, zone).unwrap_err().to_string();
    assert!(said("0 0 * *", "UTC").starts_with("\"0 0 * *\" has 4 fields"));
    assert!(said("0 0 * * *", "Berlin").ends_with("did you mean \"Europe/Berlin\"?"));
}

/// The example of docs/schedules.md.
#[test]
fn berlin_in_2026() {
    let (zone, spring, autumn) = (
        "Europe/Berlin",
        "2026-03-28T23:30:00Z",
        "2026-10-24T23:30:00Z",
    );
    let day = |cron: &str, after: &str, date: &str, fires: &[&str]| {
        let fires: Vec<String> = fires.iter().map(|fire| format!("{date} {fire}")).collect();
        let fires: Vec<&str> = fires.iter().map(String::as_str).collect();
        check(cron, zone, after, &fires);
    };
    let in_spring = |cron, fires: &[&str]| day(cron, spring, "2026-03-29", fires);
    let in_autumn = |cron, fires: &[&str]| day(cron, autumn, "2026-10-25", fires);
    in_spring("30 2 * * *", &["03:00 +02:00"]);
    in_autumn("30 2 * * *", &["02:30 +02:00"]);
    in_spring("*/15 2 * * *", &["03:00 +02:00"]);
    let quarters = [
        "02:00 +02:00",
        "02:15 +02:00",
        "02:30 +02:00",
        "02:45 +02:00",
    ];
    in_autumn("*/15 2 * * *", &quarters);
    in_spring("30 2,3 * * *", &["03:00 +02:00", "03:30 +02:00"]);
    in_autumn("30 2,3 * * *", &["02:30 +02:00", "03:30 +01:00"]);
    in_spring(
        "0 * * * *",
        &["01:00 +01:00", "03:00 +02:00", "04:00 +02:00"],
    );
    in_autumn(
        "0 * * * *",
        &["02:00 +02:00", "03:00 +01:00", "04:00 +01:00"],
    );
}

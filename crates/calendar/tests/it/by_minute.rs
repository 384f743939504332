//! Our rules, held against a clock that is read every minute.
//!
//! The judge knows neither the engine nor our arithmetic of gaps and folds: it remembers the latest minute
//! the clock has shown, and when the clock shows a later one, everything meant in between is one fire.

use calendar::{Calendar, Timestamp};
use chrono::{NaiveDateTime, TimeDelta};
use chrono_tz::Tz;
use proptest::prelude::*;

use crate::model::{Model, model, model_of_the_night};
use crate::zones::{ZONES, begin, changes, local};

const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// All fires in `from..=to`, both whole minutes. Reading begins two days before, so that a fold which is
/// under way at `from` is known.
fn fires_by_reading(model: &Model, tz: Tz, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let mut fires = Vec::new();
    let mut now = from - TimeDelta::days(2);
    let mut latest = local(tz, now);
    while now < to {
        now += MINUTE;
        let shown = local(tz, now);
        if any_meant(model, latest, shown) && now >= from {
            fires.push(now);
        }
        latest = latest.max(shown);
    }
    fires
}

/// In `(after, to]`.
fn any_meant(model: &Model, after: NaiveDateTime, to: NaiveDateTime) -> bool {
    let mut minute = after + MINUTE;
    while minute <= to {
        if model.means(minute) {
            return true;
        }
        minute += MINUTE;
    }
    false
}

fn calendar(model: &Model, tz: Tz) -> Calendar {
    Calendar::parse(&model.text(), tz.name()).unwrap()
}

fn fires_in(calendar: &Calendar, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let before = from - TimeDelta::nanoseconds(1);
    std::iter::successors(calendar.next_after(before), |fire| {
        calendar.next_after(*fire)
    })
    .take_while(|fire| *fire <= to)
    .collect()
}

/// The same fires forward and backward, from fires and from between them.
fn agree(calendar: &Calendar, fires: &[Timestamp]) {
    for pair in fires.windows(2) {
        let middle = pair[0] + (pair[1] - pair[0]) / 2;
        for moment in [pair[0], middle, pair[1] - TimeDelta::nanoseconds(1)] {
            assert_eq!(calendar.next_after(moment), Some(pair[1]), "after {moment}");
            assert_eq!(
                calendar.latest_at_or_before(moment),
                Some(pair[0]),
                "until {moment}"
            );
        }
    }
}

fn check(model: &Model, tz: Tz, from: Timestamp, to: Timestamp) {
    let calendar = calendar(model, tz);
    let fires = fires_in(&calendar, from, to);
    let expected = fires_by_reading(model, tz, from, to);
    assert_eq!(fires, expected, "{:?} in {tz}", model.text());
    agree(&calendar, &fires);
    let local_is_meant = |fire: &Timestamp| model.means(local(tz, *fire));
    for fire in &fires {
        assert_eq!(
            calendar.is_after_gap(*fire),
            !local_is_meant(fire),
            "{fire}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Around each kind of change that the ten zones had or will have.
    #[test]
    fn around_changes(
        model in model_of_the_night(),
        zone in 0..ZONES.len(),
        change in any::<prop::sample::Index>(),
        days in (0..2_i64, 1..3_i64),
    ) {
        let Some(change) = pick(changes(zone), change) else { return Ok(()) };
        let (from, to) = (change.at - TimeDelta::days(days.0), change.at + TimeDelta::days(days.1));
        check(&model, ZONES[zone], from, to);
    }

    /// Beginning in the middle of things: the moment is anywhere in or near a gap or a fold.
    #[test]
    fn from_within_changes(
        model in model_of_the_night(),
        zone in 0..ZONES.len(),
        change in any::<prop::sample::Index>(),
        minutes in -90..180_i64,
    ) {
        let Some(change) = pick(changes(zone), change) else { return Ok(()) };
        let from = change.at + TimeDelta::minutes(minutes);
        check(&model, ZONES[zone], from, from + TimeDelta::hours(30));
    }

    /// Anywhere in the twenty years.
    #[test]
    fn on_any_days(model in model(2), zone in 0..ZONES.len(), day in 0..7300_i64) {
        let from = begin() + TimeDelta::days(day);
        check(&model, ZONES[zone], from, from + TimeDelta::days(4));
    }

    /// Whatever the moment, to the nanosecond: forward and backward speak of the same fires.
    #[test]
    fn forward_and_backward(
        model in model(1),
        zone in 0..ZONES.len(),
        seconds in 0..631_000_000_i64,
        nanos in prop_oneof![Just(0), 0..1_000_000_000_i64],
    ) {
        let calendar = calendar(&model, ZONES[zone]);
        let moment = begin() + TimeDelta::seconds(seconds) + TimeDelta::nanoseconds(nanos);
        let latest = calendar.latest_at_or_before(moment).unwrap();
        prop_assert!(latest <= moment);
        prop_assert_eq!(calendar.latest_at_or_before(latest), Some(latest));
        if let Some(next) = calendar.next_after(moment) {
            prop_assert!(next > moment);
            prop_assert_eq!(calendar.next_after(latest), Some(next));
            prop_assert_eq!(calendar.latest_at_or_before(next), Some(next));
            let just_before = next - TimeDelta::nanoseconds(1);
            prop_assert_eq!(calendar.latest_at_or_before(just_before), Some(latest));
        }
    }

    /// The normal text means the same.
    #[test]
    fn normal_text(model in model(2), seconds in 0..631_000_000_i64) {
        let first = calendar(&model, Tz::UTC);
        let text = first.expression().to_string();
        let second = Calendar::parse(&text, "UTC").unwrap();
        prop_assert_eq!(&second, &first);
        let moment = begin() + TimeDelta::seconds(seconds);
        prop_assert_eq!(second.upcoming(moment, 5), first.upcoming(moment, 5));
    }
}

fn pick<T>(all: &[T], index: prop::sample::Index) -> Option<&T> {
    (!all.is_empty()).then(|| index.get(all))
}

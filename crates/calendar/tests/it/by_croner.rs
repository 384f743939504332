//! Fires held against croner, an independent implementation, from 2010 to 2030 in ten zones.
//!
//! Where croner has other rules, it is said here and normalised; nothing is skipped silently:
//!
//! 1. croner joins day of month and day of week with *or* unless one of them is exactly `*`; Vixie cron and
//!    we take one that merely begins with `*`, like `*/2`, for unrestricted too. croner's own switch for
//!    *and* is used for those.
//! 2. croner has no `29L`, `30L`, `31L`. Those are left to [`crate::by_minute`].
//! 3. What is shown twice: croner runs an expression with one minute and one hour once, the first time, as
//!    we do; any other both times. Its second runs are taken out.
//! 4. What is not shown: croner runs an expression with one minute and one hour right after the gap, if the
//!    day there is meant too and the gap is at most two hours long; any other not at all. We always run.
//!    Fires at the ends of gaps are taken out on both sides.
//!
//! 5. croner takes `SUN-SUN` for the whole week; crontab(5) and we for Sundays. It is not asked.
//!
//! For expressions of one minute and one hour neither is taken out, except at a gap that croner refuses
//! (Pacific/Apia's skipped day) or that ends on a day that is not meant.

use calendar::{Calendar, Timestamp};
use chrono::{TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{Cron, JobType, errors::CronError, parser::CronParser};
use proptest::prelude::*;

use crate::model::{Model, model, model_of_the_night};
use crate::zones::{Change, ZONES, begin, changes, end, local};

fn croner(model: &Model) -> Cron {
    let begins_with_star = model.day_of_month.starred() || model.day_of_week.starred();
    let parser = CronParser::builder().dom_and_dow(begins_with_star).build();
    parser.parse(&model.text()).unwrap()
}

fn has_clamped_days(model: &Model) -> bool {
    model.day_of_month.last.iter().any(|day| *day < 32)
}

/// What is left to compare of a fire near a change of the clock.
fn comparable(model: &Model, cron: &Cron, tz: Tz, changes: &[Change], fire: Timestamp) -> bool {
    let fixed = cron.determine_job_type() == JobType::FixedTime;
    changes.iter().all(|change| {
        let run_again = !fixed && change.shows_again(fire);
        let croner_refuses =
            !fixed || change.seconds > 2 * 3600 || !model.means_day(local(tz, fire).date());
        !(run_again || change.ends_gap(fire) && croner_refuses)
    })
}

/// croner gives up at a gap that is longer than two hours; it is asked again behind it.
fn fires_of(cron: &Cron, zone: usize, from: Timestamp) -> impl Iterator<Item = Timestamp> {
    let tz = ZONES[zone];
    let behind = move |now: Timestamp| {
        let long = |change: &&Change| change.seconds > 2 * 3600 && change.at > now;
        changes(zone).iter().find(long).map(|change| change.at)
    };
    let next = move |now: Timestamp| match cron.find_next_occurrence(&now.with_timezone(&tz), false)
    {
        Err(CronError::TimeSearchLimitExceeded) => cron
            .find_next_occurrence(&behind(now)?.with_timezone(&tz), true)
            .ok(),
        fire => fire.ok(),
    };
    let next = move |now: Timestamp| next(now).map(|fire| fire.with_timezone(&Utc));
    std::iter::successors(next(from), move |fire| next(*fire))
}

/// Compares from `from` on, for a number of fires or until the twenty years are over.
fn compare(model: &Model, zone: usize, from: Timestamp, count: usize) {
    let tz = ZONES[zone];
    let cron = croner(model);
    let calendar = Calendar::parse(&model.text(), tz.name()).unwrap();
    let ours = calendar.upcoming(from, count);
    let until = match ours.last() {
        Some(last) if ours.len() == count => (*last).min(end()),
        _ => end(),
    };
    let keep = |fire: &Timestamp| comparable(model, &cron, tz, changes(zone), *fire);
    let ours: Vec<Timestamp> = ours
        .into_iter()
        .filter(|fire| *fire <= until && keep(fire))
        .collect();
    let theirs: Vec<Timestamp> = fires_of(&cron, zone, from)
        .take_while(|fire| *fire <= until)
        .filter(keep)
        .collect();
    let first_difference = ours.iter().zip(&theirs).find(|(our, their)| our != their);
    let lengths = (ours.len(), theirs.len());
    assert!(
        ours == theirs,
        "{model:?} in {tz} after {from}: {first_difference:?} of {lengths:?}"
    );
}

fn is_comparable(model: &Model) -> bool {
    !has_clamped_days(model)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(160))]

    /// A run of fires, anywhere in the twenty years.
    #[test]
    fn anywhere(
        model in model(2).prop_filter("croner has no 30L", is_comparable),
        zone in 0..ZONES.len(),
        minutes in 0..10_500_000_i64,
    ) {
        compare(&model, zone, begin() + TimeDelta::minutes(minutes), 100);
    }

    /// Across a change of the clock.
    #[test]
    fn across_changes(
        model in model_of_the_night().prop_filter("croner has no 30L", is_comparable),
        zone in 0..ZONES.len(),
        change in any::<prop::sample::Index>(),
        minutes in -180..180_i64,
    ) {
        let changes = changes(zone);
        if !changes.is_empty() {
            let from = change.get(changes).at + TimeDelta::minutes(minutes);
            compare(&model, zone, from, 100);
        }
    }

    /// Without changes of the clock nothing is taken out, and backwards is the same.
    #[test]
    fn on_the_wall(
        model in model(2).prop_filter("croner has no 30L", is_comparable),
        minutes in 0..10_500_000_i64,
    ) {
        let from = begin() + TimeDelta::minutes(minutes);
        let calendar = Calendar::parse(&model.text(), "UTC").unwrap();
        let cron = croner(&model);
        let theirs: Vec<Timestamp> = cron.iter_after(from).take(50).collect();
        prop_assert_eq!(calendar.upcoming(from, 50).len(), theirs.len());
        prop_assert_eq!(calendar.upcoming(from, 50), theirs);
        let previous = cron.find_previous_occurrence(&from, true).ok();
        prop_assert_eq!(calendar.latest_at_or_before(from), previous);
    }
}

proptest! {
    #![proptest_config(config(1))]

    /// Every fire of the whole twenty years, in each of the ten zones.
    #[test]
    fn twenty_years(
        models in prop::collection::vec(
            model(0).prop_filter("croner has no 30L", is_comparable), ZONES.len(),
        ),
    ) {
        for (zone, model) in models.iter().enumerate() {
            // Once or twice a day: all of it.
            let mut model = model.clone();
            model.minute = one_of(&model.minute);
            model.hour = one_of(&model.hour);
            compare(&model, zone, begin(), usize::MAX);
        }
    }
}

fn one_of(field: &crate::model::Field) -> crate::model::Field {
    let value = *field.values.first().unwrap();
    crate::model::Field {
        text: value.to_string(),
        values: [value].into(),
        last: Vec::new(),
    }
}

//! Random expressions, as text and as what the text means: sets, as crontab(5) has them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use chrono::{Datelike, NaiveDate, NaiveDateTime, Timelike};
use proptest::prelude::*;

/// An expression and its meaning.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) minute: Field,
    pub(crate) hour: Field,
    pub(crate) day_of_month: Field,
    pub(crate) month: Field,
    pub(crate) day_of_week: Field,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) text: String,
    pub(crate) values: BTreeSet<u32>,
    /// Day of month only: `L` is 32, `30L` is 30.
    pub(crate) last: Vec<u32>,
}

impl Field {
    pub(crate) fn starred(&self) -> bool {
        self.text.starts_with(['*', '?'])
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl Model {
    pub(crate) fn text(&self) -> String {
        let (minute, hour) = (&self.minute.text, &self.hour.text);
        let (day, month) = (&self.day_of_month.text, &self.month.text);
        format!("{minute} {hour} {day} {month} {}", self.day_of_week.text)
    }

    pub(crate) fn means(&self, local: NaiveDateTime) -> bool {
        self.minute.values.contains(&local.minute())
            && self.hour.values.contains(&local.hour())
            && self.means_day(local.date())
    }

    pub(crate) fn means_day(&self, date: NaiveDate) -> bool {
        let is_last = date.succ_opt().unwrap().day() == 1;
        let day = self.day_of_month.values.contains(&date.day())
            || self
                .day_of_month
                .last
                .iter()
                .any(|&number| date.day() == number || (is_last && date.day() < number));
        let weekday = self
            .day_of_week
            .values
            .contains(&date.weekday().num_days_from_sunday());
        let both = self.day_of_month.starred() || self.day_of_week.starred();
        self.month.values.contains(&date.month())
            && if both { day && weekday } else { day || weekday }
    }

    pub(crate) fn ever_fires(&self) -> bool {
        let begin = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap();
        begin
            .iter_days()
            .take(36_525)
            .any(|date| self.means_day(date))
    }
}

const MONTHS: &[&str] = &[
    "jan", "FEB", "Mar", "APR", "may", "JUN", "JUL", "Aug", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: &[&str] = &["SUN", "mon", "TUE", "Wed", "THU", "FRI", "sat"];

/// A list entry, its values, and the last day it may be.
type Item = (String, Vec<u32>, Option<u32>);

fn item(range: RangeInclusive<u32>, names: &'static [&'static str]) -> BoxedStrategy<Item> {
    let first = *range.start();
    let write = move |value: u32, named: bool| match names.get((value - first) as usize) {
        Some(name) if named => (*name).to_owned(),
        _ => value.to_string(),
    };
    let one = (range.clone(), any::<bool>())
        .prop_map(move |(value, named)| (write(value, named), vec![value], None));
    let span =
        (range.clone(), range, 1..8_u32, any::<bool>()).prop_map(move |(a, b, step, named)| {
            let (from, to) = (a.min(b), a.max(b));
            // croner takes SUN-SUN for the whole week; crontab(5) and we for Sundays.
            let named = named && to > 0;
            let mut text = format!("{}-{}", write(from, named), write(to, named));
            // Only the weekdays have so few.
            let step = step.min(first + 6);
            if step > 1 {
                text = format!("{text}/{step}");
            }
            (text, (from..=to).step_by(step as usize).collect(), None)
        });
    prop_oneof![3 => one, 1 => span].boxed()
}

fn field(range: RangeInclusive<u32>, star: u32, item: BoxedStrategy<Item>) -> BoxedStrategy<Field> {
    let all = Field {
        text: "*".to_owned(),
        values: range.clone().collect(),
        last: Vec::new(),
    };
    let steps = 2..=(*range.end()).min(20);
    let stepped = steps.prop_map(move |step| Field {
        text: format!("*/{step}"),
        values: range.clone().step_by(step as usize).collect(),
        last: Vec::new(),
    });
    let list = prop::collection::vec(item, 1..4).prop_map(|items| {
        let texts: Vec<String> = items.iter().map(|item| item.0.clone()).collect();
        Field {
            text: texts.join(","),
            values: items.iter().flat_map(|item| item.1.clone()).collect(),
            last: items.iter().filter_map(|item| item.2).collect(),
        }
    });
    prop_oneof![star => Just(all), 1 => stepped, 6 => list].boxed()
}

fn weekday() -> BoxedStrategy<Field> {
    let sunday = Just(("7".to_owned(), vec![0], None));
    let from = (1..=6_u32).prop_map(|from| {
        let values = (from..=7).map(|day| day % 7).collect();
        (format!("{from}-7"), values, None)
    });
    let item = prop_oneof![6 => item(0..=6, WEEKDAYS), 1 => sunday, 1 => from].boxed();
    // A step over 0 to 7 meets Sunday twice; values are folded.
    field(0..=7, 8, item)
        .prop_map(|field| Field {
            values: field.values.iter().map(|day| day % 7).collect(),
            ..field
        })
        .boxed()
}

fn day_of_month() -> BoxedStrategy<Field> {
    let last = prop_oneof![
        2 => Just(("L".to_owned(), vec![], Some(32))),
        1 => (29..=31_u32).prop_map(|day| (format!("{day}L"), vec![], Some(day))),
    ];
    let item = prop_oneof![5 => item(1..=31, &[]), 1 => last].boxed();
    field(1..=31, 8, item)
}

/// Any expression that fires. `often` of seven hours and minutes are `*`.
pub(crate) fn model(often: u32) -> impl Strategy<Value = Model> {
    let parts = (
        field(0..=59, often, item(0..=59, &[])),
        field(0..=23, often, item(0..=23, &[])),
        day_of_month(),
        field(1..=12, 12, item(1..=12, MONTHS)),
        weekday(),
    );
    parts
        .prop_map(|(minute, hour, day_of_month, month, day_of_week)| Model {
            minute,
            hour,
            day_of_month,
            month,
            day_of_week,
        })
        .prop_filter("it never fires", Model::ever_fires)
}

/// One that means minutes around the hours at which clocks are set.
pub(crate) fn model_of_the_night() -> impl Strategy<Value = Model> {
    let hours = prop_oneof![
        field(0..=23, 1, item(0..=3, &[])),
        field(0..=23, 1, item(21..=23, &[])),
    ];
    (model(3), hours).prop_map(|(model, hour)| Model {
        hour: hour.clone(),
        ..model
    })
}

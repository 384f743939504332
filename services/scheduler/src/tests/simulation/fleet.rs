//! Schedules of which it is known, without the scheduler's calendar, when they fire.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, TimeDelta, Timelike as _};
use events::document::Schedule;
use events::{BackupId, InstanceDocument, InstanceName, ScheduleId, Timestamp, example};
use uuid::Uuid;

use super::wall::Wall;
use crate::tests::Place;
use crate::tests::firing::{document, registered};

/// A small generator of numbers that are the same on every run with the same seed.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    pub(super) fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

/// A seed of its own for each run; a failure prints it.
pub(super) fn seed() -> u64 {
    let seed = u64::from_le_bytes(Uuid::now_v7().as_bytes()[8..].try_into().unwrap());
    println!("seed {seed}");
    seed
}

#[derive(Clone, Copy)]
pub(super) enum Days {
    Every,
    /// 0 is Sunday.
    Weekday(u32),
    OfMonth(u32),
}

/// When something fires, in words that can be enumerated without a calendar.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) days: Days,
    /// None: each hour, for which its clock is that of UTC.
    pub(super) hour: Option<u32>,
    pub(super) minute: u32,
    pub(super) wall: Wall,
}

impl Times {
    pub(super) fn any(chance: &mut Chance) -> Self {
        let days = match chance.below(4) {
            0 => Days::OfMonth(u32::try_from(chance.below(31)).unwrap() + 1),
            1 => Days::Every,
            _ => Days::Weekday(u32::try_from(chance.below(7)).unwrap()),
        };
        Times {
            days,
            // Often in the hour in which clocks are changed.
            hour: Some(match chance.one_in(4) {
                true => 2,
                false => u32::try_from(chance.below(24)).unwrap(),
            }),
            minute: u32::try_from(chance.below(60)).unwrap(),
            wall: Wall::any(chance),
        }
    }

    fn cron(&self) -> String {
        let (day, weekday) = match self.days {
            Days::Every => ("*".to_owned(), "*".to_owned()),
            Days::Weekday(day) => ("*".to_owned(), day.to_string()),
            Days::OfMonth(day) => (day.to_string(), "*".to_owned()),
        };
        let hour = self.hour.map_or("*".to_owned(), |hour| hour.to_string());
        format!("{} {hour} {day} * {weekday}", self.minute)
    }

    /// Every fire after `from`, up to `to`.
    pub(super) fn between(&self, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let mut fires = Vec::new();
        // Days are those on the wall, which may begin a day earlier or later.
        let mut day = from.date_naive().pred_opt().unwrap();
        while day <= to.date_naive().succ_opt().unwrap() {
            let meant = match self.days {
                Days::Every => true,
                Days::Weekday(weekday) => day.weekday().num_days_from_sunday() == weekday,
                Days::OfMonth(number) => day.day() == number,
            };
            let hours = match self.hour {
                Some(hour) => hour..hour + 1,
                None => 0..24,
            };
            for hour in hours.filter(|_| meant) {
                let at = self.wall.at(day.and_hms_opt(hour, self.minute, 0).unwrap());
                if at > from && at <= to {
                    fires.push(at);
                }
            }
            day = day.succ_opt().unwrap();
        }
        fires
    }
}

/// Instances with their schedules.
pub(super) struct Fleet {
    pub(super) documents: Vec<InstanceDocument>,
    pub(super) times: BTreeMap<ScheduleId, Times>,
}

impl Fleet {
    pub(super) fn new(
        created_at: Timestamp,
        instances: u128,
        schedules: u128,
        mut times: impl FnMut() -> Times,
    ) -> Self {
        let mut fleet = Fleet {
            documents: Vec::new(),
            times: BTreeMap::new(),
        };
        for number in 0..instances {
            let mut wanted = document(created_at);
            wanted.instance = InstanceName::new(format!("db{number}")).unwrap();
            wanted.schedules.clear();
            for of_instance in 0..schedules {
                let id = ScheduleId(Uuid::from_u128(number * 100 + of_instance + 1));
                let times = times();
                wanted.schedules.push(Schedule {
                    id,
                    cron: times.cron(),
                    timezone: times.wall.name.to_owned(),
                    created_at,
                    ..example::schedule()
                });
                let _none = fleet.times.insert(id, times);
            }
            fleet.documents.push(wanted);
        }
        fleet
    }

    pub(super) async fn register(&self, place: &Place) {
        for document in &self.documents {
            registered(place, document).await;
        }
    }

    /// The backups of all fires after `from`, up to `to`.
    pub(super) fn expected(&self, from: Timestamp, to: Timestamp) -> BTreeSet<BackupId> {
        let ids = self.times.iter().flat_map(|(id, times)| {
            let fires = times.between(from, to).into_iter();
            fires.map(|fire| BackupId::scheduled(*id, fire))
        });
        ids.collect()
    }

    /// The moments at which something fires, in order.
    pub(super) fn moments(&self, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
        let fires = self
            .times
            .values()
            .flat_map(|times| times.between(from, to));
        fires.collect()
    }

    /// The backups of fires at whose moment another schedule of the same branch fires.
    pub(super) fn together(&self, from: Timestamp, to: Timestamp) -> BTreeSet<BackupId> {
        let mut together = BTreeSet::new();
        for document in &self.documents {
            let mut by_moment: BTreeMap<Timestamp, Vec<BackupId>> = BTreeMap::new();
            for schedule in &document.schedules {
                for fire in self.times[&schedule.id].between(from, to) {
                    let id = BackupId::scheduled(schedule.id, fire);
                    by_moment.entry(fire).or_default().push(id);
                }
            }
            together.extend(
                by_moment
                    .into_values()
                    .filter(|ids| ids.len() > 1)
                    .flatten(),
            );
        }
        together
    }

    /// How many schedules of a zone fire at a moment to which its clock was put on, and not by their own words.
    pub(super) fn moved_to(&self, zone: &str, at: Timestamp) -> usize {
        let of_zone = self.times.values().filter(|times| times.wall.name == zone);
        let just_before = at - TimeDelta::seconds(1);
        let moved = of_zone.filter(|times| {
            let shown = times.wall.shown(at);
            let own = (times.hour, times.minute) == (Some(shown.hour()), shown.minute());
            !own && !times.between(just_before, at).is_empty()
        });
        moved.count()
    }
}

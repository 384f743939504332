//! Schedules over long times, by a manual clock: each fire has exactly one effect, whatever dies, pauses or is set.
//!
//! What is expected is enumerated here, from days and times, and not by the calendar that the scheduler uses.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Bus, BusConfig};
use chrono::{Datelike, TimeDelta};
use events::document::Schedule;
use events::event::BackupRequested;
use events::{
    BackupId, Event, InstanceDocument, InstanceName, ScheduleId, Timestamp, example, topology,
};
use futures::StreamExt as _;
use testkit::nats::NatsServer;
use uuid::Uuid;

use super::Place;
use super::firing::{document, registered};
use crate::firing::Firing;
use crate::watchdog::Watchdog;

/// A small generator of numbers that are the same on every run with the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

/// A seed of its own for each run; a failure prints it.
fn seed() -> u64 {
    let seed = u64::from_le_bytes(Uuid::now_v7().as_bytes()[8..].try_into().unwrap());
    println!("seed {seed}");
    seed
}

#[derive(Clone, Copy)]
enum Days {
    Every,
    /// 0 is Sunday.
    Weekday(u32),
    OfMonth(u32),
}

/// When something fires, in words that can be enumerated without a calendar.
#[derive(Clone, Copy)]
struct Times {
    days: Days,
    /// None: each hour.
    hour: Option<u32>,
    minute: u32,
}

impl Times {
    fn any(chance: &mut Chance) -> Self {
        let days = match chance.below(4) {
            0 => Days::OfMonth(u32::try_from(chance.below(31)).unwrap() + 1),
            1 => Days::Every,
            _ => Days::Weekday(u32::try_from(chance.below(7)).unwrap()),
        };
        Times {
            days,
            hour: Some(u32::try_from(chance.below(24)).unwrap()),
            minute: u32::try_from(chance.below(60)).unwrap(),
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
    fn between(&self, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let mut fires = Vec::new();
        let mut day = from.date_naive();
        while day <= to.date_naive() {
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
                let at = day.and_hms_opt(hour, self.minute, 0).unwrap().and_utc();
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
struct Fleet {
    documents: Vec<InstanceDocument>,
    times: BTreeMap<ScheduleId, Times>,
}

impl Fleet {
    fn new(
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
                    created_at,
                    ..example::schedule()
                });
                let _none = fleet.times.insert(id, times);
            }
            fleet.documents.push(wanted);
        }
        fleet
    }

    async fn register(&self, place: &Place) {
        for document in &self.documents {
            registered(place, document).await;
        }
    }

    /// The backups of all fires after `from`, up to `to`.
    fn expected(&self, from: Timestamp, to: Timestamp) -> BTreeSet<BackupId> {
        let ids = self.times.iter().flat_map(|(id, times)| {
            let fires = times.between(from, to).into_iter();
            fires.map(|fire| BackupId::scheduled(*id, fire))
        });
        ids.collect()
    }

    /// The moments at which something fires, in order.
    fn moments(&self, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
        let fires = self
            .times
            .values()
            .flat_map(|times| times.between(from, to));
        fires.collect()
    }
}

/// What is said on the bus, read bit by bit as a worker would.
struct Listener {
    next: bus::Sequence,
    running: Vec<BackupRequested>,
    effects: BTreeMap<BackupId, &'static str>,
}

impl Listener {
    fn new() -> Self {
        Listener {
            next: bus::Sequence(1),
            running: Vec::new(),
            effects: BTreeMap::new(),
        }
    }

    async fn listen(&mut self, place: &Place) {
        let filters = vec!["zektor.>".to_owned()];
        let bus = &place.world.bus;
        let mut heard = bus
            .history(filters, self.next, topology::EVENTS)
            .await
            .unwrap();
        while let Some(stored) = heard.next().await {
            let stored = stored.unwrap();
            self.next = stored.sequence.next();
            let (id, effect) = match stored.envelope.message {
                Event::BackupRequested(requested) => {
                    let id = requested.backup_id;
                    let same = |r: &BackupRequested| {
                        (&r.instance, &r.branch) == (&requested.instance, &requested.branch)
                    };
                    assert!(
                        !self.running.iter().any(same),
                        "two backups of a branch at once"
                    );
                    self.running.push(requested);
                    (id, "requested")
                }
                Event::BackupSkipped(skipped) => (skipped.backup_id, "skipped"),
                // Behind a claim that nobody used.
                Event::BackupQueued(queued) => (queued.backup_id, "queued"),
                Event::BackupFailed(_) => continue,
                other => panic!("{other:?}"),
            };
            let before = self.effects.insert(id, effect);
            let after_waiting = before == Some("queued") && effect == "requested";
            assert!(
                before.is_none() || after_waiting,
                "a second effect of {id}: {effect} after {before:?}"
            );
        }
    }

    /// Workers end what runs, each backup with these odds.
    async fn work(&mut self, place: &Place, chance: &mut Chance, odds: u64) {
        let mut still = Vec::new();
        for request in std::mem::take(&mut self.running) {
            if chance.one_in(odds) {
                place.fail_backup(&request).await;
            } else {
                still.push(request);
            }
        }
        self.running = still;
    }

    fn has_exactly(&self, expected: &BTreeSet<BackupId>) {
        let effects: BTreeSet<_> = self.effects.keys().copied().collect();
        let missing: Vec<_> = expected.difference(&effects).collect();
        let unasked: Vec<_> = effects.difference(expected).collect();
        assert!(
            missing.is_empty() && unasked.is_empty(),
            "missing {missing:?}, unasked {unasked:?}"
        );
    }
}

fn begin() -> Timestamp {
    "2026-01-01T00:00:30Z".parse().unwrap()
}

#[tokio::test]
async fn a_year_of_three_hundred_instances() {
    let mut chance = Chance(seed());
    let fleet = Fleet::new(begin(), 300, 1, || Times::any(&mut chance));
    let place = Place::new("2026-01-01T00:00:30Z");
    fleet.register(&place).await;
    place.world.recover_slots().await.unwrap();
    let end = begin() + TimeDelta::days(365);
    let (mut firing, mut listener) = (Firing::default(), Listener::new());
    firing.reload(&place.world).await.unwrap();
    for moment in fleet.moments(begin(), end) {
        place.clock.set(moment + TimeDelta::milliseconds(100));
        assert_eq!(firing.fire_due(&place.world).await, 0);
        listener.listen(&place).await;
        listener.work(&place, &mut chance, 1).await;
    }
    let expected = fleet.expected(begin(), end);
    assert!(expected.len() > 10_000, "{}", expected.len());
    listener.has_exactly(&expected);
    // Backups never met, so none was skipped.
    assert!(
        listener
            .effects
            .values()
            .all(|effect| *effect == "requested")
    );
}

#[tokio::test]
async fn three_replicas_that_die_and_pause_while_500_schedules_fire() {
    let mut chance = Chance(seed());
    let fleet = Fleet::new(begin(), 250, 2, || Times {
        hour: None,
        days: Days::Every,
        ..Times::any(&mut Chance(chance.below(u64::MAX)))
    });
    let place = Place::new("2026-01-01T00:00:30Z");
    fleet.register(&place).await;
    let mut replicas = [Firing::default(), Firing::default(), Firing::default()];
    for replica in &mut replicas {
        replica.reload(&place.world).await.unwrap();
    }
    let mut watchdog = Watchdog::default();
    let mut listener = Listener::new();
    let end = begin() + TimeDelta::hours(10);
    for moment in fleet.moments(begin(), end) {
        place.clock.set(moment + TimeDelta::milliseconds(100));
        let mut order = [0, 1, 2];
        order.swap(0, usize::try_from(chance.below(3)).unwrap());
        // The first one is awake: what all replicas sleep through is another test.
        for (position, index) in order.into_iter().enumerate() {
            if position > 0 && chance.one_in(2) {
                continue;
            }
            if chance.one_in(5) {
                // Killed and started again; sometimes it died after it had claimed a slot.
                if chance.one_in(2) {
                    claim_and_die(&place, &fleet, moment).await;
                }
                replicas[index] = Firing::default();
                replicas[index].reload(&place.world).await.unwrap();
            }
            assert_eq!(replicas[index].fire_due(&place.world).await, 0);
        }
        listener.listen(&place).await;
        listener.work(&place, &mut chance, 3).await;
        if chance.one_in(20) {
            watchdog.round(&place.world).await.unwrap();
        }
    }
    listener.has_exactly(&fleet.expected(begin(), end));
    let skipped = listener
        .effects
        .values()
        .filter(|effect| **effect == "skipped");
    println!(
        "{} fires, {} of them skipped",
        listener.effects.len(),
        skipped.count()
    );
}

/// A replica claims the slot for one of the fires of `moment`, and is no more.
async fn claim_and_die(place: &Place, fleet: &Fleet, moment: Timestamp) {
    let just_before = moment - TimeDelta::seconds(1);
    let all = fleet.documents.iter();
    let schedules = all.flat_map(|document| document.schedules.iter().map(move |s| (document, s)));
    let mut due =
        schedules.filter(|(_, s)| !fleet.times[&s.id].between(just_before, moment).is_empty());
    let (document, schedule) = due.next().unwrap();
    let request = BackupRequested {
        backup_id: BackupId::scheduled(schedule.id, moment),
        instance: document.instance.clone(),
        branch: schedule.branch.clone(),
        name: String::new(),
        backup_type: events::BackupType::Auto,
        trigger: events::Trigger::Schedule,
        schedule_id: Some(schedule.id),
        retention: None,
        wal: events::WalKeep::AsLongAsBackup,
        pool: None,
        requested_at: moment,
    };
    let _claimed = place.world.claim(&request).await.unwrap();
}

#[tokio::test]
async fn downtime_is_one_catch_up_each_and_380_at_once_are_380() {
    // CNPG #7623: 380 schedules of the same minute, and a controller that was away.
    let fleet = Fleet::new(begin(), 380, 1, || Times {
        days: Days::Every,
        hour: Some(3),
        minute: 0,
    });
    let place = Place::new("2026-01-01T00:00:30Z");
    fleet.register(&place).await;
    let mut listener = Listener::new();
    let mut chance = Chance(1);
    for (now, all) in [
        ("2026-01-01T03:00:00Z", 380),
        ("2026-01-01T03:00:01Z", 380),
        // Down for a month.
        ("2026-02-03T12:00:00Z", 760),
    ] {
        place.clock.set(now.parse().unwrap());
        for mut replica in [Firing::default(), Firing::default()] {
            replica.reload(&place.world).await.unwrap();
            assert_eq!(replica.fire_due(&place.world).await, 0);
        }
        listener.listen(&place).await;
        assert_eq!(listener.effects.len(), all, "at {now}");
        listener.work(&place, &mut chance, 1).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_set_makes_no_second_effect_and_misses_none() {
    let mut chance = Chance(seed());
    let fleet = Fleet::new(begin(), 40, 1, || Times {
        days: Days::Every,
        hour: Some(u32::try_from(chance.below(24)).unwrap()),
        minute: u32::try_from(chance.below(60)).unwrap(),
    });
    let place = Place::new("2026-01-01T00:00:30Z");
    fleet.register(&place).await;
    let (mut firing, mut listener) = (Firing::default(), Listener::new());
    firing.reload(&place.world).await.unwrap();
    let end = begin() + TimeDelta::days(20);
    let mut now = begin();
    let mut furthest = now;
    while furthest < end {
        // Mostly minutes go by; sometimes the clock is set, by up to six hours in either direction.
        now += match chance.below(200) {
            0 => TimeDelta::minutes(i64::try_from(chance.below(360)).unwrap()),
            1 => -TimeDelta::minutes(i64::try_from(chance.below(360)).unwrap()),
            _ => TimeDelta::minutes(1),
        };
        now = now.max(begin());
        furthest = furthest.max(now);
        place.clock.set(now);
        assert_eq!(firing.fire_due(&place.world).await, 0);
        listener.listen(&place).await;
        listener.work(&place, &mut chance, 1).await;
    }
    // No step was as long as a day, so no fire was swallowed by a catch-up.
    listener.has_exactly(&fleet.expected(begin(), furthest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_killed_at_any_point_on_nats() {
    let mut chance = Chance(seed());
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test"));
    let mut place = Place::new("2026-01-01T00:00:30Z");
    place.world.bus = bus.await.unwrap();
    place.world.bus.apply_topology().await.unwrap();
    let fleet = Fleet::new(begin(), 60, 1, || Times {
        days: Days::Every,
        hour: None,
        minute: 5 * u32::try_from(chance.below(3)).unwrap(),
    });
    fleet.register(&place).await;
    let (mut listener, end) = (Listener::new(), begin() + TimeDelta::hours(3));
    for moment in fleet.moments(begin(), end) {
        place.clock.set(moment + TimeDelta::milliseconds(100));
        let replicas = [(); 3].map(|()| {
            let world = crate::commands::World {
                slots: std::sync::Arc::default(),
                ..place.world.clone()
            };
            tokio::spawn(async move {
                let mut firing = Firing::default();
                firing.reload(&world).await.unwrap();
                assert_eq!(firing.fire_due(&world).await, 0);
            })
        });
        // Two of them die at some point, or not; the third one does its work.
        let pause = std::time::Duration::from_millis(chance.below(60));
        tokio::time::sleep(pause).await;
        let [first, second, third] = replicas;
        first.abort();
        if chance.one_in(2) {
            second.abort();
        }
        for replica in [first, second] {
            let ended = replica.await;
            assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()));
        }
        third.await.unwrap();
        listener.listen(&place).await;
        listener.work(&place, &mut chance, 2).await;
    }
    listener.has_exactly(&fleet.expected(begin(), end));
}

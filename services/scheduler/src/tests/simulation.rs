//! Schedules over long times, by a manual clock: each fire has exactly one effect, whatever dies, pauses or is set.
//!
//! What is expected is enumerated here, from days and times, and not by the calendar that the scheduler uses.

mod fleet;
mod replicas;
mod wall;

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use events::event::BackupRequested;
use events::{BackupId, Event, Timestamp, topology};
use futures::StreamExt as _;

use super::Place;
use crate::firing::Firing;
use fleet::{Chance, Days, Fleet, Times, seed};
use wall::Wall;

/// What is said on the bus, read bit by bit as a worker would.
struct Listener {
    next: bus::Sequence,
    /// Whether the schedulers' clocks agree to half a minute. Otherwise one may take another's claim of a branch, just
    /// made, for one that nobody uses (`slots::claim`), and two of its backups run beside each other.
    clocks_agree: bool,
    running: Vec<BackupRequested>,
    effects: BTreeMap<BackupId, &'static str>,
}

impl Listener {
    fn new() -> Self {
        Listener {
            next: bus::Sequence(1),
            clocks_agree: true,
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
                        !self.clocks_agree || !self.running.iter().any(same),
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
async fn a_year_of_two_hundred_schedules_in_five_zones() {
    let mut chance = Chance(seed());
    // Two of each branch, whose fires meet now and then.
    let mut before: Option<Times> = None;
    let fleet = Fleet::new(begin(), 100, 2, || {
        let mut times = Times::any(&mut chance);
        if let Some(other) = before.filter(|_| chance.one_in(3)) {
            times = Times {
                days: times.days,
                ..other
            };
        }
        *before.insert(times)
    });
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
    // None was skipped but for another one of its branch at the same moment.
    let together = fleet.together(begin(), end);
    assert!(!together.is_empty());
    for (id, effect) in &listener.effects {
        let alone = !together.contains(id);
        assert!(*effect == "requested" || !alone, "{id} was {effect}");
    }
    for (zone, at) in Wall::changes() {
        println!("{zone}: {} fires moved to {at}", fleet.moved_to(zone, at));
    }
    println!("{} fires, {} met another", expected.len(), together.len());
}

#[tokio::test]
async fn downtime_is_one_catch_up_each_and_380_at_once_are_380() {
    // CNPG #7623: 380 schedules of the same minute, and a controller that was away.
    let fleet = Fleet::new(begin(), 380, 1, || Times {
        days: Days::Every,
        hour: Some(3),
        minute: 0,
        wall: Wall::UTC,
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
async fn schedules_that_a_clock_a_month_ahead_has_made_fire_from_now_on() {
    let mut chance = Chance(seed());
    let fleet = Fleet::new(begin() + TimeDelta::days(30), 20, 1, || Times {
        days: Days::Every,
        hour: Some(u32::try_from(chance.below(24)).unwrap()),
        minute: u32::try_from(chance.below(60)).unwrap(),
        wall: Wall::UTC,
    });
    let place = Place::new("2026-01-01T00:00:30Z");
    fleet.register(&place).await;
    let mut listener = Listener::new();
    // Over the moment at which they say that they were made; a scheduler that begins anew each day is none the wiser.
    let days = 33;
    for day in 0..days {
        let from = begin() + TimeDelta::days(day);
        let mut firing = Firing::default();
        for moment in fleet.moments(from, from + TimeDelta::days(1)) {
            place.clock.set(moment);
            firing.reload(&place.world).await.unwrap();
            assert_eq!(firing.fire_due(&place.world).await, 0);
            listener.listen(&place).await;
            listener.work(&place, &mut chance, 1).await;
        }
    }
    let effects: BTreeSet<_> = listener.effects.keys().copied().collect();
    let missing = fleet.expected(begin(), begin() + TimeDelta::days(days));
    let missing: Vec<_> = missing.difference(&effects).collect();
    assert!(missing.is_empty(), "missing {missing:?}");
}

#[tokio::test]
async fn a_clock_that_is_set_makes_no_second_effect_and_misses_none() {
    let mut chance = Chance(seed());
    let fleet = Fleet::new(begin(), 40, 1, || Times {
        days: Days::Every,
        hour: Some(u32::try_from(chance.below(24)).unwrap()),
        minute: u32::try_from(chance.below(60)).unwrap(),
        wall: Wall::UTC,
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

//! Three replicas at work at the same time, each with a memory and a clock of its own: killed and paused wherever they
//! wait, while their clocks differ and are set.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bus::{Bus, BusConfig};
use chrono::TimeDelta;
use service::{Clock as _, ManualClock};
use testkit::nats::NatsServer;

use super::fleet::{Chance, Days, Fleet, Times, seed};
use super::wall::Wall;
use super::{Listener, begin};
use crate::commands::World;
use crate::firing::Firing;
use crate::tests::Place;
use crate::watchdog::Watchdog;

type Work = Pin<Box<dyn Future<Output = Firing>>>;

/// A process.
struct Replica {
    world: World,
    clock: Arc<ManualClock>,
    /// How far its clock is ahead, or behind.
    skew: TimeDelta,
    /// What it knows, while it does nothing; nothing when it has just begun.
    firing: Option<Firing>,
    work: Option<Work>,
    /// The moment whose fires its work is about, or was.
    about: usize,
    /// Stopped in the middle of its work.
    paused: bool,
}

/// What happened to them in the middle of their work.
#[derive(Debug, Default)]
struct Toll {
    killed: usize,
    paused: usize,
    set: usize,
}

/// How often that happens, of so many looks at a replica that is at work.
struct Odds {
    killed: u64,
    paused: u64,
    /// Between two looks.
    pace: Option<Duration>,
    clocks: Clocks,
}

/// What is wrong with their clocks.
#[derive(Clone, Copy)]
struct Clocks {
    /// They are ahead or behind by so many minutes at most.
    minutes: u64,
    /// One is set at one in so many moments.
    set: u64,
}

impl Clocks {
    const RIGHT: Clocks = Clocks {
        minutes: 0,
        set: u64::MAX,
    };

    fn skew(self, chance: &mut Chance) -> TimeDelta {
        let minutes = |minutes: u64| i64::try_from(minutes).unwrap();
        let from_the_left = chance.below(2 * self.minutes + 1);
        TimeDelta::minutes(minutes(from_the_left) - minutes(self.minutes))
    }
}

impl Replica {
    /// It has just begun, and remembers nothing.
    fn new(place: &Place, skew: TimeDelta) -> Self {
        let clock = Arc::new(ManualClock::new(place.clock.now() + skew));
        let world = World {
            slots: Arc::default(),
            clock: Arc::<ManualClock>::clone(&clock),
            ..place.world.clone()
        };
        Replica {
            world,
            clock,
            skew,
            firing: None,
            work: None,
            about: 0,
            paused: false,
        }
    }

    /// It goes on until it must wait for something. Whether it is done with the moment.
    fn goes_on(&mut self, moment: usize) -> bool {
        let work = self.work.get_or_insert_with(|| {
            self.about = moment;
            Box::pin(work(self.world.clone(), self.firing.take()))
        });
        let waker = futures::task::noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        if let Poll::Ready(firing) = work.as_mut().poll(&mut context) {
            (self.firing, self.work) = (Some(firing), None);
        }
        self.work.is_none() && self.about == moment
    }
}

/// Publishes what is due until nothing is left to be tried again.
async fn work(world: World, firing: Option<Firing>) -> Firing {
    let mut firing = match firing {
        Some(firing) => firing,
        None => {
            let mut begun = Firing::default();
            begun.reload(&world).await.unwrap();
            begun
        }
    };
    for _ in 0..100 {
        if firing.fire_due(&world).await == 0 {
            return firing;
        }
    }
    panic!("a due backup could not be requested");
}

/// All do what is due at this moment, and at least one of them does all of it.
async fn pass(
    place: &Place,
    replicas: &mut [Replica; 3],
    (moment, odds): (usize, &Odds),
    chance: &mut Chance,
    toll: &mut Toll,
) {
    for replica in replicas.iter_mut() {
        replica.paused &= chance.one_in(2);
        if chance.one_in(odds.clocks.set) {
            toll.set += 1;
            replica.skew = odds.clocks.skew(chance);
        }
        replica.clock.set(place.clock.now() + replica.skew);
    }
    replicas[0].paused &= !replicas.iter().all(|replica| replica.paused);
    let mut done = [false; 3];
    loop {
        let at_it: Vec<usize> = (0..3)
            .filter(|index| !replicas[*index].paused && !done[*index])
            .collect();
        if at_it.is_empty() {
            return;
        }
        let index = at_it[usize::try_from(chance.below(at_it.len() as u64)).unwrap()];
        done[index] = replicas[index].goes_on(moment);
        let waits = replicas[index].work.is_some();
        if waits && chance.one_in(odds.killed) {
            toll.killed += 1;
            replicas[index] = Replica::new(place, replicas[index].skew);
        } else if waits && chance.one_in(odds.paused) {
            let others = (0..3).filter(|other| *other != index);
            let alone = others.into_iter().all(|other| replicas[other].paused);
            toll.paused += usize::from(!alone);
            replicas[index].paused = !alone;
        }
        match odds.pace {
            Some(pace) => tokio::time::sleep(pace).await,
            None => tokio::task::yield_now().await,
        }
    }
}

/// Schedules that fire each hour at these minutes, two of a branch, for so many hours.
async fn fire_for(bus: Bus, schedules: u128, hours: i64, minutes: &[u32], odds: Odds) {
    let mut chance = Chance(seed());
    let fleet = Fleet::new(begin(), schedules / 2, 2, || Times {
        days: Days::Every,
        hour: None,
        minute: minutes[usize::try_from(chance.below(minutes.len() as u64)).unwrap()],
        wall: Wall::UTC,
    });
    let listener = fire(bus, &fleet, hours, odds, &mut chance).await;
    listener.has_exactly(&fleet.expected(begin(), begin() + TimeDelta::hours(hours)));
}

/// What is heard of this fleet in so many hours.
async fn fire(bus: Bus, fleet: &Fleet, hours: i64, odds: Odds, chance: &mut Chance) -> Listener {
    let mut place = Place::new("2026-01-01T00:00:30Z");
    place.world.bus = bus;
    place.world.bus.apply_topology().await.unwrap();
    fleet.register(&place).await;
    let mut replicas = [(); 3].map(|()| Replica::new(&place, odds.clocks.skew(chance)));
    let (mut watchdog, mut listener) = (Watchdog::default(), Listener::new());
    listener.clocks_agree = odds.clocks.minutes == 0;
    let (mut toll, end) = (Toll::default(), begin() + TimeDelta::hours(hours));
    let moments = fleet.moments(begin(), end);
    for (at, moment) in moments.iter().zip(1..) {
        place.clock.set(*at + TimeDelta::milliseconds(100));
        let now = (moment, &odds);
        pass(&place, &mut replicas, now, chance, &mut toll).await;
        listener.listen(&place).await;
        listener.work(&place, chance, 3).await;
        if chance.one_in(20) {
            watchdog.round(&place.world).await.unwrap();
        }
    }
    // Who is paused still comes back, and has nothing to add.
    let calm = Odds {
        killed: u64::MAX,
        paused: u64::MAX,
        clocks: Clocks::RIGHT,
        ..odds
    };
    for replica in &mut replicas {
        (replica.paused, replica.skew) = (false, TimeDelta::zero());
    }
    let last = (moments.len() + 1, &calm);
    pass(&place, &mut replicas, last, chance, &mut toll).await;
    listener.listen(&place).await;
    let skipped = listener.effects.values().filter(|said| **said == "skipped");
    println!(
        "{} fires, {} of them skipped; {toll:?} in the middle of it",
        listener.effects.len(),
        skipped.count()
    );
    assert!(toll.killed > 0 && toll.paused > 0, "{toll:?}");
    listener
}

#[tokio::test]
async fn three_replicas_that_die_and_pause_while_500_schedules_fire() {
    let minutes: Vec<u32> = (0..60).collect();
    let odds = Odds {
        killed: 40,
        paused: 20,
        pace: None,
        clocks: Clocks::RIGHT,
    };
    fire_for(Bus::in_memory_far(), 500, 5, &minutes, odds).await;
}

/// Each day at a time of its own, two of a branch.
fn daily(schedules: u128, chance: &mut Chance) -> Fleet {
    // Long ago for all of their clocks.
    let created_at = begin() - TimeDelta::days(2);
    Fleet::new(created_at, schedules / 2, 2, || Times {
        days: Days::Every,
        hour: Some(u32::try_from(chance.below(24)).unwrap()),
        minute: u32::try_from(chance.below(60)).unwrap(),
        wall: Wall::UTC,
    })
}

/// Every fire of the time has its one effect. One whose clock is ahead may have come to later ones already, and one that
/// began behind to earlier ones.
fn each_once(listener: &Listener, fleet: &Fleet, days: i64, clocks: Clocks) {
    let (begin, end) = (begin(), begin() + TimeDelta::days(days));
    let wrong = TimeDelta::minutes(i64::try_from(clocks.minutes).unwrap());
    let may = fleet.expected(begin - TimeDelta::days(1) - wrong, end + wrong);
    let asked = listener.effects.keys().copied();
    let asked: BTreeSet<_> = asked.filter(|id| may.contains(id)).collect();
    assert_eq!(asked.len(), listener.effects.len(), "nobody asked for some");
    let must = fleet.expected(begin, end);
    let missing: Vec<_> = must.difference(&asked).collect();
    assert!(missing.is_empty(), "missing {missing:?}");
}

#[tokio::test]
async fn three_replicas_whose_clocks_differ_and_are_set_while_they_die_and_pause() {
    for minutes in [20, 180] {
        let mut chance = Chance(seed());
        let fleet = daily(200, &mut chance);
        let odds = Odds {
            killed: 40,
            paused: 20,
            pace: None,
            clocks: Clocks { minutes, set: 50 },
        };
        let clocks = odds.clocks;
        let bus = Bus::in_memory_far();
        let listener = fire(bus, &fleet, 4 * 24, odds, &mut chance).await;
        each_once(&listener, &fleet, 4, clocks);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_whose_clocks_differ_and_are_set_on_nats() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test")).await;
    let mut chance = Chance(seed());
    let fleet = daily(60, &mut chance);
    let odds = Odds {
        killed: 40,
        paused: 20,
        pace: Some(Duration::from_millis(1)),
        clocks: Clocks {
            minutes: 180,
            set: 20,
        },
    };
    let clocks = odds.clocks;
    let listener = fire(bus.unwrap(), &fleet, 2 * 24, odds, &mut chance).await;
    each_once(&listener, &fleet, 2, clocks);
}

/// So many hours on a real server; more when somebody has the time.
#[expect(
    clippy::disallowed_methods,
    reason = "whoever runs the tests says how long"
)]
fn hours_on_nats() -> i64 {
    let hours = std::env::var("ZEKTOR_SIMULATED_HOURS").ok();
    hours.map_or(2, |hours| hours.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_that_die_and_pause_while_500_schedules_fire_on_nats() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test")).await;
    let odds = Odds {
        killed: 40,
        paused: 20,
        pace: Some(Duration::from_millis(1)),
        clocks: Clocks::RIGHT,
    };
    let minutes = [0, 10, 20, 30, 40, 50];
    fire_for(bus.unwrap(), 500, hours_on_nats(), &minutes, odds).await;
}

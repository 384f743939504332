//! Three replicas at work at the same time, each with a memory of its own: killed and paused wherever they wait.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bus::{Bus, BusConfig};
use chrono::TimeDelta;
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
}

/// How often that happens, of so many looks at a replica that is at work.
struct Odds {
    killed: u64,
    paused: u64,
    /// Between two looks.
    pace: Option<Duration>,
}

impl Replica {
    /// It has just begun, and remembers nothing.
    fn new(place: &Place) -> Self {
        let world = World {
            slots: Arc::default(),
            ..place.world.clone()
        };
        Replica {
            world,
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
            replicas[index] = Replica::new(place);
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
    let mut place = Place::new("2026-01-01T00:00:30Z");
    place.world.bus = bus;
    place.world.bus.apply_topology().await.unwrap();
    let fleet = Fleet::new(begin(), schedules / 2, 2, || Times {
        days: Days::Every,
        hour: None,
        minute: minutes[usize::try_from(chance.below(minutes.len() as u64)).unwrap()],
        wall: Wall::UTC,
    });
    fleet.register(&place).await;
    let mut replicas = [(); 3].map(|()| Replica::new(&place));
    let (mut watchdog, mut listener) = (Watchdog::default(), Listener::new());
    let (mut toll, end) = (Toll::default(), begin() + TimeDelta::hours(hours));
    let moments = fleet.moments(begin(), end);
    for (at, moment) in moments.iter().zip(1..) {
        place.clock.set(*at + TimeDelta::milliseconds(100));
        let now = (moment, &odds);
        pass(&place, &mut replicas, now, &mut chance, &mut toll).await;
        listener.listen(&place).await;
        listener.work(&place, &mut chance, 3).await;
        if chance.one_in(20) {
            watchdog.round(&place.world).await.unwrap();
        }
    }
    // Who is paused still comes back, and has nothing to add.
    let calm = Odds {
        killed: u64::MAX,
        paused: u64::MAX,
        ..odds
    };
    for replica in &mut replicas {
        replica.paused = false;
    }
    let last = (moments.len() + 1, &calm);
    pass(&place, &mut replicas, last, &mut chance, &mut toll).await;
    listener.listen(&place).await;
    listener.has_exactly(&fleet.expected(begin(), end));
    let skipped = listener.effects.values().filter(|said| **said == "skipped");
    println!(
        "{} fires, {} of them skipped; {toll:?} in the middle of it",
        listener.effects.len(),
        skipped.count()
    );
    assert!(toll.killed > 0 && toll.paused > 0, "{toll:?}");
}

#[tokio::test]
async fn three_replicas_that_die_and_pause_while_500_schedules_fire() {
    let minutes: Vec<u32> = (0..60).collect();
    let odds = Odds {
        killed: 40,
        paused: 20,
        pace: None,
    };
    fire_for(Bus::in_memory_far(), 500, 5, &minutes, odds).await;
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
    };
    let minutes = [0, 10, 20, 30, 40, 50];
    fire_for(bus.unwrap(), 500, hours_on_nats(), &minutes, odds).await;
}

//! How much one scheduler bears. Slow, so only when asked for:
//! `cargo test -p scheduler --release -- --ignored --nocapture scale`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, BusConfig, Sequence};
use chrono::{DurationRound as _, TimeDelta, Timelike as _};
use events::document::Schedule;
use events::{Event, InstanceName, ScheduleId, Timestamp, example, topology};
use futures::StreamExt as _;
use service::clock::{Clock, SystemClock};
use testkit::nats::NatsServer;
use testkit::process::Service;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Place;
use super::firing::{document, registered};
use crate::commands::World;
use crate::firing::{Firing, run};

/// Of a hundred fires ninety-nine, from due to published.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(1);

/// Seconds of processor time that this process has used.
fn processor_seconds() -> f64 {
    processor_seconds_of("self")
}

fn processor_seconds_of(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn resident_mib() -> u64 {
    resident_mib_of("self")
}

fn resident_mib_of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// An instance whose schedules fire daily at these minutes of the day.
async fn instance(place: &Place, number: u128, minutes: &[u32], created_at: Timestamp) {
    let mut wanted = document(created_at);
    wanted.instance = InstanceName::new(format!("db{number}")).unwrap();
    let schedules = minutes.iter().zip(1_u128..).map(|(minute, n)| Schedule {
        id: ScheduleId(Uuid::from_u128(number * 100 + n)),
        cron: format!("{} {} * * *", minute % 60, minute / 60),
        created_at,
        ..example::schedule()
    });
    wanted.schedules = schedules.collect();
    registered(place, &wanted).await;
}

#[tokio::test]
#[ignore = "a measurement of minutes"]
async fn scale_of_a_simulated_day_of_ten_thousand_instances() {
    let place = Place::new("2026-01-01T00:00:30Z");
    let created_at = place.world.clock.now();
    for number in 0..10_000_u128 {
        let first = u32::try_from(number * 7919 % 480).unwrap();
        let minutes = [first, first + 480, first + 960];
        instance(&place, number, &minutes, created_at).await;
    }
    place.world.recover_slots().await.unwrap();
    let before = resident_mib();
    let mut firing = Firing::default();
    let reading = Instant::now();
    firing.reload(&place.world).await.unwrap();
    println!(
        "documents read in {:?}; RSS {before} MiB before, {} MiB after",
        reading.elapsed(),
        resident_mib()
    );
    let (mut batches, mut processor, mut next) = (Vec::new(), 0.0, Sequence(1));
    for minute in 1..=1440 {
        place
            .clock
            .set(created_at - TimeDelta::seconds(30) + TimeDelta::minutes(minute));
        let (began, used) = (Instant::now(), processor_seconds());
        assert_eq!(firing.fire_due(&place.world).await, 0);
        batches.push(began.elapsed());
        processor += processor_seconds() - used;
        let filters = vec!["zektor.backup.requested.>".to_owned()];
        let bus = &place.world.bus;
        let mut heard = bus.history(filters, next, topology::EVENTS).await.unwrap();
        while let Some(stored) = heard.next().await {
            let stored = stored.unwrap();
            next = stored.sequence.next();
            if let Event::BackupRequested(requested) = stored.envelope.message {
                place.fail_backup(&requested).await;
            }
        }
    }
    let types = place.types().await;
    let requested = types
        .iter()
        .filter(|name| **name == "backup.requested")
        .count();
    batches.sort_unstable();
    println!(
        "{requested} fires; the last of a minute's fires is published after p50 {:?}, p99 {:?}, at most {:?}; \
         {:.2} s of processor per simulated hour, bus included; RSS {} MiB with the bus",
        percentile(&batches, 50),
        percentile(&batches, 99),
        percentile(&batches, 100),
        processor / 24.0,
        resident_mib()
    );
    assert_eq!(requested, 30_000);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes"]
async fn scale_of_a_thousand_instances_on_nats() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test"))
        .await
        .unwrap();
    bus.apply_topology().await.unwrap();
    let mut place = Place::new("2026-01-01T00:00:30Z");
    place.world.bus = bus;
    place.world.clock = Arc::new(SystemClock);
    place.world.recover_slots().await.unwrap();
    let now = place.world.clock.now();
    // Far enough away that all documents are there by then.
    let at_once = now.duration_trunc(TimeDelta::minutes(1)).unwrap() + TimeDelta::minutes(3);
    let minute_of_day = |at: Timestamp| at.hour() * 60 + at.minute();
    for number in 0..1_000 {
        instance(&place, number, &[minute_of_day(at_once)], now).await;
    }
    for number in 1_000..2_000_u128 {
        let later = at_once + TimeDelta::minutes(1 + i64::try_from(number % 3).unwrap());
        instance(&place, number, &[minute_of_day(later)], now).await;
    }
    let shutdown = CancellationToken::new();
    let used = processor_seconds();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        // Each with a connection and a memory of its own, as processes have them.
        let bus = Bus::connect(BusConfig::new(server.url(), "replica")).await;
        let world = World {
            bus: bus.unwrap(),
            slots: Arc::default(),
            ..place.world.clone()
        };
        replicas.push(tokio::spawn(run(world, shutdown.clone())));
    }
    let end = at_once + TimeDelta::minutes(4);
    SystemClock.sleep_until(end).await;
    shutdown.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
    let filters = vec!["zektor.backup.>".to_owned()];
    let bus = &place.world.bus;
    let heard = bus
        .history(filters, Sequence(1), topology::EVENTS)
        .await
        .unwrap();
    let (mut together, mut spread) = (Vec::new(), Vec::new());
    let heard: Vec<_> = heard.collect().await;
    for stored in heard {
        let stored = stored.unwrap();
        let due = stored.time.duration_trunc(TimeDelta::minutes(1)).unwrap();
        let late = (stored.time - due).to_std().unwrap();
        if stored.time < at_once + TimeDelta::minutes(1) {
            together.push(late);
        } else {
            spread.push(late);
        }
    }
    for (name, mut lateness) in [("in one minute", together), ("spread", spread)] {
        lateness.sort_unstable();
        println!(
            "1,000 due {name}: {} published, p50 {:?}, p99 {:?}, at most {:?}",
            lateness.len(),
            percentile(&lateness, 50),
            percentile(&lateness, 99),
            percentile(&lateness, 100)
        );
        assert_eq!(lateness.len(), 1_000);
        // What is promised (`docs/scale.md`) must hold, of a release build.
        let within = percentile(&lateness, 99) < PUBLISHED_WITHIN;
        assert!(within || cfg!(debug_assertions), "1,000 due {name}");
    }
    println!(
        "{:.1} s of processor, three replicas; RSS {} MiB",
        processor_seconds() - used,
        resident_mib()
    );
}

/// Needs the binary: `cargo build -p scheduler`, with `--release` as the test is run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes"]
async fn scale_of_a_process_with_ten_thousand_idle_instances() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(server.url(), "test"))
        .await
        .unwrap();
    bus.apply_topology().await.unwrap();
    let mut place = Place::new("2026-01-01T00:00:30Z");
    place.world.bus = bus;
    let now = SystemClock.now();
    // Nothing is due for some hours.
    let hour = (now + TimeDelta::hours(6)).hour();
    let minutes = [hour * 60, hour * 60 + 10, hour * 60 + 20];
    let filling = futures::stream::iter(0..10_000_u128)
        .map(|number| instance(&place, number, &minutes, now))
        .buffer_unordered(32);
    filling.collect::<()>().await;
    let directory = testkit::temporary_directory().unwrap();
    let key = directory.path().join("key");
    let _key = service::MasterKey::generate_file(&key).unwrap();
    let port = testkit::port::Port::reserve().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let home = directory.path().display().to_string();
    let process = Service::builder("zektor-scheduler")
        .env("ZEKTOR_NATS_URL", server.url())
        .env("ZEKTOR_REPOSITORY_URL", format!("file://{home}/repository"))
        .env("ZEKTOR_MASTER_KEY_FILE", key.display().to_string())
        .env("ZEKTOR_HOME", home)
        .env("ZEKTOR_HTTP_LISTEN", &address)
        .health(&address);
    let process = process.start().await.unwrap();
    let id = process.process_id().unwrap().to_string();
    let mut used = processor_seconds_of(&id);
    for minute in 1..=3 {
        SystemClock
            .sleep_until(SystemClock.now() + TimeDelta::minutes(1))
            .await;
        let now = processor_seconds_of(&id);
        println!(
            "minute {minute}: {:.2} s of processor; RSS {} MiB",
            now - used,
            resident_mib_of(&id)
        );
        used = now;
    }
}

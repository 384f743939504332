//! A million events in a real NATS: followed by new rows, and built anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, BusConfig, Outgoing, Sequence};
use events::query::RebuildSource;
use events::{MessageId, example};
use futures::StreamExt as _;
use repository::{Repository, RetryPolicy};
use service::SystemClock;
use testkit::nats::NatsServer;
use tokio_util::sync::CancellationToken;

use super::{EVENTS, Traffic, must, server};
use crate::projector::Projector;
use crate::rebuild::{STREAMS, everything};
use crate::scenario::{adopt, sqlite};
use crate::store::Store;

/// Publications under way at once.
const AT_ONCE: usize = 1000;

/// This process's memory, at most, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

async fn published() -> (NatsServer, Bus) {
    let nats = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(nats.url(), "scale"))
        .await
        .unwrap();
    bus.apply_topology().await.unwrap();
    let traffic = Traffic::new();
    let began = Instant::now();
    let sends = futures::stream::iter(0..EVENTS).map(|number| {
        let id = MessageId::new(number.to_string());
        bus.publish(Outgoing::new(traffic.event(number), id, example::at(0)))
    });
    let mut sent = sends.buffer_unordered(AT_ONCE);
    while let Some(sequence) = sent.next().await {
        let _ = sequence.unwrap();
    }
    drop(sent);
    println!("published in {:.1?}", began.elapsed());
    (nats, bus)
}

/// What reading alone takes: nothing that writes can be faster.
async fn read_only(bus: &Bus) {
    let began = Instant::now();
    for stream in STREAMS {
        let history = bus.history(everything(), Sequence(1), stream).await;
        let read = history.unwrap().count().await;
        println!("read {read} of {stream}, {:.1?} in all", began.elapsed());
    }
}

/// Waits until the rows are at the end of both streams and no rebuild is wanted.
async fn caught_up(store: &Store, bus: &Bus) {
    loop {
        let mut behind = store.rebuild_state().await.unwrap().wanted.is_some();
        for stream in STREAMS {
            let last = bus.stream_state(stream).await.unwrap().last.0;
            let at = store.position(stream).await.unwrap();
            behind |= at.is_none_or(|at| at.created.is_none() || at.applied != last);
        }
        if !behind {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// "In minutes".
const REBUILT_WITHIN: Duration = Duration::from_secs(600);

async fn follow_and_rebuild(store: Store, bus: &Bus, label: &str, least: u64) {
    for stream in STREAMS {
        let created = bus.stream_state(stream).await.unwrap().created;
        adopt(&store, stream, created).await;
    }
    let place = tempfile::tempdir().unwrap();
    let url = format!("file://{}", place.path().display());
    let repository = Repository::open(&url, RetryPolicy::default()).unwrap();
    let clock = Arc::new(SystemClock);
    let projector = Projector::new(store.clone(), bus.clone(), repository, clock);
    let shutdown = CancellationToken::new();
    let (running, stop) = (projector.clone(), shutdown.clone());
    let before = peak_memory();
    let began = Instant::now();
    let work = tokio::spawn(async move { running.run(stop).await });
    caught_up(&store, bus).await;
    let spent = began.elapsed();
    let rate = EVENTS as f64 / spent.as_secs_f64();
    let peak = peak_memory();
    println!(
        "{label}: followed in {spent:.1?}, {rate:.0}/s, memory {before} MiB before, {peak} MiB at most"
    );
    must(
        rate >= least as f64,
        &format!("{label}: {least} events a second"),
    );
    let began = Instant::now();
    projector.ask_rebuild(RebuildSource::Stream).await.unwrap();
    caught_up(&store, bus).await;
    let peak = peak_memory();
    println!(
        "{label}: built anew in {:.1?}, memory {peak} MiB at most",
        began.elapsed()
    );
    must(
        began.elapsed() < REBUILT_WITHIN,
        &format!("{label}: rebuilt in {REBUILT_WITHIN:?}"),
    );
    shutdown.cancel();
    work.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn scale_a_million_events_from_nats() {
    let (_nats, bus) = published().await;
    read_only(&bus).await;
    let (store, _directory) = sqlite().await;
    follow_and_rebuild(store, &bus, "nats to sqlite", 10_000).await;
    let server = server().await;
    let store = Store::open(&server.dsn()).await.unwrap();
    follow_and_rebuild(store, &bus, "nats to postgres", 5_000).await;
}

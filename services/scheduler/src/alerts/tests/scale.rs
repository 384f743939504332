//! What a round costs with 10,000 branches. Slow, so only when asked for:
//! `cargo test -p scheduler -- --ignored --nocapture alerts::tests::scale`.

use std::time::Instant;

use bus::BusConfig;
use testkit::nats::NatsServer;

use super::*;

const BRANCHES: usize = 10_000;
/// Until all have a state, and then each has had its turn.
const ROUNDS: i64 = 62;

/// Seconds of processor time that a process has used.
fn processor_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes"]
async fn scale_of_a_round_of_ten_thousand_branches_on_nats() {
    let server = NatsServer::start().await.unwrap();
    let nats = server.process_id().unwrap().to_string();
    let bus = Bus::connect(BusConfig::new(server.url(), "test"))
        .await
        .unwrap();
    bus.apply_topology().await.unwrap();
    let mut place = Place::new();
    place.watch.bus = bus;
    let names: Vec<_> = (0..BRANCHES)
        .map(|number| InstanceName::new(format!("db{number}")).unwrap())
        .collect();
    for name in &names {
        place.put(&document(name)).await;
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, shutdown) = (Arc::clone(&asked), CancellationToken::new());
    let all = subject::archiver_position(&names[0], &BranchName::main()).replace(".db0.", ".*.");
    let (bus, stop) = (place.watch.bus.clone(), shutdown.clone());
    let archiver = tokio::spawn(async move {
        let answer = move |_: String, _: PositionQuestion| {
            let _ = counted.fetch_add(1, Ordering::Relaxed);
            let position = ArchiverPosition {
                lag_seconds: Some(1.0),
                streaming: true,
                ..ArchiverPosition::default()
            };
            async move { Ok(position) }
        };
        bus.serve(&all, "archiver", answer, stop).await.unwrap();
    });
    for round in 0..ROUNDS {
        place.clock.set(at(round));
        asked.store(0, Ordering::Relaxed);
        let (ours, theirs) = (processor_seconds("self"), processor_seconds(&nats));
        let begun = Instant::now();
        place.watch.round().await.unwrap();
        println!(
            "round {round}: {:?}, {:.2} s of processor here (archivers included), {:.2} s of NATS, {} archivers asked, {} states",
            begun.elapsed(),
            processor_seconds("self") - ours,
            processor_seconds(&nats) - theirs,
            asked.load(Ordering::Relaxed),
            place.keys().await.len(),
        );
    }
    assert_eq!(place.keys().await.len(), BRANCHES);
    shutdown.cancel();
    archiver.await.unwrap();
}

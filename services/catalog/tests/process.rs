//! The catalog as a real process on a real NATS: killed in the middle, NATS restarted, metrics, readiness.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bus::{Bus, BusConfig, Outgoing};
use events::query::{BackupList, Backups, CatalogStatus, Question, RebuildSource, Status};
use events::{BackupId, Event, MessageId, example, subject};
use testkit::nats::NatsServer;
use testkit::port::Port;
use testkit::process::Service;
use testkit::wait_until;

const DEADLINE: Duration = Duration::from_secs(60);

/// Requests of backups with these numbers.
fn requests(numbers: std::ops::Range<u128>) -> Vec<Event> {
    let of_type = |event: &Event| matches!(event, Event::BackupRequested(_));
    let Some(Event::BackupRequested(request)) = example::events().into_iter().find(of_type) else {
        panic!("there is an example of every type");
    };
    numbers
        .map(|number| {
            let mut request = request.clone();
            request.backup_id = BackupId(uuid::Uuid::from_u128(number));
            Event::BackupRequested(request)
        })
        .collect()
}

async fn publish(bus: &Bus, events: Vec<Event>) {
    let sends = events.into_iter().map(|event| {
        let id = MessageId::new(uuid::Uuid::now_v7().to_string());
        bus.publish(Outgoing::new(event, id, example::at(0)))
    });
    for sent in futures::future::join_all(sends).await {
        let _ = sent.unwrap();
    }
}

async fn ask<Q: Question>(bus: &Bus, question: &Q) -> Option<Q::Answer> {
    let wait = Duration::from_secs(5);
    bus.request(&subject::catalog_query(Q::NAME), question, wait)
        .await
        .ok()
}

async fn caught_up(bus: &Bus) -> CatalogStatus {
    let mut last = None;
    wait_until(
        "the catalog is at the end of its streams",
        DEADLINE,
        async || {
            last = ask(bus, &Status {}).await;
            last.as_ref().is_some_and(|status| {
                status.streams.len() == 2
                    && status.rebuilding.is_none()
                    && status.streams.values().all(|stream| stream.lag == Some(0))
            })
        },
    )
    .await
    .unwrap();
    last.unwrap()
}

async fn count(bus: &Bus) -> usize {
    let mut all = 0;
    loop {
        let question = BackupList {
            all: true,
            limit: Some(1000),
            offset: u32::try_from(all).unwrap(),
            ..BackupList::default()
        };
        let page: Backups = ask(bus, &question).await.unwrap();
        if page.backups.is_empty() {
            return all;
        }
        all += page.backups.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_cut_off_it_comes_back_with_the_same_rows() {
    let mut nats = NatsServer::start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(nats.url(), "test"))
        .await
        .unwrap();
    bus.apply_topology().await.unwrap();
    publish(&bus, example::events()).await;
    publish(&bus, requests(0..1000)).await;

    let place = testkit::temporary_directory().unwrap();
    let port = Port::reserve().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let builder = Service::builder("zektor-catalog")
        .env("ZEKTOR_NATS_URL", nats.url())
        .env("ZEKTOR_HOME", place.path().display().to_string())
        .env("ZEKTOR_HTTP_LISTEN", &address)
        .env("ZEKTOR_LOG_FORMAT", "json")
        .health(&address);
    let mut catalog = builder.start().await.unwrap();

    // Killed at any point of reading a thousand events, and of the rebuild of its first start.
    for _ in 0..3 {
        let _ = catalog.kill9().await.unwrap();
        catalog.start_again().await.unwrap();
    }
    let status = caught_up(&bus).await;
    assert_eq!(status.backend, "sqlite");
    assert_eq!(status.rebuilt_from, Some(RebuildSource::Repository));
    assert_eq!(count(&bus).await, 1001);

    // With NATS gone it is not ready; with NATS back it goes on where it was.
    nats.kill().await.unwrap();
    wait_until("the catalog is not ready", DEADLINE, async || {
        let answer = testkit::http::get(&address, "/readyz").await;
        answer.is_ok_and(|answer| answer.status == 503)
    })
    .await
    .unwrap();
    nats.start_again().await.unwrap();
    publish(&bus, requests(1000..1100)).await;
    let _ = caught_up(&bus).await;
    assert_eq!(count(&bus).await, 1101);

    let metrics = testkit::http::get(&address, "/metrics").await.unwrap();
    for name in [
        "zektor_catalog_applied_sequence",
        "zektor_catalog_events_applied_total",
    ] {
        assert!(
            metrics.body.contains(name),
            "{name} is missing in {}",
            metrics.body
        );
    }
    // Of branches too: read once at the start, so a start shows what is there by now.
    let _ = catalog.terminate().await.unwrap();
    catalog.start_again().await.unwrap();
    wait_until("waiting backups are shown", DEADLINE, async || {
        let answer = testkit::http::get(&address, "/metrics").await;
        answer.is_ok_and(|answer| {
            let shown = |line: &&str| {
                line.starts_with("zektor_backup_count{") && line.contains("status=\"requested\"")
            };
            answer
                .body
                .lines()
                .find(shown)
                .is_some_and(|line| line.ends_with(" 1100"))
        })
    })
    .await
    .unwrap();
    let ended = catalog.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
}

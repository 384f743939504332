//! What is silent or waits, where the workers of its pool have places free.

use std::sync::Arc;

use bus::{Delivery, Handler, Outcome};
use events::{Event, topology};
use tokio_util::sync::CancellationToken;

use super::{MINUTE, fired_two, rounds};
use crate::watchdog::Watchdog;

/// A worker that takes every request for done and forgets it.
struct Forgets;

#[async_trait::async_trait]
impl Handler<Event> for Forgets {
    async fn handle(&self, _delivery: &Delivery<Event>) -> Outcome {
        Outcome::Done
    }
}

/// A worker that is busy for ever.
struct Works;

#[async_trait::async_trait]
impl Handler<Event> for Works {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        loop {
            delivery.progress.advance();
            tokio::time::sleep(MINUTE / 4).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_begun_backup_that_is_silent_waits_for_no_place_where_one_is_free() {
    let (place, [long, silent]) = fired_two(None).await;
    let mut replicas = [Watchdog::default(), Watchdog::default()];
    for request in [&long, &silent] {
        place.begin(request).await;
    }
    for _ in 0..30 {
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    assert_eq!(place.failures().await, [], "no worker has a place free");
    let (bus, shutdown) = (place.world.bus.clone(), CancellationToken::new());
    let until = shutdown.clone();
    let worker = tokio::spawn(async move {
        let jobs = topology::backup_jobs();
        bus.consume(&jobs, 3, Arc::new(Forgets), until).await
    });
    place.some_place_is_free().await;
    for _ in 0..3 {
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].backup_id, silent.backup_id);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_has_any_more_waits_for_no_place_where_one_is_free() {
    let (place, [long, lost]) = fired_two(None).await;
    let mut replicas = [Watchdog::default(), Watchdog::default()];
    place.begin(&long).await;
    let (bus, shutdown) = (place.world.bus.clone(), CancellationToken::new());
    let until = shutdown.clone();
    let worker = tokio::spawn(async move {
        let jobs = topology::backup_jobs();
        bus.consume(&jobs, 3, Arc::new(Forgets), until).await
    });
    place.some_place_is_free().await;
    for _ in 0..58 {
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    assert_eq!(place.failures().await, [], "it is not yet an hour");
    for _ in 0..5 {
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].backup_id, lost.backup_id);
    assert!(failures[0].hint.contains("pool default"), "{failures:?}");
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_limit_of_backups_at_once_holds_up_is_waited_for() {
    let (place, [long, waiting]) = fired_two(None).await;
    let limited = topology::ConsumerSpec {
        max_ack_pending: 1,
        keeps_limit: false,
        ..topology::backup_jobs()
    };
    place.world.bus.apply_consumer(&limited).await.unwrap();
    place.begin(&long).await;
    let bus = place.world.bus.clone();
    let worker = tokio::spawn(async move {
        let jobs = topology::backup_jobs();
        bus.consume(&jobs, 3, Arc::new(Works), CancellationToken::new())
            .await
    });
    place.some_place_is_free().await;
    let mut replicas = [Watchdog::default(), Watchdog::default()];
    for _ in 0..150 {
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    let failures = place.failures().await;
    assert_eq!(failures, [], "{:?} waits for its turn", waiting.backup_id);
    worker.abort();
}

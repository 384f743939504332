//! What only delays a backup does not end it.

use std::sync::Arc;

use async_trait::async_trait;
use bus::{Bus, BusConfig, Delivery, Handler, Outcome};
use events::topology;
use testkit::nats::NatsServer;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::attempt::Attempt;
use crate::jobs::tests::Place;

const MINUTE: Duration = Duration::from_secs(60);

/// Waits as for a checkpoint.
struct Slow {
    place: Place,
    handled: mpsc::Sender<(u64, Option<()>)>,
}

#[async_trait]
impl Handler<Event> for Slow {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let Attempt { mut voice, .. } = self.place.attempt("slow").await;
        voice.heartbeat = delivery.progress.clone();
        let waited = voice.beating(60 * MINUTE, tokio::time::sleep(40 * MINUTE));
        let waited = waited.await.unwrap();
        self.handled.send((delivery.attempt, waited)).await.unwrap();
        Outcome::Done
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_checkpoint_is_waited_for() {
    let bus = Bus::in_memory();
    let (handled, mut seen) = mpsc::channel(10);
    let place = Place::on(bus.clone());
    let request = Event::BackupRequested(place.request.clone());
    let id = MessageId::new("request");
    let now = place.jobs.world.clock.now();
    let _ = bus.publish(Outgoing::new(request, id, now)).await.unwrap();
    let slow = Arc::new(Slow { place, handled });
    let shutdown = CancellationToken::new();
    let spec = topology::backup_jobs();
    let consuming = bus.consume(&spec, 1, slow, shutdown.clone());
    let first = async {
        let first = tokio::time::timeout(300 * MINUTE, seen.recv()).await;
        shutdown.cancel();
        first.unwrap()
    };
    let (consumed, first) = tokio::join!(consuming, first);
    consumed.unwrap();
    assert_eq!(first, Some((1, Some(()))), "it was not given up meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_wait_has_its_own_limit() {
    let place = Place::on(Bus::in_memory());
    let mut voice = place.attempt("one").await.voice;
    let waited = voice.beating(60 * MINUTE, std::future::pending::<()>());
    assert_eq!(waited.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_heard_of_all_the_time() {
    let place = Place::on(Bus::in_memory());
    let mut voice = place.attempt("one").await.voice;
    voice.enter(BackupPhase::WaitingForWal, 7, 9).await.unwrap();
    let before = place.progress_said().await;
    let waited = voice.beating(60 * MINUTE, tokio::time::sleep(10 * MINUTE));
    assert_eq!(waited.await.unwrap(), Some(()));
    let said = place.progress_said().await - before;
    assert!((10..=20).contains(&said), "{said} times in ten minutes");
    let Event::BackupProgressed(last) = place.last_said().await else {
        panic!("progress was said last");
    };
    assert_eq!(
        (last.phase, last.done_bytes),
        (BackupPhase::WaitingForWal, 7)
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_heard_of_however_long_the_interval_is() {
    let mut place = Place::on(Bus::in_memory());
    place.jobs.world.config.backup_progress_interval = 60 * MINUTE;
    let mut voice = place.attempt("one").await.voice;
    let before = place.progress_said().await;
    for done in 0..10 {
        tokio::time::advance(MINUTE).await;
        voice.copied(done, 10).await.unwrap();
    }
    assert_eq!(place.progress_said().await - before, 10);
}

#[tokio::test(start_paused = true)]
async fn whoever_loses_the_fence_stops_waiting() {
    let place = Place::on(Bus::in_memory());
    let mut first = place.attempt("first").await.voice;
    let _second = place.attempt("second").await;
    let waited = first.beating(60 * MINUTE, std::future::pending::<()>());
    let lost = waited.await;
    assert!(matches!(lost, Err(FenceError::Lost { .. })), "{lost:?}");
}

/// A bus whose server the test may take away.
async fn impatient(server: &NatsServer) -> Bus {
    let bus = Bus::connect(BusConfig {
        patience: Duration::from_millis(200),
        ..BusConfig::new(server.url(), "test")
    });
    let bus = bus.await.unwrap();
    bus.apply_topology().await.unwrap();
    bus
}

async fn back(bus: &Bus) {
    let back = async {
        while !bus.is_connected() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(MINUTE, back).await.unwrap();
}

#[tokio::test]
async fn a_bus_that_is_away_does_not_end_a_copy() {
    let mut server = NatsServer::start().await.unwrap();
    let bus = impatient(&server).await;
    let place = Place::on(bus.clone());
    let mut voice = place.attempt("one").await.voice;
    server.kill().await.unwrap();
    voice.enter(BackupPhase::Copying, 1, 3).await.unwrap();
    voice.enter(BackupPhase::Copying, 2, 3).await.unwrap();
    server.start_again().await.unwrap();
    back(&bus).await;
    voice.enter(BackupPhase::Copying, 3, 3).await.unwrap();
    assert_eq!(place.last_said().await.type_name(), "backup.progressed");
}

#[tokio::test]
async fn whether_the_attempt_is_still_the_backups_is_waited_for_while_the_bus_is_away() {
    let mut server = NatsServer::start().await.unwrap();
    let bus = impatient(&server).await;
    let place = Place::on(bus.clone());
    for given_up in [false, true] {
        let mut voice = place.attempt("one").await.voice;
        if given_up {
            let _other = place.attempt("other").await;
        }
        server.kill().await.unwrap();
        let mut assured = Box::pin(voice.assured(BackupPhase::WaitingForWal, 3, 3));
        let early = tokio::time::timeout(Duration::from_secs(1), &mut assured).await;
        assert!(early.is_err(), "nobody has answered: {early:?}");
        server.start_again().await.unwrap();
        let said = tokio::time::timeout(MINUTE, assured).await.unwrap();
        match given_up {
            false => said.unwrap(),
            true => assert!(matches!(said, Err(FenceError::Lost { .. })), "{said:?}"),
        }
    }
}

#[tokio::test]
async fn a_lost_fence_ends_a_copy() {
    let place = Place::on(Bus::in_memory());
    let mut first = place.attempt("first").await.voice;
    let _second = place.attempt("second").await;
    let said = first.enter(BackupPhase::Copying, 1, 3).await;
    assert!(matches!(said, Err(FenceError::Lost { .. })), "{said:?}");
}

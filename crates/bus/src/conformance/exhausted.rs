//! What was delivered as often as it may be, and what has no such limit.

use std::sync::Arc;
use std::time::Duration;

use events::Event;
use events::topology::{ConsumerSpec, DEAD_LETTERS, EVENTS, UNLIMITED};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Backup, With, consume, consumer, in_time, scenarios};
use crate::transport::Topology;
use crate::{Bus, Delivery, Exhausted, Outcome, Sequence};

scenarios!(
    what_is_exhausted_is_told_with_its_place,
    a_limit_on_deliveries_can_be_lifted,
);

const SECOND: Duration = Duration::from_secs(1);

fn again() -> Outcome {
    Outcome::Retry {
        after: Duration::ZERO,
        reason: "a test".to_owned(),
    }
}

async fn what_is_exhausted_is_told_with_its_place(bus: Bus) {
    let _other = bus.publish(Backup::new().says("backup.requested")).await;
    let backup = Backup::new();
    let requested = bus.publish(backup.says("backup.requested")).await.unwrap();
    let _later = bus.publish(Backup::new().says("backup.requested")).await;
    let _worker = consume(&bus, &consumer(SECOND, 2), 1, {
        move |delivery: Delivery<Event>| async move {
            match delivery.sequence {
                // The process is killed at every delivery.
                at if at == requested => Outcome::Leave {
                    reason: "a test".to_owned(),
                },
                _ => Outcome::Done,
            }
        }
    });
    let (seen, mut told) = mpsc::channel(10);
    let handler = Arc::new(With(move |delivery: Delivery<Exhausted>| {
        let seen = seen.clone();
        async move {
            let attempt = delivery.attempt;
            seen.send(delivery).await.unwrap();
            // The advisory itself is delivered until it is handled.
            if attempt < 7 { again() } else { Outcome::Done }
        }
    }));
    let spec = ConsumerSpec {
        name: "conformance-exhausted".into(),
        stream: DEAD_LETTERS,
        filters: vec!["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.conformance".to_owned()],
        max_deliver: UNLIMITED,
        ..consumer(30 * SECOND, 1)
    };
    let shutdown = CancellationToken::new();
    let telling = bus.consume_exhausted(&spec, handler, shutdown.clone());
    let listening = async {
        for attempt in 1..=7 {
            let delivery = in_time("an advisory", told.recv()).await.unwrap();
            assert_eq!((delivery.attempt, delivery.last_attempt), (attempt, false));
            let exhausted = Exhausted {
                stream: EVENTS.to_owned(),
                consumer: "conformance".to_owned(),
                sequence: requested,
                deliveries: 2,
            };
            assert_eq!(delivery.envelope.message, exhausted);
            let event = bus.event_at(requested).await.unwrap().unwrap();
            assert_eq!(event.sequence, requested);
            assert_eq!(event.envelope.correlation, Some(backup.0.to_string()));
            assert!(delivery.envelope.time >= event.time);
        }
        shutdown.cancel();
    };
    let (ended, ()) = tokio::join!(telling, listening);
    ended.unwrap();
    let beyond = Sequence(requested.0 + 100);
    assert_eq!(bus.event_at(beyond).await.unwrap(), None);
}

async fn a_limit_on_deliveries_can_be_lifted(bus: Bus) {
    let applied = |max_deliver| Topology {
        streams: Vec::new(),
        consumers: vec![consumer(30 * SECOND, max_deliver)],
        buckets: Vec::new(),
    };
    bus.transport.apply(&applied(2)).await.unwrap();
    bus.transport.apply(&applied(UNLIMITED)).await.unwrap();
    let (seen, mut handled) = mpsc::channel(10);
    let spec = consumer(30 * SECOND, UNLIMITED);
    let _worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            let told = (delivery.attempt, delivery.last_attempt);
            seen.send(told).await.unwrap();
            if delivery.attempt < 7 {
                again()
            } else {
                Outcome::Done
            }
        }
    });
    let _ = bus.publish(Backup::new().says("backup.requested")).await;
    for attempt in 1..=7 {
        let told = in_time("a delivery", handled.recv()).await;
        assert_eq!(told, Some((attempt, false)));
    }
}

//! How old a message may be, and by whose clock.

use bus::{Delivery, Handler as _, Outcome, Progress};
use events::{Envelope, topology};

use super::*;
use crate::notify::Deliver;

const KEY: &str = "told.webhook.orders.main.backup_failing";

/// The delivery of an event that the server stored so long ago.
fn delivery(id: &str, message: Event, sequence: Sequence, age: TimeDelta) -> Delivery<Event> {
    Delivery {
        envelope: Envelope {
            id: MessageId::new(id),
            source: "test".to_owned(),
            time: at(0),
            correlation: None,
            causation: None,
            traceparent: None,
            tracestate: None,
            message,
        },
        sequence,
        stored_at: SystemClock.now() - age,
        attempt: 1,
        last_attempt: false,
        progress: Progress::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_is_told_however_old_it_is_and_whatever_the_clocks_show() {
    let place = Place::new();
    let _ = place.say("old:1", raised(at(0))).await;
    // The sender's clock is two days ahead of whose who said it.
    place.clock.set(at(2 * 1440));
    let server = web::Server::reserve().await;
    server.listen(vec![]);
    let replica = place.replica(&webhook(&server.url("/")));
    let _ = server.accepted(1).await;
    let _ = place.say("old:2", resolved(at(0))).await;
    let _ = server.accepted(2).await;
    let bodies = server.bodies();
    assert_eq!(
        (&bodies[0]["id"], &bodies[1]["id"]),
        (&"old:1".into(), &"old:2".into())
    );
    place.shutdown.cancel();
    replica.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_and_cannot_be_delivered_for_a_day_is_given_up_and_what_stands_is_not() {
    let place = Place::new();
    let server = web::Server::reserve().await;
    let deliver = Deliver::new(place.bus.clone(), webhook(&server.url("/")));
    let bucket = place.bus.bucket(topology::ALERTS);
    let is_known = async || bucket.get(KEY).await.unwrap().is_some();
    let first = place.say("never:1", raised(at(0))).await;
    let tried = async |age: TimeDelta| {
        let raised = delivery("never:1", raised(at(0)), first, age);
        deliver.handle(&raised).await
    };
    // It stands, and nobody was told.
    assert!(matches!(
        tried(TimeDelta::days(9)).await,
        Outcome::Retry { .. }
    ));
    assert!(is_known().await);
    let second = place.say("never:2", resolved(at(0))).await;
    assert!(matches!(
        tried(TimeDelta::hours(23)).await,
        Outcome::Retry { .. }
    ));
    assert!(is_known().await);
    assert_eq!(tried(TimeDelta::hours(25)).await, Outcome::Done);
    assert!(!is_known().await);
    let over = delivery("never:2", resolved(at(0)), second, TimeDelta::zero());
    assert_eq!(deliver.handle(&over).await, Outcome::Done);
    server.listen(vec![]);
    let next = place.say("next:1", raised(at(1441))).await;
    let next = delivery("next:1", raised(at(1441)), next, TimeDelta::zero());
    assert_eq!(deliver.handle(&next).await, Outcome::Done);
    let bodies = server.bodies();
    assert_eq!((bodies.len(), &bodies[0]["id"]), (1, &"next:1".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_of_a_stream_that_is_lost_swallows_nothing() {
    let place = Place::new();
    let bucket = place.bus.bucket(topology::ALERTS);
    let told = r#"{"sequence": 4711, "since": "2027-01-14T08:00:00Z", "sent": true, "stream": "2026-01-01T00:00:00Z"}"#;
    let _revision = bucket.create(KEY, told).await.unwrap();
    let server = web::Server::reserve().await;
    server.listen(vec![]);
    let replica = place.replica(&webhook(&server.url("/")));
    let _ = place.say("new:1", raised(at(0))).await;
    let _ = server.accepted(1).await;
    place.settled().await;
    let _ = place.say("new:2", resolved(at(0))).await;
    let _ = server.accepted(2).await;
    assert_eq!(server.bodies()[0]["id"], "new:1");
    place.shutdown.cancel();
    replica.await.unwrap();
}

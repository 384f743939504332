//! Reading streams.

use std::time::Duration;

use events::topology::{EVENTS, WAL};
use events::{Event, MessageId, example, subject};
use futures::{Stream, StreamExt as _};

use super::{Backup, in_time, scenarios};
use crate::transport::RawMessage;
use crate::{Bus, BusError, From, Outgoing, Sequence, Stored};

scenarios!(
    following_begins_where_it_should,
    following_goes_on,
    history_ends,
    what_cannot_be_read_is_passed_over,
    the_last_on_a_wildcard,
    too_large_is_refused_here,
);

fn all() -> Vec<String> {
    vec![subject::events_of("backup.requested")]
}

async fn publish(bus: &Bus, messages: usize) -> Vec<Sequence> {
    let mut sequences = Vec::new();
    for _ in 0..messages {
        let request = Backup::new().says("backup.requested");
        sequences.push(bus.publish(request).await.unwrap());
        // Of no interest to the reader.
        let other = Backup::new().says("backup.failed");
        let _ = bus.publish(other).await.unwrap();
    }
    sequences
}

async fn take(
    stream: &mut (impl Stream<Item = Result<Stored<Event>, BusError>> + Unpin),
    count: usize,
) -> Vec<Sequence> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let next = in_time("an event", stream.next()).await.unwrap();
        taken.push(next.unwrap().sequence);
    }
    taken
}

async fn following_begins_where_it_should(bus: Bus) {
    let old = publish(&bus, 3).await;
    let mut start = bus.follow(all(), From::Start, EVENTS);
    assert_eq!(take(&mut start, 3).await, old);
    let mut second = bus.follow(all(), From::Sequence(old[1].0), EVENTS);
    assert_eq!(take(&mut second, 2).await, old[1..]);
    let first = bus.follow(all(), From::Start, EVENTS).next().await;
    let from = first.unwrap().unwrap().time;
    // Stored times may be equal: not before, and complete from there.
    let mut timed = bus.follow(all(), From::Time(from), EVENTS);
    assert_eq!(take(&mut timed, 3).await, old);

    let mut new = bus.follow(all(), From::New, EVENTS);
    let first = tokio::time::timeout(Duration::from_millis(500), new.next()).await;
    assert!(first.is_err(), "nothing is new yet");
    let young = publish(&bus, 2).await;
    assert_eq!(take(&mut new, 2).await, young);
}

async fn following_goes_on(bus: Bus) {
    const MESSAGES: usize = 600;
    let mut follow = bus.follow(all(), From::Start, EVENTS);
    let publisher = bus.clone();
    let published = tokio::spawn(async move { publish(&publisher, MESSAGES / 2).await });
    let taken = take(&mut follow, MESSAGES / 2).await;
    assert_eq!(taken, published.await.unwrap());
    // Longer than one request for messages.
    assert_eq!(
        publish(&bus, MESSAGES / 2).await,
        take(&mut follow, MESSAGES / 2).await
    );
}

async fn history_ends(bus: Bus) {
    let history = async |from| {
        let history = bus.history(all(), from, EVENTS).await.unwrap();
        let read = in_time("the end of history", history.collect::<Vec<_>>()).await;
        read.into_iter()
            .map(|stored| stored.unwrap().sequence)
            .collect::<Vec<_>>()
    };
    assert_eq!(history(Sequence::NONE).await, []);
    let old = publish(&bus, 5).await;
    assert_eq!(history(Sequence::NONE).await, old);
    assert_eq!(history(old[2]).await, old[2..]);
    assert_eq!(history(old[4].next().next()).await, []);
    let state = bus.stream_state(EVENTS).await.unwrap();
    assert_eq!((state.first, state.messages), (Sequence(1), 10));
    assert_eq!(state.last, old[4].next());
    assert_eq!(
        state.created,
        bus.stream_state(EVENTS).await.unwrap().created
    );
}

async fn what_cannot_be_read_is_passed_over(bus: Bus) {
    let foreign = RawMessage {
        subject: "zektor.backup.requested.orders.main.1".to_owned(),
        ..RawMessage::default()
    };
    let foreign = bus.transport.publish(&foreign).await.unwrap().sequence;
    let next = publish(&bus, 1).await;
    let mut follow = bus.follow(all(), From::Start, EVENTS);
    let unread = in_time("the foreign one", follow.next()).await.unwrap();
    assert!(
        matches!(unread, Err(BusError::Undecodable { sequence, .. }) if sequence == foreign),
        "{unread:?}"
    );
    assert_eq!(take(&mut follow, 1).await, next);
}

async fn the_last_on_a_wildcard(bus: Bus) {
    let filter = subject::events_of("wal.segment.archived");
    assert!(bus.last_on(&filter).await.unwrap().is_none());
    let archived = example::events()
        .into_iter()
        .find(|event| event.type_name() == "wal.segment.archived")
        .unwrap();
    for number in 0..3 {
        let id = MessageId::new(format!("wal-{number}"));
        let message = Outgoing::new(archived.clone(), id, example::at(number));
        let sequence = bus.publish(message).await.unwrap();
        let last = bus.last_on(&filter).await.unwrap().unwrap();
        assert_eq!(last.sequence, sequence);
        assert_eq!(last.envelope.time, example::at(number));
    }
    assert_eq!(bus.stream_state(WAL).await.unwrap().last, Sequence(3));
    assert!(matches!(
        bus.last_on("elsewhere.>").await,
        Err(BusError::NoStream { .. })
    ));
}

async fn too_large_is_refused_here(bus: Bus) {
    let backup = Backup::new();
    let request = backup
        .says("backup.requested")
        .caused_by("x".repeat(2 * 1024 * 1024));
    let refused = bus.publish(request).await;
    assert!(
        matches!(refused, Err(BusError::TooLarge { .. })),
        "{refused:?}"
    );
}

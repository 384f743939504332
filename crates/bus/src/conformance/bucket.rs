//! Desired state and leases.

use std::collections::BTreeSet;
use std::time::Duration;

use events::topology::{INSTANCES, LEASES, SLOTS};
use events::{InstanceDocument, example};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::{in_time, scenarios};
use crate::{Bus, CasError, Change, Decision, Revision};

scenarios!(
    a_race_has_one_winner,
    a_stale_revision_changes_nothing,
    a_deleted_key_can_be_made_again,
    what_was_made_and_deleted_since_is_not_what_was_absent,
    a_lease_expires,
    a_renewed_lease_lives_on,
    a_released_lease_can_be_taken,
    a_watch_shows_what_is_and_what_comes,
    updates_of_a_document_are_never_lost,
    invalid_keys_are_refused,
    keys_are_listed_below_a_prefix,
    a_forgotten_key_leaves_nothing,
);

async fn a_race_has_one_winner(bus: Bus) {
    let bucket = bus.bucket(INSTANCES);
    let racers = (0..16).map(|racer: u8| {
        let bucket = bucket.clone();
        tokio::spawn(async move { (racer, bucket.create("orders", vec![racer]).await) })
    });
    let mut winners = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            (racer, Ok(revision)) => winners.push((vec![racer], revision)),
            (_, Err(CasError::Conflict { .. })) => {}
            (_, Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(bucket.get("orders").await.unwrap(), winners.pop());
}

async fn what_was_made_and_deleted_since_is_not_what_was_absent(bus: Bus) {
    let bucket = bus.bucket(INSTANCES);
    let (none, never) = bucket.standing("orders").await.unwrap();
    assert_eq!((none, never), (None, Revision(0)));
    let made = bucket.update("orders", "1", never).await.unwrap();
    let there = bucket.standing("orders").await.unwrap();
    assert_eq!(there, (Some(b"1".to_vec()), made));
    bucket.delete("orders", made).await.unwrap();
    let (none, gone) = bucket.standing("orders").await.unwrap();
    assert!(none.is_none() && gone > made);
    for stale in [never, made] {
        let refused = bucket.update("orders", "2", stale).await;
        assert!(matches!(refused, Err(CasError::Conflict { .. })));
    }
    let _again = bucket.update("orders", "2", gone).await.unwrap();
}

async fn a_stale_revision_changes_nothing(bus: Bus) {
    let bucket = bus.bucket(INSTANCES);
    assert_eq!(bucket.get("orders").await.unwrap(), None);
    let first = bucket.create("orders", "1").await.unwrap();
    let second = bucket.update("orders", "2", first).await.unwrap();
    assert!(second > first);
    for stale in [first, Revision(0), Revision(second.0 + 1)] {
        let refused = bucket.update("orders", "3", stale).await;
        assert!(matches!(refused, Err(CasError::Conflict { .. })));
        let refused = bucket.delete("orders", stale).await;
        assert!(matches!(refused, Err(CasError::Conflict { .. })));
    }
    let kept = bucket.get("orders").await.unwrap();
    assert_eq!(kept, Some((b"2".to_vec(), second)));
}

async fn a_deleted_key_can_be_made_again(bus: Bus) {
    let bucket = bus.bucket(INSTANCES);
    let first = bucket.create("orders", "1").await.unwrap();
    let _ = bucket.create("billing", "1").await.unwrap();
    bucket.delete("orders", first).await.unwrap();
    assert_eq!(bucket.get("orders").await.unwrap(), None);
    assert_eq!(bucket.keys().await.unwrap(), ["billing"]);
    let again = bucket.create("orders", "2").await.unwrap();
    assert_eq!(
        bucket.get("orders").await.unwrap(),
        Some((b"2".to_vec(), again))
    );
    let taken = bucket.create("orders", "3").await;
    assert!(matches!(taken, Err(CasError::Conflict { .. })));
    let keys: BTreeSet<_> = bucket.keys().await.unwrap().into_iter().collect();
    assert_eq!(keys, ["billing", "orders"].map(str::to_owned).into());
}

const TTL: Duration = Duration::from_secs(2);

async fn a_lease_expires(bus: Bus) {
    let bucket = bus.bucket(LEASES);
    let mut changes = bucket.watch();
    let began = Instant::now();
    let revision = bucket
        .create_with_ttl("orders.main", "a", TTL)
        .await
        .unwrap();
    let taken = bucket.create_with_ttl("orders.main", "b", TTL).await;
    assert!(matches!(taken, Err(CasError::Conflict { .. })));
    let change = in_time("the lease", changes.next()).await.unwrap();
    assert_eq!(change.value, Some(b"a".to_vec()));
    let change = in_time("its end", changes.next()).await.unwrap();
    assert_eq!((change.key.as_str(), change.value), ("orders.main", None));
    let lived = began.elapsed();
    assert!(lived >= TTL && lived < TTL * 5, "{lived:?}");
    assert_eq!(bucket.get("orders.main").await.unwrap(), None);
    let late = bucket.renew("orders.main", "a", revision, TTL).await;
    assert!(matches!(late, Err(CasError::Conflict { .. })), "{late:?}");
    let _ = bucket
        .create_with_ttl("orders.main", "b", TTL)
        .await
        .unwrap();
}

async fn a_renewed_lease_lives_on(bus: Bus) {
    let bucket = bus.bucket(LEASES);
    let mut changes = bucket.watch();
    let mut revision = bucket
        .create_with_ttl("orders.main", "a", TTL)
        .await
        .unwrap();
    let began = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(TTL / 2).await;
        revision = bucket
            .renew("orders.main", "a", revision, TTL)
            .await
            .unwrap();
    }
    let mut ended = Duration::ZERO;
    while ended.is_zero() {
        let change = in_time("the lease's end", changes.next()).await.unwrap();
        if change.value.is_none() {
            ended = began.elapsed();
        }
    }
    assert!(ended >= TTL * 5 / 2, "{ended:?}");
}

async fn a_released_lease_can_be_taken(bus: Bus) {
    let bucket = bus.bucket(LEASES);
    let revision = bucket
        .create_with_ttl("orders.main", "a", TTL)
        .await
        .unwrap();
    bucket.release("orders.main", revision).await.unwrap();
    let other = bucket
        .create_with_ttl("orders.main", "b", TTL)
        .await
        .unwrap();
    let refused = bucket.release("orders.main", revision).await;
    assert!(matches!(refused, Err(CasError::Conflict { .. })));
    bucket.release("orders.main", other).await.unwrap();
}

async fn a_watch_shows_what_is_and_what_comes(bus: Bus) {
    let bucket = bus.bucket(INSTANCES);
    let one = bucket.create("one", "1").await.unwrap();
    let two = bucket.create("two", "1").await.unwrap();
    let one = bucket.update("one", "2", one).await.unwrap();
    let mut changes = bucket.watch();
    let mut next = async || in_time("a change", changes.next()).await.unwrap();
    let change = |key: &str, value: Option<&str>, revision| Change {
        key: key.to_owned(),
        value: value.map(|value| value.as_bytes().to_vec()),
        revision,
    };
    assert_eq!(next().await, change("two", Some("1"), two));
    assert_eq!(next().await, change("one", Some("2"), one));
    bucket.delete("two", two).await.unwrap();
    let gone = next().await;
    assert_eq!((gone.key.as_str(), gone.value), ("two", None));
    let three = bucket.create("three", "1").await.unwrap();
    assert_eq!(next().await, change("three", Some("1"), three));
}

fn document() -> InstanceDocument {
    InstanceDocument::new(
        example::instance(),
        events::CommandId(uuid::Uuid::nil()),
        example::at(0),
    )
}

async fn updates_of_a_document_are_never_lost(bus: Bus) {
    const WRITERS: usize = 8;
    let name = example::instance();
    let mut changes = bus.instances().watch();
    let writers = (0..WRITERS).map(|_| {
        let (instances, name) = (bus.instances(), name.clone());
        tokio::spawn(async move {
            instances
                .update(&name, |current| {
                    let mut next = current.cloned().unwrap_or_else(document);
                    next.schedules.push(example::schedule());
                    Decision::Put(Box::new(next), ())
                })
                .await
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let (after, _) = bus.instances().get(&name).await.unwrap().unwrap();
    assert_eq!(after.schedules.len(), WRITERS);
    let listed = bus.instances().list().await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&after));
    in_time("the last change", async {
        while changes.next().await.unwrap().document.as_ref() != Some(&after) {}
    })
    .await;
    let seen = bus
        .instances()
        .update(&name, |current| Decision::Remove(current.is_some()))
        .await
        .unwrap();
    assert!(seen);
    assert_eq!(bus.instances().get(&name).await.unwrap(), None);
    let change = in_time("the removal", changes.next()).await.unwrap();
    assert_eq!((change.instance, change.document), (name, None));
}

async fn invalid_keys_are_refused(bus: Bus) {
    let bucket = bus.bucket(INSTANCES);
    for key in ["", ".a", "a.", "a..b", "a b", "*", "a.>", "ä"] {
        let refused = bucket.create(key, "1").await;
        assert!(matches!(
            refused,
            Err(CasError::Bus(crate::BusError::InvalidKey { .. }))
        ));
    }
}

async fn keys_are_listed_below_a_prefix(bus: Bus) {
    let bucket = bus.bucket(SLOTS);
    assert_eq!(bucket.under("queue.a").await.unwrap(), []);
    for key in ["queue.a.1", "queue.a.2", "queue.ab.1", "queue.a"] {
        let _ = bucket.create(key, key).await.unwrap();
    }
    let gone = bucket.create("queue.a.3", "3").await.unwrap();
    bucket.delete("queue.a.3", gone).await.unwrap();
    let listed = bucket.under("queue.a").await.unwrap();
    let keys: Vec<_> = listed.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["queue.a.1", "queue.a.2"]);
    assert_eq!(listed[0].value.as_deref(), Some(&b"queue.a.1"[..]));
}

async fn a_forgotten_key_leaves_nothing(bus: Bus) {
    let bucket = bus.bucket(SLOTS);
    let first = bucket.create("retry.a.1", "1").await.unwrap();
    let second = Duration::from_secs(1);
    let stale = bucket
        .forget("retry.a.1", Revision(first.0 + 1), second)
        .await;
    assert!(matches!(stale, Err(CasError::Conflict { .. })));
    bucket.forget("retry.a.1", first, second).await.unwrap();
    assert_eq!(bucket.get("retry.a.1").await.unwrap(), None);
    let again = bucket.create("retry.a.1", "2").await.unwrap();
    // What was written since does not go with the mark.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let kept = bucket.get("retry.a.1").await.unwrap();
    assert_eq!(kept, Some((b"2".to_vec(), again)));
    bucket.forget("retry.a.1", again, second).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(bucket.get("retry.a.1").await.unwrap(), None);
    let _ = bucket.create("retry.a.1", "3").await.unwrap();
}

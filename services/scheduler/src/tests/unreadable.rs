//! Documents that cannot be read, of a later version or damaged: they hold up none of the others, and what was known of
//! their instances stays true.

use bus::Revision;
use events::{InstanceDocument, InstanceName, ScheduleId, topology};
use repository::{Repository, RetryPolicy};
use uuid::Uuid;

use super::Place;
use super::firing::{document, registered};
use crate::firing::Firing;

const GARBAGE: &str = "{\"of\": \"a later version\"}";

fn named(name: &str) -> InstanceDocument {
    let mut document = document("2026-01-01T00:00:00Z".parse().unwrap());
    document.instance = InstanceName::new(name).unwrap();
    document.schedules[0].id = ScheduleId(Uuid::from_u128(u128::from(name.as_bytes()[0])));
    document
}

async fn spoil(place: &Place, name: &str) {
    let bucket = place.world.bus.bucket(topology::INSTANCES);
    let found = bucket.get(name).await.unwrap();
    let _revision: Revision = match found {
        Some((_, revision)) => bucket.update(name, GARBAGE, revision).await.unwrap(),
        None => bucket.create(name, GARBAGE).await.unwrap(),
    };
}

#[tokio::test]
async fn all_mirrors_but_a_damaged_one_are_recalled() {
    let mut place = Place::new("2026-01-01T00:00:00Z");
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().display());
    place.world.repository = Repository::open(&url, RetryPolicy::default()).unwrap();
    // The first, and one in the middle.
    for name in ["a", "b", "c", "d"] {
        place
            .world
            .repository
            .put_instance(&named(name))
            .await
            .unwrap();
    }
    for name in ["a", "c"] {
        let mirror = directory.path().join(format!("v1/instances/{name}.json"));
        std::fs::write(mirror, GARBAGE).unwrap();
    }
    // The bus has one of another version: it stays.
    spoil(&place, "d").await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    let listing = place.world.bus.instances().listing().await.unwrap();
    assert_eq!(listing.documents, [named("b")]);
    let unreadable: Vec<_> = listing.unreadable.iter().map(ToString::to_string).collect();
    assert_eq!(unreadable, ["d"]);
    // What is damaged is there all the same, for who mends it.
    let names = place.world.repository.instance_names().await.unwrap();
    assert_eq!(names.len(), 4);
    place.clock.set("2026-01-01T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    assert_eq!(place.types().await, ["backup.requested"]);
}

#[tokio::test]
async fn what_was_known_of_an_instance_is_known_while_its_document_cannot_be_read() {
    let place = Place::new("2026-01-01T00:00:00Z");
    for name in ["a", "b"] {
        registered(&place, &named(name)).await;
    }
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    spoil(&place, "a").await;
    firing.reload(&place.world).await.unwrap();
    place.clock.set("2026-01-01T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    assert_eq!(place.types().await, ["backup.requested"; 2]);
}

async fn registered_again(place: &Place, name: &str) {
    let bucket = place.world.bus.bucket(topology::INSTANCES);
    let (_, revision) = bucket.get(name).await.unwrap().unwrap();
    bucket.delete(name, revision).await.unwrap();
    registered(place, &named(name)).await;
}

#[tokio::test]
async fn slots_are_not_whole_while_it_is_not_known_what_runs() {
    let place = Place::new("2026-01-01T00:00:00Z");
    registered(&place, &named("a")).await;
    spoil(&place, "b").await;
    place.world.recover_slots().await.unwrap();
    assert!(!place.world.slots_are_whole().await.unwrap());
    registered_again(&place, "b").await;
    place.world.recover_slots().await.unwrap();
    assert!(place.world.slots_are_whole().await.unwrap());
}

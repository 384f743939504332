//! Clocks that are wrong, documents that cannot be read, archivers that were never there: none hides what is wrong.

use super::*;

const YEAR: i64 = 366 * 1440;

#[tokio::test]
async fn whatever_clocks_those_have_who_say_it_the_servers_counts() {
    let place = Place::registered().await;
    place.clock.set(at(10));
    // A worker that is ahead, and a watchdog that is behind.
    place.hear_from(completed(1), at(YEAR)).await;
    for number in [2, 3] {
        place.clock.set(at(10 * i64::try_from(number).unwrap()));
        place.hear_from(failed(number), at(-YEAR)).await;
    }
    assert_eq!(place.said().await, ["+backup_failing"]);
}

#[tokio::test]
async fn a_document_that_cannot_be_read_holds_up_no_alert_and_closes_none() {
    let place = Place::registered().await;
    let other = InstanceDocument {
        instance: InstanceName::new("billing").unwrap(),
        ..document(&instance())
    };
    place.put(&other).await;
    place.at(1).await;
    let bucket = place.watch.bus.bucket(topology::INSTANCES);
    let name = instance().to_string();
    let (_, revision) = bucket.get(&name).await.unwrap().unwrap();
    let garbage = "{\"of\": \"a later version\"}";
    let _revision = bucket.update(&name, garbage, revision).await.unwrap();
    let before = place.keys().await;
    place.at(2 * 1440).await;
    // Of both: what was promised stays so, though nobody can read it now.
    let overdue = ["+backup_overdue", "+backup_overdue"];
    assert_eq!(place.said().await, overdue);
    assert_eq!(place.keys().await, before);
}

#[tokio::test]
async fn an_archive_that_never_began_is_behind_since_its_branch_was_registered() {
    let place = Place::new();
    place.put(&streamed(&instance())).await;
    for minute in 0..=5 {
        place.at(minute).await;
    }
    assert!(place.said().await.is_empty());
    for minute in 6..=8 {
        place.at(minute).await;
    }
    assert_eq!(place.said().await, ["+archive_lag"]);
}

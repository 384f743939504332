//! Due schedules: one request for each fire, however many schedulers and however late.

use std::collections::BTreeMap;

use events::document::{ActiveBranch, Branch, Schedule};
use events::{BranchName, Event, InstanceDocument, SealedSecret, Timestamp, example};
use pg_format::{SystemIdentifier, TimelineId, WalSegmentSize};

use super::{Place, command_id, instance};
use crate::firing::Firing;

pub(super) fn document(created_at: Timestamp) -> InstanceDocument {
    let main = ActiveBranch {
        dsn: SealedSecret::from_base64(String::new()),
        system_identifier: SystemIdentifier(1),
        timeline: TimelineId(1),
        server_version: 180_000,
        wal_segment_size: WalSegmentSize::DEFAULT,
        origin: None,
        size: None,
        created_at,
        archive_mode: events::ArchiveMode::default(),
        disk_risk: events::DiskRiskPolicy::default(),
    };
    InstanceDocument {
        branches: BTreeMap::from([(BranchName::main(), Branch::Active(main))]),
        schedules: vec![Schedule {
            created_at,
            ..example::schedule()
        }],
        ..InstanceDocument::new(instance(), command_id(1), created_at)
    }
}

pub(crate) async fn registered(place: &Place, document: &InstanceDocument) {
    let put = |_: Option<&InstanceDocument>| bus::Decision::Put(Box::new(document.clone()), ());
    place
        .world
        .bus
        .instances()
        .update(&document.instance, put)
        .await
        .unwrap();
}

#[tokio::test]
async fn three_schedulers_request_a_fire_once() {
    let place = Place::new("2026-01-01T00:00:00Z");
    registered(&place, &document("2026-01-01T00:00:00Z".parse().unwrap())).await;
    let mut replicas = [Firing::default(), Firing::default(), Firing::default()];
    for (now, requested) in [
        ("2026-01-01T02:16:59Z", 0),
        ("2026-01-01T02:17:00Z", 1),
        ("2026-01-01T02:17:01Z", 1),
        ("2026-01-02T02:17:30Z", 2),
        // Down for a week: one catch-up.
        ("2026-01-09T12:00:00Z", 3),
        // The clock steps back: nothing fires twice.
        ("2026-01-02T03:00:00Z", 3),
    ] {
        place.clock.set(now.parse().unwrap());
        for replica in &mut replicas {
            replica.reload(&place.world).await.unwrap();
            assert_eq!(replica.fire_due(&place.world).await, 0);
        }
        let events = place.events().await.into_iter();
        let requests = events.filter_map(|event| match event {
            Event::BackupRequested(requested) => Some(requested),
            Event::BackupFailed(_) => None,
            other => panic!("{other:?}"),
        });
        let requests: Vec<_> = requests.collect();
        assert_eq!(requests.len(), requested, "at {now}");
        if let Some(last) = requests.last() {
            place.fail_backup(last).await;
        }
    }
    for event in place.events().await {
        if let Event::BackupRequested(requested) = event {
            assert_eq!(requested.retention, Some(events::Retention::SEVEN_DAYS));
            assert_eq!(requested.wal, events::WalKeep::AsLongAsBackup);
        }
    }
}

#[tokio::test]
async fn an_instance_that_is_removed_or_has_no_branch_fires_nothing() {
    let place = Place::new("2026-01-02T00:00:00Z");
    let document = document("2026-01-01T00:00:00Z".parse().unwrap());
    registered(
        &place,
        &InstanceDocument {
            removing: true,
            ..document.clone()
        },
    )
    .await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    assert_eq!(firing.fire_due(&place.world).await, 0);
    registered(
        &place,
        &InstanceDocument {
            branches: BTreeMap::new(),
            ..document
        },
    )
    .await;
    firing.reload(&place.world).await.unwrap();
    assert_eq!(firing.fire_due(&place.world).await, 0);
    assert!(place.types().await.is_empty());
}

#[tokio::test]
async fn a_lost_bus_is_filled_from_the_mirror_but_not_with_what_was_removed() {
    let place = Place::new("2026-01-01T00:00:00Z");
    let kept = document("2026-01-01T00:00:00Z".parse().unwrap());
    let name = events::InstanceName::new("gone").unwrap();
    let gone = InstanceDocument {
        instance: name.clone(),
        removing: true,
        ..kept.clone()
    };
    place.world.repository.put_instance(&kept).await.unwrap();
    place.world.repository.put_instance(&gone).await.unwrap();
    Firing::default().reload(&place.world).await.unwrap();
    assert_eq!(
        place.world.bus.instances().list().await.unwrap(),
        std::slice::from_ref(&kept)
    );

    // One that is gone from the bus while others stay is recalled as well.
    let other = events::InstanceName::new("other").unwrap();
    let other = InstanceDocument {
        instance: other,
        ..kept.clone()
    };
    place.world.repository.put_instance(&other).await.unwrap();
    registered(&place, &other).await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    let lost = |_: Option<&InstanceDocument>| bus::Decision::Remove(());
    place
        .world
        .bus
        .instances()
        .update(&other.instance, lost)
        .await
        .unwrap();
    firing.reload(&place.world).await.unwrap();
    assert_eq!(
        place.world.bus.instances().list().await.unwrap(),
        [kept, other]
    );
}

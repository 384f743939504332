//! Due schedules: one request for each fire, however many schedulers and however late.

use std::collections::BTreeMap;

use events::document::{ActiveBranch, Branch, Schedule};
use events::event::{BranchStarted, BranchStopped};
use events::schedules::SchedulesQuestion;
use events::{
    BackupId, BranchName, Event, InstanceDocument, ScheduleId, SealedSecret, Timestamp, example,
    topology,
};
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

/// The fixture's daily schedule and one of the first of each month that is kept for a year; whichever has the lower id.
fn daily_and_monthly(created_at: Timestamp, daily_first: bool) -> (InstanceDocument, ScheduleId) {
    let mut wanted = document(created_at);
    let id = |number| ScheduleId(uuid::Uuid::from_u128(number));
    let daily = Schedule {
        id: id(if daily_first { 1 } else { 2 }),
        ..wanted.schedules[0].clone()
    };
    let monthly = Schedule {
        id: id(if daily_first { 2 } else { 1 }),
        name: "monthly".to_owned(),
        cron: "17 2 1 * *".to_owned(),
        retention: "1y".parse().unwrap(),
        ..daily.clone()
    };
    let monthly_id = monthly.id;
    wanted.schedules = vec![daily, monthly];
    (wanted, monthly_id)
}

impl Place {
    /// What the fires of a schedule led to.
    async fn effects_of(&self, schedule: ScheduleId) -> Vec<&'static str> {
        let events = self.events().await.into_iter();
        let effects = events.filter_map(|event| match event {
            Event::BackupRequested(asked) => {
                (asked.schedule_id == Some(schedule)).then_some("requested")
            }
            Event::BackupQueued(queued) => {
                (queued.request.schedule_id == Some(schedule)).then_some("queued")
            }
            Event::BackupSkipped(skipped) => (skipped.schedule_id == schedule).then_some("skipped"),
            _ => None,
        });
        effects.collect()
    }
}

#[tokio::test]
async fn of_two_fires_at_once_the_one_that_is_kept_longer_is_taken() {
    for daily_first in [true, false] {
        let place = Place::new("2025-12-20T00:00:00Z");
        let (wanted, monthly) = daily_and_monthly(place.world.clock.now(), daily_first);
        registered(&place, &wanted).await;
        let mut firing = Firing::default();
        for month in 1..=12 {
            for day in [1, 2] {
                let now = format!("2026-{month:02}-{day:02}T02:17:00Z");
                place.clock.set(now.parse().unwrap());
                firing.reload(&place.world).await.unwrap();
                assert_eq!(firing.fire_due(&place.world).await, 0);
                place.fail_backup(&place.last_request().await).await;
            }
        }
        assert_eq!(place.effects_of(monthly).await, ["requested"; 12]);
        let daily = wanted.schedules[0].id;
        let daily = place.effects_of(daily).await;
        assert_eq!(daily.len(), 24, "{daily:?}");
        assert_eq!(daily.iter().filter(|e| **e == "skipped").count(), 12);
    }
}

#[tokio::test]
async fn a_fire_that_is_kept_longer_than_what_runs_waits_and_one_that_is_not_is_skipped() {
    let place = Place::new("2025-12-31T00:00:00Z");
    let (mut wanted, monthly) = daily_and_monthly(place.world.clock.now(), true);
    wanted.schedules[0].cron = "0 * * * *".to_owned();
    registered(&place, &wanted).await;
    let mut replicas = [Firing::default(), Firing::default()];
    let mut fire = async |now: &str| {
        place.clock.set(now.parse().unwrap());
        for replica in &mut replicas {
            replica.reload(&place.world).await.unwrap();
            assert_eq!(replica.fire_due(&place.world).await, 0);
        }
    };
    fire("2026-01-01T02:00:00Z").await;
    let short = place.last_request().await;
    fire("2026-01-01T02:17:00Z").await;
    let first_fire = place.world.clock.now();
    assert_eq!(place.effects_of(monthly).await, ["queued"]);
    // It still runs a month later: one fire of a schedule waits.
    fire("2026-02-01T02:17:00Z").await;
    assert_eq!(place.effects_of(monthly).await, ["queued", "skipped"]);
    let reasons = place.events().await.into_iter();
    let reasons = reasons.filter_map(|event| match event {
        Event::BackupSkipped(skipped) => Some((skipped.schedule_id == monthly, skipped.reason)),
        _ => None,
    });
    let (behind, queued) = (short.backup_id, BackupId::scheduled(monthly, first_fire));
    let of_monthly = format!(
        "backup {queued} of this schedule was still waiting for backup {behind} of this branch"
    );
    let of_hourly = format!(
        "backup {behind} of this branch, which is kept at least as long, was still waiting for a worker of pool default"
    );
    let reasons: Vec<_> = reasons.collect();
    assert_eq!(reasons, [(true, of_monthly), (false, of_hourly)]);
    place.fail_backup(&short).await;
    let taken = place.last_request().await;
    assert_eq!(taken.schedule_id, Some(monthly));
    assert_eq!(taken.name, "monthly 2026-01-01T02:17:00.000000Z");
}

fn branch_said(what: &str, branch: &BranchName) -> Event {
    let (instance, branch) = (instance(), branch.clone());
    match what {
        "stopped" => Event::BranchStopped(BranchStopped { instance, branch }),
        _ => Event::BranchStarted(BranchStarted { instance, branch }),
    }
}

#[tokio::test]
async fn a_branch_that_is_stopped_is_not_backed_up() {
    let place = Place::new("2026-01-01T00:00:00Z");
    let mut wanted = document(place.world.clock.now());
    let fix = BranchName::new("fix").unwrap();
    let main = wanted.branches[&BranchName::main()].clone();
    let _none = wanted.branches.insert(fix.clone(), main);
    wanted.schedules[0].branch = fix.clone();
    registered(&place, &wanted).await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    for (said, now, event) in [
        ("stopped", "2026-01-01T02:17:00Z", "backup.skipped"),
        ("started", "2026-01-02T02:17:00Z", "backup.requested"),
    ] {
        place.say(branch_said(said, &fix)).await;
        for late in [0, 3600] {
            let now = now.parse::<Timestamp>().unwrap() + chrono::TimeDelta::seconds(late);
            place.clock.set(now);
            assert_eq!(firing.fire_due(&place.world).await, 0);
            // One that has just begun.
            let mut another = Firing::default();
            another.reload(&place.world).await.unwrap();
            assert_eq!(another.fire_due(&place.world).await, 0);
        }
        assert_eq!(place.types().await.pop(), Some(event));
        // What is told of the schedule is what has happened.
        let question = SchedulesQuestion {
            instance: instance(),
        };
        let told = crate::schedules::answer(&place.world, question).await;
        let last_at = told.unwrap().schedules[0].last_at;
        let due = now.parse::<Timestamp>().ok();
        assert_eq!(last_at, due.filter(|_| event == "backup.requested"));
    }
    assert_eq!(
        place.types().await,
        [
            "branch.stopped",
            "backup.skipped",
            "branch.started",
            "backup.requested"
        ]
    );
}

/// The stream was lost with NATS: what a fire before its birth has led to is not known.
#[tokio::test]
async fn after_a_loss_of_nats_the_fires_of_a_day_are_asked_for_again_and_no_older_ones() {
    let bus = Place::new("2026-01-01T00:00:00Z").world.bus;
    let events = bus.stream_state(topology::EVENTS).await.unwrap();
    let born = events.created;
    for (hours_before, hours_after, requested) in [
        (300, 1, 0),
        (25, 1, 0),
        (20, 1, 1),
        // It has forgotten nothing since, whatever was down.
        (-1, 300, 1),
    ] {
        let mut place = Place::new("2026-01-01T00:00:00Z");
        place.world.bus = bus.clone();
        let fire = born - chrono::TimeDelta::hours(hours_before);
        let now = born + chrono::TimeDelta::hours(hours_after);
        place.clock.set(now);
        let mut yearly = document(now - chrono::TimeDelta::days(100));
        yearly.instance =
            events::InstanceName::new(format!("lost{hours_before}").replace('-', "x")).unwrap();
        yearly.schedules[0].cron = fire.format("%M %H %d %m *").to_string();
        yearly.schedules[0].id = ScheduleId(uuid::Uuid::now_v7());
        registered(&place, &yearly).await;
        let mut firing = Firing::default();
        firing.reload(&place.world).await.unwrap();
        let before = place.types().await.len();
        assert_eq!(firing.fire_due(&place.world).await, 0);
        let asked = place.types().await.len() - before;
        assert_eq!(asked, requested, "{hours_before} h before the loss");
    }
}

/// NATS was lost while the scheduler ran on: what it had asked for is asked for again.
#[tokio::test(start_paused = true)]
async fn a_scheduler_that_runs_on_over_a_loss_of_nats_asks_again() {
    let mut place = Place::new("2026-01-01T00:00:00Z");
    let daily = document(place.world.clock.now());
    registered(&place, &daily).await;
    let mut firing = Firing::default();
    firing.look(&place.world).await;
    place.clock.set("2026-01-01T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    let asked = place.last_request().await;
    place.clock.set("2026-01-01T02:40:00Z".parse().unwrap());
    let another_look = async |firing: &mut Firing, place: &Place| {
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        firing.look(&place.world).await;
        assert_eq!(firing.fire_due(&place.world).await, 0);
    };
    another_look(&mut firing, &place).await;
    assert_eq!(place.events().await.len(), 1, "nothing was lost");

    place.world.bus = Place::new("2026-01-01T00:00:00Z").world.bus;
    registered(&place, &daily).await;
    assert_eq!(place.events().await.len(), 0);
    another_look(&mut firing, &place).await;
    assert_eq!(place.last_request().await.backup_id, asked.backup_id);
    another_look(&mut firing, &place).await;
    assert_eq!(place.events().await.len(), 1, "once");
}

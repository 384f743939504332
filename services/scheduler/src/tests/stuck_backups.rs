//! Nothing is "in progress" for ever, and what failed is tried again a bounded number of times.

use std::time::Duration;

use bus::Outgoing;
use events::event::{BackupFailed, BackupProgressed, BackupRequested, BackupStarted, FailureCause};
use events::{
    BackupId, Event, InstanceDocument, InstanceName, MessageId, PoolName, ScheduleId, example,
    topology,
};

use super::firing::{document, registered};
use super::{Place, instance};
use crate::firing::Firing;
use crate::slots::fence_of;
use crate::watchdog::Watchdog;

mod places;
mod unbegun;

const MINUTE: Duration = Duration::from_secs(60);

/// A daily schedule at 02:17, whose first fire was just requested.
async fn fired() -> (Place, Firing, BackupRequested) {
    let place = Place::new("2026-01-01T00:00:00Z");
    registered(&place, &document(place.world.clock.now())).await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    place.clock.set("2026-01-01T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    let request = place.last_request().await;
    (place, firing, request)
}

impl Place {
    pub(super) async fn last_request(&self) -> BackupRequested {
        let events = self.events().await.into_iter();
        let mut requests = events.filter_map(|event| match event {
            Event::BackupRequested(requested) => Some(requested),
            _ => None,
        });
        requests.next_back().unwrap()
    }

    /// The wall clock and every monotonic one go on.
    async fn let_pass(&self, duration: Duration) {
        self.clock.advance(duration);
        tokio::time::advance(duration).await;
    }

    /// Returns when a worker of the default pool asks for work.
    async fn some_place_is_free(&self) {
        let jobs = topology::backup_jobs();
        while self.world.bus.places(&jobs).await.unwrap().free == 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn say_on_fence(&self, request: &BackupRequested, event: Event) {
        let last = self.world.bus.last_on(&fence_of(request)).await;
        let sequence = last.unwrap().unwrap().sequence;
        let id = MessageId::new(format!("test:{sequence}"));
        let outgoing = Outgoing::new(event, id, self.world.clock.now());
        let fence = fence_of(request);
        let said = self.world.bus.publish_expecting(outgoing, &fence, sequence);
        let _sequence = said.await.unwrap();
    }

    async fn begin(&self, request: &BackupRequested) {
        let started = BackupStarted {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            worker: "test".to_owned(),
            attempt: "a".to_owned(),
            started_at: self.world.clock.now(),
        };
        self.say_on_fence(request, Event::BackupStarted(started))
            .await;
    }

    async fn progress(&self, request: &BackupRequested) {
        let mut examples = example::events().into_iter();
        let example = examples.find_map(|event| match event {
            Event::BackupProgressed(progressed) => Some(progressed),
            _ => None,
        });
        let progressed = BackupProgressed {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            ..example.unwrap()
        };
        self.say_on_fence(request, Event::BackupProgressed(progressed))
            .await;
    }

    /// It is said, and nobody has heard it yet.
    pub(super) async fn publish_failed(&self, request: &BackupRequested) {
        let failed = self.failure(request, FailureCause::Source);
        self.say_on_fence(request, Event::BackupFailed(failed))
            .await;
    }

    fn failure(&self, request: &BackupRequested, cause: FailureCause) -> BackupFailed {
        BackupFailed {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            cause,
            transient: None,
            message: "a test".to_owned(),
            hint: String::new(),
            failed_at: self.world.clock.now(),
        }
    }

    async fn fail_because(&self, request: &BackupRequested, cause: FailureCause) {
        let failed = self.failure(request, cause);
        self.end(request, Event::BackupFailed(failed)).await;
    }

    async fn failures(&self) -> Vec<BackupFailed> {
        let events = self.events().await.into_iter();
        let failures = events.filter_map(|event| match event {
            Event::BackupFailed(failed) => Some(failed),
            _ => None,
        });
        failures.collect()
    }
}

async fn rounds(place: &Place, watchdogs: &mut [Watchdog], minutes: u32) {
    for _ in 0..minutes {
        place.let_pass(MINUTE).await;
        for watchdog in &mut *watchdogs {
            watchdog.round(&place.world).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_worker_begins_is_given_up_once() {
    let (place, _firing, request) = fired().await;
    let mut replicas = [const { None::<Watchdog> }; 3].map(|_| Watchdog::default());
    rounds(&place, &mut replicas, 60).await;
    assert_eq!(place.failures().await, []);
    rounds(&place, &mut replicas, 2).await;
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].backup_id, request.backup_id);
    assert_eq!(failures[0].message, "no worker began the backup within 1h");
}

#[tokio::test(start_paused = true)]
async fn what_is_silent_is_given_up_and_what_speaks_is_not() {
    let (place, _firing, request) = fired().await;
    let mut replicas = [Watchdog::default(), Watchdog::default()];
    // A worker dies again and again, and each time another one begins.
    for _ in 0..6 {
        place.begin(&request).await;
        rounds(&place, &mut replicas, 14).await;
        assert_eq!(place.failures().await, []);
    }
    rounds(&place, &mut replicas, 3).await;
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1);
    assert_eq!(
        failures[0].message,
        "nothing was heard of the backup for 15m"
    );
    // A worker that comes back is refused.
    let late = Event::BackupFailed(place.failure(&request, FailureCause::Source));
    let fence = fence_of(&request);
    let started = bus::Sequence(1);
    let outgoing = Outgoing::new(late, MessageId::new("late"), place.world.clock.now());
    let said = place.world.bus.publish_expecting(outgoing, &fence, started);
    assert!(said.await.is_err());
}

/// Backups of two instances were just requested; the second one's of this pool.
async fn fired_two(pool: Option<&str>) -> (Place, [BackupRequested; 2]) {
    let place = Place::new("2026-01-01T00:00:00Z");
    let first = document(place.world.clock.now());
    let mut second = InstanceDocument {
        instance: InstanceName::new("second").unwrap(),
        pool: pool.map(|pool| PoolName::new(pool).unwrap()),
        ..first.clone()
    };
    second.schedules[0].id = ScheduleId(uuid::Uuid::from_u128(77));
    registered(&place, &first).await;
    registered(&place, &second).await;
    let mut firing = Firing::default();
    firing.reload(&place.world).await.unwrap();
    place.clock.set("2026-01-01T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    let events = place.events().await.into_iter();
    let requests = events.filter_map(|event| match event {
        Event::BackupRequested(requested) => Some(requested),
        _ => None,
    });
    let mut requests: Vec<_> = requests.collect();
    requests.sort_by_key(|request| request.instance == second.instance);
    (place, requests.try_into().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_long_backup_is_not_given_up() {
    let (place, [long, waiting]) = fired_two(None).await;
    let mut replicas = [Watchdog::default(), Watchdog::default()];
    place.begin(&long).await;
    for minute in 0..300 {
        if minute == 100 {
            // A replica that began while it was being taken.
            replicas[0] = Watchdog::default();
        }
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    assert_eq!(place.failures().await, []);
    // The worker took it, lost it and took another one first: it waits for its turn again.
    place.begin(&waiting).await;
    for _ in 0..60 {
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    assert_eq!(place.failures().await, []);
    rounds(&place, &mut replicas, 16).await;
    assert_eq!(place.failures().await.len(), 2, "now nobody speaks");
}

#[tokio::test(start_paused = true)]
async fn workers_of_another_pool_keep_nobody_waiting() {
    let (place, [long, waiting]) = fired_two(Some("eu")).await;
    // Begun before this process looked: which pool it is of must be found out.
    place.begin(&long).await;
    let mut replicas = [Watchdog::default()];
    for _ in 0..62 {
        rounds(&place, &mut replicas, 1).await;
        place.progress(&long).await;
    }
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].backup_id, waiting.backup_id);
}

#[tokio::test(start_paused = true)]
async fn a_silence_in_which_nobody_could_be_heard_ends_nothing() {
    let (place, [begun, _waiting]) = fired_two(None).await;
    place.begin(&begun).await;
    let mut replicas = [Watchdog::default()];
    rounds(&place, &mut replicas, 1).await;
    // The bus is away, and no round comes to an end.
    place.let_pass(90 * MINUTE).await;
    rounds(&place, &mut replicas, 14).await;
    assert_eq!(place.failures().await, []);
    rounds(&place, &mut replicas, 3).await;
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1, "it has not come back");
    assert_eq!(failures[0].backup_id, begun.backup_id);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_given_another_pool_is_tried_again_there() {
    let (place, _firing, request) = fired().await;
    let moved = |there: Option<&InstanceDocument>| {
        let pool = Some(PoolName::new("eu").unwrap());
        let moved = InstanceDocument {
            pool,
            ..there.unwrap().clone()
        };
        bus::Decision::Put(Box::new(moved), ())
    };
    let mut replicas = [Watchdog::default()];
    for (attempt, minutes) in [(1, 5), (2, 15)] {
        let failed = place.last_request().await;
        let instances = place.world.bus.instances();
        instances.update(&instance(), moved).await.unwrap();
        place.fail_because(&failed, FailureCause::Internal).await;
        rounds(&place, &mut replicas, minutes).await;
        let again = place.last_request().await;
        assert_eq!(again.backup_id, BackupId::again(request.backup_id, attempt));
        assert_eq!(again.pool, Some(PoolName::new("eu").unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_a_day_is_given_up_and_a_clock_set_forward_is_no_day() {
    let (place, _firing, request) = fired().await;
    let mut replicas = [Watchdog::default()];
    rounds(&place, &mut replicas, 1).await;
    place.clock.advance(Duration::from_secs(3 * 24 * 3600));
    place.begin(&request).await;
    rounds(&place, &mut replicas, 10).await;
    assert_eq!(place.failures().await, []);
    for _ in 0..4 {
        place.begin(&request).await;
        rounds(&place, &mut replicas, 10).await;
    }
    let failures = place.failures().await;
    assert_eq!(failures.len(), 1, "the wall clock is believed in the end");
    assert_eq!(failures[0].message, "the backup took longer than 1day");
}

#[tokio::test(start_paused = true)]
async fn a_failed_fire_is_tried_again_three_times_with_growing_pauses() {
    let (place, mut firing, mut request) = fired().await;
    let first = request.backup_id;
    let mut replicas = [
        Watchdog::default(),
        Watchdog::default(),
        Watchdog::default(),
    ];
    for (attempt, pause) in [(1, 5), (2, 15), (3, 45)] {
        for _delivered_twice in 0..2 {
            place.fail_because(&request, FailureCause::Connection).await;
        }
        rounds(&place, &mut replicas, pause - 1).await;
        assert_eq!(place.last_request().await.backup_id, request.backup_id);
        rounds(&place, &mut replicas, 1).await;
        request = place.last_request().await;
        assert_eq!(request.backup_id, BackupId::again(first, attempt));
        assert_eq!(
            request.name,
            format!(
                "daily 2026-01-01T02:17:00.000000Z (attempt {})",
                attempt + 1
            )
        );
    }
    place.fail_because(&request, FailureCause::Connection).await;
    rounds(&place, &mut replicas, 120).await;
    let requests = place.types().await.into_iter();
    assert_eq!(
        requests.filter(|name| *name == "backup.requested").count(),
        4
    );
    // The next fire is one of its own.
    place.clock.set("2026-01-02T02:17:00Z".parse().unwrap());
    assert_eq!(firing.fire_due(&place.world).await, 0);
    assert_ne!(place.last_request().await.backup_id, request.backup_id);
}

#[tokio::test(start_paused = true)]
async fn what_would_fail_again_or_fires_again_soon_is_not_tried_again() {
    for (cron, cause) in [
        ("17 2 * * *", FailureCause::Source),
        ("17 2 * * *", FailureCause::Wal),
        // It fires again in three minutes.
        ("*/3 * * * *", FailureCause::Connection),
    ] {
        let place = Place::new("2026-01-01T02:16:30Z");
        let mut wanted = document(place.world.clock.now());
        wanted.schedules[0].cron = cron.to_owned();
        registered(&place, &wanted).await;
        let mut firing = Firing::default();
        firing.reload(&place.world).await.unwrap();
        place.clock.set("2026-01-01T02:18:00Z".parse().unwrap());
        assert_eq!(firing.fire_due(&place.world).await, 0);
        place.fail_because(&place.last_request().await, cause).await;
        rounds(&place, &mut [Watchdog::default()], 60).await;
        assert_eq!(place.types().await, ["backup.requested", "backup.failed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_met_a_failure_knows_whether_it_may_pass() {
    for (cause, transient, requested) in [
        // The archive did not reach the backup's end in time.
        (FailureCause::Wal, true, 2),
        // The stored credentials are wrong.
        (FailureCause::Connection, false, 1),
    ] {
        let (place, _firing, request) = fired().await;
        let failed = BackupFailed {
            transient: Some(transient),
            ..place.failure(&request, cause)
        };
        place.end(&request, Event::BackupFailed(failed)).await;
        rounds(&place, &mut [Watchdog::default()], 60).await;
        let types = place.types().await.into_iter();
        let found = types.filter(|name| *name == "backup.requested").count();
        assert_eq!(found, requested, "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_dropped_when_its_schedule_is_paused() {
    let (place, _firing, request) = fired().await;
    place.fail_because(&request, FailureCause::Storage).await;
    let pause = |there: Option<&InstanceDocument>| {
        let mut paused = there.unwrap().clone();
        paused.schedules[0].paused = true;
        bus::Decision::Put(Box::new(paused), ())
    };
    let instances = place.world.bus.instances();
    instances.update(&instance(), pause).await.unwrap();
    rounds(&place, &mut [Watchdog::default()], 60).await;
    assert_eq!(place.types().await, ["backup.requested", "backup.failed"]);
}

//! Endings on an in-memory bus and repository.

use std::sync::Arc;

use bus::{Bus, Progress};
use events::{BackupId, Envelope, MessageId, example};
use repository::{BackupOptions, Repository, RetryPolicy};
use service::{ManualClock, MasterKey};
use uuid::Uuid;

use super::*;
use crate::config::WorkerConfig;

pub(crate) struct Place {
    pub(crate) jobs: Jobs,
    pub(crate) request: BackupRequested,
}

impl Place {
    fn new() -> Self {
        Self::on(Bus::in_memory())
    }

    pub(crate) fn on(bus: Bus) -> Self {
        let world = World {
            bus,
            repository: Repository::open("memory://", RetryPolicy::default()).unwrap(),
            master_key: Arc::new(MasterKey::from_bytes(&[7; 32])),
            clock: Arc::new(ManualClock::new(example::at(0))),
            config: WorkerConfig::default(),
            rates: crate::rate::Rates::default(),
            worker: "test".to_owned(),
        };
        let request = example::events().into_iter().find_map(|event| match event {
            Event::BackupRequested(request) => Some(request),
            _ => None,
        });
        let request = BackupRequested {
            backup_id: BackupId(Uuid::now_v7()),
            ..request.unwrap()
        };
        Place {
            jobs: Jobs { world },
            request,
        }
    }

    pub(crate) fn delivery(&self, last_attempt: bool) -> Delivery<Event> {
        Delivery {
            envelope: Envelope {
                id: MessageId::new("request"),
                source: "test".to_owned(),
                time: example::at(0),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: Event::BackupRequested(self.request.clone()),
            },
            sequence: Sequence(1),
            stored_at: example::at(0),
            attempt: if last_attempt { 5 } else { 1 },
            last_attempt,
            progress: Progress::default(),
        }
    }

    fn fence(&self) -> String {
        let request = &self.request;
        subject::backup_fence(&request.instance, &request.branch, request.backup_id)
    }

    /// An attempt that has taken the fence.
    pub(crate) async fn attempt(&self, name: &str) -> Attempt<'_> {
        let (world, delivery) = (&self.jobs.world, self.delivery(false));
        let last = world.bus.last_on(&self.fence()).await.unwrap();
        let last = last.map_or(Sequence::NONE, |stored| stored.sequence);
        let fence = self
            .jobs
            .begin(&delivery, &self.request, name, self.fence(), last)
            .await
            .unwrap()
            .unwrap();
        let heartbeat = delivery.progress;
        let voice = Voice::new(world, &self.request, "request".to_owned(), fence, heartbeat);
        Attempt {
            world,
            request: &self.request,
            name: name.to_owned(),
            started_at: world.clock.now(),
            voice,
        }
    }

    fn summary(&self, attempt: &str) -> BackupSummary {
        BackupSummary {
            backup_id: self.request.backup_id,
            instance: self.request.instance.clone(),
            branch: self.request.branch.clone(),
            attempt: attempt.to_owned(),
            files: 0,
            logical_bytes: 0,
            stored_bytes: 0,
            ..example::backup_summary()
        }
    }

    /// How often progress was published.
    pub(crate) async fn progress_said(&self) -> usize {
        let bus = &self.jobs.world.bus;
        let filter = vec![subject::events_of("backup.progressed")];
        let said = bus.history(filter, Sequence::NONE, events::topology::EVENTS);
        futures::StreamExt::count(said.await.unwrap()).await
    }

    pub(crate) async fn last_said(&self) -> Event {
        let last = self.jobs.world.bus.last_on(&self.fence()).await.unwrap();
        last.unwrap().envelope.message
    }
}

#[tokio::test]
async fn whoever_was_superseded_leaves_the_request() {
    let place = Place::new();
    let (first, delivery) = (place.attempt("first").await, place.delivery(true));
    let second = place.attempt("second").await;
    let ended = place.jobs.end(&delivery, first, Ok(place.summary("first")));
    let outcome = ended.await.unwrap();
    assert!(matches!(outcome, Outcome::Leave { .. }), "{outcome:?}");
    assert_eq!(place.last_said().await.type_name(), "backup.started");

    // The successor ends it; only then is the request settled, whoever gets it.
    let ended = place
        .jobs
        .end(&delivery, second, Ok(place.summary("second")));
    assert_eq!(ended.await.unwrap(), Outcome::Done);
    assert_eq!(place.jobs.handle(&delivery).await, Outcome::Done);
    assert_eq!(place.last_said().await.type_name(), "backup.completed");
}

/// The first attempt was paused, taken over, and commits while the second one errs.
#[tokio::test]
async fn what_stands_in_the_repository_has_not_failed() {
    let place = Place::new();
    let delivery = place.delivery(true);
    let second = place.attempt("second").await;
    let branch = place
        .jobs
        .world
        .repository
        .writer(&place.request.instance, &place.request.branch);
    let pieces = branch
        .begin_backup(place.request.backup_id, "first", BackupOptions::default())
        .unwrap();
    let stored = pieces.finish().await.unwrap();
    let summary = BackupSummary {
        stored_bytes: stored.totals.stored_bytes,
        ..place.summary("first")
    };
    let _committed = stored.commit(summary.clone()).await.unwrap();

    let erred = Err(AttemptError::NotRegistered);
    let outcome = place.jobs.end(&delivery, second, erred).await.unwrap();
    assert_eq!(outcome, Outcome::Done);
    let Event::BackupCompleted(completed) = place.last_said().await else {
        panic!("{:?}", place.last_said().await);
    };
    assert_eq!(completed.summary, summary);
}

#[tokio::test]
async fn without_a_manifest_the_failure_is_said() {
    let place = Place::new();
    let (attempt, delivery) = (place.attempt("only").await, place.delivery(false));
    let erred = Err(AttemptError::NotRegistered);
    let outcome = place.jobs.end(&delivery, attempt, erred).await;
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert_eq!(place.last_said().await.type_name(), "backup.failed");
}

/// It stood still before it committed, for so long that the scheduler gave the backup up.
#[tokio::test]
async fn what_was_given_up_and_stands_in_the_repository_is_said_to_be_there() {
    let place = Place::new();
    let (attempt, delivery) = (place.attempt("only").await, place.delivery(false));
    let failed = place
        .jobs
        .failed(&place.request, &AttemptError::NotRegistered);
    let id = MessageId::new("watchdog");
    let outgoing = bus::Outgoing::new(failed, id, example::at(1));
    let _sequence = place.jobs.world.bus.publish(outgoing).await.unwrap();
    let ended = place
        .jobs
        .end(&delivery, attempt, Ok(place.summary("only")));
    assert_eq!(ended.await.unwrap(), Outcome::Done);
    assert_eq!(place.last_said().await.type_name(), "backup.completed");
}

#[tokio::test]
async fn what_was_given_up_and_failed_too_says_nothing_more() {
    let place = Place::new();
    let (attempt, delivery) = (place.attempt("only").await, place.delivery(false));
    let failed = place
        .jobs
        .failed(&place.request, &AttemptError::ServerClock);
    let id = MessageId::new("watchdog");
    let outgoing = bus::Outgoing::new(failed.clone(), id, example::at(1));
    let _sequence = place.jobs.world.bus.publish(outgoing).await.unwrap();
    let erred = Err(AttemptError::NotRegistered);
    let outcome = place.jobs.end(&delivery, attempt, erred).await.unwrap();
    assert!(matches!(outcome, Outcome::Leave { .. }), "{outcome:?}");
    assert_eq!(place.last_said().await, failed);
}

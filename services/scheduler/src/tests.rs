//! The scheduler's decisions on an in-memory bus, with a manual clock; sources are real servers.

mod backup_names;
mod commands;
pub(crate) mod firing;
mod gaps;
mod late_deliveries;
mod limits;
mod manual_backups;
mod marks;
mod moved_sources;
mod retention;
mod scale;
mod schedules;
mod settings;
mod simulation;
mod slots_and_queues;
mod stored;
mod stuck_backups;
mod unreadable;

use std::sync::Arc;

use bus::{Bus, Delivery, Handler, Outcome, Outgoing, Progress, Sequence};
use events::event::{BackupFailed, BackupRequested, FailureCause};
use events::{Command, CommandId, Envelope, Event, InstanceName, MessageId, topology};
use repository::{Repository, RetryPolicy};
use service::{ManualClock, MasterKey};
use uuid::Uuid;

use crate::commands::{Commands, World};
use crate::outcomes::Outcomes;
use crate::slots::{Life, fence_of};

pub(crate) struct Place {
    pub(crate) world: World,
    clock: Arc<ManualClock>,
}

impl Place {
    pub(crate) fn new(now: &str) -> Self {
        let clock = Arc::new(ManualClock::new(now.parse().unwrap()));
        let world = World {
            bus: Bus::in_memory(),
            repository: Repository::open("memory://", RetryPolicy::default()).unwrap(),
            master_key: Arc::new(MasterKey::from_bytes(&[7; 32])),
            clock: Arc::<ManualClock>::clone(&clock),
            config: Arc::default(),
            slots: Arc::default(),
            looks: Arc::default(),
        };
        Place { world, clock }
    }

    /// Delivers a command the `attempt`th time.
    async fn deliver(&self, id: CommandId, attempt: u64, command: Command) -> Outcome {
        let mut delivery = delivered(command);
        delivery.envelope.id = MessageId::new(id.to_string());
        delivery.attempt = attempt;
        delivery.last_attempt = attempt == 5;
        Commands {
            world: self.world.clone(),
        }
        .handle(&delivery)
        .await
    }

    /// A worker says that it did not succeed, and the scheduler hears of it. Said again, it is said once.
    async fn fail_backup(&self, request: &BackupRequested) {
        let failed = BackupFailed {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            cause: FailureCause::Source,
            transient: None,
            message: "a test".to_owned(),
            hint: String::new(),
            failed_at: self.world.clock.now(),
        };
        self.end(request, Event::BackupFailed(failed)).await;
    }

    /// A worker ends a backup, and the scheduler hears of it.
    async fn end(&self, request: &BackupRequested, ending: Event) {
        let (fence, id) = (fence_of(request), request.backup_id);
        let last = self.world.bus.last_on(&fence).await.unwrap().unwrap();
        if Life::of(Some(&last)) == Life::Running {
            let message_id = MessageId::new(format!("ended:{id}"));
            let outgoing = Outgoing::new(ending.clone(), message_id, self.world.clock.now());
            let bus = &self.world.bus;
            let said = bus.publish_expecting(outgoing, &fence, last.sequence);
            let _sequence = said.await.unwrap();
        }
        let delivery = self.delivery(MessageId::new(format!("ended:{id}")), ending);
        let outcomes = Outcomes {
            world: self.world.clone(),
        };
        assert_eq!(outcomes.handle(&delivery).await, Outcome::Done);
    }

    fn delivery(&self, id: MessageId, message: Event) -> Delivery<Event> {
        Delivery {
            envelope: Envelope {
                id,
                source: "test".to_owned(),
                time: self.world.clock.now(),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message,
            },
            sequence: Sequence(1),
            stored_at: self.world.clock.now(),
            attempt: 1,
            last_attempt: false,
            progress: Progress::default(),
        }
    }

    /// Every event so far, in order.
    async fn events(&self) -> Vec<Event> {
        let filters = vec!["zektor.>".to_owned()];
        let history = self
            .world
            .bus
            .history(filters, Sequence::NONE, topology::EVENTS)
            .await
            .unwrap();
        let stored: Vec<_> = futures::StreamExt::collect(history).await;
        stored
            .into_iter()
            .map(|stored| stored.unwrap().envelope.message)
            .collect()
    }

    /// The type names of every event so far.
    async fn types(&self) -> Vec<&'static str> {
        self.events().await.iter().map(Event::type_name).collect()
    }
}

/// A message as it comes for the first time.
fn delivered<M>(message: M) -> Delivery<M> {
    Delivery {
        envelope: Envelope {
            id: MessageId::new(Uuid::now_v7().to_string()),
            source: "test".to_owned(),
            time: events::example::at(0),
            correlation: None,
            causation: None,
            traceparent: None,
            tracestate: None,
            message,
        },
        sequence: Sequence(1),
        stored_at: events::example::at(0),
        attempt: 1,
        last_attempt: false,
        progress: Progress::default(),
    }
}

fn command_id(number: u128) -> CommandId {
    CommandId(Uuid::from_u128(number))
}

fn instance() -> InstanceName {
    InstanceName::new("orders").unwrap()
}

//! The scheduler's decisions on an in-memory bus, with a manual clock; sources are real servers.

mod commands;
mod firing;
mod gaps;
mod schedules;
mod settings;

use std::sync::Arc;

use bus::{Bus, Delivery, Handler, Outcome, Progress, Sequence};
use events::{Command, CommandId, Envelope, Event, InstanceName, MessageId, topology};
use repository::{Repository, RetryPolicy};
use service::{ManualClock, MasterKey};
use uuid::Uuid;

use crate::commands::{Commands, World};

struct Place {
    world: World,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new(now: &str) -> Self {
        let clock = Arc::new(ManualClock::new(now.parse().unwrap()));
        let world = World {
            bus: Bus::in_memory(),
            repository: Repository::open("memory://", RetryPolicy::default()).unwrap(),
            master_key: Arc::new(MasterKey::from_bytes(&[7; 32])),
            clock: Arc::<ManualClock>::clone(&clock),
            config: Arc::default(),
        };
        Place { world, clock }
    }

    /// Delivers a command the `attempt`th time.
    async fn deliver(&self, id: CommandId, attempt: u64, command: Command) -> Outcome {
        let delivery = Delivery {
            envelope: Envelope {
                id: MessageId::new(id.to_string()),
                source: "test".to_owned(),
                time: events::example::at(0),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: command,
            },
            sequence: Sequence(1),
            attempt,
            last_attempt: attempt == 5,
            progress: Progress::default(),
        };
        Commands {
            world: self.world.clone(),
        }
        .handle(&delivery)
        .await
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

fn command_id(number: u128) -> CommandId {
    CommandId(Uuid::from_u128(number))
}

fn instance() -> InstanceName {
    InstanceName::new("orders").unwrap()
}

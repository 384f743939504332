//! From deliveries to the restorer, and back to an ending.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bus::{Delivery, Handler, Outcome};
use events::event::Event;
use events::{BranchName, Command, Envelope};

use crate::attempt::Ending;
use crate::branches::Given;
use crate::error::RestoreError;
use crate::restorer::Restorer;

/// Pause before an order about a branch is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// Pause before an order for another restorer is delivered again, to it or once more to us.
const FOR_ANOTHER: Duration = Duration::from_secs(1);

/// Handles `restore.requested` and `branch.deletion_requested`.
pub struct Jobs(pub Arc<Restorer>);

#[async_trait]
impl Handler<Event> for Jobs {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        match &delivery.envelope.message {
            Event::RestoreRequested(request) => {
                let (progress, last) = (&delivery.progress, delivery.last_attempt);
                match Box::pin(self.0.handle(request, progress, last)).await {
                    Ending::Done => Outcome::Done,
                    Ending::Left { reason } => Outcome::Leave { reason },
                    Ending::Again { after, reason } => Outcome::Retry { after, reason },
                }
            }
            Event::BranchDeletionRequested(deletion) if deletion.branch == BranchName::main() => {
                Outcome::Reject {
                    reason: "main is not ours to remove".to_owned(),
                }
            }
            Event::BranchDeletionRequested(deletion) => {
                let given = given(&delivery.envelope);
                ending(Box::pin(self.0.delete(deletion, &given, &delivery.progress)).await)
            }
            other => Outcome::Reject {
                reason: format!("{} is not for us", other.type_name()),
            },
        }
    }
}

/// Handles `branch.stop`, `branch.start` and `extensions.reinstall`.
pub struct Orders(pub Arc<Restorer>);

#[async_trait]
impl Handler<Command> for Orders {
    async fn handle(&self, delivery: &Delivery<Command>) -> Outcome {
        let given = given(&delivery.envelope);
        match &delivery.envelope.message {
            Command::BranchStop(order) => ending(self.0.stop(order, &given).await),
            Command::BranchStart(order) => ending(self.0.start(order, &given).await),
            Command::ExtensionsReinstall(order) => {
                ending(Box::pin(self.0.reinstall_extensions(order, &given)).await)
            }
            other => Outcome::Reject {
                reason: format!("{} is not for us", other.type_name()),
            },
        }
    }
}

fn given<M>(envelope: &Envelope<M>) -> Given {
    Given {
        id: envelope.id.clone(),
        at: envelope.time,
    }
}

fn ending(result: Result<(), RestoreError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error @ RestoreError::Elsewhere { .. }) => Outcome::Retry {
            after: FOR_ANOTHER,
            reason: error.to_string(),
        },
        Err(error) => {
            let reason = service::run::chain(&error);
            tracing::warn!(error = reason, "an order about a branch is tried again");
            Outcome::Retry {
                after: PAUSE,
                reason,
            }
        }
    }
}

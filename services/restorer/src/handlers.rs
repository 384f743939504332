//! From deliveries to the restorer, and back to an ending.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bus::{Delivery, Handler, Outcome};
use events::event::Event;
use events::{BranchName, Command};

use crate::attempt::Ending;
use crate::error::RestoreError;
use crate::restorer::Restorer;

/// Pause before an order about a branch is tried again.
const PAUSE: Duration = Duration::from_secs(5);

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
                let id = &delivery.envelope.id;
                ending(
                    self.0
                        .delete(&deletion.instance, &deletion.branch, id)
                        .await,
                )
            }
            other => Outcome::Reject {
                reason: format!("{} is not for us", other.type_name()),
            },
        }
    }
}

/// Handles `branch.stop` and `branch.start`.
pub struct Orders(pub Arc<Restorer>);

#[async_trait]
impl Handler<Command> for Orders {
    async fn handle(&self, delivery: &Delivery<Command>) -> Outcome {
        let id = &delivery.envelope.id;
        match &delivery.envelope.message {
            Command::BranchStop(order) => ending(self.0.stop(order, id).await),
            Command::BranchStart(order) => ending(self.0.start(order, id).await),
            other => Outcome::Reject {
                reason: format!("{} is not for us", other.type_name()),
            },
        }
    }
}

fn ending(result: Result<(), RestoreError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
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

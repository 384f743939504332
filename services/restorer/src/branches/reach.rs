//! Whether an order about a branch is for this restorer.
//!
//! A branch is in the compute directory that it was built in, which its origin names. Any restorer may be given an
//! order; one that does not have the branch gives the order back, until one that has it takes it. When nobody there
//! answers for a while, whoever gave the order is told so.

use std::time::Duration;

use bus::RequestError;
use events::document::Branch;
use events::event::RefusalCode;
use events::{BranchName, InstanceName, subject};

use super::Given;
use crate::error::RestoreError;
use crate::restorer::Restorer;

/// A restorer that is being started again takes less.
const PATIENCE: chrono::TimeDelta = chrono::TimeDelta::seconds(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

impl Restorer {
    /// True if the branch is here, or nowhere as far as is known; false if it is elsewhere, nobody answers there,
    /// and that has been said.
    ///
    /// # Errors
    /// [`RestoreError::Elsewhere`] as long as another restorer may take the order.
    pub(super) async fn reaches(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        given: &Given,
    ) -> Result<bool, RestoreError> {
        let Some(holder) = self.holder_of(instance, branch).await? else {
            return Ok(true);
        };
        if holder == self.compute.holder()? {
            return Ok(true);
        }
        let asked = self
            .bus
            .request::<_, String>(&subject::restorer_holder(&holder), &(), ANSWER_WITHIN)
            .await;
        let dead = matches!(asked, Err(RequestError::NoResponder { .. }));
        if !dead || self.clock.now() - given.at < PATIENCE {
            return Err(RestoreError::Elsewhere { holder });
        }
        let message = format!("branch {branch} is held by {holder}, where no restorer runs");
        let hint = "start the restorer on that machine; a deletion is then carried out, anything else has to be \
                    ordered again";
        let refusal = (RefusalCode::NotFound, message, hint);
        self.refuse_order(instance, branch, given, refusal).await?;
        Ok(false)
    }

    async fn holder_of(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<String>, RestoreError> {
        let document = self.bus.instances().get(instance).await?;
        let branch = document.and_then(|(mut document, _)| document.branches.remove(branch));
        Ok(match branch {
            Some(Branch::Active(active) | Branch::Deleting(active)) => {
                active.origin.and_then(|origin| origin.holder)
            }
            _ => None,
        })
    }
}

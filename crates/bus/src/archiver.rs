//! Asking the archiver of a branch where its archive is.

use std::time::Duration;

use events::position::{ArchiverPosition, PositionQuestion};
use events::{BranchName, InstanceName, subject};

use crate::{Bus, RequestError};

/// Longer than the archiver lets its asker wait for a proof.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Bus {
    /// Has the archiver prove the branch's archive complete up to now. It is done, or not, when this returns;
    /// what counts is the position it has stored.
    ///
    /// # Errors
    /// [`RequestError::NoResponder`] when no archiver has the branch; that takes no time.
    pub async fn prove_archived(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<ArchiverPosition, RequestError> {
        let subject = subject::archiver_position(instance, branch);
        let question = PositionQuestion { prove: true };
        self.request(&subject, &question, ANSWER_WITHIN).await
    }
}

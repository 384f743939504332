//! Drills by hand.

use events::command::DrillRun;
use events::envelope::rfc3339;
use events::event::RefusalCode;
use events::{DrillId, Trigger};

use super::{Given, World};
use crate::drills::Asked;
use crate::refusal::{Refusal, Unfinished};

impl World {
    /// The drill has the command's id: delivered twice, it is requested once.
    pub(super) async fn run_drill(&self, given: &Given, run: &DrillRun) -> Result<(), Unfinished> {
        let DrillRun { instance, branch } = run;
        let _known = self.document(instance).await?;
        let drill = (DrillId::from(given.id), Trigger::Manual);
        match self.ask_for_drill(instance, branch, drill).await? {
            Asked::Yes => Ok(()),
            Asked::NoBranch => Err(Refusal::no_such_branch(instance, branch).into()),
            Asked::Busy { running, since } => Err(Refusal::new(
                RefusalCode::Limit,
                format!(
                    "drill {running} of instance {instance} is running since {}",
                    rfc3339(since)
                ),
                format!("Wait for it; see `zektor drill show {instance} {running}`."),
            )
            .into()),
        }
    }
}

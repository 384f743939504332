//! Whether the instance still wants a drill: its document says so until the drill has ended or was given up.

use events::event::{DrillRequested, RefusalCode};

use crate::drill::DrillError;
use crate::error::RestoreError;
use crate::plan::Refusal;
use crate::restorer::Restorer;

/// Fails unless the branch's past is claimed for this drill. Without the claim, what it reads may be deleted under it.
pub(super) async fn held(restorer: &Restorer, request: &DrillRequested) -> Result<(), DrillError> {
    let document = restorer.bus.instances().get(&request.instance).await;
    let document = document.map_err(RestoreError::from)?;
    let claim = document.and_then(|(document, _)| document.running_drill);
    if claim.is_some_and(|claim| claim.drill_id == request.drill_id) {
        return Ok(());
    }
    let message = "the drill is not wanted any more by its instance".to_owned();
    let hint = "run another one with `zektor drill run`";
    Err(DrillError::Refused(Refusal::new(
        RefusalCode::NotFound,
        message,
        hint,
    )))
}

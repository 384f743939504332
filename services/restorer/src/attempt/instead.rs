//! Builds the branch; where its base backup turns out to be damaged, from the next one that leads to the same moment.
//!
//! What must stay true: nobody who asked for a moment has to know which backup leads there, and whoever asked for a
//! backup gets that one or none. What was found damaged is not tried again by the same attempt, so it comes to an end.

use events::event::RestoreRequested;
use events::{BackupId, RestoreTarget};

use super::build::Build;
use crate::error::RestoreError;
use crate::outcome::FinishedBranch;
use crate::restorer::{Prepared, Restorer};
use crate::site::Site;
use crate::voice::Voice;

/// For whoever asked for the damaged backup itself.
const OF_A_BACKUP: &str = "restore with --time or --latest, which go round it where a sound backup leads there, or another \
                           one of `zektor backup list` with --backup; and take a new backup now";
/// For whoever asked for a moment.
const NO_OTHER: &str = "no other backup leads to this target: see `zektor window` for what can be restored, and take a \
                        new backup now; if the store can be mended, `zektor backup verify` says that the backup is sound \
                        again";

impl Restorer {
    pub(super) async fn built(
        &self,
        request: &RestoreRequested,
        site: &Site,
        mut prepared: Prepared,
        voice: &mut Voice<'_>,
    ) -> Result<FinishedBranch, RestoreError> {
        let mut passed_over = Vec::new();
        loop {
            tracing::info!(
                instance = %request.instance,
                branch = %request.branch,
                restore = %request.restore_id,
                backup = %prepared.plan.backup.backup_id,
                end = %prepared.plan.end_lsn,
                "restoring"
            );
            let build = Build {
                restorer: self,
                request,
                site,
                prepared: &prepared,
                passed_over: &passed_over,
            };
            let error = match Box::pin(build.run(voice)).await {
                Ok(finished) => return Ok(finished),
                Err(error) => error,
            };
            prepared = self.instead(request, site, &mut passed_over, error).await?;
            voice
                .started_anew(&prepared.plan, &passed_over, &self.name)
                .await?;
        }
    }

    /// Another plan for the same target, if it was a damaged backup that was in the way; or the error.
    async fn instead(
        &self,
        request: &RestoreRequested,
        site: &Site,
        passed_over: &mut Vec<BackupId>,
        error: RestoreError,
    ) -> Result<Prepared, RestoreError> {
        let (backup_id, told, source) = match error {
            RestoreError::Damaged {
                backup_id,
                told,
                source,
                ..
            } => (backup_id, told, source),
            other => return Err(other),
        };
        let damaged = |advice| RestoreError::Damaged {
            backup_id,
            told,
            advice,
            source,
        };
        if matches!(request.target, RestoreTarget::Backup { .. }) {
            return Err(damaged(OF_A_BACKUP));
        }
        passed_over.push(backup_id);
        let (id, from, target) = (request.restore_id, &request.source_branch, &request.target);
        match self.prepare(id, site, from, target, passed_over).await {
            // Or an attempt of ours that was cut off late has claimed the name for a branch from the damaged one.
            Err(RestoreError::Refused(refusal)) => {
                tracing::info!(restore = %id, reason = refusal.message, "there is no other plan");
                Err(damaged(NO_OTHER))
            }
            prepared => prepared,
        }
    }
}

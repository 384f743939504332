//! A plan as it rests beside the branch's files, so that a restore that was killed goes on with the same plan.
//!
//! With the same plan the branch leaves the source's history at the same place, and the claim that the first
//! attempt may have written for the branch still fits.

use events::event::BackupSummary;
use events::plan::PlanCheck;
use events::{BackupId, RestoreId};
use pg_format::{HistoryError, Lsn, TimelineHistory, TimelineId};
use serde::{Deserialize, Serialize};

use super::{Plan, Prediction, Stop};

/// A plan and the restore it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredPlan {
    /// The restore.
    pub restore_id: RestoreId,
    backup: BackupSummary,
    timeline: TimelineId,
    history: String,
    end_lsn: Lsn,
    #[serde(default)]
    fork_lsn: Option<Lsn>,
    stop: Stop,
    prediction: Option<Prediction>,
    half_dropped: Vec<(u32, Lsn)>,
    notes: Vec<PlanCheck>,
}

impl StoredPlan {
    /// The form in which it is stored.
    #[must_use]
    pub fn new(restore_id: RestoreId, plan: &Plan) -> Self {
        StoredPlan {
            restore_id,
            backup: plan.backup.clone(),
            timeline: plan.history.timeline(),
            history: plan.history.to_string(),
            end_lsn: plan.end_lsn,
            fork_lsn: Some(plan.fork_lsn),
            stop: plan.stop.clone(),
            prediction: plan.prediction,
            half_dropped: plan.half_dropped.clone(),
            notes: plan.notes.clone(),
        }
    }

    /// The plan's base.
    #[must_use]
    pub fn backup_id(&self) -> BackupId {
        self.backup.backup_id
    }

    /// The plan.
    ///
    /// # Errors
    /// The stored history is damaged.
    pub fn plan(self) -> Result<Plan, HistoryError> {
        Ok(Plan {
            backup: self.backup,
            history: TimelineHistory::parse(self.timeline, &self.history)?,
            end_lsn: self.end_lsn,
            fork_lsn: self.fork_lsn.unwrap_or(self.end_lsn),
            stop: self.stop,
            prediction: self.prediction,
            half_dropped: self.half_dropped,
            notes: self.notes,
        })
    }
}

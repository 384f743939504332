//! Events in the life of a schedule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::Schedule;
use crate::{BranchName, InstanceName, ScheduleId, Timestamp};

/// A branch is backed up regularly from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleCreated {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// All of it.
    pub schedule: Schedule,
    /// The next fires.
    pub next: Vec<Timestamp>,
}

/// A schedule was changed, paused or resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleUpdated {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// All of it, as it is now.
    pub schedule: Schedule,
    /// The next fires; none while it is paused.
    pub next: Vec<Timestamp>,
}

/// A schedule is forgotten. Its backups stay as long as they were to stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleDeleted {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Its name.
    pub name: String,
}

//! The question to the scheduler "which schedules are there, and when do they fire?", and its answer.

use serde::{Deserialize, Serialize};

use crate::{BranchName, InstanceName, Retention, ScheduleId, Timestamp, WalKeep};

/// Which instance is asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulesQuestion {
    /// The instance.
    pub instance: InstanceName,
}

/// Its schedules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulesAnswer {
    /// In the order they were made.
    pub schedules: Vec<ScheduleAnswer>,
}

/// One schedule, with its neighbouring fires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleAnswer {
    /// The schedule.
    pub id: ScheduleId,
    /// A name for people.
    pub name: String,
    /// Five-field cron expression, in the time zone below.
    pub cron: String,
    /// IANA time zone.
    pub timezone: String,
    /// How long its backups are kept.
    pub retention: Retention,
    /// The branch it backs up.
    pub branch: BranchName,
    /// The next fire.
    pub next_at: Option<Timestamp>,
    /// The latest fire, if it has led to a backup: not one that was skipped.
    pub last_at: Option<Timestamp>,
    /// It does not fire while this is set.
    #[serde(default)]
    pub paused: bool,
    /// How long WAL is kept because of its backups.
    #[serde(default)]
    pub wal: WalKeep,
}

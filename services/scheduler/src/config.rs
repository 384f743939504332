//! The scheduler's settings beyond the common ones.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The scheduler's own settings. Replicas should have the same ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(dead_code, reason = "the fields came before the parts that read them")]
pub(crate) struct SchedulerConfig {
    /// Schedules that one instance may have.
    pub(crate) limit_schedules: usize,
    /// Active manual backups (asked for and not failed, deleted or expired) that one instance may have.
    pub(crate) limit_manual_backups: usize,
    /// A backup that no worker has begun for so long is given up.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_start_deadline: Duration,
    /// A begun backup that says nothing for so long is given up. Workers speak every 30 seconds.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_silence: Duration,
    /// A backup that was asked of the workers so long ago is given up, whatever it says.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_deadline: Duration,
    /// Backups in hand over all workers of one pool; 0 for no limit of ours.
    pub(crate) backups_at_once: u32,
    /// Between the decision to delete something and its deletion; it can be undone until then.
    #[serde(with = "humantime_serde")]
    pub(crate) retention_grace: Duration,
    /// How often retention looks at an instance.
    #[serde(with = "humantime_serde")]
    pub(crate) retention_interval: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            limit_schedules: 5,
            limit_manual_backups: 10,
            backup_start_deadline: HOUR,
            backup_silence: Duration::from_secs(15 * 60),
            backup_deadline: 24 * HOUR,
            backups_at_once: 0,
            retention_grace: 24 * HOUR,
            retention_interval: HOUR,
        }
    }
}

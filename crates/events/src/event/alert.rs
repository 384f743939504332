//! Alerts: what needs somebody's attention, said once when it begins and once when it is over.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BranchName, InstanceName, Timestamp};

/// What is watched.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AlertRule {
    /// Backups failed twice in a row.
    BackupFailing,
    /// There was no backup for longer than the schedules promise.
    BackupOverdue,
    /// The archive is behind its server.
    ArchiveLag,
    /// WAL is missing.
    WalGap,
    /// The restorable window is shorter than it was, without anybody's wish.
    WindowShrinking,
    /// The WAL held back for the archive threatens the source's disk.
    SlotDiskRisk,
    /// A rehearsed restore failed.
    DrillFailed,
    /// The repository grows much faster than before.
    StorageGrowth,
    /// A stored backup is damaged.
    BackupDamaged,
    /// From a newer version.
    #[serde(other)]
    Unknown,
}

impl AlertRule {
    /// As it stands in subjects and keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AlertRule::BackupFailing => "backup_failing",
            AlertRule::BackupOverdue => "backup_overdue",
            AlertRule::ArchiveLag => "archive_lag",
            AlertRule::WalGap => "wal_gap",
            AlertRule::WindowShrinking => "window_shrinking",
            AlertRule::SlotDiskRisk => "slot_disk_risk",
            AlertRule::DrillFailed => "drill_failed",
            AlertRule::StorageGrowth => "storage_growth",
            AlertRule::BackupDamaged => "backup_damaged",
            AlertRule::Unknown => "unknown",
        }
    }
}

impl fmt::Display for AlertRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How soon somebody should look.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AlertSeverity {
    /// During the day.
    Warning,
    /// Now: data that is written now may not come back.
    Critical,
}

/// Something needs somebody's attention, or still does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertRaised {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// What was watched.
    pub rule: AlertRule,
    /// How soon somebody should look.
    pub severity: AlertSeverity,
    /// One sentence, with the likely cause.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// Since when; the same in all that is said of one alert.
    pub since: Timestamp,
    /// It was said before: this reminds of it, so many times now. 0 when it is raised.
    #[serde(default, skip_serializing_if = "is_first")]
    pub reminder: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_first(reminder: &u32) -> bool {
    *reminder == 0
}

/// It no longer does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AlertResolved {
    /// The instance.
    pub instance: InstanceName,
    /// The branch.
    pub branch: BranchName,
    /// What was watched.
    pub rule: AlertRule,
    /// One sentence.
    pub message: String,
    /// Since when it had been so.
    pub since: Timestamp,
    /// When it was over.
    pub resolved_at: Timestamp,
}

//! Questions about alerts.

use serde::{Deserialize, Serialize};

use crate::event::{AlertRule, AlertSeverity};
use crate::{BranchName, InstanceName, Timestamp};

/// Alerts: those that stand first, then the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlertList {
    /// Of this instance.
    pub instance: Option<InstanceName>,
    /// Those that are over too.
    pub resolved: bool,
    /// At most so many; 100 when absent, 1000 at most.
    pub limit: Option<u32>,
}

/// Alerts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alerts {
    /// The alerts.
    pub alerts: Vec<AlertView>,
    /// There are more than one answer takes.
    #[serde(default)]
    pub more: bool,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertView {
    /// Its instance.
    pub instance: InstanceName,
    /// Its branch.
    pub branch: BranchName,
    /// What is watched.
    pub rule: AlertRule,
    /// How soon somebody should look.
    pub severity: AlertSeverity,
    /// One sentence.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was over.
    pub resolved_at: Option<Timestamp>,
}

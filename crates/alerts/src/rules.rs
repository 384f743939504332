//! The rules: each looks at the facts and says whether there is something to say.
//!
//! A rule that is not sure says so ([`Judgement::Unsettled`]): what stands goes on to stand, what does not is not
//! raised. That is all the hysteresis there is.

mod archive;
mod backups;
mod drill;
mod growth;
mod overdue;
mod words;

use events::Timestamp;
use events::event::{AlertRule, AlertSeverity};

use crate::Settings;
use crate::facts::Facts;

/// All rules.
pub(crate) const RULES: [AlertRule; 9] = [
    AlertRule::BackupFailing,
    AlertRule::BackupOverdue,
    AlertRule::ArchiveLag,
    AlertRule::WalGap,
    AlertRule::WindowShrinking,
    AlertRule::SlotDiskRisk,
    AlertRule::DrillFailed,
    AlertRule::StorageGrowth,
    AlertRule::BackupDamaged,
];

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Somebody should look.
    Bad(Finding),
    /// Nobody needs to, and why.
    Good(&'static str),
    /// It may be either.
    Unsettled,
}

/// What somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: AlertSeverity,
    pub(crate) message: String,
    pub(crate) hint: String,
    pub(crate) since: Timestamp,
}

pub(crate) fn judge(
    rule: AlertRule,
    facts: &Facts,
    now: Timestamp,
    settings: &Settings,
) -> Judgement {
    match rule {
        AlertRule::BackupFailing => backups::failing(facts, now, settings),
        AlertRule::BackupOverdue => overdue::overdue(facts, now, settings),
        AlertRule::StorageGrowth => growth::growth(facts, settings),
        AlertRule::BackupDamaged => backups::damaged(facts),
        AlertRule::DrillFailed => drill::drill(facts),
        AlertRule::ArchiveLag => archive::lag(facts, settings),
        AlertRule::WalGap => archive::gap(facts),
        AlertRule::WindowShrinking => archive::shrinking(facts, now),
        AlertRule::SlotDiskRisk => archive::slot(facts, now),
        AlertRule::Unknown => Judgement::Unsettled,
    }
}

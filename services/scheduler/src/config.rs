//! The scheduler's settings beyond the common ones.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The scheduler's own settings. Replicas should have the same ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SchedulerConfig {
    /// Schedules that one instance may have.
    pub(crate) limit_schedules: usize,
    /// Active manual backups (asked for and not failed, deleted or expired) that one instance may have.
    pub(crate) limit_manual_backups: usize,
    /// A backup that no worker has begun for so long is given up, unless all places of its pool's workers are taken and
    /// they speak: then it waits for its turn.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_start_deadline: Duration,
    /// A begun backup that says nothing for so long is given up. Workers speak every 30 seconds. One whose worker died
    /// is given to another: it too may wait for its turn.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_silence: Duration,
    /// A backup that was asked of the workers so long ago is given up, whatever it says or waits for.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_deadline: Duration,
    /// Backups in hand over all workers of one pool; 0 for as many as the workers can. It protects the store and the
    /// network that they share.
    pub(crate) backups_at_once: u32,
    /// Between the decision to delete something and its deletion; it can be undone until then.
    #[serde(with = "humantime_serde")]
    pub(crate) retention_grace: Duration,
    /// What is due must be so by the object store's clock too, so that no wrong clock deletes anything by itself. To be
    /// turned off where services live by a clock of their own.
    pub(crate) retention_store_clock: bool,
    /// How often retention looks at an instance.
    #[serde(with = "humantime_serde")]
    pub(crate) retention_interval: Duration,
    /// A drill that was asked for so long ago is given up, so that what it reads can be let go of.
    #[serde(with = "humantime_serde")]
    pub(crate) drill_deadline: Duration,
    /// Backups of a branch that must fail in a row to raise an alert.
    pub(crate) alert_backup_failures: u32,
    /// A backup is not overdue before this, whatever its schedules promise.
    #[serde(with = "humantime_serde")]
    pub(crate) alert_backup_overdue: Duration,
    /// The archive of a branch may be so far behind its server.
    #[serde(with = "humantime_serde")]
    pub(crate) alert_archive_lag: Duration,
    /// Archivers that are asked for their position in a minute, over all replicas.
    pub(crate) alert_lag_looks: usize,
    /// A backup, or a day of WAL, may store so many times what those before it did.
    pub(crate) alert_growth_factor: u32,
    /// A backup, or a day of WAL, that stores less is never too large.
    pub(crate) alert_growth_min_bytes: u64,
    /// What stands is told again after so long; 0 for never.
    #[serde(with = "humantime_serde")]
    pub(crate) alert_reminder: Duration,
    /// Where alerts are posted as JSON.
    pub(crate) notify_webhook_url: Option<Private>,
    /// What those posts are signed with.
    pub(crate) notify_webhook_secret: Option<Private>,
    /// Where alerts are posted as Slack (and those who understand it) wants them.
    pub(crate) notify_slack_url: Option<Private>,
    /// Whom alerts are mailed to, separated by commas.
    pub(crate) notify_email_to: Option<String>,
    /// Whom those mails come from.
    pub(crate) notify_email_from: Option<String>,
    /// Who takes those mails: `smtps://`, `smtp://...?tls=required` or `smtp://`, with user and password if needed.
    pub(crate) smtp_url: Option<Private>,
    /// The certificate authorities (PEM) that the mail server's certificate is checked by, instead of the system's.
    pub(crate) smtp_ca_file: Option<PathBuf>,
}

/// A setting that is not shown to anybody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Private(pub(crate) String);

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
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
            // Tests move the scheduler's clock, and not the store's.
            retention_store_clock: !cfg!(test),
            retention_interval: HOUR,
            drill_deadline: 24 * HOUR,
            alert_backup_failures: 2,
            alert_backup_overdue: 26 * HOUR,
            alert_archive_lag: Duration::from_secs(5 * 60),
            alert_lag_looks: 1000,
            alert_growth_factor: 3,
            alert_growth_min_bytes: 1 << 30,
            alert_reminder: 24 * HOUR,
            notify_webhook_url: None,
            notify_webhook_secret: None,
            notify_slack_url: None,
            notify_email_to: None,
            notify_email_from: None,
            smtp_url: None,
            smtp_ca_file: None,
        }
    }
}

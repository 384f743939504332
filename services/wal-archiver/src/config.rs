//! The archiver's own settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wal_index::IndexSettings;

/// Settings; each is also a `ZEKTOR_*` variable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArchiverConfig {
    /// How often the open segment is stored: how much is lost at most with the server.
    #[serde(with = "humantime_serde")]
    pub wal_flush_interval: Duration,
    /// How often the archive of an idle database is proven complete. Each time costs one question on
    /// a connection that is kept, and one small object.
    #[serde(with = "humantime_serde")]
    pub position_interval: Duration,
    /// A server that says nothing for so long, though asked, is taken for dead; a connection that we could not read for
    /// half of it, because the store takes nothing, is let go.
    #[serde(with = "humantime_serde")]
    pub wal_receiver_timeout: Duration,
    /// Longest pause between two tries to connect.
    #[serde(with = "humantime_serde")]
    pub wal_longest_backoff: Duration,
    /// How often documents and leases are looked at even when nothing was heard.
    #[serde(with = "humantime_serde")]
    pub wal_rescan_interval: Duration,
    /// A branch whose archiver is gone is taken over after so long.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
    /// Complete segments of a branch that may wait for the store before reading stops.
    pub wal_segments_in_flight: usize,
    /// Memory for segments on their way to the store, over all branches.
    pub wal_upload_memory_mib: u32,
    /// Branches this process takes at most.
    pub wal_branches_limit: usize,
    /// A transaction that deletes or updates at least so many rows of a table is told of.
    pub wal_index_threshold_rows: u64,
    /// How often it is measured what slots hold back.
    #[serde(with = "humantime_serde")]
    pub slot_risk_interval: Duration,
    /// What the slot may hold back of WAL on the source's disk, in bytes: what `pg_wal` can grow to. PostgreSQL does not
    /// tell, so without it only the server's own limit is known, and no slot is ever released.
    pub slot_disk_bytes: Option<u64>,
    /// There is a warning when so many percents of the limit are held back.
    pub slot_risk_warning_percent: u32,
    /// And an alert when it is so many.
    pub slot_risk_alert_percent: u32,
    /// At so many percents of the disk the slot is released, where the branch's policy allows it.
    pub slot_release_percent: u32,
    /// Where the server pushes its WAL: a segment that was not pushed, while later ones were, is given up after so long.
    #[serde(with = "humantime_serde")]
    pub wal_pushed_gap_after: Duration,
    /// Where the server pushes its WAL: commits wait so long in the open segment before it is asked for, if the role
    /// may call `pg_switch_wal()`.
    #[serde(with = "humantime_serde")]
    pub wal_pushed_switch_after: Duration,
    /// Where open segments rest; `spool` under the home directory by default.
    pub wal_spool_directory: Option<PathBuf>,
}

impl Default for ArchiverConfig {
    fn default() -> Self {
        ArchiverConfig {
            wal_flush_interval: Duration::from_secs(5),
            position_interval: Duration::from_secs(10),
            wal_receiver_timeout: Duration::from_secs(60),
            wal_longest_backoff: Duration::from_secs(15),
            wal_rescan_interval: Duration::from_secs(30),
            lease_ttl: Duration::from_secs(30),
            wal_segments_in_flight: 2,
            wal_upload_memory_mib: 256,
            wal_branches_limit: 5_000,
            wal_index_threshold_rows: IndexSettings::default().threshold_rows,
            slot_risk_interval: Duration::from_secs(15),
            slot_disk_bytes: None,
            slot_risk_warning_percent: 50,
            slot_risk_alert_percent: 80,
            slot_release_percent: 95,
            wal_pushed_gap_after: Duration::from_secs(600),
            wal_pushed_switch_after: Duration::from_secs(60),
            wal_spool_directory: None,
        }
    }
}

impl ArchiverConfig {
    /// What the commit-time index is to hold.
    #[must_use]
    pub(crate) fn index_settings(&self) -> IndexSettings {
        IndexSettings {
            threshold_rows: self.wal_index_threshold_rows,
        }
    }

    /// Where open segments rest.
    #[must_use]
    pub fn spool_directory(&self, home: &Path) -> PathBuf {
        self.wal_spool_directory
            .clone()
            .unwrap_or_else(|| home.join("spool"))
    }
}

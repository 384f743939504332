//! The worker's settings beyond the common ones.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The worker's own settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerConfig {
    /// Backups taken at once. Each needs up to about 120 MiB.
    pub(crate) backup_concurrency: usize,
    /// zstd level of stored chunks.
    pub(crate) backup_compression_level: i32,
    /// True: checkpoint at once when a backup begins. False: spread, gentle on the server, minutes late.
    pub(crate) backup_fast_checkpoint: bool,
    /// KiB/s the server may send; 0 for no limit.
    pub(crate) backup_max_rate_kib: u32,
    /// How often progress is published.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_progress_interval: Duration,
    /// How long a copied backup waits for its WAL in the archive.
    #[serde(with = "humantime_serde")]
    pub(crate) backup_wal_timeout: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        WorkerConfig {
            backup_concurrency: 1,
            backup_compression_level: 1,
            backup_fast_checkpoint: true,
            backup_max_rate_kib: 0,
            backup_progress_interval: Duration::from_secs(2),
            backup_wal_timeout: Duration::from_secs(600),
        }
    }
}

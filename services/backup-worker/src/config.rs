//! The worker's settings beyond the common ones.

use std::time::Duration;

use events::{InvalidName, PoolName};
use serde::{Deserialize, Serialize};

/// The worker's own settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerConfig {
    /// Backups taken at once, of each pool that is served. Each needs up to about 120 MiB.
    pub(crate) backup_concurrency: usize,
    /// The pools whose instances this worker serves, separated by commas. Instances that name no pool are in
    /// `default`.
    pub(crate) worker_pools: String,
    /// KiB/s that this worker reads for all its backups together; 0 for no limit.
    pub(crate) worker_max_rate_kib: u32,
    /// KiB/s that this worker stores for all its backups together; 0 for no limit.
    pub(crate) store_max_rate_kib: u32,
    /// Stored backups that are verified at once.
    pub(crate) verify_concurrency: usize,
    /// zstd level of stored chunks.
    pub(crate) backup_compression_level: i32,
    /// True: checkpoint at once when a backup begins. False: spread, gentle on the server, minutes late.
    pub(crate) backup_fast_checkpoint: bool,
    /// KiB/s the server may send for one backup; 0 for no limit.
    pub(crate) backup_max_rate_kib: u32,
    /// How often progress is published; at least every 30 seconds, whatever is said here.
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
            worker_pools: PoolName::DEFAULT.to_owned(),
            worker_max_rate_kib: 0,
            store_max_rate_kib: 0,
            verify_concurrency: 1,
            backup_compression_level: 1,
            backup_fast_checkpoint: true,
            backup_max_rate_kib: 0,
            backup_progress_interval: Duration::from_secs(2),
            backup_wal_timeout: Duration::from_secs(600),
        }
    }
}

impl WorkerConfig {
    /// [`Self::worker_pools`], each once.
    pub(crate) fn pools(&self) -> Result<Vec<PoolName>, InvalidName> {
        let mut pools = Vec::new();
        for name in self.worker_pools.split(',').map(str::trim) {
            let pool = PoolName::new(name)?;
            if !pools.contains(&pool) {
                pools.push(pool);
            }
        }
        Ok(pools)
    }
}

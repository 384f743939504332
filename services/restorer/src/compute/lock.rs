//! One attempt at a time in one site.
//!
//! The fence decides whose word counts; this decides who may touch the files. It is the file's lock, so it
//! goes with the process that holds it.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::ComputeError;

const LOOK: Duration = Duration::from_millis(100);

/// The right to change a site, until dropped.
#[derive(Debug)]
pub struct SiteLock {
    _file: File,
}

impl SiteLock {
    pub(super) async fn acquire(path: &Path) -> Result<Self, ComputeError> {
        let mut options = File::options();
        let _ = options.create(true).truncate(false).write(true);
        let file = options
            .open(path)
            .map_err(ComputeError::file("open", path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(SiteLock { _file: file }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK).await,
                Err(TryLockError::Error(error)) => {
                    return Err(ComputeError::file("lock", path)(error));
                }
            }
        }
    }
}

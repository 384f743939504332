//! One attempt at a time in one site.
//!
//! The fence decides whose word counts; this decides who may touch the files. It is the file's lock, so it
//! goes with the process that holds it.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
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
        loop {
            let file = options
                .open(path)
                .map_err(ComputeError::file("open", path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(SiteLock { _file: file }),
                // Whoever had it has removed it: another one counts by now.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK).await,
                Err(TryLockError::Error(error)) => {
                    return Err(ComputeError::file("lock", path)(error));
                }
            }
        }
    }

    /// Removes the lock's file; whoever waits for it gets a new one.
    pub(super) fn remove(self, path: &Path) -> Result<(), ComputeError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ComputeError::file("remove", path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the file is still the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(locked), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (locked.dev(), locked.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::SiteLock;

    #[tokio::test]
    async fn a_lock_that_was_removed_is_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let first = SiteLock::acquire(&path).await.unwrap();
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { SiteLock::acquire(&path).await }
        });
        tokio::task::yield_now().await;
        first.remove(&path).unwrap();
        let second = waiting.await.unwrap().unwrap();
        assert!(path.exists(), "what is held has a name");
        drop(second);
    }
}

//! Ports that no other test takes, not even between a kill and the next start.
//!
//! They lie below the range the kernel gives to outgoing connections, and each is held by a locked file
//! until the [`Port`] is dropped or the process ends, whichever way it ends.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A reserved port of the loopback interface.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// The lock is the reservation.
    _lock: File,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Errors
    /// When the lock folder cannot be used, or every port is taken.
    pub fn reserve() -> Result<Self> {
        let folder = folder()?;
        // Every RandomState has its own keys: a fresh place to begin for each call.
        let begin = RandomState::new().build_hasher().finish();
        for step in 0..u64::from(COUNT) {
            let offset = u16::try_from((begin.wrapping_add(step)) % u64::from(COUNT))?;
            let number = FIRST + offset;
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(number.to_string()))
                .context("cannot open a port's lock file")?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("every port from {FIRST} to {} is taken", FIRST + COUNT - 1)
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn folder() -> Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let user = fs::metadata("/proc/self")?.uid();
    let folder = std::env::temp_dir().join(format!("zektor-test-ports-{user}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{START_TIMEOUT, wait_until};

    #[tokio::test]
    async fn reserved_ports_differ_until_they_are_dropped() {
        let held: Vec<_> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let numbers: HashSet<_> = held.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), held.len());
        let path = folder().unwrap().join(held[0].number().to_string());
        let free = async || File::open(&path).unwrap().try_lock().is_ok();
        assert!(!free().await);
        drop(held);
        // Not at once: a process that another test is just starting shares the lock until it has become
        // its program.
        wait_until("the port to be free", START_TIMEOUT, free)
            .await
            .unwrap();
    }
}

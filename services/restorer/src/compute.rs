//! What a branch runs on. A trait, so that containers can take the place of local processes.
//!
//! What must stay true: a server outlives the restorer that started it; a process is only signalled after it
//! was verified to be the server of exactly that site; removing a site leaves neither files nor processes.

mod account;
mod apart;
mod holder;
mod local;
mod lock;
mod process;
mod programs;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use events::{BranchName, DrillId, InstanceName};
use repository::Owner;

pub use account::{compute_account, compute_directory};
pub use local::LocalCompute;
pub use lock::SiteLock;
pub use programs::Programs;

use crate::site::Site;

/// Where a server stands, by its own word (`postmaster.pid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// No server.
    Down,
    /// It does not accept connections yet, or not any more.
    Busy,
    /// It recovers and accepts read-only connections.
    Standby,
    /// It accepts connections.
    Ready,
}

/// This machine, for itself.
pub const LOOPBACK: &str = "127.0.0.1";

/// Where the branches of a compute are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Their `listen_addresses`.
    pub listen: String,
    /// The host in their connection URIs.
    pub advertise: String,
}

impl Default for Address {
    fn default() -> Self {
        Address {
            listen: LOOPBACK.to_owned(),
            advertise: LOOPBACK.to_owned(),
        }
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// Sessions are ended, everything is written.
    Fast,
    /// At once; for files that are going to be removed.
    Immediate,
}

/// The place and the processes of branches.
#[async_trait]
pub trait Compute: Send + Sync {
    /// The site of a branch; nothing is created.
    fn site(&self, instance: &InstanceName, branch: &BranchName) -> Site;

    /// The site of a drill; nothing is created.
    fn drill_site(&self, instance: &InstanceName, branch: &BranchName, id: DrillId) -> Site;

    /// The drills that have a site here.
    async fn drills(&self) -> Result<Vec<DrillId>, ComputeError>;

    /// Every site of a branch that exists here.
    async fn sites(&self) -> Result<Vec<Site>, ComputeError>;

    /// Keeps everybody else away from a site, in this process and in others; waits for its turn.
    async fn lock(&self, site: &Site) -> Result<SiteLock, ComputeError>;

    /// The name of this place, the same for every restorer that works in it, and for no other place.
    fn holder(&self) -> Result<String, ComputeError>;

    /// Where branches here are found.
    fn address(&self) -> &Address;

    /// Who must own the files; `None` for the user of this process.
    fn owner(&self) -> Option<Owner>;

    /// Bytes that can still be written where branches are kept; `None` if nobody knows.
    async fn free_bytes(&self) -> Option<u64>;

    /// The programs of a major version.
    async fn programs(&self, major: u32) -> Result<Programs, ComputeError>;

    /// Makes the directories of a site, but not PGDATA.
    async fn create(&self, site: &Site) -> Result<(), ComputeError>;

    /// A free port that is not among `taken`.
    async fn free_port(&self, taken: &BTreeSet<u16>) -> Result<u16, ComputeError>;

    /// Writes a file of the server, whole or not at all, readable by nobody else.
    async fn write(&self, path: &Path, text: &[u8]) -> Result<(), ComputeError>;

    /// Runs a program to its end as the server's user; its stdout.
    async fn run(&self, program: &Path, arguments: &[&str]) -> Result<String, ComputeError>;

    /// Runs a program to its end as the server's user, however it ends.
    async fn output(
        &self,
        program: &Path,
        arguments: &[&str],
    ) -> Result<std::process::Output, ComputeError>;

    /// Forgets the lock of a site that is in nobody's hands any more but the caller's.
    async fn unlock_for_good(&self, site: &Site, lock: SiteLock) -> Result<(), ComputeError>;

    /// Starts the server of a site, that of a drill with a low priority; returns when its process holds the data
    /// directory.
    async fn start(&self, site: &Site, programs: &Programs, port: u16) -> Result<(), ComputeError>;

    /// Where the server of a site stands.
    async fn state(&self, site: &Site) -> Result<ServerState, ComputeError>;

    /// Stops the server of a site, and returns when it is gone.
    async fn stop(&self, site: &Site, how: Stopping) -> Result<(), ComputeError>;

    /// Removes everything of a site, its server too.
    async fn remove(&self, site: &Site) -> Result<(), ComputeError>;
}

/// Compute failed.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// No usable installation of the version.
    #[error("postgresql {major} is not installed on the restorer's machine (looked in {looked})")]
    NoPrograms {
        /// The version.
        major: u32,
        /// Where it was looked for.
        looked: String,
    },
    /// The user that is to run servers does not exist.
    #[error("there is no user {user:?} to run branches as; create it or set ZEKTOR_COMPUTE_USER")]
    NoUser {
        /// Its name.
        user: String,
    },
    /// A file or directory failed.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was attempted.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be run or failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        reason: String,
    },
    /// A server ended when it should run.
    #[error("the branch's server ended while {during}; its log ends with: {log}")]
    ServerEnded {
        /// What was going on.
        during: &'static str,
        /// The last lines of its log.
        log: String,
    },
    /// A server did not do something in time.
    #[error("the branch's server did not {what} within {seconds} s")]
    Timeout {
        /// What was awaited.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// No port is free.
    #[error("every port from {first} to {last} is taken")]
    NoPort {
        /// The first.
        first: u16,
        /// The last.
        last: u16,
    },
    /// The socket's path would be too long.
    #[error(
        "the path of the branch's unix socket in {} is longer than the system allows; choose a shorter \
         ZEKTOR_COMPUTE_DIR",
        path.display()
    )]
    SocketPath {
        /// The directory.
        path: PathBuf,
    },
}

impl ComputeError {
    /// Whether a server ended because its port was in use (`StreamServerPort`, PostgreSQL `src/backend/libpq/pqcomm.c`).
    pub(crate) fn port_was_taken(&self) -> bool {
        match self {
            ComputeError::ServerEnded { log, .. } => log.contains("Address already in use"),
            _ => false,
        }
    }

    pub(crate) fn file(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> ComputeError {
        let path = path.to_owned();
        move |source| ComputeError::File {
            operation,
            path,
            source,
        }
    }
}

/// The last lines that a branch's server logged: an open branch has its collector write beside the file that
/// has its stderr.
pub(crate) fn server_log_end(site: &Site) -> String {
    let files = std::fs::read_dir(site.log()).into_iter().flatten();
    let dated = files.filter_map(|entry| {
        let entry = entry.ok()?;
        Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
    });
    let newest = dated.max().map(|(_, path)| path);
    log_end(&newest.unwrap_or_else(|| site.log_file()))
}

/// The last lines of a log.
pub(crate) fn log_end(path: &Path) -> String {
    const LINES: usize = 8;
    let bytes = log_bytes(path);
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

/// The end of a log file, at most a mebibyte.
pub(crate) fn log_bytes(path: &Path) -> Vec<u8> {
    use std::io::{Read, Seek, SeekFrom};
    const MOST: u64 = 1 << 20;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        let _ = file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::ComputeError;

    #[test]
    fn a_taken_port_is_told_from_other_endings() {
        let ended = |log: &str| ComputeError::ServerEnded {
            during: "starting",
            log: log.to_owned(),
        };
        let taken = "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use | \
                     FATAL:  could not create any TCP/IP sockets";
        assert!(ended(taken).port_was_taken());
        let elsewhere = "LOG:  could not bind IPv4 address \"192.0.2.1\": Cannot assign requested \
                         address | FATAL:  could not create any TCP/IP sockets";
        assert!(!ended(elsewhere).port_was_taken());
        assert!(!ended("FATAL:  maximum number of prepared transactions reached").port_was_taken());
    }
}

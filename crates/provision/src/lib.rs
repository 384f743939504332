//! Finds or installs the servers Zektor runs and is tested against: NATS, PostgreSQL 14 to 18, SeaweedFS.
//!
//! What must stay true:
//!
//! - A version is pinned and its SHA-256 is checked before anything is unpacked (`pins.json`).
//! - An installation appears whole or not at all: it is made beside its place and renamed into it, so
//!   two that run at the same time do not disturb each other, and a second one finds the first.
//! - A NATS server older than 2.12 is never used: 2.9 answers ok to fencing headers and ignores them.
//! - Packages come from the ordinary clients (`pip`, `apt-get`, `npm`) with the user's own settings.

mod account;
mod error;
mod find;
mod install;
mod pins;
mod place;
mod run;

use std::fmt;
use std::path::PathBuf;

pub use account::{Account, UNPRIVILEGED_USER, account, ensure_unprivileged_user, is_root};
pub use error::InstallError;
pub use install::{fake_clock, install_fake_clock};
pub use place::Tools;

/// A server that can be found or installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// The NATS server with JetStream.
    NatsServer,
    /// PostgreSQL 18 with its client tools.
    Postgres18,
    /// PostgreSQL 17 with its client tools; has TLS, lz4 and zstd.
    Postgres17,
    /// PostgreSQL 16 with its client tools.
    Postgres16,
    /// PostgreSQL 15; where it comes from npm it has no client tools.
    Postgres15,
    /// PostgreSQL 14, the server alone: `initdb`, `pg_ctl`, `postgres`, no client tools.
    Postgres14,
    /// SeaweedFS, the S3 server.
    SeaweedFs,
}

impl Tool {
    /// Every tool, in the order in which they are set up.
    pub const ALL: [Self; 7] = [
        Self::NatsServer,
        Self::Postgres18,
        Self::SeaweedFs,
        Self::Postgres17,
        Self::Postgres16,
        Self::Postgres15,
        Self::Postgres14,
    ];

    /// The PostgreSQL of a major version; `None` where none is pinned.
    #[must_use]
    pub const fn postgres(major: u32) -> Option<Self> {
        Some(match major {
            14 => Self::Postgres14,
            15 => Self::Postgres15,
            16 => Self::Postgres16,
            17 => Self::Postgres17,
            18 => Self::Postgres18,
            _ => return None,
        })
    }

    /// The major version of a PostgreSQL; `None` for every other tool.
    #[must_use]
    pub const fn postgres_major(self) -> Option<u32> {
        Some(match self {
            Self::Postgres14 => 14,
            Self::Postgres15 => 15,
            Self::Postgres16 => 16,
            Self::Postgres17 => 17,
            Self::Postgres18 => 18,
            Self::NatsServer | Self::SeaweedFs => return None,
        })
    }

    /// The name people read, also the first part of the installation's folder.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NatsServer => "nats-server",
            Self::Postgres18 => "postgresql-18",
            Self::Postgres17 => "postgresql-17",
            Self::Postgres16 => "postgresql-16",
            Self::Postgres15 => "postgresql-15",
            Self::Postgres14 => "postgresql-14",
            Self::SeaweedFs => "seaweedfs",
        }
    }

    /// The program that has to be there.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::NatsServer => "nats-server",
            Self::SeaweedFs => "weed",
            _ => "postgres",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An installed tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The folder that holds the programs.
    pub bin_directory: PathBuf,
    /// The version the program itself reports, such as `2.15.1` or `15.18`.
    pub version: String,
}

impl Found {
    /// The path of one of the tool's programs, whether or not it exists.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_directory.join(name)
    }
}

/// A tool is not installed, or only in a version that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{tool} is missing: {hint}")]
pub struct Missing {
    /// Which one.
    pub tool: Tool,
    /// What to do about it, one sentence.
    pub hint: String,
}

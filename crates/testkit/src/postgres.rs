//! A real PostgreSQL server on loopback, its data directory in a temporary directory.
//!
//! Started as root everything runs as the user `postgres`, otherwise as the user we are. Settings of a test
//! stand in `postgresql.conf`, so a base backup holds them; only port, addresses and socket directory are
//! given on the command line, so a copy can be started elsewhere.

mod builder;
mod certificate;
mod cluster;
mod psql;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use provision::{Account, Found, Tool};
use tempfile::TempDir;

use crate::child::{Running, Signal, send};
use crate::port::Port;
use crate::{START_TIMEOUT, tool, wait_until};

pub use builder::Builder;

/// The superuser's name.
pub const SUPERUSER: &str = "postgres";

/// A major version under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PgVersion {
    /// The oldest one that is supported; its installation is the server alone.
    V14,
    /// With TLS.
    V15,
    /// Without TLS.
    V16,
    /// With TLS.
    V17,
    /// The newest one; without TLS.
    V18,
}

impl PgVersion {
    /// Every supported one, for tests of what differs between versions.
    pub const ALL: [Self; 5] = [Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// Those whose installation is built with TLS: OpenSSL 1.1, the distribution's, OpenSSL 3.
    pub const WITH_TLS: [Self; 3] = [Self::V14, Self::V15, Self::V17];

    /// The major version's number.
    #[must_use]
    pub const fn major(self) -> u32 {
        match self {
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    const fn tool(self) -> Tool {
        match self {
            Self::V14 => Tool::Postgres14,
            Self::V15 => Tool::Postgres15,
            Self::V16 => Tool::Postgres16,
            Self::V17 => Tool::Postgres17,
            Self::V18 => Tool::Postgres18,
        }
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.major())
    }
}

/// How [`Postgres::stop`] ends the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for the clients to leave.
    Smart,
    /// Ends the sessions and writes a shutdown checkpoint.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

/// A PostgreSQL server; killed when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    version: PgVersion,
    found: Found,
    account: Option<Account>,
    place: TempDir,
    data: PathBuf,
    port: Port,
    password: String,
    certificate: Option<String>,
    environment: Vec<(String, String)>,
    running: Option<Running>,
}

impl Postgres {
    /// A server of version 18 with replication allowed and no TLS, unless the builder says otherwise.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Which version it is.
    #[must_use]
    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// The superuser's connection string, on the database `postgres`.
    #[must_use]
    pub fn dsn(&self) -> String {
        self.dsn_for(SUPERUSER, &self.password, "postgres")
    }

    /// A connection string; user and password must not need URL escapes.
    #[must_use]
    pub fn dsn_for(&self, user: &str, password: &str, database: &str) -> String {
        format!(
            "postgres://{user}:{password}@127.0.0.1:{}/{database}",
            self.port.number()
        )
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The port on 127.0.0.1. It stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The data directory; on a server started by root it belongs to the user `postgres`.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// A directory beside the data directory that the server's user may write to, such as a tablespace's.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.place.path().join(name);
        cluster::make_directory(&path, self.account)?;
        Ok(path)
    }

    /// The certificate a client of a TLS server must trust (PEM). It names `localhost` and 127.0.0.1.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// One of the version's programs. A client that a server-only installation lacks (14, and 15 where it
    /// comes from npm) is taken from version 18 if it is one that works with every version; see
    /// [`Self::has`] for those that do not, `pg_waldump` above all.
    ///
    /// # Errors
    /// When the installation lacks it and no other version's may take its place.
    pub fn bin(&self, name: &str) -> Result<PathBuf> {
        cluster::program(&self.found, name)
    }

    /// Whether the installation itself has the program. A test that needs one which reads a version's own
    /// formats asks first, and says what it leaves out.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.found.program(name).is_file()
    }

    /// A command that runs one of the programs as the server's user.
    ///
    /// # Errors
    /// See [`Self::bin`].
    pub fn command(&self, program: &str) -> Result<Command> {
        Ok(cluster::as_account(&self.bin(program)?, self.account))
    }

    /// The postmaster's process id, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Ends the server and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be signalled or does not end within a minute.
    pub async fn stop(&mut self, mode: StopMode) -> Result<()> {
        if let Some(mut running) = self.running.take_if(Running::runs) {
            running.signal(match mode {
                StopMode::Smart => Signal::Terminate,
                StopMode::Fast => Signal::Interrupt,
                StopMode::Immediate => Signal::Quit,
            })?;
            let _ = running.ended(START_TIMEOUT).await?;
        }
        Ok(())
    }

    /// SIGKILL for the postmaster and all of its processes, as the kernel's out-of-memory killer or a power
    /// cut would do; waits until they are gone.
    ///
    /// # Errors
    /// When they cannot be signalled or do not end.
    pub async fn kill9(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take_if(Running::runs) else {
            return Ok(());
        };
        let postmaster = running.id();
        let segment = cluster::shared_memory(&self.data);
        // Stopped first, so that it starts no further process while its own are being listed.
        send(Signal::Stop, &[postmaster])?;
        let children = cluster::children(postmaster);
        running.signal(Signal::Kill)?;
        for child in &children {
            // One that ended by itself is fine.
            let _ = send(Signal::Kill, &[*child]);
        }
        let _ = running.ended(START_TIMEOUT).await?;
        wait_until(
            "the backends of a killed server to be gone",
            START_TIMEOUT,
            async || !children.iter().any(|child| cluster::alive(*child)),
        )
        .await?;
        // A power cut takes the memory as well.
        if let Some(segment) = segment {
            cluster::remove_shared_memory(&segment);
        }
        Ok(())
    }

    /// Starts it on the same port and data directory and waits until it accepts connections; nothing
    /// happens when it runs. The time limit is a minute, recovery included.
    ///
    /// # Errors
    /// When it does not start; the error has the end of its log.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.running.as_mut().is_some_and(Running::runs) {
            return Ok(());
        }
        // A killed server leaves it; its stale state must not be taken for the new one's.
        let status = self.data.join("postmaster.pid");
        let _ = fs::remove_file(&status);
        let mut command = cluster::as_account(&self.found.program("postgres"), self.account);
        let _ = command
            .current_dir(&self.data)
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &self.port.number().to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-k"])
            .arg(self.place.path())
            .envs(self.environment.iter().cloned());
        let name = format!("PostgreSQL {}", self.version);
        let mut running =
            Running::spawn_with_parting(&name, &mut command, &self.log_file(), Signal::Quit)?;
        running
            .ready(START_TIMEOUT, async || accepts_connections(&status))
            .await?;
        self.running = Some(running);
        Ok(())
    }

    /// A fast stop and a new start.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start_again`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop(StopMode::Fast).await?;
        self.start_again().await
    }

    /// Promotes a standby and waits until it accepts writes.
    ///
    /// # Errors
    /// When it is not a standby or the promotion fails.
    pub async fn promote(&self) -> Result<()> {
        match self.psql("SELECT pg_promote(true, 60)").await?.as_str() {
            "t" => Ok(()),
            other => bail!(
                "pg_promote answered {other:?}\n{}",
                crate::tools::tail(&self.log_file())
            ),
        }
    }

    fn log_file(&self) -> PathBuf {
        self.place.path().join("postgresql.log")
    }
}

/// The server writes its state into the eighth line of `postmaster.pid`: `starting`, `stopping`, `ready`,
/// or `standby` while it recovers with `hot_standby = off`, when nobody can connect anyway.
fn accepts_connections(status: &Path) -> bool {
    let text = fs::read_to_string(status).unwrap_or_default();
    text.lines()
        .nth(7)
        .is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
}

/// The installation of a version.
fn installed(version: PgVersion) -> Result<Found> {
    tool(version.tool()).with_context(|| format!("PostgreSQL {version} is needed by this test"))
}

#[cfg(test)]
mod tests;

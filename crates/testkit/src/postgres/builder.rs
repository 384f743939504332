//! What a test may say about the server it wants.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};
use provision::{Account, UNPRIVILEGED_USER, account, is_root};

use super::{PgVersion, Postgres, SUPERUSER, certificate, cluster, installed};
use crate::port::Port;
use crate::temporary_directory;

/// Small and quick, with room for replication.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("shared_buffers", "32MB"),
    // Within the data directory: a server that is killed leaves nothing behind in the machine's memory.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_min_messages", "warning"),
    ("log_line_prefix", "%m [%p] "),
    ("log_checkpoints", "off"),
    ("lc_messages", "C"),
];

/// Everybody needs a password, for replication too.
const HOST_BASED_AUTHENTICATION: &str = "\
local all         all              scram-sha-256
host  all         all 127.0.0.1/32 scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
";

/// How a server is to be made.
#[derive(Debug, Clone)]
pub struct Builder {
    version: PgVersion,
    settings: Vec<(String, String)>,
    wal_segment_size_mib: u32,
    tls: bool,
    durable: bool,
    checksums: bool,
    primary: Option<Primary>,
    environment: Vec<(String, String)>,
}

/// What a standby needs of its primary.
#[derive(Debug, Clone)]
struct Primary {
    dsn: String,
    password: String,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            version: PgVersion::V18,
            settings: Vec::new(),
            wal_segment_size_mib: 16,
            tls: false,
            durable: false,
            checksums: true,
            primary: None,
            environment: Vec::new(),
        }
    }
}

impl Builder {
    /// The major version.
    #[must_use]
    pub fn version(mut self, version: PgVersion) -> Self {
        self.version = version;
        self
    }

    /// A line of `postgresql.conf`; the value is quoted here.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The WAL segment size in MiB, a power of two up to 1024. The default is PostgreSQL's, 16.
    #[must_use]
    pub fn wal_segment_size_mib(mut self, mib: u32) -> Self {
        self.wal_segment_size_mib = mib;
        self
    }

    /// Accept TLS with a self-signed certificate. The pinned PostgreSQL 16 and 18 are built without TLS.
    #[must_use]
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Keep `fsync` on. Without it a killed server still recovers (the kernel lives on), only faster.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Variables of the server's environment.
    #[must_use]
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Whether pages have checksums; they do by default.
    #[must_use]
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.checksums = checksums;
        self
    }

    /// A hot standby that streams from `primary`, with its version, settings and password.
    #[must_use]
    pub fn standby_of(mut self, primary: &Postgres) -> Self {
        self.version = primary.version;
        self.primary = Some(Primary {
            dsn: primary.dsn(),
            password: primary.password.clone(),
        });
        self
    }

    /// Makes the cluster, starts the server and waits until it accepts connections.
    ///
    /// # Errors
    /// When the version is not installed, or a step fails; the error has what the program printed.
    pub async fn start(self) -> Result<Postgres> {
        let mut server = self.make().await?;
        server.start_again().await?;
        Ok(server)
    }

    /// Makes the cluster without starting it.
    async fn make(self) -> Result<Postgres> {
        let place = temporary_directory()?;
        let account = server_account()?;
        cluster::give(place.path(), account)?;
        let password = self
            .primary
            .as_ref()
            .map_or("secret", |primary| &primary.password);
        let mut server = Postgres {
            version: self.version,
            found: installed(self.version)?,
            account,
            data: place.path().join("data"),
            port: Port::reserve()?,
            password: password.to_owned(),
            certificate: None,
            environment: self.environment.clone(),
            running: None,
            place,
        };
        match &self.primary {
            Some(primary) => cluster::base_backup(&server, &primary.dsn).await?,
            None => self.initialise(&server).await?,
        }
        if self.tls {
            server.certificate = Some(certificate::install(&server.data, account)?);
        }
        cluster::append(&server.data.join("postgresql.conf"), &self.configuration())?;
        Ok(server)
    }

    async fn initialise(&self, server: &Postgres) -> Result<()> {
        let password_file = server.place.path().join("password");
        fs::write(&password_file, &server.password)?;
        cluster::give(&password_file, server.account)?;
        let mut command = server.command("initdb")?;
        let _ = command
            .args([
                "--username",
                SUPERUSER,
                "--auth",
                "scram-sha-256",
                "--pwfile",
            ])
            .arg(&password_file)
            .args(["--encoding", "UTF8", "--no-locale", "--no-sync"])
            .args([
                "--wal-segsize",
                &self.wal_segment_size_mib.to_string(),
                "--pgdata",
            ])
            .arg(&server.data);
        match (self.checksums, self.version) {
            (true, _) => drop(command.arg("--data-checksums")),
            // From 18 on they are the default.
            (false, PgVersion::V18) => drop(command.arg("--no-data-checksums")),
            (false, _) => {}
        }
        let _ = cluster::finish(command)
            .await
            .context("cannot make a cluster")?;
        fs::write(server.data.join("pg_hba.conf"), HOST_BASED_AUTHENTICATION)?;
        Ok(())
    }

    fn configuration(&self) -> String {
        let mut text = String::from("\n# From the test.\n");
        let mut line = |name: &str, value: &str| {
            let _infallible = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        };
        // A standby has its primary's lines already.
        if self.primary.is_none() {
            for (name, value) in SETTINGS {
                line(name, value);
            }
            // Two segments at least; the default of 80 MiB is less than that for large ones.
            line(
                "min_wal_size",
                &format!("{}MB", (self.wal_segment_size_mib * 2).max(32)),
            );
            line("fsync", if self.durable { "on" } else { "off" });
        }
        if self.tls {
            line("ssl", "on");
        }
        for (name, value) in &self.settings {
            line(name, value);
        }
        text
    }
}

/// The user that runs the server: nobody else than ourselves, unless we are root.
fn server_account() -> Result<Option<Account>> {
    if !is_root() {
        return Ok(None);
    }
    match account(UNPRIVILEGED_USER) {
        Some(account) => Ok(Some(account)),
        None => bail!(
            "PostgreSQL refuses to run as root and there is no user `{UNPRIVILEGED_USER}`; \
             run `cargo xtask setup`"
        ),
    }
}

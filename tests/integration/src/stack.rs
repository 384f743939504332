//! NATS, the five services and a repository, each a process or directory of its own, on loopback.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bus::{Bus, BusConfig};
use repository::{Repository, RetryPolicy};
use service::MasterKey;
use tempfile::TempDir;
use testkit::nats::NatsServer;
use testkit::postgres::Postgres;
use testkit::process::Service;
use testkit::s3::{BUCKET, S3Server};

use crate::command::Answer;

/// Where backups go.
pub enum Store {
    /// A directory.
    Local,
    /// An S3 server.
    S3(S3Server),
}

/// A running stack; everything ends when it is dropped.
pub struct Stack {
    /// The bus's server.
    pub nats: NatsServer,
    /// The services, by name; workers are `backup-worker-1`, `backup-worker-2`, ...
    pub services: BTreeMap<String, Service>,
    /// The object store's server, if it is one.
    pub store: Store,
    environment: Vec<(String, String)>,
    place: TempDir,
}

/// How a stack is to be.
pub struct Builder {
    workers: usize,
    store: Store,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// How many backup workers; one unless said otherwise.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// A variable for every service.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Where backups go; a directory unless said otherwise.
    #[must_use]
    pub fn store(mut self, store: Store) -> Self {
        self.store = store;
        self
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(self) -> Result<Stack> {
        let place = testkit::temporary_directory()?;
        let nats = NatsServer::builder().sync_always().start().await?;
        let key = place.path().join("master.key");
        let _key = MasterKey::generate_file(&key)?;
        let repository_url = match &self.store {
            Store::Local => format!("file://{}", place.path().join("repository").display()),
            Store::S3(server) => server.url(BUCKET),
        };
        let mut environment = vec![
            ("ZEKTOR_NATS_URL".to_owned(), nats.url()),
            ("ZEKTOR_REPOSITORY_URL".to_owned(), repository_url),
            (
                "ZEKTOR_MASTER_KEY_FILE".to_owned(),
                key.display().to_string(),
            ),
            (
                "ZEKTOR_CATALOG_URL".to_owned(),
                format!("sqlite://{}", place.path().join("catalog.sqlite").display()),
            ),
            ("ZEKTOR_HOME".to_owned(), place.path().display().to_string()),
            ("ZEKTOR_RESTORE_MIN_TARGET_AGE".to_owned(), "0s".to_owned()),
            // The databases are small, and so may be the disk.
            ("ZEKTOR_RESTORE_ROOM".to_owned(), "64MiB".to_owned()),
            ("ZEKTOR_WAL_FLUSH_INTERVAL".to_owned(), "500ms".to_owned()),
            (
                "ZEKTOR_STOP_BRANCHES_ON_DRAIN".to_owned(),
                "true".to_owned(),
            ),
            ("ZEKTOR_LOG_FORMAT".to_owned(), "text".to_owned()),
        ];
        if let Store::S3(server) = &self.store {
            environment.extend(server.env());
        }
        environment.extend(self.environment);
        let mut stack = Stack {
            nats,
            services: BTreeMap::new(),
            store: self.store,
            environment,
            place,
        };
        for name in ["catalog", "scheduler", "wal-archiver", "restorer"] {
            stack.add_service(name, &format!("zektor-{name}")).await?;
        }
        for number in 1..=self.workers {
            stack
                .add_service(&format!("backup-worker-{number}"), "zektor-backup-worker")
                .await?;
        }
        Ok(stack)
    }
}

impl Stack {
    /// One worker and a directory, unless the builder says otherwise.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            workers: 1,
            store: Store::Local,
            environment: Vec::new(),
        }
    }

    /// Starts one more service.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn add_service(&mut self, name: &str, program: &str) -> Result<()> {
        let http = format!("127.0.0.1:{}", free_port()?);
        let service = Service::builder(program)
            .envs(self.environment.clone())
            .env("ZEKTOR_WORKER_NAME", name)
            .env("ZEKTOR_HTTP_LISTEN", &http)
            .health(http)
            .start()
            .await
            .with_context(|| format!("{name} does not start"))?;
        let _before = self.services.insert(name.to_owned(), service);
        Ok(())
    }

    /// A service by name.
    ///
    /// # Panics
    /// When there is none.
    pub fn service(&mut self, name: &str) -> &mut Service {
        self.services
            .get_mut(name)
            .unwrap_or_else(|| panic!("no service {name}"))
    }

    /// Runs `zektor` with `--output json` and these arguments, as a user would.
    ///
    /// # Errors
    /// When it cannot be run, or prints something else than one JSON document.
    pub async fn zektor(&self, arguments: &[&str]) -> Result<Answer> {
        crate::command::run(&self.environment, arguments).await
    }

    /// The same, and it must succeed.
    ///
    /// # Errors
    /// As [`Stack::zektor`], or when it fails.
    pub async fn zektor_ok(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        self.zektor(arguments).await?.success(arguments)
    }

    /// Registers a database under a name.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn register(&self, name: &str, postgres: &Postgres) -> Result<()> {
        let dsn = postgres.dsn();
        let _answer = self
            .zektor_ok(&["instance", "add", name, "--dsn", &dsn])
            .await?;
        Ok(())
    }

    /// Takes a backup of `main` and returns what `backup create --wait` printed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn back_up(&self, name: &str) -> Result<serde_json::Value> {
        self.zektor_ok(&["backup", "create", name, "--wait"]).await
    }

    /// A bus of the test's own.
    ///
    /// # Errors
    /// When the server is not reached.
    pub async fn bus(&self) -> Result<Bus> {
        Ok(Bus::connect(BusConfig::new(self.nats.url(), "test")).await?)
    }

    /// The repository, opened beside the services.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn repository(&self) -> Result<Repository> {
        let url = self.variable("ZEKTOR_REPOSITORY_URL");
        Ok(Repository::open_with(
            url,
            RetryPolicy::default(),
            &self.environment,
        )?)
    }

    /// A variable of the services' environment.
    ///
    /// # Panics
    /// When it is not set.
    #[must_use]
    pub fn variable(&self, name: &str) -> &str {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map_or_else(|| panic!("{name} is not set"), |(_, value)| value)
    }

    /// The stack's own directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    /// A new directory in it.
    ///
    /// # Errors
    /// As the file system's.
    pub fn fresh_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.place.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

//! `zektor up --foreground`: starts the children in order, restarts what dies, ends them in order.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use provision::{InstallError, Tool, Tools};
use service::MasterKey;
use service::seal::SealError;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::children::{ChildSpec, Deaths, last_line, sibling};
use super::home::{Home, RepositoryChoice, write_private};
use super::layout::StackState;
use super::nats::Nats;
use super::orphans::end_orphans;
use super::process::readiness;

/// From the start of a child to its readiness.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often a starting child is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Services end what they have in hand; the shell's own deadline is shorter.
const SERVICE_GRACE: Duration = Duration::from_secs(45);

/// The stack could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    #[error("a stack is running in {0} already; see `zektor status`")]
    AlreadyRunning(PathBuf),
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("nats cannot be installed")]
    Nats(#[source] InstallError),
    #[error(transparent)]
    Repository(#[from] RepositoryChoice),
    #[error("the master key cannot be used")]
    MasterKey(#[source] SealError),
    #[error("{name} did not become ready within {within:?} ({reason}); see {log}")]
    NotReady {
        name: String,
        within: Duration,
        reason: String,
        log: PathBuf,
    },
    #[error("{name} cannot use its settings: {reason}")]
    Misconfigured { name: String, reason: String },
    #[error("it was told to end before it was ready")]
    ToldToEnd,
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> SupervisorError {
    move |source| SupervisorError::Io {
        what: what.into(),
        source,
    }
}

/// What the stack is started with.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    pub(crate) home: Home,
    pub(crate) tools: Tools,
    /// An external NATS; one is started when absent.
    pub(crate) nats_url: Option<String>,
    pub(crate) repository_url: Option<String>,
    pub(crate) catalog_url: Option<String>,
    pub(crate) master_key_file: Option<PathBuf>,
    /// How many backup workers.
    pub(crate) backup_workers: usize,
}

/// The children that run, and how they are told to end: who works first, then the archive and the catalog that
/// the work needs to its end, NATS last.
#[derive(Default)]
struct Children {
    services: JoinSet<()>,
    services_end: CancellationToken,
    records: JoinSet<()>,
    records_end: CancellationToken,
    nats: JoinSet<()>,
    nats_end: CancellationToken,
}

impl Children {
    async fn end(mut self) {
        self.services_end.cancel();
        while self.services.join_next().await.is_some() {}
        self.records_end.cancel();
        while self.records.join_next().await.is_some() {}
        self.nats_end.cancel();
        while self.nats.join_next().await.is_some() {}
    }
}

impl Supervisor {
    /// Runs the stack until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), SupervisorError> {
        self.home
            .create()
            .map_err(io("the home directory cannot be made"))?;
        let _lock = self.lock()?;
        StackState::remove(&self.home);
        self.waiting_for("what an earlier stack left to end");
        end_orphans(&self.home).await;
        let mut children = Children::default();
        let started = tokio::select! {
            started = self.start(&mut children) => started,
            () = shutdown.cancelled() => Err(SupervisorError::ToldToEnd),
        };
        if let Ok(state) = &started {
            tracing::info!(
                nats = state.nats_url.rsplit('@').next(),
                "the stack is ready"
            );
            shutdown.cancelled().await;
        }
        StackState::remove(&self.home);
        let _ = std::fs::remove_file(self.home.waiting());
        children.end().await;
        started.map(|_state| ())
    }

    /// One supervisor a home: the lock is held as long as the process lives.
    fn lock(&self) -> Result<File, SupervisorError> {
        let path = self.home.lock();
        let opened = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(path);
        let mut file = opened.map_err(io("the lock file cannot be made"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SupervisorError::AlreadyRunning(
                    self.home.directory().to_owned(),
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(io("the lock file cannot be locked")(error));
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(io("the lock file cannot be written"))?;
        Ok(file)
    }

    async fn start(&self, children: &mut Children) -> Result<StackState, SupervisorError> {
        let master_key_file = self.master_key()?;
        let mut processes = Vec::new();
        let nats_url = match &self.nats_url {
            Some(url) => url.clone(),
            None => {
                processes.push("nats".to_owned());
                self.start_nats(children).await?
            }
        };
        let local = |scheme: &str, path: PathBuf| format!("{scheme}://{}", path.display());
        let mut state = StackState {
            supervisor_pid: std::process::id(),
            nats_url,
            repository_url: self
                .home
                .repository_choice(self.repository_url.as_deref())?,
            catalog_url: self
                .catalog_url
                .clone()
                .unwrap_or_else(|| local("sqlite", self.home.catalog())),
            master_key_file,
            processes,
        };
        // With a bus of its own nothing is archived before the first one is ready: a start that fails decides nothing.
        // Another bus may have databases already.
        if self.nats_url.is_some() {
            let _url = self.home.settle_repository(Some(&state.repository_url))?;
        }
        self.start_services(&mut state, children).await?;
        let _url = self.home.settle_repository(Some(&state.repository_url))?;
        state
            .write(&self.home)
            .map_err(io("the state file cannot be written"))?;
        Ok(state)
    }

    fn master_key(&self) -> Result<PathBuf, SupervisorError> {
        let path = self
            .master_key_file
            .clone()
            .unwrap_or_else(|| self.home.master_key());
        if !path.exists() {
            let _key = MasterKey::generate_file(&path).map_err(SupervisorError::MasterKey)?;
            tracing::info!(path = %path.display(), "made a master key; keep a copy in a safe place");
        }
        let _key = MasterKey::load(&path).map_err(SupervisorError::MasterKey)?;
        Ok(path)
    }

    async fn start_nats(&self, children: &mut Children) -> Result<String, SupervisorError> {
        self.waiting_for("nats to be installed");
        let tools = self.tools.clone();
        let installed = tokio::task::spawn_blocking(move || {
            tools.install(Tool::NatsServer, &mut |line| tracing::info!("{line}"))
        });
        let found = installed
            .await
            .map_err(|error| io("nats cannot be installed")(std::io::Error::other(error)))?
            .map_err(SupervisorError::Nats)?;
        let program = found.program(Tool::NatsServer.program());
        let nats = Nats::prepare(&self.home, program).map_err(io("nats cannot be configured"))?;
        let running = nats.spec.start().map_err(io("nats cannot be started"))?;
        let kept = nats.spec.clone().keep(running, children.nats_end.clone());
        let _handle = children.nats.spawn(kept);
        self.waiting_for("nats");
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", nats.port)).await.is_err() {
            if Instant::now() > deadline {
                let reason = "it does not listen".to_owned();
                return Err(not_ready(&nats.spec, reason));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(nats.url)
    }

    /// Starts every service, then waits until all are ready.
    async fn start_services(
        &self,
        state: &mut StackState,
        children: &mut Children,
    ) -> Result<(), SupervisorError> {
        let mut names: Vec<(String, &str)> = vec![
            ("scheduler".to_owned(), "zektor-scheduler"),
            ("catalog".to_owned(), "zektor-catalog"),
            ("wal-archiver".to_owned(), "zektor-wal-archiver"),
            ("restorer".to_owned(), "zektor-restorer"),
        ];
        for number in 1..=self.backup_workers {
            names.push((format!("backup-worker-{number}"), "zektor-backup-worker"));
        }
        let mut specs = Vec::new();
        for (name, program) in names {
            let spec = ChildSpec {
                program: sibling(program).map_err(io(format!("{name} cannot be started")))?,
                arguments: Vec::new(),
                environment: self.environment(state, &name),
                home: self.home.clone(),
                grace: SERVICE_GRACE,
                deaths: Deaths::default(),
                name,
            };
            let running = spec
                .start()
                .map_err(io(format!("{} cannot be started", spec.name)))?;
            let records = matches!(program, "zektor-wal-archiver" | "zektor-catalog");
            let (group, end) = if records {
                (&mut children.records, &children.records_end)
            } else {
                (&mut children.services, &children.services_end)
            };
            let _handle = group.spawn(spec.clone().keep(running, end.clone()));
            state.processes.push(spec.name.clone());
            specs.push(spec);
        }
        let client = reqwest::Client::new();
        let deadline = Instant::now() + READY_WITHIN;
        for spec in &specs {
            self.waiting_for(&spec.name);
            wait_ready(spec, &specs, &client, deadline).await?;
        }
        Ok(())
    }

    fn environment(&self, state: &StackState, name: &str) -> Vec<(String, String)> {
        let path = |path: PathBuf| path.display().to_string();
        [
            ("ZEKTOR_SUPERVISED", "1".to_owned()),
            ("ZEKTOR_HOME", path(self.home.directory().to_owned())),
            ("ZEKTOR_NATS_URL", state.nats_url.clone()),
            ("ZEKTOR_REPOSITORY_URL", state.repository_url.clone()),
            ("ZEKTOR_CATALOG_URL", state.catalog_url.clone()),
            (
                "ZEKTOR_MASTER_KEY_FILE",
                path(state.master_key_file.clone()),
            ),
            // One address cannot be that of all of them.
            ("ZEKTOR_HTTP_LISTEN", "127.0.0.1:0".to_owned()),
            ("ZEKTOR_HTTP_PORT_FILE", path(self.home.http_port_of(name))),
            (
                "ZEKTOR_WORKER_NAME",
                format!("{name}@{}", std::process::id()),
            ),
            ("ZEKTOR_STOP_BRANCHES_ON_DRAIN", "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Says what the start is waiting for, to the `zektor up` that watches.
    fn waiting_for(&self, what: &str) {
        // Only for people to read while they wait.
        let _ = write_private(&self.home.waiting(), what.as_bytes());
    }
}

/// Waits until the service says in its port file where it listens, and there that it is ready. One of all that cannot use
/// its settings ends the wait.
async fn wait_ready(
    spec: &ChildSpec,
    all: &[ChildSpec],
    client: &reqwest::Client,
    deadline: Instant,
) -> Result<(), SupervisorError> {
    let mut reason = None;
    while Instant::now() < deadline {
        let misconfigured = |spec: &ChildSpec| Some((spec.name.clone(), spec.why_misconfigured()?));
        if let Some((name, reason)) = all.iter().find_map(misconfigured) {
            return Err(SupervisorError::Misconfigured { name, reason });
        }
        if let Ok(address) = std::fs::read_to_string(spec.port_file()) {
            match readiness(client, address.trim()).await {
                Ok(()) => return Ok(()),
                Err(why) => reason = Some(why),
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    // Why it dies again and again says more than that nobody answers.
    let reason = spec
        .why_dead()
        .or(reason)
        .or_else(|| last_line(&spec.log()));
    Err(not_ready(
        spec,
        reason.unwrap_or_else(|| "it said nothing".to_owned()),
    ))
}

fn not_ready(spec: &ChildSpec, reason: String) -> SupervisorError {
    SupervisorError::NotReady {
        name: spec.name.clone(),
        within: READY_WITHIN,
        reason,
        log: spec.log(),
    }
}

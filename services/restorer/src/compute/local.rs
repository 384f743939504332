//! Compute as processes and directories of this machine.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use events::{BranchName, DrillId, InstanceName};
use provision::Account;
use rand::Rng as _;
use repository::Owner;
use tokio::time::Instant;

use super::apart::{Network, apart};
use super::process::{Signal, has_ended, in_use, postmaster, send};
use super::{
    Address, Compute, ComputeError, LOOPBACK, Programs, ServerState, SiteLock, Stopping, holder,
    programs, server_log_end,
};
use crate::settings;
use crate::site::{DRILLS, Site};

/// Below what the kernel gives to outgoing connections, so that a stopped branch finds its port free again.
const FIRST_PORT: u16 = 30_000;
const LAST_PORT: u16 = 32_700;

/// A fast stop writes everything that is dirty.
const FAST_STOP: Duration = Duration::from_secs(60);
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);
/// From the start of the process to its lock on the data directory.
const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const LOCKS: &str = ".locks";

/// Branches on this machine.
#[derive(Clone, Debug)]
pub struct LocalCompute {
    directory: PathBuf,
    account: Option<Account>,
    bin_directories: Vec<PathBuf>,
    address: Address,
    drill_network: bool,
}

impl LocalCompute {
    /// Branches below `directory`, their servers run by `account` (`None`: by our own user), programs looked
    /// for in `bin_directories` first.
    #[must_use]
    pub fn new(
        directory: PathBuf,
        account: Option<Account>,
        bin_directories: Vec<PathBuf>,
    ) -> Self {
        LocalCompute {
            directory,
            account,
            bin_directories,
            address: Address::default(),
            drill_network: false,
        }
    }

    /// The same, found at another address than this machine's own.
    #[must_use]
    pub fn at(self, address: Address) -> Self {
        LocalCompute { address, ..self }
    }

    /// The same, with a network for the servers of drills or without one.
    #[must_use]
    pub fn with_drill_network(self, drill_network: bool) -> Self {
        LocalCompute {
            drill_network,
            ..self
        }
    }

    /// The directory of all branches.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A program with its first arguments.
    fn command_of(&self, words: &[PathBuf]) -> Command {
        let (program, arguments) = words.split_first().expect("there is a program");
        let mut command = self.command(program);
        let _ = command.args(arguments);
        command
    }

    /// Containers and hardened kernels often forbid it.
    fn may(&self, words: &[&str]) -> bool {
        let mut command = self.command(Path::new(words[0]));
        let _ = command
            .args(&words[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn lock_file(&self, site: &Site) -> PathBuf {
        self.directory.join(LOCKS).join(site.lock_name())
    }

    /// A program of the server's user, with nothing inherited that would change what it does.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let _ = command
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if let Some(account) = self.account {
            let _ = command.uid(account.uid).gid(account.gid);
        }
        command
    }

    fn own(&self, path: &Path) -> Result<(), ComputeError> {
        let Some(account) = self.account else {
            return Ok(());
        };
        chown(path, Some(account.uid), Some(account.gid))
            .map_err(ComputeError::file("change the owner of", path))
    }

    fn directory_for_server(&self, path: &Path) -> Result<(), ComputeError> {
        make_directory(path, 0o700)?;
        self.own(path)
    }

    fn create_blocking(&self, site: &Site) -> Result<(), ComputeError> {
        if !site.socket_fits() {
            return Err(ComputeError::SocketPath {
                path: site.run().to_owned(),
            });
        }
        // Only to be passed through: what is inside has its own modes.
        for directory in site
            .root()
            .ancestors()
            .take(3)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            make_directory(directory, 0o711)?;
        }
        if let Some(parent) = site.run().parent() {
            make_directory(parent, 0o711)?;
        }
        let spool = site.spool();
        let inside = ["want", "ready", "absent", "tmp"].map(|name| spool.join(name));
        let own = [
            site.tablespaces(),
            site.conf(),
            site.log(),
            site.run().to_owned(),
            spool,
        ];
        own.iter()
            .chain(&inside)
            .try_for_each(|directory| self.directory_for_server(directory))
    }

    fn write_blocking(&self, path: &Path, text: &[u8]) -> Result<(), ComputeError> {
        let temporary = path.with_extension("new");
        let failed = |source| ComputeError::file("write", path)(source);
        let mut options = fs::File::options();
        let _ = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&temporary).map_err(failed)?;
        file.write_all(text)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        self.own(&temporary)?;
        fs::rename(&temporary, path).map_err(failed)
    }

    /// On every address that branches listen on; where one is not this machine's, the server will say so.
    fn is_free(&self, port: u16) -> bool {
        let addresses = self.address.listen.split(',').map(str::trim);
        let mut addresses = addresses.map(|address| match address {
            "*" => "0.0.0.0",
            other => other,
        });
        let free = |address: &str| match TcpListener::bind((address, port)) {
            Err(error) => error.kind() != std::io::ErrorKind::AddrInUse,
            Ok(_) => true,
        };
        TcpListener::bind((LOOPBACK, port)).is_ok() && addresses.all(free)
    }

    fn spawn(&self, site: &Site, programs: &Programs, port: u16) -> Result<u32, ComputeError> {
        let log_file = site.log_file();
        let failed = |source| ComputeError::file("open", &site.log_file())(source);
        let mut options = fs::File::options();
        let _ = options.create(true).append(true).mode(0o600);
        let log = options.open(&log_file).map_err(failed)?;
        self.own(&log_file)?;
        let second = log.try_clone().map_err(failed)?;
        let program = programs.program("postgres");
        let mut command = if site.is_drill() {
            let network = Network::of(self.drill_network, |words| self.may(words));
            self.command_of(&apart(&program, network))
        } else {
            self.command(&program)
        };
        let _ = command
            .args(settings::command_line(site, port))
            .stdout(log)
            .stderr(second)
            // A Ctrl-C for the restorer is not one for the branch.
            .process_group(0);
        let child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|error| ComputeError::Program {
                program: program.display().to_string(),
                reason: error.to_string(),
            })?;
        // Dropping the handle neither kills the server nor leaves a zombie: the runtime collects it.
        Ok(child.id().unwrap_or_default())
    }
}

#[async_trait]
impl Compute for LocalCompute {
    fn site(&self, instance: &InstanceName, branch: &BranchName) -> Site {
        Site::new(&self.directory, instance, branch)
    }

    fn drill_site(&self, instance: &InstanceName, branch: &BranchName, id: DrillId) -> Site {
        Site::drill(&self.directory, instance, branch, id)
    }

    async fn drills(&self) -> Result<Vec<DrillId>, ComputeError> {
        let ids = names_in(&self.directory.join(DRILLS))?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    async fn sites(&self) -> Result<Vec<Site>, ComputeError> {
        let mut sites = Vec::new();
        for instance in names_in(&self.directory)? {
            let Ok(instance) = InstanceName::new(instance) else {
                continue;
            };
            for branch in names_in(&self.directory.join(instance.as_str()))? {
                let branch = BranchName::new(branch).ok();
                sites.extend(branch.map(|branch| self.site(&instance, &branch)));
            }
        }
        Ok(sites)
    }

    async fn lock(&self, site: &Site) -> Result<SiteLock, ComputeError> {
        make_directory(&self.directory.join(LOCKS), 0o700)?;
        SiteLock::acquire(&self.lock_file(site)).await
    }

    async fn unlock_for_good(&self, site: &Site, lock: SiteLock) -> Result<(), ComputeError> {
        lock.remove(&self.lock_file(site))
    }

    fn holder(&self) -> Result<String, ComputeError> {
        make_directory(&self.directory, 0o711)?;
        holder::name(&self.directory)
    }

    fn address(&self) -> &Address {
        &self.address
    }

    fn owner(&self) -> Option<Owner> {
        self.account.map(|account| Owner {
            uid: account.uid,
            gid: account.gid,
        })
    }

    async fn free_bytes(&self) -> Option<u64> {
        // The directory may not exist yet; whatever is above it is on the same file system then.
        let existing = self
            .directory
            .ancestors()
            .find(|directory| directory.is_dir())?;
        let found = rustix::fs::statvfs(existing).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    async fn programs(&self, major: u32) -> Result<Programs, ComputeError> {
        programs::find(self, major, &self.bin_directories).await
    }

    async fn create(&self, site: &Site) -> Result<(), ComputeError> {
        self.create_blocking(site)
    }

    async fn free_port(&self, taken: &BTreeSet<u16>) -> Result<u16, ComputeError> {
        let count = LAST_PORT - FIRST_PORT + 1;
        let begin = rand::rng().random_range(0..count);
        (0..count)
            .map(|step| FIRST_PORT + (begin + step) % count)
            .find(|port| !taken.contains(port) && self.is_free(*port))
            .ok_or(ComputeError::NoPort {
                first: FIRST_PORT,
                last: LAST_PORT,
            })
    }

    async fn write(&self, path: &Path, text: &[u8]) -> Result<(), ComputeError> {
        self.write_blocking(path, text)
    }

    async fn run(&self, program: &Path, arguments: &[&str]) -> Result<String, ComputeError> {
        let output = self.output(program, arguments).await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(ComputeError::Program {
                program: program.display().to_string(),
                reason: format!("{}: {}", output.status, said.trim()),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn output(
        &self,
        program: &Path,
        arguments: &[&str],
    ) -> Result<std::process::Output, ComputeError> {
        let mut command = self.command(program);
        let _ = command.args(arguments);
        let mut command = tokio::process::Command::from(command);
        let output = command.kill_on_drop(true).output().await;
        output.map_err(|error| ComputeError::Program {
            program: program.display().to_string(),
            reason: error.to_string(),
        })
    }

    async fn start(&self, site: &Site, programs: &Programs, port: u16) -> Result<(), ComputeError> {
        let data = site.data();
        if postmaster(&data).is_some() {
            return Ok(());
        }
        let deadline = Instant::now() + START;
        // After a crash the file names a process that is gone, or by now somebody else's, which would keep the
        // server from starting. Processes that a killed server left end by themselves; until then the file
        // protects them.
        let stale = data.join("postmaster.pid");
        while stale.exists() && Instant::now() < deadline {
            if !in_use(&data) {
                fs::remove_file(&stale).map_err(ComputeError::file("remove", &stale))?;
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let pid = self.spawn(site, programs, port)?;
        loop {
            if postmaster(&data).is_some() {
                return Ok(());
            }
            if has_ended(pid) {
                let log = server_log_end(site);
                return Err(ComputeError::ServerEnded {
                    during: "starting",
                    log,
                });
            }
            if Instant::now() >= deadline {
                let seconds = START.as_secs();
                return Err(ComputeError::Timeout {
                    what: "start",
                    seconds,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn state(&self, site: &Site) -> Result<ServerState, ComputeError> {
        let postmaster = postmaster(&site.data());
        Ok(postmaster.map_or(ServerState::Down, |postmaster| postmaster.state))
    }

    async fn stop(&self, site: &Site, how: Stopping) -> Result<(), ComputeError> {
        let steps: &[(Signal, Duration)] = match how {
            Stopping::Fast => &[
                (Signal::Fast, FAST_STOP),
                (Signal::Immediate, IMMEDIATE_STOP),
                (Signal::Kill, IMMEDIATE_STOP),
            ],
            Stopping::Immediate => &[
                (Signal::Immediate, IMMEDIATE_STOP),
                (Signal::Kill, IMMEDIATE_STOP),
            ],
        };
        let data = site.data();
        for (signal, patience) in steps {
            let Some(server) = postmaster(&data) else {
                return Ok(());
            };
            send(*signal, server.pid)?;
            let deadline = Instant::now() + *patience;
            while Instant::now() < deadline {
                if postmaster(&data).is_none_or(|now| now.pid != server.pid) {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Err(ComputeError::Timeout {
            what: "stop",
            seconds: FAST_STOP.as_secs(),
        })
    }

    async fn remove(&self, site: &Site) -> Result<(), ComputeError> {
        self.stop(site, Stopping::Immediate).await?;
        let directories = [site.run().to_owned(), site.root().to_owned()];
        let removed = tokio::task::spawn_blocking(move || {
            directories
                .iter()
                .try_for_each(|directory| remove_directory(directory))
        });
        removed.await.map_err(|error| ComputeError::Program {
            program: "remove".to_owned(),
            reason: error.to_string(),
        })??;
        // The instance's directory goes with its last branch; not empty is the usual answer. That of the drills stays,
        // or another drill might miss it.
        if let Some(parent) = site.root().parent().filter(|_| !site.is_drill()) {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// Server processes that are just ending may still write: a few tries.
fn remove_directory(directory: &Path) -> Result<(), ComputeError> {
    const TRIES: u32 = 20;
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !directory.exists() => {
                return Ok(());
            }
            Err(error) if tries >= TRIES => {
                return Err(ComputeError::file("remove", directory)(error));
            }
            Err(_) => {
                tries += 1;
                std::thread::sleep(POLL);
            }
        }
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), ComputeError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent, 0o711)?;
    }
    let made = DirBuilder::new().mode(mode).create(path);
    match made {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(ComputeError::file("set the mode of", path)),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(ComputeError::file("create", path)(error)),
    }
}

fn names_in(directory: &Path) -> Result<Vec<String>, ComputeError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ComputeError::file("read", directory)(error)),
    };
    let directories = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = directories
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

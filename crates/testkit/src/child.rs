//! A server process that cannot outlive its test.
//!
//! `Drop` kills it. For a test process that is itself killed there is a watchdog: a shell that reads from
//! a pipe only the test process holds, and kills the server's process group when that pipe closes. A server
//! that would leave something behind which its files do not hold is asked to go first: the interlock of a killed
//! PostgreSQL is a System V segment (`PGSharedMemoryCreate`), a machine has 4096 of them, and only a server
//! of the same data directory ever takes it away.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tools::tail;
use crate::wait_until;

/// Kills the group `$0` unless a line arrives first.
const WATCHDOG: &str = r#"read -r _ || kill -KILL "-$0""#;

/// The same for a server that is asked first, with the signal `$1`, and then has five seconds.
const PATIENT_WATCHDOG: &str = r#"read -r _ && exit; kill "$1" "$0"; tries=50
while [ $tries -gt 0 ] && kill -0 "$0"; do sleep 0.1; tries=$((tries - 1)); done
kill -KILL "-$0""#;

/// How long a server that is asked to go may take. PostgreSQL kills children that do not follow after 5 s
/// (`SIGKILL_CHILDREN_AFTER_SECS`).
const PARTING: Duration = Duration::from_secs(10);

/// The signals tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Continue,
    Interrupt,
    Kill,
    Quit,
    Stop,
    Terminate,
}

impl Signal {
    fn option(self) -> &'static str {
        match self {
            Self::Continue => "-CONT",
            Self::Interrupt => "-INT",
            Self::Kill => "-KILL",
            Self::Quit => "-QUIT",
            Self::Stop => "-STOP",
            Self::Terminate => "-TERM",
        }
    }
}

/// A running server process.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    watchdog: Child,
    log: PathBuf,
    parting: Option<Signal>,
}

impl Running {
    /// Starts `command` in a process group of its own, its output appended to `log`.
    pub(crate) fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        Self::start(name, command, log, None)
    }

    /// The same for a server that is asked with a signal to go before it is killed.
    pub(crate) fn spawn_with_parting(
        name: &str,
        command: &mut Command,
        log: &Path,
        parting: Signal,
    ) -> Result<Self> {
        Self::start(name, command, log, Some(parting))
    }

    fn start(
        name: &str,
        command: &mut Command,
        log: &Path,
        parting: Option<Signal>,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let script = parting.map_or(WATCHDOG, |_| PATIENT_WATCHDOG);
        let watchdog = Command::new("sh")
            .args(["-c", script, &child.id().to_string()])
            .args(parting.map(Signal::option))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the watchdog")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            watchdog,
            log: log.to_owned(),
            parting,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready`; a server that ends meanwhile is an error with the end of its log.
    pub(crate) async fn ready(
        &mut self,
        timeout: Duration,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let (name, log) = (self.name.clone(), self.log.clone());
        let mut ended = None;
        let waited = wait_until(&format!("{name} to be ready"), timeout, async || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some() || ready().await
        })
        .await;
        waited.with_context(|| tail(&log))?;
        match ended {
            Some(status) => bail!(
                "{name} ended ({status}) before it was ready\n{}",
                tail(&log)
            ),
            None => Ok(()),
        }
    }

    /// Sends a signal to the process itself, not to its group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        send(signal, &[self.id()])
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let mut status = None;
        let waited = wait_until(&what, timeout, async || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })
        .await;
        waited.with_context(|| tail(&self.log))?;
        status.context("no exit status")
    }

    /// Whether the process runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Each of these only fails when what it wants is already so.
        if let Some(parting) = self.parting.filter(|_| self.runs()) {
            let _ = self.signal(parting);
            let deadline = Instant::now() + PARTING;
            while self.runs() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if self.runs() {
            let _ = Command::new("sh")
                .args(["-c", r#"kill -KILL "-$0""#, &self.id().to_string()])
                .stderr(Stdio::null())
                .status();
            let _ = self.child.wait();
        }
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.watchdog.wait();
    }
}

/// Sends a signal to processes through the shell's own `kill`; no process may be missing.
pub(crate) fn send(signal: Signal, processes: &[u32]) -> Result<()> {
    let mut command = Command::new("sh");
    let _ = command.args(["-c", r#"kill "$@""#, "sh", signal.option()]);
    let output = command
        .args(processes.iter().map(u32::to_string))
        .output()?;
    if !output.status.success() {
        bail!(
            "cannot signal {processes:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{START_TIMEOUT, temporary_directory};

    fn gone(process: u32) -> bool {
        !Path::new(&format!("/proc/{process}")).exists()
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_shows_its_log() {
        let place = temporary_directory().unwrap();
        let mut command = Command::new("sh");
        let command = command.args(["-c", "echo no such setting; exit 3"]);
        let mut running = Running::spawn("x", command, &place.path().join("log")).unwrap();
        let error = running
            .ready(START_TIMEOUT, async || false)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no such setting") && error.contains('3'),
            "{error}"
        );
    }

    #[tokio::test]
    async fn dropping_it_kills_it_and_its_children() {
        let place = temporary_directory().unwrap();
        let log = place.path().join("log");
        let mut command = Command::new("sh");
        let command = command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let running = Running::spawn("x", command, &log).unwrap();
        let mut inner: Option<u32> = None;
        wait_until("the inner process", START_TIMEOUT, async || {
            inner = std::fs::read_to_string(&log).unwrap().trim().parse().ok();
            inner.is_some()
        })
        .await
        .unwrap();
        let (outer, inner) = (running.id(), inner.unwrap());
        drop(running);
        assert!(gone(outer));
        wait_until("the inner process to be gone", START_TIMEOUT, async || {
            std::fs::read_to_string(format!("/proc/{inner}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_asked_first_may_clear_up_behind_itself() {
        for dropped in [true, false] {
            let place = temporary_directory().unwrap();
            let log = place.path().join("log");
            let mut command = Command::new("sh");
            let command = command.args([
                "-c",
                "trap 'echo cleared; exit' QUIT; echo up; while :; do sleep 0.01; done",
            ]);
            let mut running =
                Running::spawn_with_parting("x", command, &log, Signal::Quit).unwrap();
            let said = async |word: &str| {
                let said = || std::fs::read_to_string(&log).unwrap().contains(word);
                wait_until(word, START_TIMEOUT, async || said())
                    .await
                    .unwrap();
            };
            said("up").await;
            if dropped {
                drop(running);
            } else {
                drop(running.watchdog.stdin.take());
            }
            said("cleared").await;
        }
    }

    #[tokio::test]
    async fn the_watchdog_kills_it_when_its_pipe_closes() {
        let place = temporary_directory().unwrap();
        let mut command = Command::new("sleep");
        let command = command.arg("1000");
        let mut running = Running::spawn("x", command, &place.path().join("log")).unwrap();
        drop(running.watchdog.stdin.take());
        let status = running.ended(START_TIMEOUT).await.unwrap();
        assert!(status.to_string().contains('9'), "{status}");
    }
}

//! A server process that cannot outlive its test.
//!
//! `Drop` kills it. For a test process that is itself killed there is a watchdog: a shell that reads from
//! a pipe only the test process holds, and kills the server's process group when that pipe closes.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::tools::tail;
use crate::wait_until;

/// Kills the group `$0` unless a line arrives first.
const WATCHDOG: &str = r#"read -r _ || kill -KILL "-$0""#;

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
}

impl Running {
    /// Starts `command` in a process group of its own, its output appended to `log`.
    pub(crate) fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, &child.id().to_string()])
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

//! One of our own programs as a process: started, watched, killed.
//!
//! The program is the one beside the test's own target directory, so it must have been built before:
//! `cargo xtask test` and `cargo build --workspace` do.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::child::{Running, Signal};
use crate::http;
use crate::tools::tail;
use crate::{START_TIMEOUT, temporary_directory};

/// How a service is to be started.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    health: Option<String>,
}

impl Builder {
    /// An argument of the command line.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// A variable of its environment. Of the test's own environment it gets only `PATH` and `HOME`.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Several variables.
    #[must_use]
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Where it will answer `GET /readyz` (`host:port`). Without one it counts as ready once it runs.
    #[must_use]
    pub fn health(mut self, address: impl Into<String>) -> Self {
        self.health = Some(address.into());
        self
    }

    /// Starts it and waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// When the program is not built, ends, or is not ready within a minute; the error has the end of
    /// its log.
    pub async fn start(self) -> Result<Service> {
        let place = temporary_directory()?;
        let path = program(&self.program)?;
        let mut service = Service {
            builder: self,
            path,
            place,
            running: None,
        };
        service.start_again().await?;
        Ok(service)
    }
}

/// A running service; killed when it is dropped. The end of its log is shown when the test has panicked.
#[derive(Debug)]
pub struct Service {
    builder: Builder,
    path: PathBuf,
    place: TempDir,
    running: Option<Running>,
}

impl Service {
    /// A service by the name of its program, such as `zektor-scheduler`.
    #[must_use]
    pub fn builder(program: &str) -> Builder {
        Builder {
            program: program.to_owned(),
            ..Builder::default()
        }
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// What it has logged so far, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// SIGTERM, and waits until it has drained and ended.
    ///
    /// # Errors
    /// When it does not run or does not end within a minute.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.end(Signal::Terminate).await
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> Result<ExitStatus> {
        self.end(Signal::Kill).await
    }

    /// Stops its process where it stands, as a machine that sleeps; see [`Self::thaw`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.running
            .as_ref()
            .context("it does not run")?
            .signal(Signal::Stop)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.running
            .as_ref()
            .context("it does not run")?
            .signal(Signal::Continue)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not run or does not end within a minute.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.running
            .take()
            .context("it does not run")?
            .ended(START_TIMEOUT)
            .await
    }

    /// Starts it with the same arguments and environment; nothing happens when it runs.
    ///
    /// # Errors
    /// See [`Builder::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        if self.running.as_mut().is_some_and(Running::runs) {
            return Ok(());
        }
        let mut command = Command::new(&self.path);
        let _ = command.current_dir(self.place.path()).env_clear();
        for name in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(name) {
                let _ = command.env(name, value);
            }
        }
        let _ = command
            .args(&self.builder.arguments)
            .envs(self.builder.environment.clone());
        let mut running = Running::spawn(&self.builder.program, &mut command, &self.log_file())?;
        if let Some(address) = &self.builder.health {
            running
                .ready(START_TIMEOUT, async || is_ready(address).await)
                .await?;
        }
        self.running = Some(running);
        Ok(())
    }

    async fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let Some(mut running) = self.running.take() else {
            bail!("{} does not run", self.builder.program);
        };
        running.signal(signal)?;
        running.ended(START_TIMEOUT).await
    }

    fn log_file(&self) -> PathBuf {
        self.place
            .path()
            .join(format!("{}.log", self.builder.program))
    }
}

impl Drop for Service {
    #[expect(
        clippy::print_stderr,
        reason = "shown by the test harness beside the panic"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", tail(&self.log_file()));
        }
    }
}

async fn is_ready(address: &str) -> bool {
    http::get(address, "/readyz")
        .await
        .is_ok_and(|answer| answer.status == 200)
}

/// One of our programs in the test's own target directory, `target/<profile>/<name>`.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    // Tests run as target/<profile>/deps/<test>.
    let test = std::env::current_exe().context("the test does not know its own program")?;
    let profile = test
        .parent()
        .and_then(Path::parent)
        .context("no target directory")?;
    let program = profile.join(name);
    if !program.is_file() {
        bail!(
            "{} is not built; run `cargo build --workspace`",
            program.display()
        );
    }
    Ok(program)
}

#[cfg(test)]
mod tests;

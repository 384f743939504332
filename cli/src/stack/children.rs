//! The supervisor's children: what each is started with, kept alive, and ended.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::home::Home;
use super::process::ProcessId;

/// A child that dies is started again after this, doubling up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that lived so long is started again after the first pause.
const LIVED_WELL: Duration = Duration::from_secs(60);
/// How much of the end of a log is read for its last line.
const LOG_END_BYTES: u64 = 4096;
/// By which a service says that its settings cannot be used (`service::run`): starting it again does not help.
const MISCONFIGURED: i32 = 2;

/// What a child is started with.
#[derive(Clone, Debug)]
pub(crate) struct ChildSpec {
    /// Its name: `scheduler`, `backup-worker-2`, `nats`.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) home: Home,
    /// How long it may take to end after SIGTERM.
    pub(crate) grace: Duration,
    pub(crate) deaths: Deaths,
}

/// How a child died last, while it was kept alive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deaths(Arc<Mutex<Option<ExitStatus>>>);

impl Deaths {
    fn note(&self, status: ExitStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    fn last(&self) -> Option<ExitStatus> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A started child. Its stdin is a pipe from the supervisor, so that it learns of the supervisor's death.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Held open here, because waiting for the child would close it: its end tells the child that we died.
    _lifeline: Option<ChildStdin>,
}

impl ChildSpec {
    pub(crate) fn log(&self) -> PathBuf {
        self.home.log_of(&self.name)
    }

    pub(crate) fn port_file(&self) -> PathBuf {
        self.home.http_port_of(&self.name)
    }

    /// Why it died, by the last line that it logged; `None` if it has not.
    pub(crate) fn why_dead(&self) -> Option<String> {
        let status = self.deaths.last()?;
        let line = last_line(&self.log());
        Some(line.map_or_else(
            || status.to_string(),
            |line| reason_in(&line, &self.program),
        ))
    }

    /// The same, if its settings are the reason.
    pub(crate) fn why_misconfigured(&self) -> Option<String> {
        let code = self.deaths.last()?.code();
        self.why_dead().filter(|_| code == Some(MISCONFIGURED))
    }

    /// Starts it, in a process group of its own: Ctrl-C is for the supervisor, which drains in order.
    pub(crate) fn start(&self) -> io::Result<Running> {
        // The address of the one before must not be taken for its own.
        let _ = std::fs::remove_file(self.port_file());
        let log = open_log(&self.log())?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(pid) = child.id() {
            std::fs::write(self.home.pid_of(&self.name), format!("{pid}\n"))?;
        }
        let lifeline = child.stdin.take();
        Ok(Running {
            child,
            _lifeline: lifeline,
        })
    }

    /// Asks it to end, waits, and ends it anyway.
    async fn end(&self, mut running: Running) {
        if let Some(pid) = running.child.id() {
            let _gone_already = ProcessId(pid).signal(Signal::TERM);
        }
        if tokio::time::timeout(self.grace, running.child.wait())
            .await
            .is_err()
        {
            tracing::warn!(child = self.name, "did not drain in time and is killed");
            let _ = running.child.kill().await;
        }
        let _ = std::fs::remove_file(self.home.pid_of(&self.name));
        let _ = std::fs::remove_file(self.port_file());
    }

    /// Keeps it alive until `end`, then ends it.
    pub(crate) async fn keep(self, first: Running, end: CancellationToken) {
        let mut running = first;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let status = tokio::select! {
                () = end.cancelled() => return self.end(running).await,
                status = running.child.wait() => status,
            };
            if let Ok(status) = &status {
                self.deaths.note(*status);
            }
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            if began.elapsed() > LIVED_WELL {
                pause = FIRST_PAUSE;
            }
            tracing::warn!(
                child = self.name,
                status,
                ?pause,
                "a child died and is started again"
            );
            running = loop {
                tokio::select! {
                    () = end.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                match self.start() {
                    Ok(running) => break running,
                    Err(error) => tracing::error!(child = self.name, %error, "cannot be started"),
                }
            };
        }
    }
}

/// A log that only its owner can read, to be appended to.
pub(crate) fn open_log(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// The last line of a log, if there is one.
pub(crate) fn last_line(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let _ = file
        .seek(SeekFrom::Start(length.saturating_sub(LOG_END_BYTES)))
        .ok()?;
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

/// What a line of a log is about: the error of one in JSON, and what a program said before it could log.
fn reason_in(line: &str, program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let plain = line.strip_prefix(&format!("{name}: ")).unwrap_or(line);
    let logged: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let field = |name| Some(logged.as_ref()?.get(name)?.as_str()?.to_owned());
    field("error")
        .or_else(|| field("message"))
        .unwrap_or_else(|| plain.to_owned())
}

/// One of our own programs, installed or built beside the running one.
pub(crate) fn sibling(program: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().unwrap_or(Path::new("/")).join(program);
    if path.is_file() {
        return Ok(path);
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "{} is missing; it belongs beside the zektor command",
            path.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::Signal;
    use tokio_util::sync::CancellationToken;

    use super::{ChildSpec, Deaths, last_line, reason_in};
    use crate::stack::{Home, ProcessId};

    /// Waits until the child that is kept has another process than `before`.
    async fn process_after(home: &Home, before: Option<ProcessId>) -> ProcessId {
        let path = home.pid_of("child");
        loop {
            match ProcessId::read(&path) {
                Some(process) if Some(process) != before => return process,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_until_it_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path().to_owned());
        home.create().unwrap();
        let script = "echo alive as $NAME; exec sleep 600";
        let spec = ChildSpec {
            name: "child".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("NAME".to_owned(), "one".to_owned())],
            home: home.clone(),
            grace: Duration::from_secs(10),
            deaths: Deaths::default(),
        };
        let end = CancellationToken::new();
        let running = spec.start().unwrap();
        let kept = tokio::spawn(spec.clone().keep(running, end.clone()));
        let first = process_after(&home, None).await;
        first.signal(Signal::KILL).unwrap();
        let second = process_after(&home, Some(first)).await;
        // The pid file is there before the child has said anything.
        while last_line(&spec.log()).as_deref() != Some("alive as one") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        end.cancel();
        kept.await.unwrap();
        assert!(second.command_line().is_empty(), "it still runs");
        assert!(!home.pid_of("child").exists());
    }

    #[tokio::test]
    async fn who_dies_of_its_settings_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path().to_owned());
        home.create().unwrap();
        for (script, dead, misconfigured) in [
            ("echo sh: no such zone >&2; exit 2", "no such zone", true),
            (
                r#"echo '{"message":"ended","error":"no disk"}'; exit 1"#,
                "no disk",
                false,
            ),
        ] {
            let spec = ChildSpec {
                name: "child".to_owned(),
                program: "/bin/sh".into(),
                arguments: vec!["-c".to_owned(), script.to_owned()],
                environment: Vec::new(),
                home: home.clone(),
                grace: Duration::from_secs(10),
                deaths: Deaths::default(),
            };
            assert_eq!(spec.why_dead(), None);
            let end = CancellationToken::new();
            let running = spec.start().unwrap();
            let kept = tokio::spawn(spec.clone().keep(running, end.clone()));
            while spec.why_dead().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(spec.why_dead().as_deref(), Some(dead));
            assert_eq!(spec.why_misconfigured().is_some(), misconfigured);
            end.cancel();
            kept.await.unwrap();
        }
        assert_eq!(
            reason_in("anything else", "/x/sh".as_ref()),
            "anything else"
        );
    }
}

//! Processes of this machine, as `/proc` shows them.
//!
//! A process id alone proves nothing, because ids are used again: before a process is believed in or ended, its
//! command line or environment must say that it is ours.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::home::Home;

/// How often a process is looked at while its end is awaited.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId(pub(crate) u32);

impl ProcessId {
    /// From a file with the number in its first line.
    pub(crate) fn read(path: &Path) -> Option<ProcessId> {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().next()?.trim().parse().ok().map(ProcessId)
    }

    /// The words of its command line; empty if there is no such process, or it is only waited for.
    pub(crate) fn command_line(self) -> Vec<String> {
        words(&std::fs::read(self.file("cmdline")).unwrap_or_default())
    }

    /// Its environment as it was started with; empty if we may not look.
    pub(crate) fn environment(self) -> Vec<String> {
        words(&std::fs::read(self.file("environ")).unwrap_or_default())
    }

    pub(crate) fn signal(self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until `is_it` no longer knows it; false if it is still there after `within`.
    pub(crate) async fn gone(self, within: Duration, is_it: impl Fn(Self) -> bool) -> bool {
        let deadline = Instant::now() + within;
        while is_it(self) {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        true
    }

    fn file(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }
}

/// Whether the process lives and is `zektor up --foreground`.
pub(crate) fn is_supervisor(process: ProcessId) -> bool {
    let words = process.command_line();
    words.iter().any(|word| word == "up") && words.iter().any(|word| word == "--foreground")
}

/// One of the stack's processes, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ProcessView {
    pub(crate) name: String,
    /// Absent while it is not running.
    pub(crate) pid: Option<u32>,
    pub(crate) ready: bool,
    /// Where its health pages are; NATS has none.
    pub(crate) address: Option<String>,
    /// Why it is not ready.
    pub(crate) reason: Option<String>,
}

/// Looks at a process: whether it runs, and what its `/readyz` says.
pub(crate) async fn look_at(home: &Home, client: &reqwest::Client, name: &str) -> ProcessView {
    let pid = ProcessId::read(&home.pid_of(name))
        .filter(|process| !process.command_line().is_empty())
        .map(|process| process.0);
    let address = std::fs::read_to_string(home.http_port_of(name)).ok();
    let address = address.map(|text| text.trim().to_owned());
    let readiness = match (&pid, &address) {
        (None, _) => Err("it is not running".to_owned()),
        (Some(_), None) if name == "nats" => Ok(()),
        (Some(_), None) => Err("it is starting".to_owned()),
        (Some(_), Some(address)) => readiness(client, address).await,
    };
    ProcessView {
        name: name.to_owned(),
        pid,
        ready: readiness.is_ok(),
        address,
        reason: readiness.err(),
    }
}

/// What `/readyz` says: nothing, or which checks fail and why.
pub(crate) async fn readiness(client: &reqwest::Client, address: &str) -> Result<(), String> {
    let url = format!("http://{address}/readyz");
    let answer = client
        .get(&url)
        .timeout(Duration::from_secs(2))
        .send()
        .await;
    let answer = answer.map_err(|_| format!("nothing answers on {address}"))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let body: serde_json::Value = answer.json().await.unwrap_or_default();
    if body["draining"] == true {
        return Err("it is draining".to_owned());
    }
    let failing: Vec<String> = body["checks"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, check)| Some(format!("{name}: {}", check["reason"].as_str()?)))
        .collect();
    Err(match failing.is_empty() {
        true => "it is not ready".to_owned(),
        false => failing.join("; "),
    })
}

fn words(bytes: &[u8]) -> Vec<String> {
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

//! What a killed supervisor left behind. Services notice its death by themselves; NATS does not.

use std::time::Duration;

use rustix::process::Signal;

use super::home::Home;
use super::process::ProcessId;

/// A service that lost its supervisor drains; longer than this it is not waited for.
const SERVICE_PATIENCE: Duration = Duration::from_secs(20);
const NATS_PATIENCE: Duration = Duration::from_secs(10);
/// SIGKILL is not refused; this only lets the system catch up.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Ends every process of this home that an earlier supervisor started: services first, while they can still
/// talk to NATS.
pub(crate) async fn end_orphans(home: &Home) {
    let mut orphans = orphans(home);
    orphans.sort_by_key(|(name, _)| name == "nats");
    for (name, process) in &orphans {
        if name != "nats" {
            let _gone_already = process.signal(Signal::TERM);
        }
    }
    for (name, process) in orphans {
        let patience = match name.as_str() {
            "nats" => NATS_PATIENCE,
            _ => SERVICE_PATIENCE,
        };
        tracing::info!(
            child = name,
            pid = process.0,
            "ending what an earlier supervisor left"
        );
        let _gone_already = process.signal(Signal::TERM);
        let is_it = |process| is_child(home, process);
        if !process.gone(patience, is_it).await {
            let _gone_already = process.signal(Signal::KILL);
            let _gone = process.gone(AFTER_KILL, is_it).await;
        }
        let _ = std::fs::remove_file(home.pid_of(&name));
    }
}

fn orphans(home: &Home) -> Vec<(String, ProcessId)> {
    let Ok(entries) = std::fs::read_dir(home.run()) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        Some(name.strip_suffix(".pid")?.to_owned())
    });
    names
        .filter_map(|name| {
            let process = ProcessId::read(&home.pid_of(&name))?;
            is_child(home, process).then_some((name, process))
        })
        .collect()
}

/// Whether the process lives and was started for this home: NATS with its configuration, a service with its
/// directory.
fn is_child(home: &Home, process: ProcessId) -> bool {
    let command_line = process.command_line();
    let config = home.nats_config().display().to_string();
    let directory = format!("ZEKTOR_HOME={}", home.directory().display());
    let supervised = || {
        let environment = process.environment();
        environment.contains(&directory) && environment.iter().any(|it| it == "ZEKTOR_SUPERVISED=1")
    };
    !command_line.is_empty() && (command_line.contains(&config) || supervised())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::end_orphans;
    use crate::stack::Home;

    /// `sleep` stands for a server: it does not watch its stdin, as NATS does not.
    fn start(home: &Home, name: &str, directory: &str) -> std::process::Child {
        let child = Command::new("sleep")
            .arg("600")
            .env("ZEKTOR_HOME", directory)
            .env("ZEKTOR_SUPERVISED", "1")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        std::fs::write(home.pid_of(name), child.id().to_string()).unwrap();
        child
    }

    #[tokio::test]
    async fn ends_what_is_ours_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path().to_owned());
        home.create().unwrap();
        let mut ours = start(&home, "nats", &directory.path().display().to_string());
        let mut other = start(&home, "scheduler", "/of/another/stack");
        std::fs::write(home.pid_of("catalog"), "not a number").unwrap();

        // A zombie has an empty command line, so an unreaped child counts as gone.
        end_orphans(&home).await;
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "it was ended");
        other.kill().unwrap();
        let _ = other.wait().unwrap();
        assert!(!home.pid_of("nats").exists());
    }
}

//! Which process is the server of a data directory, and signals to exactly that one.

use std::fs;
use std::path::Path;

use super::{ComputeError, ServerState};

/// The server that holds a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: u32,
    pub(super) state: ServerState,
}

/// The signals of PostgreSQL's shutdown modes ("Shutting Down the Server"), and the last resort.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Fast,
    Immediate,
    Kill,
}

/// The server of `data`, if one runs: named in `postmaster.pid`, and verified to work in that directory,
/// because a number in a file that was left behind may be another process's by now.
pub(super) fn postmaster(data: &Path) -> Option<Postmaster> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid: u32 = lines.next()?.trim().parse().ok()?;
    let state = match lines.nth(6).map(str::trim) {
        Some("ready") => ServerState::Ready,
        Some("standby") => ServerState::Standby,
        _ => ServerState::Busy,
    };
    works_in(pid, data).then_some(Postmaster { pid, state })
}

/// A postmaster works in its data directory (`ChangeToDataDir`).
fn works_in(pid: u32, data: &Path) -> bool {
    let (Ok(directory), Ok(data)) = (
        fs::read_link(format!("/proc/{pid}/cwd")),
        fs::canonicalize(data),
    ) else {
        return false;
    };
    directory == data
}

/// Whether any process works in `data`: a server, or what a killed server left behind.
pub(super) fn in_use(data: &Path) -> bool {
    let Ok(data) = fs::canonicalize(data) else {
        return false;
    };
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    processes
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
}

/// Sends a signal. A process that is gone already is no error.
pub(super) fn send(signal: Signal, pid: u32) -> Result<(), ComputeError> {
    let name = match signal {
        Signal::Fast => "INT",
        Signal::Immediate => "QUIT",
        Signal::Kill => "KILL",
    };
    let sent = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            r#"kill -s "$0" "$1" 2>/dev/null"#,
            name,
            &pid.to_string(),
        ])
        .status();
    match sent {
        Ok(_) => Ok(()),
        Err(error) => Err(ComputeError::Program {
            program: "kill".to_owned(),
            reason: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::postmaster;

    #[test]
    fn a_number_that_is_another_process_now_is_not_the_server() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(postmaster(data.path()), None);
        // This process runs, but elsewhere.
        let text = format!(
            "{}\n{}\n1\n2\n3\n4\n5\nready\n",
            std::process::id(),
            "/elsewhere"
        );
        fs::write(data.path().join("postmaster.pid"), text).unwrap();
        assert_eq!(postmaster(data.path()), None);
    }
}

//! Which process is the server of a data directory, and signals to exactly that one.

use std::fs;
use std::io;
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

/// What is known of where a process works.
enum Works {
    There,
    Elsewhere,
    /// It is another user's, and we are a root that may not look (a container without `SYS_PTRACE`).
    Unknown,
}

fn works(pid: &str, data: &Path) -> Works {
    let Ok(real) = fs::canonicalize(data) else {
        return Works::Elsewhere;
    };
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(directory) if directory == real => Works::There,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Works::Unknown,
        _ => Works::Elsewhere,
    }
}

/// A postmaster works in its data directory (`ChangeToDataDir`); where that cannot be seen, its command line
/// names it, which anyone may read.
fn works_in(pid: u32, data: &Path) -> bool {
    match works(&pid.to_string(), data) {
        Works::There => true,
        Works::Elsewhere => false,
        Works::Unknown => {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let data = data.as_os_str().as_encoded_bytes();
            words.split(|byte| *byte == 0).any(|word| word == data)
        }
    }
}

/// Whether any process works in `data`: a server, or what a killed server left behind. A `postgres` that
/// cannot be looked at counts: "could not ask" is not "nobody".
pub(super) fn in_use(data: &Path) -> bool {
    let entries = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .any(|pid| match works(&pid, data) {
            Works::There => true,
            Works::Elsewhere => false,
            Works::Unknown => {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim() == "postgres")
            }
        })
}

/// Whether a child of ours has ended: it is gone, or waits to be collected (state Z, `proc_pid_stat(5)`).
pub(super) fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_none_or(|state| state.starts_with('Z'))
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

    use super::{has_ended, in_use, postmaster};

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
        assert!(!in_use(data.path()));
    }

    #[test]
    fn a_child_that_nobody_collected_has_ended() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(!has_ended(child.id()));
        child.kill().unwrap();
        while !has_ended(child.id()) {
            std::thread::yield_now();
        }
        let _status = child.wait().unwrap();
        assert!(has_ended(child.id()));
    }
}

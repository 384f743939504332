//! The state file: where the running stack is, for every other `zektor` command.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::home::{Home, write_private};
use super::process::{ProcessId, is_supervisor};

/// A running stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StackState {
    /// The supervisor's process.
    pub(crate) supervisor_pid: u32,
    /// With credentials.
    pub(crate) nats_url: String,
    pub(crate) repository_url: String,
    pub(crate) catalog_url: String,
    pub(crate) master_key_file: PathBuf,
    /// The supervisor's children, in the order in which they were started.
    pub(crate) processes: Vec<String>,
}

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{path} cannot be read; it belongs to the user who ran `zektor up`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a state file of zektor; remove it and run `zektor up` again")]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl StackState {
    /// The state of the stack in `home`; `None` if none is running there.
    pub(crate) fn read(home: &Home) -> Result<Option<StackState>, StateError> {
        let path = home.state();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        let state: StackState =
            serde_json::from_slice(&text).map_err(|source| StateError::Damaged { path, source })?;
        Ok(is_supervisor(ProcessId(state.supervisor_pid)).then_some(state))
    }

    pub(crate) fn write(&self, home: &Home) -> std::io::Result<()> {
        write_private(&home.state(), &serde_json::to_vec_pretty(self)?)
    }

    pub(crate) fn remove(home: &Home) {
        // A state file that stays names a dead supervisor, and is ignored for that.
        let _ = std::fs::remove_file(home.state());
    }
}

#[cfg(test)]
mod tests {
    use super::StackState;
    use crate::stack::Home;

    #[test]
    fn a_state_file_of_a_dead_supervisor_is_no_stack() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path().to_owned());
        home.create().unwrap();
        assert_eq!(StackState::read(&home).unwrap(), None);
        let state = StackState {
            // This process lives, and is not `zektor up --foreground`.
            supervisor_pid: std::process::id(),
            nats_url: "nats://zektor:secret@127.0.0.1:4222".to_owned(),
            repository_url: "file:///r".to_owned(),
            catalog_url: "sqlite:///c".to_owned(),
            master_key_file: home.master_key(),
            processes: vec!["nats".to_owned()],
        };
        state.write(&home).unwrap();
        assert_eq!(StackState::read(&home).unwrap(), None);
        std::fs::write(home.state(), "{").unwrap();
        let error = StackState::read(&home).unwrap_err().to_string();
        assert!(error.contains("zektor up"), "{error}");
    }
}

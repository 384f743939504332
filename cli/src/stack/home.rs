//! The home directory of an embedded stack, and what is where in it.

use std::io;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `ZEKTOR_HOME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// `directory` is absolute.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Home(directory)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    pub(crate) fn master_key(&self) -> PathBuf {
        self.0.join("master.key")
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.0.join("repository")
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.0.join("catalog.sqlite")
    }

    pub(crate) fn nats_store(&self) -> PathBuf {
        self.0.join("nats")
    }

    pub(crate) fn nats_config(&self) -> PathBuf {
        self.run().join("nats.conf")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.run().join("stack.json")
    }

    /// Held locked by the supervisor, with its process id in it.
    pub(crate) fn lock(&self) -> PathBuf {
        self.run().join("lock")
    }

    /// What the supervisor is waiting for while it starts, one line.
    pub(crate) fn waiting(&self) -> PathBuf {
        self.run().join("waiting")
    }

    pub(crate) fn http_port_of(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.http"))
    }

    pub(crate) fn pid_of(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.pid"))
    }

    /// Makes the directories. The home itself may be entered by others, because branches run as another user
    /// when zektor runs as root; what is secret is in files and directories of its own.
    pub(crate) fn create(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        // The archiver makes its spool itself, for anybody to read; WAL is not for anybody.
        let spool = self.0.join("spool");
        for private in [self.run(), self.logs(), self.nats_store(), spool] {
            match std::fs::DirBuilder::new().mode(0o700).create(private) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

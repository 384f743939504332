//! Why an installation failed, with what to do where a person can do something.

use std::io;
use std::path::PathBuf;

use crate::Missing;

/// An installation failed; nothing was left in the tool's place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A program could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The last lines it printed.
        output: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, such as `create`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was downloaded is not what was pinned.
    #[error(
        "{file} has the SHA-256 {found} but {expected} is pinned; it was not unpacked: \
         check where the package index of this machine gets its files"
    )]
    Digest {
        /// The file's name.
        file: String,
        /// From `pins.json`.
        expected: String,
        /// What was downloaded.
        found: String,
    },
    /// This machine has no way to install the tool.
    #[error("{0}")]
    Unavailable(String),
    /// It was installed and still cannot be used.
    #[error("installed, but not usable")]
    Unusable(#[from] Missing),
}

impl InstallError {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

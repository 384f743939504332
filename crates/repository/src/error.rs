//! What can go wrong with the repository, and which kind of wrong it is.

use std::path::PathBuf;

use crate::BranchRecord;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What the caller may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The store answered that there is no such object.
    Absent,
    /// The store could not be asked, or did not answer in time. The same call may succeed later.
    Transient,
    /// Something else is there already, and it is not ours to replace.
    Conflict,
    /// Bytes came back that are not those that were stored.
    Corrupt,
    /// The store refused our credentials.
    Denied,
    /// Trying again cannot help.
    Permanent,
}

/// A repository operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The store answered that the object does not exist.
    #[error("{key} is not in the repository")]
    Absent {
        /// The object.
        key: String,
    },
    /// The store failed, and may work again later.
    #[error("cannot {operation} {key} in the repository at the moment; it will be tried again")]
    Transient {
        /// What was attempted: `read`, `write`, `create`, `list`, `delete`.
        operation: &'static str,
        /// The object or prefix.
        key: String,
        /// The store's error.
        #[source]
        source: Source,
    },
    /// The object exists with other content.
    #[error("{key} is already in the repository with different content: {reason}")]
    Conflict {
        /// The object.
        key: String,
        /// What differs.
        reason: String,
    },
    /// The branch's place in the repository belongs to another cluster.
    #[error(
        "branch {} of instance {} in this repository belongs to the cluster with system identifier \
         {}; choose another name or another repository",
        existing.branch, existing.instance, existing.system_identifier
    )]
    BranchTaken {
        /// What is recorded there.
        existing: Box<BranchRecord>,
    },
    /// The object's content is damaged.
    #[error("{key} is damaged in the repository: {reason}")]
    Corrupt {
        /// The object.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// The store refused access.
    #[error(
        "the object store refused to {operation} {key}; check the credentials and their rights"
    )]
    Denied {
        /// What was attempted.
        operation: &'static str,
        /// The object or prefix.
        key: String,
        /// The store's error.
        #[source]
        source: Source,
    },
    /// The store can never do this.
    #[error("cannot {operation} {key} in the repository")]
    Permanent {
        /// What was attempted.
        operation: &'static str,
        /// The object or prefix.
        key: String,
        /// The store's error.
        #[source]
        source: Source,
    },
    /// What an attempt at a backup had stored is gone before its manifest was written.
    #[error(
        "{key}, which the backup had stored, is not in the repository any more; look for a lifecycle rule of the \
         bucket, or for somebody else who deletes there, and back up again"
    )]
    Vanished {
        /// The first object that is missing.
        key: String,
    },
    /// The object's version is not known to this build.
    #[error("{key} was made by a newer Zektor ({format} version {version}); upgrade this one")]
    Newer {
        /// The object.
        key: String,
        /// Its format.
        format: String,
        /// Its version.
        version: u64,
    },
    /// The repository's URL cannot be used.
    #[error(
        "{url:?} is not a repository URL: {reason}; use file:///dir, s3://bucket/prefix, gs:// or az://"
    )]
    Url {
        /// As given, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller asked for something that this format cannot hold.
    #[error("{what}")]
    Refused {
        /// One sentence.
        what: String,
    },
    /// The directory that is restored into failed.
    #[error("cannot {operation} {} while restoring", path.display())]
    Target {
        /// What was attempted.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl RepositoryError {
    /// What the caller may do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Absent { .. } => ErrorClass::Absent,
            Self::Transient { .. } => ErrorClass::Transient,
            Self::Conflict { .. } | Self::BranchTaken { .. } => ErrorClass::Conflict,
            Self::Corrupt { .. } => ErrorClass::Corrupt,
            Self::Denied { .. } => ErrorClass::Denied,
            Self::Permanent { .. }
            | Self::Vanished { .. }
            | Self::Newer { .. }
            | Self::Url { .. }
            | Self::Refused { .. }
            | Self::Target { .. } => ErrorClass::Permanent,
        }
    }

    /// True when the store itself said that the object does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.class() == ErrorClass::Absent
    }

    /// Turns the store's "absent" into `None` and leaves every other failure an error.
    pub fn absent_as_none<T>(result: Result<T, Self>) -> Result<Option<T>, Self> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn corrupt(key: impl ToString, reason: impl ToString) -> Self {
        Self::Corrupt {
            key: key.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn refused(what: impl ToString) -> Self {
        Self::Refused {
            what: what.to_string(),
        }
    }

    /// A task of ours was cancelled or panicked.
    pub(crate) fn task(
        operation: &'static str,
        key: impl ToString,
        source: tokio::task::JoinError,
    ) -> Self {
        Self::Transient {
            operation,
            key: key.to_string(),
            source: source.into(),
        }
    }
}

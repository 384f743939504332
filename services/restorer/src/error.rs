//! What can go wrong with a restore, and the one table from error to what is done about it.

use std::borrow::Cow;
use std::time::Duration;

use bus::{BusError, FenceError};
use events::BackupId;
use events::event::FailureCause;
use pg_replication::{DsnError, PgError};
use repository::{ErrorClass, RepositoryError};
use service::seal::SealError;

use crate::compute::ComputeError;
use crate::fetch::FetchError;
use crate::plan::Refusal;

/// A restore did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A rule forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another attempt has the fence, or the bus failed under it.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Something of the base backup is missing or not what was stored, at a second look too.
    #[error("backup {backup_id} is damaged")]
    Damaged {
        /// The backup.
        backup_id: BackupId,
        /// Whether that is known from now on, as a half-sentence.
        told: &'static str,
        /// What can be done.
        advice: &'static str,
        /// What was found.
        #[source]
        source: RepositoryError,
    },
    /// Compute failed.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// Recovery could not be given its WAL.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The branch's server failed.
    #[error("the branch's server cannot be asked")]
    Server(#[from] PgError),
    /// Recovery ended other than planned.
    #[error("{0}")]
    Recovery(String),
    /// Credentials could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The source's connection URI makes no sense.
    #[error("the connection uri of the source branch cannot be used")]
    Dsn(#[from] DsnError),
    /// A file of the restore itself is damaged.
    #[error("{what} cannot be read")]
    Stored {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The branch was built, but is no longer wanted by its instance; it was removed again.
    #[error("{reason}")]
    ClaimLost {
        /// What became of the claim.
        reason: String,
        /// What can be done.
        hint: String,
    },
    /// Another compute directory has the branch.
    #[error("the branch is held by {holder}, whose restorer has to do it")]
    Elsewhere {
        /// Its name.
        holder: String,
    },
    /// The commit-time index is not that of the WAL.
    #[error("the target cannot be found in the archived wal")]
    Index(#[source] wal_index::ResolveError),
    /// The planner asked for the same thing twice.
    #[error("the target cannot be found in the archived wal: it does not answer what it is asked")]
    Undecided,
    /// The restorer drains.
    #[error("the restorer is shutting down")]
    Draining,
}

/// What is done about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Say so with `restore.refused`.
    Refuse(Refusal),
    /// Another attempt goes on; be silent.
    Yield,
    /// Try again.
    Retry(Duration),
    /// Say so with `restore.failed`.
    Fail {
        /// The likely cause.
        cause: FailureCause,
        /// What can be done.
        hint: Cow<'static, str>,
    },
}

const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(10);

impl RestoreError {
    /// The reaction, when there are deliveries left.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        match self {
            RestoreError::Refused(refusal) => Reaction::Refuse(refusal.clone()),
            RestoreError::Fence(FenceError::Lost { .. }) => Reaction::Yield,
            RestoreError::Fence(FenceError::Bus(error)) | RestoreError::Bus(error)
                if error.is_transient() =>
            {
                Reaction::Retry(LATER)
            }
            RestoreError::Draining | RestoreError::Elsewhere { .. } => Reaction::Retry(SOON),
            RestoreError::Repository(error)
            | RestoreError::Fetch(FetchError::Archive { source: error, .. })
                if error.class() == ErrorClass::Transient =>
            {
                Reaction::Retry(LATER)
            }
            other => other.failure(),
        }
    }

    /// Whether something that was stored is missing or not what was stored: whoever restores is in doubt about the data,
    /// and no machine or network is to blame.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let lost = |error: &RepositoryError| {
            matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Absent)
        };
        match self {
            RestoreError::Damaged { .. } => true,
            RestoreError::Fetch(FetchError::Archive { source, .. }) => lost(source),
            RestoreError::Fetch(FetchError::Short { .. } | FetchError::Invalid { .. }) => true,
            _ => false,
        }
    }

    /// What is said when it is given up.
    #[must_use]
    pub fn failure(&self) -> Reaction {
        let (cause, hint) = match self {
            RestoreError::Damaged { told, advice, .. } => {
                let (cause, hint) = (FailureCause::Storage, format!("{told}; {advice}").into());
                return Reaction::Fail { cause, hint };
            }
            RestoreError::ClaimLost { hint, .. } => {
                let (cause, hint) = (FailureCause::Compute, hint.clone().into());
                return Reaction::Fail { cause, hint };
            }
            RestoreError::Repository(RepositoryError::BranchTaken { .. }) => (
                FailureCause::Storage,
                "the name was used before; choose another name for the branch",
            ),
            RestoreError::Repository(RepositoryError::Target { .. }) => (
                FailureCause::Compute,
                "check space and rights of the restorer's compute directory",
            ),
            RestoreError::Repository(RepositoryError::Corrupt { .. }) => (
                FailureCause::Storage,
                "run `zektor backup verify` on the backup that the message names, then restore again: what is known to be \
                 damaged is passed over where a sound backup leads to the target",
            ),
            RestoreError::Repository(_) => (
                FailureCause::Storage,
                "check the object store; the message names the object",
            ),
            RestoreError::Fetch(FetchError::Spool { .. }) => (
                FailureCause::Compute,
                "check space and rights of the restorer's compute directory",
            ),
            RestoreError::Fetch(FetchError::Archive { source, .. })
                if matches!(source.class(), ErrorClass::Transient | ErrorClass::Denied) =>
            {
                (
                    FailureCause::Storage,
                    "check the object store and the credentials for it, and restore again",
                )
            }
            RestoreError::Fetch(_) => (
                FailureCause::Wal,
                "see `zektor window` for what can be restored",
            ),
            RestoreError::Index(_) | RestoreError::Undecided => (
                FailureCause::Wal,
                "remove the objects below wal-index/ of the branch, they are built again, and restore again",
            ),
            RestoreError::Recovery(_) => (
                FailureCause::Wal,
                "see `zektor window`, and choose another target",
            ),
            RestoreError::Compute(_) => (
                FailureCause::Compute,
                "see the restorer's log; mend the machine and restore again",
            ),
            RestoreError::Server(_) => (
                FailureCause::Compute,
                "see the restorer's log, and restore again",
            ),
            RestoreError::Elsewhere { .. } => (
                FailureCause::Compute,
                "start the restorer on the machine that holds the branch",
            ),
            RestoreError::Seal(_) => (
                FailureCause::Compute,
                "give the restorer the same master key file as the other services",
            ),
            _ => (
                FailureCause::Internal,
                "see the restorer's log; this is a defect of zektor",
            ),
        };
        let hint = hint.into();
        Reaction::Fail { cause, hint }
    }
}

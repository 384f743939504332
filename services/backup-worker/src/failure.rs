//! What can go wrong in an attempt, and what follows: the one table from error to action.

use std::time::Duration;

use bus::{BusError, FenceError};
use events::event::FailureCause;
use events::{BranchName, SweepId};
use pg_format::{Lsn, SegmentName, TimelineId};
use pg_replication::{DsnError, PgError};
use repository::{ErrorClass, RepositoryError};
use service::seal::SealError;

use crate::tar_entries::TarError;

/// An attempt that did not become a backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttemptError {
    #[error(transparent)]
    Source(#[from] PgError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Fence(#[from] FenceError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("the stored credentials cannot be opened")]
    Credentials(#[from] SealError),
    #[error("the stored connection uri cannot be used")]
    Dsn(#[from] DsnError),
    #[error("the instance is no longer registered")]
    NotRegistered,
    #[error("branch {0} is deleted, or being removed")]
    BranchGone(BranchName),
    #[error(
        "the server is another cluster than the one registered: system identifier {found}, not {expected}"
    )]
    ForeignCluster { found: u64, expected: u64 },
    #[error("the server sent nothing for {after:?} during the base backup")]
    Stalled { after: Duration },
    #[error("the object store did not take the end of the backup within {after:?}")]
    StoreStalled { after: Duration },
    #[error("the server sent an archive that zektor does not know: {0}")]
    UnknownArchive(String),
    #[error("the server's backup manifest is larger than {limit} bytes")]
    ManifestTooLarge { limit: usize },
    #[error(
        "the server was promoted during the base backup, from timeline {before} to {after}; what was copied is no backup"
    )]
    Promoted {
        before: TimelineId,
        after: TimelineId,
        /// What the server said of it, if it did.
        #[source]
        said: Option<PgError>,
    },
    #[error("the backup begins at {lsn}, in wal that sweep {sweep} is deleting")]
    Swept { lsn: Lsn, sweep: SweepId },
    #[error("the server's clock could not be read")]
    ServerClock,
    #[error("the archive did not reach {stop} within {after:?}; it is at {reached}")]
    WalNotArchived {
        stop: Lsn,
        reached: Lsn,
        after: Duration,
    },
    #[error(
        "segment {segment}, which the backup needs, did not come to the archive within {after:?}"
    )]
    WalMissing {
        segment: SegmentName,
        after: Duration,
    },
    #[error("segment {segment}, which the backup needs, was in the archive and is gone")]
    WalGone { segment: SegmentName },
}

/// What follows from a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another worker has the backup now; this one says nothing more.
    Superseded,
    /// The same may succeed in a moment.
    TryAgain,
    /// It will not succeed until somebody changes something.
    GiveUp,
}

impl AttemptError {
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            AttemptError::Fence(FenceError::Lost { .. }) => Verdict::Superseded,
            AttemptError::Fence(FenceError::Bus(_)) | AttemptError::Bus(_) => Verdict::TryAgain,
            AttemptError::Source(error) if error.is_transient() => Verdict::TryAgain,
            // Copied again, it is there again.
            AttemptError::Repository(RepositoryError::Vanished { .. }) => Verdict::TryAgain,
            AttemptError::Repository(error) => match error.class() {
                ErrorClass::Transient => Verdict::TryAgain,
                _ => Verdict::GiveUp,
            },
            AttemptError::Stalled { .. }
            | AttemptError::StoreStalled { .. }
            | AttemptError::Promoted { .. }
            | AttemptError::Swept { .. }
            | AttemptError::WalGone { .. }
            | AttemptError::ServerClock => Verdict::TryAgain,
            AttemptError::Source(_)
            | AttemptError::Tar(_)
            | AttemptError::Credentials(_)
            | AttemptError::Dsn(_)
            | AttemptError::NotRegistered
            | AttemptError::BranchGone(_)
            | AttemptError::ForeignCluster { .. }
            | AttemptError::UnknownArchive(_)
            | AttemptError::ManifestTooLarge { .. }
            // Waited for already; another copy would wait for the same.
            | AttemptError::WalNotArchived { .. }
            | AttemptError::WalMissing { .. } => Verdict::GiveUp,
        }
    }

    /// Whether another backup, taken later, may succeed without anybody changing anything.
    pub(crate) fn may_pass(&self) -> bool {
        match self.verdict() {
            Verdict::TryAgain | Verdict::Superseded => true,
            // An archiver, or its way to the store, that is away for longer than is waited for comes back.
            Verdict::GiveUp => matches!(
                self,
                AttemptError::WalNotArchived { .. } | AttemptError::WalMissing { .. }
            ),
        }
    }

    /// The likely cause, and what can be done about it.
    pub(crate) fn explain(&self) -> (FailureCause, &'static str) {
        match self {
            AttemptError::Source(error) if error.is_transient() => (
                FailureCause::Connection,
                "Check that the server runs and can be reached.",
            ),
            AttemptError::Source(error)
                if matches!(error.sqlstate(), Some("3D000" | "28P01" | "28000")) =>
            {
                (
                    FailureCause::Source,
                    "The server refuses what the connection URI of the instance says: its database, user or password. Mend \
                 that there, or give the right URI with `zektor instance update --dsn`.",
                )
            }
            AttemptError::Source(_) | AttemptError::ForeignCluster { .. } => (
                FailureCause::Source,
                "The server refuses the base backup; do what its message says.",
            ),
            AttemptError::Stalled { .. } => (
                FailureCause::Connection,
                "Check the network between the worker and the server.",
            ),
            AttemptError::Repository(RepositoryError::Vanished { .. }) => (
                FailureCause::Storage,
                "Look for a lifecycle rule of the bucket, or for somebody else who deletes there; then run the backup \
                 again.",
            ),
            AttemptError::Repository(_) | AttemptError::StoreStalled { .. } => (
                FailureCause::Storage,
                "Check the object store: credentials, free space, and that it can be reached.",
            ),
            AttemptError::WalNotArchived { .. } | AttemptError::WalMissing { .. } => (
                FailureCause::Wal,
                "See `zektor wal status`: the wal-archiver must be running and able to reach the server.",
            ),
            AttemptError::Credentials(_) | AttemptError::Dsn(_) => (
                FailureCause::Connection,
                "The worker needs the master key that the instance was registered with.",
            ),
            AttemptError::NotRegistered => (
                FailureCause::Source,
                "Register the instance again to back it up.",
            ),
            AttemptError::BranchGone(_) => (
                FailureCause::Source,
                "There is nothing left to back up; what the backup has stored goes by itself.",
            ),
            AttemptError::WalGone { .. } | AttemptError::Swept { .. } => (
                FailureCause::Wal,
                "The server is a standby that lags behind all other backups; run the backup again when it has caught \
                 up.",
            ),
            AttemptError::Promoted { .. } | AttemptError::ServerClock => {
                (FailureCause::Source, "Run the backup again.")
            }
            AttemptError::Fence(_)
            | AttemptError::Bus(_)
            | AttemptError::Tar(_)
            | AttemptError::UnknownArchive(_)
            | AttemptError::ManifestTooLarge { .. } => (
                FailureCause::Internal,
                "Run the backup again; report this if it stays.",
            ),
        }
    }

    /// The error with its causes, for people.
    pub(crate) fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pg_format::Lsn;
    use pg_replication::{PgError, ServerMessage};

    use super::{AttemptError, Verdict};

    #[test]
    fn a_database_or_password_that_is_refused_leads_to_the_connection_uri() {
        let hint = |sqlstate: &str| {
            let said = ServerMessage {
                severity: "FATAL".to_owned(),
                sqlstate: sqlstate.to_owned(),
                ..ServerMessage::default()
            };
            AttemptError::Source(PgError::Server(Box::new(said)))
                .explain()
                .1
        };
        for sqlstate in ["3D000", "28P01", "28000"] {
            let hint = hint(sqlstate);
            assert!(hint.contains("`zektor instance update --dsn`"), "{hint}");
        }
        assert!(!hint("42501").contains("--dsn"));
    }

    #[test]
    fn wal_that_came_too_late_may_come_next_time_though_this_backup_is_given_up() {
        let late = AttemptError::WalNotArchived {
            stop: Lsn(2),
            reached: Lsn(1),
            after: Duration::from_secs(600),
        };
        assert_eq!((late.verdict(), late.may_pass()), (Verdict::GiveUp, true));
        assert!(AttemptError::ServerClock.may_pass());
        let (expected, found) = (1, 2);
        assert!(!AttemptError::ForeignCluster { found, expected }.may_pass());
    }
}

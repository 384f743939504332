//! Why the archiving of a branch stopped for the moment.

use std::path::PathBuf;

use pg_format::wal::{WalError, WalReaderConfigError};
use pg_format::{HistoryError, Lsn, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize};
use pg_replication::{DsnError, PgError};
use repository::RepositoryError;
use service::seal::SealError;

/// Archiving of one branch was interrupted. It is tried again for ever; what a person must do stands
/// in the text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// PostgreSQL, or the way to it.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The sealed connection URI does not open.
    #[error("the connection uri of the branch cannot be opened")]
    Seal(#[from] SealError),
    /// The opened connection URI cannot be used.
    #[error("the connection uri of the branch cannot be used")]
    Dsn(#[from] DsnError),
    /// The server is another cluster.
    #[error(
        "the server is the cluster {found}, but the branch is {expected}; nothing of it is archived \
         until the connection uri leads to the right server"
    )]
    ForeignSystem {
        /// What the server says.
        found: SystemIdentifier,
        /// What was registered.
        expected: SystemIdentifier,
    },
    /// The server's segments are of another size.
    #[error("the server's wal_segment_size is {found}, but the branch was registered with {} bytes", expected.bytes())]
    SegmentSize {
        /// As `SHOW wal_segment_size` prints it.
        found: String,
        /// What was registered.
        expected: WalSegmentSize,
    },
    /// The server lost WAL that is archived, and goes on beside it.
    #[error(
        "the server's wal ends at {server}, but the archive has its timeline {timeline} up to {archived}: the server \
         was set back, to a snapshot perhaps; nothing of it is archived, register it as another instance"
    )]
    SetBack {
        /// The timeline of both.
        timeline: TimelineId,
        /// Where the server is.
        server: Lsn,
        /// What is archived.
        archived: Lsn,
    },
    /// The archive has followed a promotion that the server knows nothing of.
    #[error(
        "the server is on timeline {server}, but the archive has followed timeline {archived} already; nothing of it is \
         archived: if there was a failover it is the old primary, so let the connection uri lead to the new one, or have \
         this server follow that (pg_rewind, which throws away what only this server has); if there was none, a promoted \
         copy of it was archived in its place: keep this server's data, stop the copy's archiving, and register this \
         server as another instance"
    )]
    OldPrimary {
        /// Where the server is.
        server: TimelineId,
        /// The newest timeline that is archived.
        archived: TimelineId,
    },
    /// The server's WAL parts from what is archived inside of the open segment.
    #[error(
        "what the server has of wal segment {segment} differs from what is archived of it: it is another cluster with the \
         same system identifier, a copy or a restored clone; nothing of it is archived, let the connection uri lead to the \
         first one or register this one as another instance"
    )]
    AnotherCluster {
        /// The segment.
        segment: SegmentName,
    },
    /// What came is not this branch's WAL. Nothing of it was stored.
    #[error("the server sent wal that is damaged or foreign; it was refused")]
    Wal(#[from] WalError),
    /// The server's version is not supported.
    #[error("wal of this server cannot be read")]
    Reader(#[from] WalReaderConfigError),
    /// The stream left out or repeated something.
    #[error("the server sent wal at {found} where {expected} was due")]
    Discontinuous {
        /// What came.
        found: Lsn,
        /// What was due.
        expected: Lsn,
    },
    /// A timeline history cannot be read.
    #[error("the history of timeline {timeline} cannot be read")]
    History {
        /// The timeline.
        timeline: TimelineId,
        /// Why.
        #[source]
        source: HistoryError,
    },
    /// The server's present timeline does not come from the one that is to be streamed.
    #[error("timeline {timeline} is not in the history of the server's timeline {server}")]
    NotInHistory {
        /// What was to be streamed.
        timeline: TimelineId,
        /// Where the server is.
        server: TimelineId,
    },
    /// The server does not have the WAL any more.
    #[error("the server has removed the wal from {from} on")]
    WalRemoved {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        from: Lsn,
        /// What the server said.
        #[source]
        source: PgError,
    },
    /// The server has invalidated the slot, though it still shows it.
    #[error("the slot was invalidated; it is made again")]
    SlotInvalidated(#[source] PgError),
    /// Nothing came for too long, though a sign of life was asked for.
    #[error("the server was silent for {0:?}")]
    Silent(std::time::Duration),
    /// The server waits, most likely to shut down, for a confirmation that the store does not allow.
    #[error("the server waits for its wal to be stored, which takes too long; it is not held up")]
    ServerWaits,
    /// The store took nothing for so long that the connection was let go; what had come is stored now.
    #[error(
        "the connection was let go while the store took no wal; archiving goes on with a new one"
    )]
    Unread,
    /// The open segment cannot be kept on disk.
    #[error("the spool in {directory} failed; check its free space")]
    Spool {
        /// Where.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server was asked by queries where it is.
    #[error("the server's answer about its position cannot be read")]
    Position,
    /// A task of ours panicked.
    #[error("a task of the archiver ended abnormally")]
    Task(#[from] tokio::task::JoinError),
}

impl ArchiveError {
    /// True if trying again may help with nothing changed by a person.
    #[must_use]
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // 55006: another archiver still streams over the slot.
            Self::Postgres(error) => error.is_transient() || error.sqlstate() == Some("55006"),
            Self::Repository(error) => error.class() == repository::ErrorClass::Transient,
            Self::Silent(_)
            | Self::ServerWaits
            | Self::Unread
            | Self::WalRemoved { .. }
            | Self::SlotInvalidated(_) => true,
            _ => false,
        }
    }
}

//! What runs beside a stream.

use pg_format::{Lsn, PgTimestamp};
use pg_replication::{ConnectionSettings, PgError, ReplicationConnection, SystemIdentity};
use repository::WalPosition;

use super::pipeline::OpenFile;
use crate::error::ArchiveError;
use crate::segment_spool::SegmentSpool;
use crate::uploader::Uploader;

/// Work beside the stream.
pub(crate) enum Task {
    /// Store a complete segment.
    Segment { file: OpenFile, has_partial: bool },
    /// Store what has come of a segment.
    Partial { file: OpenFile },
    /// Write the position.
    Position(WalPosition),
    /// Ask for the server's flush position, after its moment `at`.
    Probe {
        connection: Option<Box<ReplicationConnection>>,
        settings: ConnectionSettings,
        at: PgTimestamp,
    },
}

/// What came of it.
pub(crate) enum Done {
    /// Stored.
    Segment {
        spool: SegmentSpool,
        stored_bytes: u64,
    },
    /// Stored up to `end`, or overtaken by the segment itself.
    Partial { end: Option<Lsn> },
    /// Whether the position was written.
    Position { written: bool },
    /// What the server said; nothing if it could not be asked.
    Probe {
        connection: Option<Box<ReplicationConnection>>,
        answer: Option<Answer>,
        at: PgTimestamp,
    },
}

/// What the server said of itself.
pub(crate) struct Answer {
    /// Which cluster, and how far its WAL goes.
    pub(crate) identity: SystemIdentity,
    /// In recovery, when that was asked.
    pub(crate) standby: bool,
}

impl Task {
    pub(crate) async fn run(self, uploader: Uploader) -> Result<Done, ArchiveError> {
        match self {
            Task::Segment { file, has_partial } => {
                let stored_bytes = uploader
                    .segment(&file.spool, &file.superseded, has_partial)
                    .await?;
                let spool = file.spool;
                Ok(Done::Segment {
                    spool,
                    stored_bytes,
                })
            }
            Task::Partial { file } => {
                let stored = uploader.partial(&file.spool, &file.superseded).await?;
                Ok(Done::Partial {
                    end: stored.then(|| file.spool.end()),
                })
            }
            Task::Position(position) => {
                let written = uploader.writer().put_wal_position(&position).await;
                if let Err(error) = &written {
                    let error = service::run::chain(error);
                    tracing::warn!(error, "the position was not written; it will be again");
                }
                Ok(Done::Position {
                    written: written.is_ok(),
                })
            }
            Task::Probe {
                connection,
                settings,
                at,
            } => match ask(connection, &settings).await {
                Ok((connection, answer)) => Ok(Done::Probe {
                    connection: Some(connection),
                    answer: Some(answer),
                    at,
                }),
                Err(error) => {
                    let error = service::run::chain(&error);
                    tracing::warn!(error, "the server's position could not be asked for");
                    Ok(Done::Probe {
                        connection: None,
                        answer: None,
                        at,
                    })
                }
            },
        }
    }
}

async fn ask(
    connection: Option<Box<ReplicationConnection>>,
    settings: &ConnectionSettings,
) -> Result<(Box<ReplicationConnection>, Answer), PgError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => Box::new(ReplicationConnection::connect(settings).await?),
    };
    // First this: once it is none, the position that follows is a primary's.
    let standby = connection.show("in_hot_standby").await? == "on";
    let identity = connection.identify_system().await?;
    Ok((connection, Answer { identity, standby }))
}

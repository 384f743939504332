//! The commands of a physical walsender (PostgreSQL docs, "Streaming Replication Protocol").

mod slot_before_15;

use std::time::Duration;

use bytes::Bytes;
use pg_format::{Lsn, ServerVersion, SystemIdentifier, TimelineId};

use crate::base_backup::{BaseBackupOptions, BaseBackupStream};
use crate::error::{PgError, SQLSTATE_DUPLICATE_OBJECT, SQLSTATE_UNDEFINED_OBJECT};
use crate::session::{Purpose, Session};
use crate::settings::ConnectionSettings;
use crate::sql::quote_identifier;
use crate::wal_stream::WalStream;

/// The oldest major version that is spoken with.
pub const OLDEST_MAJOR: u32 = 14;

/// Limit of the commands that only look something up or change a slot.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster, and every copy of it.
    pub system_identifier: SystemIdentifier,
    /// The timeline that the server writes (or, on a standby, replays).
    pub timeline: TimelineId,
    /// How far WAL is flushed on the server.
    pub flush_lsn: Lsn,
    /// Only on a connection to a database; a physical walsender has none.
    pub dbname: Option<String>,
}

/// From when on a new slot holds WAL back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveWal {
    /// From the latest checkpoint before now.
    Now,
    /// From the first status update of a receiver.
    Later,
}

/// What came of creating a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotCreation {
    /// It is new.
    Created,
    /// One of this name was there; of which kind and where it stands was not looked at.
    AlreadyExists,
}

/// What came of dropping a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotRemoval {
    /// It is gone.
    Dropped,
    /// There was none.
    Absent,
}

/// Where a physical slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// WAL from here on is held back. `None`: nothing was reserved yet, or the slot is invalidated.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub restart_timeline: Option<TimelineId>,
}

/// A timeline history file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFile {
    /// `00000002.history`.
    pub name: String,
    /// Exactly the file's bytes.
    pub content: Bytes,
}

/// A connection to a physical walsender (`replication=true`), between two commands.
///
/// A command whose future was dropped before its end makes the connection unusable.
pub struct ReplicationConnection {
    session: Session,
}

impl ReplicationConnection {
    /// Connects and logs in within the settings' limits. The role needs `REPLICATION` and a line
    /// for the database `replication` in `pg_hba.conf`.
    pub async fn connect(settings: &ConnectionSettings) -> Result<Self, PgError> {
        let session = Box::pin(Session::connect(settings, Purpose::Replication)).await?;
        Ok(ReplicationConnection { session })
    }

    pub(crate) fn from_session(session: Session) -> Self {
        ReplicationConnection { session }
    }

    /// The server's version.
    #[must_use]
    pub fn server_version(&self) -> ServerVersion {
        self.session.version()
    }

    /// Which cluster this is, and how far its WAL goes at this moment.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PgError> {
        let rows = self
            .command("IDENTIFY_SYSTEM", "identifying the system")
            .await?;
        let [row] = rows.as_slice() else {
            return Err(PgError::protocol(
                "IDENTIFY_SYSTEM did not answer with one row",
            ));
        };
        Ok(SystemIdentity {
            system_identifier: row.parsed(0)?,
            timeline: TimelineId(row.parsed(1)?),
            flush_lsn: row.parsed(2)?,
            dbname: row.optional_text(3)?.map(str::to_owned),
        })
    }

    /// The value of a setting as `SHOW` prints it, with its unit (`wal_segment_size`: `16MB`).
    pub async fn show(&mut self, name: &str) -> Result<String, PgError> {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
        if !plain {
            return Err(PgError::protocol(format!(
                "{name:?} is not the name of a setting"
            )));
        }
        let rows = self
            .command(&format!("SHOW {name}"), "reading a setting")
            .await?;
        match rows.as_slice() {
            [row] => row.text(0).map(str::to_owned),
            _ => Err(PgError::protocol("SHOW did not answer with one row")),
        }
    }

    /// Makes a physical slot that outlives the connection.
    pub async fn create_physical_slot(
        &mut self,
        name: &str,
        reserve: ReserveWal,
    ) -> Result<SlotCreation, PgError> {
        let reserve = match reserve {
            ReserveWal::Now => " RESERVE_WAL",
            ReserveWal::Later => "",
        };
        let name = quote_identifier(name);
        let command = format!("CREATE_REPLICATION_SLOT {name} PHYSICAL{reserve}");
        match self.command(&command, "creating a slot").await {
            Ok(_) => Ok(SlotCreation::Created),
            Err(error) if error.sqlstate() == Some(SQLSTATE_DUPLICATE_OBJECT) => {
                Ok(SlotCreation::AlreadyExists)
            }
            Err(error) => Err(error),
        }
    }

    /// Where a slot stands; `None` if there is no such slot. A logical slot is an error. On
    /// PostgreSQL 14 it is asked over a second, ordinary connection to the database of the settings
    /// or, without one of that name, to `postgres`.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotState>, PgError> {
        let found = self.session.version();
        match found.major() {
            15.. => {}
            OLDEST_MAJOR => return Box::pin(self.read_slot_before_15(name)).await,
            _ => {
                return Err(PgError::Unsupported {
                    feature: "reading a slot",
                    needs: OLDEST_MAJOR,
                    found,
                });
            }
        }
        let command = format!("READ_REPLICATION_SLOT {}", quote_identifier(name));
        let rows = self.command(&command, "reading a slot").await?;
        let [row] = rows.as_slice() else {
            return Err(PgError::protocol(
                "READ_REPLICATION_SLOT did not answer with one row",
            ));
        };
        // A slot that does not exist is a row of NULLs.
        if row.optional_text(0)?.is_none() {
            return Ok(None);
        }
        let restart_lsn = row.optional_text(1)?.map(|_| row.parsed(1)).transpose()?;
        let timeline = row.optional_text(2)?.map(|_| row.parsed(2)).transpose()?;
        Ok(Some(SlotState {
            restart_lsn,
            restart_timeline: timeline.map(TimelineId),
        }))
    }

    /// Removes a slot. One in use is an error (SQLSTATE 55006).
    pub async fn drop_slot(&mut self, name: &str) -> Result<SlotRemoval, PgError> {
        let command = format!("DROP_REPLICATION_SLOT {}", quote_identifier(name));
        match self.command(&command, "dropping a slot").await {
            Ok(_) => Ok(SlotRemoval::Dropped),
            Err(error) if error.sqlstate() == Some(SQLSTATE_UNDEFINED_OBJECT) => {
                Ok(SlotRemoval::Absent)
            }
            Err(error) => Err(error),
        }
    }

    /// The history file of a timeline after the first.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<HistoryFile, PgError> {
        let command = format!("TIMELINE_HISTORY {timeline}");
        let rows = self.command(&command, "reading a timeline history").await?;
        let [row] = rows.as_slice() else {
            return Err(PgError::protocol(
                "TIMELINE_HISTORY did not answer with one row",
            ));
        };
        let content = row.values.get(1).cloned().flatten();
        Ok(HistoryFile {
            name: row.text(0)?.to_owned(),
            content: content.ok_or_else(|| PgError::protocol("TIMELINE_HISTORY has no content"))?,
        })
    }

    /// Streams WAL from `start` on, of one timeline. Start at the beginning of a segment, or the
    /// server sends from the middle of it. A position beyond the server's WAL, or whose WAL is gone
    /// (SQLSTATE 58P01), is an error of the first [`WalStream::next`] only.
    pub async fn start_replication(
        self,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<WalStream, PgError> {
        WalStream::start(self.session, slot, start, timeline).await
    }

    /// Begins a base backup and waits until its start position is known (for a spread checkpoint
    /// that can take minutes).
    pub async fn base_backup(
        self,
        options: BaseBackupOptions,
    ) -> Result<BaseBackupStream, PgError> {
        BaseBackupStream::start_backup(self.session, &options).await
    }

    /// Says good-bye; merely dropping the connection leaves a line in the server's log.
    pub async fn close(self) {
        self.session.wire.terminate().await;
    }

    async fn command(
        &mut self,
        command: &str,
        during: &'static str,
    ) -> Result<Vec<crate::session::RawRow>, PgError> {
        self.session
            .query_within(command, during, COMMAND_TIMEOUT)
            .await
    }
}

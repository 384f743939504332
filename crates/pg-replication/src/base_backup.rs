//! `BASE_BACKUP`: a copy of the whole cluster as tar archives in one stream.
//!
//! PostgreSQL 15 and newer: start row, tablespace rows, one copy with typed messages, end row
//! (PostgreSQL docs, "Streaming Replication Protocol", BASE_BACKUP; server `basebackup_copy.c`).
//! PostgreSQL 14 differs between the rows; a caller sees no difference ([`before_15`]).

mod before_15;

use std::collections::VecDeque;

use bytes::Bytes;
use pg_format::{Lsn, TimelineId};

use self::before_15::SeparateCopies;
use crate::error::{PgError, SQLSTATE_DATA_CORRUPTED, ServerMessage};
use crate::replication::{OLDEST_MAJOR, ReplicationConnection};
use crate::session::{Answer, RawRow, Session};
use crate::wire::Body;

const DURING: &str = "taking a base backup";
/// More would be an attack or a broken server; they are kept in memory until the stream starts.
const MAX_EARLY_WARNINGS: usize = 100;

/// How a base backup is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Stands in `backup_label`.
    pub label: String,
    /// True: checkpoint at once. False: spread, gentle on the server, minutes late.
    pub fast_checkpoint: bool,
    /// Ask for `backup_manifest`, with CRC-32C of every file.
    pub manifest: bool,
    /// Let the server wait at the end until its own archiver has all WAL of the backup.
    pub wait_for_wal: bool,
    /// KiB/s; the server accepts 32 to 1048576.
    pub max_rate_kib: Option<u32>,
    /// Put the WAL of the backup into the archive `base.tar`.
    pub include_wal: bool,
    /// Let the server check every page (of a cluster with checksums).
    pub verify_checksums: bool,
}

impl BaseBackupOptions {
    /// A backup that leaves its WAL to an archiver: fast checkpoint, manifest, page checksums.
    #[must_use]
    pub fn new(label: impl Into<String>) -> Self {
        BaseBackupOptions {
            label: label.into(),
            fast_checkpoint: true,
            manifest: true,
            wait_for_wal: false,
            max_rate_kib: None,
            include_wal: false,
            verify_checksums: true,
        }
    }

    /// TABLESPACE_MAP always: tar archives hold the links as a file, not as symbolic links.
    fn command(&self) -> String {
        let mut command = format!(
            "BASE_BACKUP (LABEL '{}', TARGET 'client', PROGRESS, TABLESPACE_MAP, CHECKPOINT '{}', \
             WAIT {}, WAL {}, VERIFY_CHECKSUMS {}, MANIFEST '{}'",
            self.label.replace('\'', "''"),
            if self.fast_checkpoint {
                "fast"
            } else {
                "spread"
            },
            self.wait_for_wal,
            self.include_wal,
            self.verify_checksums,
            if self.manifest { "yes" } else { "no" },
        );
        if self.manifest {
            command.push_str(", MANIFEST_CHECKSUMS 'CRC32C'");
        }
        if let Some(rate) = self.max_rate_kib {
            command.push_str(&format!(", MAX_RATE {rate}"));
        }
        command.push(')');
        command
    }
}

/// What is known before the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupStart {
    /// WAL from here on is needed.
    pub start_lsn: Lsn,
    /// Of the start.
    pub timeline: TimelineId,
    /// One archive is sent for each, the main data directory among them.
    pub tablespaces: Vec<Tablespace>,
}

/// A tablespace of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// `None` for the main data directory.
    pub oid: Option<u32>,
    /// Where it lies on the server; `None` for the main data directory.
    pub location: Option<String>,
    /// An estimate, in bytes.
    pub size_bytes: Option<u64>,
}

/// What a base backup brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupMessage {
    /// From here on, `Data` belongs to this tar archive.
    Archive {
        /// `base.tar`, or `<oid>.tar` of a tablespace.
        name: String,
        /// The tablespace's directory on the server; empty for `base.tar`.
        location: String,
    },
    /// The next bytes. A slice of a read buffer of 1 MiB, which lives as long as any slice of it.
    Data(Bytes),
    /// From here on, `Data` belongs to the backup manifest.
    Manifest,
    /// Bytes done so far, as the server counts; from PostgreSQL 14, bytes of archives that came.
    Progress(u64),
    /// The server warns, mostly of a page whose checksum is wrong.
    Warning(ServerMessage),
    /// Everything was sent. Comes once, last.
    End(BackupEnd),
}

/// The end of a base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupEnd {
    /// The backup is consistent once WAL up to here is replayed.
    pub stop_lsn: Lsn,
    /// Of the end; it can differ from the start's on a standby.
    pub timeline: TimelineId,
    /// The server found pages with wrong checksums (SQLSTATE XX001). Everything was sent, so such
    /// a backup is worth keeping, and worth flagging.
    pub damage: Option<ServerMessage>,
}

#[derive(Debug)]
enum State {
    /// Before the copy.
    Opening,
    Copying,
    /// After the copy: the end row is due, then the end of the command.
    Closing(Option<(Lsn, TimelineId)>),
    Ended {
        reusable: bool,
    },
}

/// A running base backup.
pub struct BaseBackupStream {
    session: Session,
    start: BackupStart,
    /// To be told before anything more is read.
    queued: VecDeque<BackupMessage>,
    /// Of a server before PostgreSQL 15.
    separate: Option<SeparateCopies>,
    state: State,
}

impl BaseBackupStream {
    pub(crate) async fn start_backup(
        mut session: Session,
        options: &BaseBackupOptions,
    ) -> Result<Self, PgError> {
        let found = session.version();
        let command = match found.major() {
            15.. => options.command(),
            OLDEST_MAJOR => before_15::command(options),
            _ => {
                return Err(PgError::Unsupported {
                    feature: "taking base backups",
                    needs: OLDEST_MAJOR,
                    found,
                });
            }
        };
        session.send(&command, DURING).await?;
        let mut queued = VecDeque::new();
        let start = read_row(&mut session, &mut queued).await?;
        let mut start = BackupStart {
            start_lsn: start.parsed(0)?,
            timeline: TimelineId(start.parsed(1)?),
            tablespaces: Vec::new(),
        };
        let mut completed = 0;
        while completed < 2 {
            match session.answer(DURING).await? {
                Answer::Row(row) if completed == 1 => start.tablespaces.push(tablespace(&row)?),
                Answer::Complete => completed += 1,
                Answer::Warning(message) => keep(&mut queued, message)?,
                Answer::Error(message) => return Err(session.fail(message, DURING).await),
                _ => return Err(PgError::protocol("unexpected message before a base backup")),
            }
        }
        let separate =
            (found.major() < 15).then(|| SeparateCopies::new(&start.tablespaces, options.manifest));
        Ok(BaseBackupStream {
            session,
            start,
            queued,
            separate,
            state: State::Opening,
        })
    }

    /// What the server said before the first byte.
    #[must_use]
    pub fn start(&self) -> &BackupStart {
        &self.start
    }

    /// The next message. Cancel-safe. After [`BackupMessage::End`] there is none.
    pub async fn next(&mut self) -> Result<BackupMessage, PgError> {
        loop {
            if let Some(message) = self.queued.pop_front() {
                return Ok(message);
            }
            let answer = self.session.answer(DURING).await?;
            match (answer, &mut self.state) {
                (Answer::CopyOut, State::Opening) => self.copy_begins()?,
                (Answer::CopyData(body), State::Copying) => return self.received(body),
                (Answer::CopyDone, State::Copying) => self.copy_ended(),
                (Answer::Row(row), State::Closing(end @ None)) => {
                    *end = Some((row.parsed(0)?, TimelineId(row.parsed(1)?)));
                }
                // One for the end row, one for the command.
                (Answer::Complete, State::Closing(Some(_))) => {}
                (Answer::Warning(message), _) => return Ok(BackupMessage::Warning(message)),
                (Answer::Ready, State::Closing(Some(end))) => {
                    let (stop_lsn, timeline) = *end;
                    self.state = State::Ended { reusable: true };
                    let damage = None;
                    return Ok(BackupMessage::End(BackupEnd {
                        stop_lsn,
                        timeline,
                        damage,
                    }));
                }
                (Answer::Error(message), State::Closing(Some(end)))
                    if message.sqlstate == SQLSTATE_DATA_CORRUPTED =>
                {
                    let (stop_lsn, timeline) = *end;
                    self.state = State::Ended { reusable: false };
                    let damage = Some(message);
                    return Ok(BackupMessage::End(BackupEnd {
                        stop_lsn,
                        timeline,
                        damage,
                    }));
                }
                (Answer::Error(message), state) => {
                    *state = State::Ended { reusable: false };
                    return Err(PgError::Server(Box::new(message)));
                }
                _ => return Err(PgError::protocol("unexpected message in a base backup")),
            }
        }
    }

    fn copy_begins(&mut self) -> Result<(), PgError> {
        self.state = State::Copying;
        if let Some(separate) = &mut self.separate {
            let message = separate.begin();
            self.queued
                .push_back(message.ok_or_else(|| PgError::protocol("too many archives"))?);
        }
        Ok(())
    }

    fn received(&mut self, body: Bytes) -> Result<BackupMessage, PgError> {
        let Some(separate) = &mut self.separate else {
            return decode(body);
        };
        self.queued.extend(separate.count(body.len()));
        Ok(BackupMessage::Data(body))
    }

    fn copy_ended(&mut self) {
        self.state = State::Closing(None);
        if let Some(separate) = &mut self.separate {
            self.queued.extend(separate.end());
            if !separate.is_last() {
                self.state = State::Opening;
            }
        }
    }

    /// The connection, ready for the next command; only after an end without damage.
    pub fn into_connection(self) -> Result<ReplicationConnection, PgError> {
        match self.state {
            State::Ended { reusable: true } => {
                Ok(ReplicationConnection::from_session(self.session))
            }
            _ => Err(PgError::protocol("the base backup has not ended well")),
        }
    }
}

fn keep(queued: &mut VecDeque<BackupMessage>, message: ServerMessage) -> Result<(), PgError> {
    if queued.len() == MAX_EARLY_WARNINGS {
        return Err(PgError::protocol("too many warnings before a base backup"));
    }
    queued.push_back(BackupMessage::Warning(message));
    Ok(())
}

async fn read_row(
    session: &mut Session,
    queued: &mut VecDeque<BackupMessage>,
) -> Result<RawRow, PgError> {
    loop {
        match session.answer(DURING).await? {
            Answer::Row(row) => return Ok(row),
            Answer::Warning(message) => keep(queued, message)?,
            Answer::Error(message) => return Err(session.fail(message, DURING).await),
            _ => {
                return Err(PgError::protocol(
                    "BASE_BACKUP did not answer with its start",
                ));
            }
        }
    }
}

fn tablespace(row: &RawRow) -> Result<Tablespace, PgError> {
    let oid = row.optional_text(0)?.map(|_| row.parsed(0)).transpose()?;
    let kib: Option<u64> = row.optional_text(2)?.map(|_| row.parsed(2)).transpose()?;
    Ok(Tablespace {
        oid,
        location: row
            .optional_text(1)?
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        size_bytes: kib.map(|kib| kib.saturating_mul(1024)),
    })
}

fn decode(body: Bytes) -> Result<BackupMessage, PgError> {
    let mut body = Body::new(body);
    match body.u8()? {
        b'd' => Ok(BackupMessage::Data(body.rest())),
        b'n' => Ok(BackupMessage::Archive {
            name: body.exact_text("the name of an archive")?,
            location: body.exact_text("the location of a tablespace")?,
        }),
        b'm' => Ok(BackupMessage::Manifest),
        b'p' => Ok(BackupMessage::Progress(body.u64()?)),
        other => Err(PgError::protocol(format!(
            "unknown message {:?} in a base backup",
            char::from(other)
        ))),
    }
}

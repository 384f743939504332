//! A logged-in connection and the simple query protocol, which replication commands use too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pg_format::ServerVersion;
use postgres_protocol::message::frontend;
use tokio::time::timeout;

use crate::connect::{self, Encryption};
use crate::error::{PgError, ServerMessage};
use crate::login::{self, Login};
use crate::settings::{ChannelBinding, ConnectionSettings};
use crate::wire::{Body, Frame, Wire, server_message};

/// A command's whole answer is held in memory, so it is bounded.
const MAX_RESULT_BYTES: usize = 64 << 20;

/// What the session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Sql,
    Replication,
}

/// One row as it came.
#[derive(Clone, Debug)]
pub(crate) struct RawRow {
    pub(crate) columns: Arc<[String]>,
    pub(crate) values: Vec<Option<Bytes>>,
}

impl RawRow {
    /// A value that must be there and be text.
    pub(crate) fn text(&self, index: usize) -> Result<&str, PgError> {
        self.optional_text(index)?
            .ok_or_else(|| PgError::protocol(format!("column {index} of an answer is missing")))
    }

    pub(crate) fn optional_text(&self, index: usize) -> Result<Option<&str>, PgError> {
        let Some(Some(value)) = self.values.get(index) else {
            return Ok(None);
        };
        std::str::from_utf8(value)
            .map(Some)
            .map_err(|_| PgError::protocol(format!("column {index} of an answer is not utf-8")))
    }

    pub(crate) fn parsed<T: std::str::FromStr>(&self, index: usize) -> Result<T, PgError> {
        let text = self.text(index)?;
        text.parse()
            .map_err(|_| PgError::protocol(format!("column {index} of an answer holds {text:?}")))
    }
}

/// What one message means while a command's answer is being read.
pub(crate) enum Answer {
    Row(RawRow),
    /// `CommandComplete`.
    Complete,
    /// `ReadyForQuery`: the next command may be sent.
    Ready,
    Error(ServerMessage),
    /// At least a warning; anything less is dropped.
    Warning(ServerMessage),
    CopyOut,
    CopyBoth,
    CopyData(Bytes),
    CopyDone,
}

pub(crate) struct Session {
    pub(crate) wire: Wire,
    settings: Box<ConnectionSettings>,
    version: ServerVersion,
    columns: Arc<[String]>,
    /// A command was sent and its answer not read to the end: nothing else can be sent.
    busy: bool,
}

impl Session {
    /// Connects and logs in. With `sslmode=prefer`, a second try without TLS as libpq makes it.
    pub(crate) async fn connect(
        settings: &ConnectionSettings,
        purpose: Purpose,
    ) -> Result<Self, PgError> {
        let encryption = Encryption::first_choice(settings);
        let first = Box::pin(Self::attempt(settings, purpose, encryption)).await;
        let plain_allowed = encryption == Encryption::IfOffered
            && settings.channel_binding != ChannelBinding::Require;
        match first {
            // 28000: pg_hba.conf may have a line for connections without TLS only.
            Err(error)
                if plain_allowed
                    && (matches!(error, PgError::Tls { .. })
                        || error.sqlstate() == Some("28000")) =>
            {
                Box::pin(Self::attempt(settings, purpose, Encryption::Never))
                    .await
                    .map_err(|_| error)
            }
            other => other,
        }
    }

    async fn attempt(
        settings: &ConnectionSettings,
        purpose: Purpose,
        encryption: Encryption,
    ) -> Result<Self, PgError> {
        let channel = connect::open(settings, encryption).await?;
        let after = settings.connect_timeout();
        timeout(after, Box::pin(Self::log_in(settings, purpose, channel)))
            .await
            .map_err(|_| PgError::Timeout {
                during: "logging in",
                after,
            })?
    }

    async fn log_in(
        settings: &ConnectionSettings,
        purpose: Purpose,
        mut channel: connect::Channel,
    ) -> Result<Self, PgError> {
        let login = Login::new(settings, &mut channel);
        let mut wire = Wire::new(channel.stream);
        let mut parameters = vec![
            ("user", settings.user()),
            ("database", settings.dbname()),
            ("application_name", settings.application_name()),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "UTC"),
        ];
        if purpose == Purpose::Replication {
            parameters.push(("replication", "true"));
        }
        let more = settings.parameters.iter();
        parameters.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
        login::send_startup(&mut wire, &parameters).await?;
        login.run(&mut wire).await?;
        wire.logged_in();
        let mut status = BTreeMap::new();
        loop {
            let Frame { tag, body } = wire.read("starting the session").await?;
            match tag {
                b'S' => {
                    let mut body = Body::new(body);
                    let _ = status.insert(body.text()?, body.text()?);
                }
                b'E' => return Err(login::startup_error(settings, server_message(body)?)),
                b'Z' => break,
                b'K' | b'N' => {}
                other => return Err(unexpected(other, "starting the session")),
            }
        }
        let version = status
            .get("server_version")
            .ok_or_else(|| PgError::protocol("the server does not tell its version"))?;
        let version = ServerVersion::from_server_version(version)
            .map_err(|error| PgError::protocol(error.to_string()))?;
        Ok(Session {
            wire,
            settings: Box::new(settings.clone()),
            version,
            columns: Arc::from([]),
            busy: false,
        })
    }

    /// How it was connected, for questions that need a second connection.
    pub(crate) fn settings(&self) -> &ConnectionSettings {
        &self.settings
    }

    pub(crate) fn version(&self) -> ServerVersion {
        self.version
    }

    /// Sends a command; the answer is read with [`Session::answer`] up to [`Answer::Ready`].
    pub(crate) async fn send(&mut self, sql: &str, during: &'static str) -> Result<(), PgError> {
        if self.busy {
            return Err(PgError::protocol(
                "an earlier command on this connection was abandoned; connect again",
            ));
        }
        self.wire.queue(|buf| frontend::query(sql, buf))?;
        self.busy = true;
        self.wire.flush(during).await
    }

    /// The next message of the answer. Cancel-safe.
    pub(crate) async fn answer(&mut self, during: &'static str) -> Result<Answer, PgError> {
        loop {
            let Frame { tag, body } = self.wire.read(during).await?;
            return Ok(match tag {
                b'T' => {
                    self.columns = column_names(body)?;
                    continue;
                }
                b'D' => Answer::Row(self.row(body)?),
                b'C' | b'I' => Answer::Complete,
                b'Z' => {
                    self.busy = false;
                    Answer::Ready
                }
                b'E' => Answer::Error(server_message(body)?),
                b'N' => {
                    let message = server_message(body)?;
                    if message.severity != "WARNING" {
                        tracing::debug!(%message, "notice from postgresql");
                        continue;
                    }
                    Answer::Warning(message)
                }
                b'H' => Answer::CopyOut,
                b'W' => Answer::CopyBoth,
                b'd' => Answer::CopyData(body),
                b'c' => Answer::CopyDone,
                // ParameterStatus and NotificationResponse may come at any time.
                b'S' | b'A' => continue,
                other => return Err(unexpected(other, during)),
            });
        }
    }

    /// Sends a command and reads the whole answer: the rows of its last statement.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        during: &'static str,
    ) -> Result<Vec<RawRow>, PgError> {
        self.send(sql, during).await?;
        let (mut rows, mut bytes, mut complete) = (Vec::new(), 0, false);
        loop {
            match self.answer(during).await? {
                Answer::Row(row) => {
                    if std::mem::take(&mut complete) {
                        rows.clear();
                        bytes = 0;
                    }
                    bytes += row.values.iter().flatten().map(Bytes::len).sum::<usize>();
                    if bytes > MAX_RESULT_BYTES {
                        return Err(PgError::protocol(format!(
                            "an answer is longer than {MAX_RESULT_BYTES} bytes"
                        )));
                    }
                    rows.push(row);
                }
                Answer::Complete if std::mem::replace(&mut complete, true) => rows.clear(),
                Answer::Complete => {}
                Answer::Warning(message) => tracing::warn!(%message, "warning from postgresql"),
                Answer::Ready => return Ok(rows),
                Answer::Error(message) => return Err(self.fail(message, during).await),
                Answer::CopyOut | Answer::CopyBoth | Answer::CopyData(_) | Answer::CopyDone => {
                    return Err(PgError::protocol(format!("unexpected copy while {during}")));
                }
            }
        }
    }

    /// The same with a limit, for commands that have no reason to take long.
    pub(crate) async fn query_within(
        &mut self,
        sql: &str,
        during: &'static str,
        after: Duration,
    ) -> Result<Vec<RawRow>, PgError> {
        timeout(after, Box::pin(self.query(sql, during)))
            .await
            .map_err(|_| PgError::Timeout { during, after })?
    }

    /// Takes the session to where the next command may be sent, and makes the error of `message`.
    pub(crate) async fn fail(&mut self, message: ServerMessage, during: &'static str) -> PgError {
        if !message.ends_session() {
            while let Ok(answer) = self.answer(during).await {
                if matches!(answer, Answer::Ready) {
                    break;
                }
            }
        }
        PgError::Server(Box::new(message))
    }

    fn row(&self, body: Bytes) -> Result<RawRow, PgError> {
        let mut body = Body::new(body);
        let mut values = Vec::new();
        for _ in 0..body.u16()? {
            let length = body.u32()?;
            values.push(match length {
                u32::MAX => None,
                length => Some(body.take(length as usize)?),
            });
        }
        if values.len() != self.columns.len() {
            return Err(PgError::protocol(
                "a row has another number of columns than announced",
            ));
        }
        Ok(RawRow {
            columns: Arc::clone(&self.columns),
            values,
        })
    }
}

fn column_names(body: Bytes) -> Result<Arc<[String]>, PgError> {
    let mut body = Body::new(body);
    let mut names = Vec::new();
    for _ in 0..body.u16()? {
        names.push(body.text()?);
        // Table, column number, type, type size, type modifier, format.
        let _ = body.take(18)?;
    }
    Ok(names.into())
}

fn unexpected(tag: u8, during: &str) -> PgError {
    PgError::protocol(format!(
        "unexpected message {:?} while {during}",
        char::from(tag)
    ))
}

//! The rows, in SQLite or PostgreSQL.
//!
//! What must stay true: the changes of a batch of events, the sequence they reach and the identity of the
//! stream they came from are one transaction; a sequence that is in the rows already changes nothing, so
//! that any batch may be applied again; a rebuild is one transaction, so that readers see the old rows or
//! the new ones. One writer at a time: writers take the row of their stream first.

use std::path::PathBuf;
use std::time::Duration;

use events::Timestamp;
use events::query::RebuildSource;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::MigrateError;
use sqlx::{Any, AnyPool, Row as _, Transaction};

use column::Column as _;

mod cache;
mod clean;
pub(crate) mod column;
mod read;
pub(crate) mod rows;
mod write;

pub(crate) use read::{Amount, BackupFilter, Gauges, LastBackup, MOST_POINTS, Page};
pub(crate) use write::{Applied, Step, Writing};

/// Connections that answer questions. SQLite has one writer beside them.
const READERS: u32 = 4;
/// How long a connection may be waited for.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The catalog's database failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The URL is not of a database that the catalog knows.
    #[error("{url} is not a catalog; set ZEKTOR_CATALOG_URL to sqlite:///file or postgres://...")]
    Url { url: String },
    /// The directory of the database file cannot be made.
    #[error("the catalog's directory {path} cannot be made")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It cannot be opened.
    #[error("the catalog {url} cannot be opened; check ZEKTOR_CATALOG_URL")]
    Open {
        url: String,
        #[source]
        source: sqlx::Error,
    },
    /// Its tables cannot be made as this build needs them.
    #[error(
        "the catalog's tables cannot be brought up to date; an empty database can take its place at any time"
    )]
    Migrate(#[source] MigrateError),
    /// A statement failed.
    #[error("the catalog cannot {action}")]
    Statement {
        action: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// What was to be applied is of another stream than the rows.
    #[error("stream {stream} is not the one that is in the rows; rebuild")]
    OtherStream { stream: String },
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Gives a statement's error what it was for.
pub(crate) fn cannot(action: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Statement { action, source }
}

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Sqlite => "sqlite",
            Backend::Postgres => "postgres",
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
enum Use {
    Changes,
    Answers,
}

/// How far a stream is in the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The identity of the stream; absent when the rows are there and no stream was seen yet.
    pub(crate) created: Option<Timestamp>,
    /// The last sequence in the rows.
    pub(crate) applied: u64,
}

/// The last rebuild, and the one that is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RebuildState {
    pub(crate) wanted: Option<RebuildSource>,
    pub(crate) error: Option<String>,
    pub(crate) rebuilt_from: Option<RebuildSource>,
    pub(crate) rebuilt_at: Option<Timestamp>,
}

/// The catalog's database. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    backend: Backend,
    writer: AnyPool,
    reader: AnyPool,
}

impl Store {
    /// Opens the database, makes it if it is a file that is missing, and brings its tables up to date.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let (backend, url) = parse(url)?;
        let shown = service::config::conceal_url(&url);
        let unopened = |source| StoreError::Open {
            url: shown.clone(),
            source,
        };
        let options: AnyConnectOptions = url.parse().map_err(unopened)?;
        let writer = pool(backend, Use::Changes, 1).connect_with(options.clone());
        let writer = writer.await.map_err(unopened)?;
        sqlx::migrate!("./migrations")
            .run(&writer)
            .await
            .map_err(StoreError::Migrate)?;
        let reader = pool(backend, Use::Answers, READERS).connect_with(options);
        let reader = reader.await.map_err(unopened)?;
        Ok(Store {
            backend,
            writer,
            reader,
        })
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<()> {
        let ping = sqlx::query("SELECT 1").execute(&self.reader).await;
        ping.map(drop).map_err(cannot("be reached"))
    }

    /// How far each stream is, by its name.
    pub(crate) async fn positions(&self) -> Result<Vec<(String, Position)>> {
        let sql = "SELECT stream, created, applied_sequence FROM projections ORDER BY stream";
        let rows = sqlx::query(sql).fetch_all(&self.reader).await;
        let rows = rows.map_err(cannot("read its positions"))?;
        rows.iter()
            .map(|row| Ok((row.try_get("stream")?, write::position(row)?)))
            .collect::<sqlx::Result<_>>()
            .map_err(cannot("read its positions"))
    }

    /// How far one stream is.
    pub(crate) async fn position(&self, stream: &str) -> Result<Option<Position>> {
        let positions = self.positions().await?;
        Ok(positions
            .into_iter()
            .find_map(|(name, position)| (name == stream).then_some(position)))
    }

    /// Begins to change rows.
    pub(crate) async fn begin(&self) -> Result<Writing> {
        let transaction: Transaction<'static, Any> = self
            .writer
            .begin()
            .await
            .map_err(cannot("begin a change"))?;
        Ok(Writing::new(transaction, self.backend))
    }

    /// Applies steps of one stream, in one transaction.
    pub(crate) async fn apply(
        &self,
        stream: &str,
        created: Timestamp,
        steps: Vec<Step>,
    ) -> Result<Applied> {
        let mut writing = self.begin().await?;
        let applied = writing.apply_steps(stream, created, steps).await?;
        writing.commit().await?;
        Ok(applied)
    }

    /// The rebuild that is wanted, and the last one.
    pub(crate) async fn rebuild_state(&self) -> Result<RebuildState> {
        let sql = "SELECT rebuild_wanted, rebuild_error, rebuilt_from, rebuilt_at FROM catalog WHERE id = 1";
        let read = async {
            let row = sqlx::query(sql).fetch_one(&self.reader).await?;
            Ok(RebuildState {
                wanted: column::Column::read(&row, "rebuild_wanted")?,
                error: column::Column::read(&row, "rebuild_error")?,
                rebuilt_from: column::Column::read(&row, "rebuilt_from")?,
                rebuilt_at: column::Column::read(&row, "rebuilt_at")?,
            })
        };
        read.await.map_err(cannot("read its state"))
    }

    /// Remembers that a rebuild is wanted, until one is done.
    pub(crate) async fn want_rebuild(&self, source: RebuildSource) -> Result<()> {
        let sql = "UPDATE catalog SET rebuild_wanted = $1, rebuild_error = NULL WHERE id = 1";
        let query = source.to_sql().bind(sqlx::query(sql));
        let done = query.execute(&self.reader).await;
        done.map(drop)
            .map_err(cannot("note that a rebuild is wanted"))
    }

    /// Remembers why a rebuild failed; it stays wanted.
    pub(crate) async fn note_rebuild_error(&self, error: &str) -> Result<()> {
        let sql = "UPDATE catalog SET rebuild_error = $1 WHERE id = 1";
        let done = sqlx::query(sql).bind(error).execute(&self.writer).await;
        done.map(drop).map_err(cannot("note that a rebuild failed"))
    }
}

/// The backend, and the URL as sqlx wants it.
fn parse(url: &str) -> Result<(Backend, String)> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok((Backend::Postgres, url.to_owned()));
    }
    let path = url
        .strip_prefix("sqlite://")
        .filter(|path| path.starts_with('/'));
    let Some(path) = path else {
        return Err(StoreError::Url {
            url: service::config::conceal_url(url),
        });
    };
    let file = path.split_once('?').map_or(path, |(file, _)| file);
    if let Some(directory) = std::path::Path::new(file).parent() {
        std::fs::create_dir_all(directory).map_err(|source| StoreError::Directory {
            path: directory.to_owned(),
            source,
        })?;
    }
    // Made when it is missing: the catalog can be thrown away.
    let mode = if path.contains('?') { "" } else { "?mode=rwc" };
    Ok((Backend::Sqlite, format!("{url}{mode}")))
}

/// What a connection is told first, before it changes rows or answers.
///
/// A crash of the machine may lose the last transactions, never a part of one: the position is lost with the rows, and
/// the stream gives both again. That is why nothing here waits for the disk. A wish to rebuild is no projection; it is
/// noted by a connection that answers, which in PostgreSQL waits.
fn settings(backend: Backend, use_of: Use) -> &'static [&'static str] {
    match (backend, use_of) {
        (Backend::Sqlite, _) => &[
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            "PRAGMA busy_timeout = 10000",
            "PRAGMA cache_size = -65536",
        ],
        (Backend::Postgres, Use::Changes) => &["SET synchronous_commit = off"],
        (Backend::Postgres, Use::Answers) => &[],
    }
}

/// Rows are had by their keys, and lists along an index in its order. A plan that was made when a table was empty, or for
/// an instance with few backups, must not read or sort all of it later.
const ALONG_INDEXES: &[&str] = &[
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET enable_sort = off",
];

fn pool(backend: Backend, use_of: Use, connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                let along_indexes = match backend {
                    Backend::Sqlite => &[],
                    Backend::Postgres => ALONG_INDEXES,
                };
                for statement in settings(backend, use_of).iter().chain(along_indexes) {
                    let _ = sqlx::query(*statement).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
}

#[cfg(test)]
mod tests;

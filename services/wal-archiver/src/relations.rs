//! Names of relations: maps of file numbers to names, taken from the server and stored beside the index.
//!
//! A table that is gone has a name only if it was read while it was there. So they are read when a session begins,
//! after each base backup, and soon after the stream shows a commit that created or dropped files. What must stay true:
//!
//! - It takes nothing but a look at the catalogs, with a time limit; it rests many times as long as a look takes.
//! - Archiving does not wait for it, and does not care whether it works.
//! - The position of a map is read before the catalogs.

mod catalogs;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repository::RepositoryError;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ArchiveError;
use crate::session::{BranchContext, connection_settings};
use catalogs::Catalogs;

/// Commits that come together are looked at together.
const GATHER: Duration = Duration::from_millis(300);
/// Between two looks, and at least so many times as long as the last one took.
const REST: Duration = Duration::from_secs(2);
const REST_TIMES: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Which catalogs are to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Of all databases.
    pub(crate) all: bool,
    /// Of these, by oid.
    pub(crate) databases: BTreeSet<u32>,
}

/// What is to be read of a branch.
#[derive(Debug, Default)]
pub(crate) struct RelationDesk {
    wanted: Mutex<Wanted>,
    wake: Notify,
}

impl RelationDesk {
    /// Names may have changed.
    pub(crate) fn want(&self, more: Wanted) {
        let mut wanted = self.lock();
        wanted.all |= more.all;
        wanted.databases.extend(more.databases);
        drop(wanted);
        self.wake.notify_one();
    }

    /// All names are to be read.
    pub(crate) fn want_all(&self) {
        let (all, databases) = (true, BTreeSet::new());
        self.want(Wanted { all, databases });
    }

    fn take(&self) -> Option<Wanted> {
        let wanted = std::mem::take(&mut *self.lock());
        (wanted != Wanted::default()).then_some(wanted)
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names were not read, or not stored.
#[derive(Debug, thiserror::Error)]
enum NamesError {
    #[error(transparent)]
    Settings(Box<ArchiveError>),
    #[error("the catalogs cannot be read")]
    Server(#[from] pg_replication::PgError),
    #[error("the catalogs say {text:?} where a number is expected")]
    Number { text: String },
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// Reads names whenever they are wanted, until it is cancelled.
pub(crate) async fn keep(branch: BranchContext, cancel: CancellationToken) {
    let mut keeper = Keeper::new(branch);
    tokio::select! {
        () = cancel.cancelled() => {}
        () = keeper.run() => {}
    }
}

struct Keeper {
    branch: BranchContext,
    catalogs: Catalogs,
}

impl Keeper {
    fn new(branch: BranchContext) -> Self {
        Keeper {
            branch,
            catalogs: Catalogs::default(),
        }
    }

    async fn run(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.branch.status.relations.wake.notified().await;
            tokio::time::sleep(GATHER).await;
            let Some(wanted) = self.branch.status.relations.take() else {
                continue;
            };
            let begun = Instant::now();
            match self.refresh(&wanted).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(REST.max(begun.elapsed() * REST_TIMES)).await;
                }
                Err(error) => {
                    tracing::warn!(
                        error = service::run::chain(&error),
                        ?pause,
                        "the names of relations are not up to date"
                    );
                    self.branch.status.relations.want(wanted);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn refresh(&mut self, wanted: &Wanted) -> Result<(), NamesError> {
        let timeline = self.branch.status.observed().timeline;
        let timeline = timeline.unwrap_or(self.branch.branch.timeline);
        let settings = connection_settings(&self.branch)
            .map_err(|error| NamesError::Settings(Box::new(error)))?;
        let map = self.catalogs.read(&settings, wanted).await?;
        let (relations, as_of) = (map.relations.len(), map.as_of);
        let writer = self.branch.uploader.writer();
        if writer.put_relation_map(timeline, &map).await? {
            tracing::debug!(relations, %as_of, "names of relations are stored");
        }
        Ok(())
    }
}

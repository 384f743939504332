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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repository::RepositoryError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ArchiveError;
use crate::session::{BranchContext, connection_settings};
use catalogs::Catalogs;

/// Commits that come together are looked at together.
const GATHER: Duration = Duration::from_millis(300);
/// Between two looks, and at least so many times as long as the last one took.
const REST: Duration = Duration::from_millis(500);
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
#[derive(Debug)]
pub(crate) struct RelationDesk {
    wanted: Mutex<Wanted>,
    wake: Notify,
    /// Somebody waits: no gathering, no rest.
    hurry: Notify,
    /// How often something was wanted, and up to which of these it was looked at.
    asked: watch::Sender<u64>,
    looked: watch::Sender<u64>,
}

impl Default for RelationDesk {
    fn default() -> Self {
        RelationDesk {
            wanted: Mutex::default(),
            wake: Notify::default(),
            hurry: Notify::default(),
            asked: watch::Sender::new(0),
            looked: watch::Sender::new(0),
        }
    }
}

impl RelationDesk {
    /// Names may have changed.
    pub(crate) fn want(&self, more: Wanted) {
        self.add(more, 1);
    }

    /// It did not work: once more, but nobody waits for it.
    fn again(&self, more: Wanted) {
        self.add(more, 0);
    }

    /// The number goes with what is wanted, under one lock.
    fn add(&self, more: Wanted, asks: u64) {
        let mut wanted = self.lock();
        wanted.all |= more.all;
        wanted.databases.extend(more.databases);
        self.asked.send_modify(|asked| *asked += asks);
        drop(wanted);
        self.wake.notify_one();
    }

    /// All names are to be read.
    pub(crate) fn want_all(&self) {
        let (all, databases) = (true, BTreeSet::new());
        self.want(Wanted { all, databases });
    }

    /// Has what is wanted by now looked at without delay, and waits for it, but not for long: whoever asks what
    /// happened wants names with it.
    pub(crate) async fn settle(&self, within: Duration) {
        let number = *self.asked.borrow();
        let mut looked = self.looked.subscribe();
        if *looked.borrow_and_update() >= number {
            return;
        }
        self.hurry.notify_one();
        let looked = looked.wait_for(|looked| *looked >= number);
        let _in_time = tokio::time::timeout(within, looked).await;
    }

    /// What is wanted, and its number.
    fn take(&self) -> Option<(Wanted, u64)> {
        let mut wanted = self.lock();
        let number = *self.asked.borrow();
        let wanted = std::mem::take(&mut *wanted);
        (wanted != Wanted::default()).then_some((wanted, number))
    }

    /// It was looked at, with success or not: nobody waits for what fails.
    fn looked_at(&self, number: u64) {
        self.looked
            .send_modify(|looked| *looked = number.max(*looked));
    }

    /// Rests, unless somebody waits.
    async fn rest(&self, duration: Duration) {
        let _rested = tokio::time::timeout(duration, self.hurry.notified()).await;
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
        let status = Arc::clone(&self.branch.status);
        let desk = &status.relations;
        loop {
            desk.wake.notified().await;
            desk.rest(GATHER).await;
            let Some((wanted, number)) = desk.take() else {
                continue;
            };
            let begun = Instant::now();
            let result = self.refresh(&wanted).await;
            desk.looked_at(number);
            match result {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    desk.rest(REST.max(begun.elapsed() * REST_TIMES)).await;
                }
                Err(error) => {
                    tracing::warn!(
                        error = service::run::chain(&error),
                        ?pause,
                        "the names of relations are not up to date"
                    );
                    desk.again(wanted);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_names_is_not_kept_by_rests_or_failures() {
        let desk = RelationDesk::default();
        let limit = Duration::from_secs(60);
        desk.settle(limit).await;
        desk.want_all();
        let begun = Instant::now();
        let looking = async {
            desk.rest(limit / 2).await;
            let (wanted, number) = desk.take().unwrap();
            desk.looked_at(number);
            desk.again(wanted);
        };
        let ((), ()) = tokio::join!(desk.settle(limit), looking);
        desk.settle(limit).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        desk.want_all();
        desk.settle(limit).await;
        assert_eq!(begun.elapsed(), limit, "nobody looked");
    }
}

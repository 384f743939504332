//! The commit-time index of a branch's archive: made beside the stream, from what is stored.
//!
//! The stream says what is stored ([`IndexDesk`]); a keeper for each branch ([`keep`]) reads it once more, from the
//! spool while that is there and otherwise from the archive, and stores the index of every segment. What must
//! stay true:
//!
//! - Archiving never waits for it, and nothing that goes wrong here reaches the stream.
//! - Segments are indexed in the order of the WAL, each with what the one before left open: what is stored does not
//!   depend on who made it, nor when. So streaming and filling up what has no index are one thing here.
//! - It is bounded: a few spools are kept on disk for it, and one segment of the archive in memory in the whole process.

mod keeper;
mod progress;
mod reading;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pg_format::{SegmentName, SegmentNumber, TimelineHistory, WalSegmentSize};
use tokio::sync::{Notify, Semaphore};

pub(crate) use keeper::keep;

use crate::segment_spool::SegmentSpool;

/// Spools that wait to be indexed; those before are read from the archive again.
const MOST_SPOOLS: usize = 3;

/// Of these spools, and of what ended timelines leave, no more than this and one segment: the files have no names, and
/// nobody sees what they take of the disk.
const MOST_SPOOL_BYTES: u64 = 64 << 20;

/// Timelines that wait to be indexed to their end; what is left of others is filled up at the next start.
const MOST_ENDED: usize = 8;

/// Whose turn it is to have a segment of the archive in memory, over all branches.
pub(crate) type ArchiveTurn = Arc<Semaphore>;

/// What the stream says to the keeper of the index. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct IndexDesk(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    seen: Mutex<Seen>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    paths: u64,
    /// Timelines that have ended and are not indexed to their end.
    ended: VecDeque<Arc<Mutex<PathState>>>,
    current: Option<Arc<Mutex<PathState>>>,
}

/// The way that archived segments follow each other.
#[derive(Clone, Debug)]
pub(crate) struct IndexPath {
    /// The history of the timeline that is streamed.
    pub(crate) history: TimelineHistory,
    /// The server's major version.
    pub(crate) server_major: u32,
    /// Segments of the chain that are stored already; streaming begins behind them.
    pub(crate) archived: BTreeSet<SegmentName>,
    /// Where streaming begins.
    pub(crate) start: SegmentNumber,
}

/// What is stored along a path.
#[derive(Debug)]
struct PathState {
    number: u64,
    path: Arc<IndexPath>,
    /// Every segment from the path's start up to here is stored.
    stored_to: SegmentNumber,
    /// What is still on disk of stored segments, and of the one that follows them.
    spools: BTreeMap<SegmentNumber, SegmentSpool>,
    /// The timeline has ended: nothing more will come.
    ended: bool,
    /// Its last segment, which stays a part.
    last: Option<SegmentSpool>,
}

impl Seen {
    fn left_by_ended(&self) -> u64 {
        let left =
            |state: &Arc<Mutex<PathState>>| lock(state).last.as_ref().map(SegmentSpool::written);
        self.ended.iter().filter_map(left).sum()
    }
}

impl PathState {
    /// Beside the segment stored last, and the open one, which is on disk anyway.
    fn too_much_is_kept(&self) -> bool {
        let others = self.spools.values().rev().skip(2);
        let others: u64 = others.map(SegmentSpool::written).sum();
        let newest = self.spools.values().rev().take(2);
        let newest: u64 = newest.map(SegmentSpool::written).sum();
        others > 0 && others + newest > MOST_SPOOL_BYTES
    }
}

impl IndexDesk {
    /// Streaming begins.
    pub(crate) fn begin(&self, path: IndexPath) {
        let mut seen = self.lock();
        seen.paths += 1;
        let state = PathState {
            number: seen.paths,
            stored_to: path.start,
            path: Arc::new(path),
            spools: BTreeMap::new(),
            ended: false,
            last: None,
        };
        let before = seen.current.replace(Arc::new(Mutex::new(state)));
        seen.ended
            .extend(before.filter(|before| lock(before).ended));
        while seen.ended.len() > MOST_ENDED
            || (seen.ended.len() > 1 && seen.left_by_ended() > MOST_SPOOL_BYTES)
        {
            let _ = seen.ended.pop_front();
        }
        drop(seen);
        self.0.wake.notify_one();
    }

    /// A segment is stored; `following` is what has come of the next one.
    pub(crate) fn stored(
        &self,
        segment: SegmentSpool,
        following: Option<SegmentSpool>,
        size: WalSegmentSize,
    ) {
        self.with_current(|state| {
            for spool in [Some(segment), following].into_iter().flatten() {
                let number = spool.name().number(size);
                let longer = |have: &SegmentSpool| have.written() < spool.written();
                if state.spools.get(&number).is_none_or(longer) {
                    let _ = state.spools.insert(number, spool);
                }
            }
            while state.spools.len() > MOST_SPOOLS || state.too_much_is_kept() {
                let _ = state.spools.pop_first();
            }
        });
    }

    /// More of the open segment has come: enough, perhaps, of a record that began in the one before.
    pub(crate) fn following(&self, open: Option<SegmentSpool>, size: WalSegmentSize) {
        if let Some(open) = open {
            self.stored(open, None, size);
            self.0.wake.notify_one();
        }
    }

    /// Every segment before this one is stored.
    pub(crate) fn stored_to(&self, number: SegmentNumber) {
        self.with_current(|state| state.stored_to = state.stored_to.max(number));
        self.0.wake.notify_one();
    }

    /// The timeline has ended, and everything of it is stored; its last segment may be a part.
    pub(crate) fn ended(&self, last: Option<SegmentSpool>) {
        self.with_current(|state| {
            state.ended = true;
            // The others are stored whole.
            state.spools.clear();
            state.last = last;
        });
        self.0.wake.notify_one();
    }

    /// What is to be indexed now.
    fn work(&self) -> Option<Arc<Mutex<PathState>>> {
        let seen = self.lock();
        seen.ended.front().or(seen.current.as_ref()).map(Arc::clone)
    }

    /// The branch is not ours any more.
    fn clear(&self) {
        let mut seen = self.lock();
        seen.ended.clear();
        seen.current = None;
    }

    /// Everything of a path is indexed.
    fn done(&self, number: u64) {
        let mut seen = self.lock();
        if seen
            .ended
            .front()
            .is_some_and(|path| lock(path).number == number)
        {
            let _ = seen.ended.pop_front();
            drop(seen);
            self.0.wake.notify_one();
        }
    }

    fn with_current(&self, change: impl FnOnce(&mut PathState)) {
        if let Some(current) = &self.lock().current {
            change(&mut lock(current));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(state: &Mutex<PathState>) -> MutexGuard<'_, PathState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pg_format::TimelineId;

    use super::*;

    async fn spool(directory: &std::path::Path, number: SegmentNumber, mib: u64) -> SegmentSpool {
        let size = size();
        let name = SegmentName::new(TimelineId(1), number, size);
        let mut spool = SegmentSpool::create(directory, name, size).await.unwrap();
        for _ in 0..mib {
            let bytes = Bytes::from_static(&[7; 1 << 20]);
            spool.append(bytes).await.unwrap();
        }
        spool
    }

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(64 << 20).unwrap()
    }

    fn begin(desk: &IndexDesk) {
        desk.begin(IndexPath {
            history: TimelineHistory::root(TimelineId(1)),
            server_major: 18,
            archived: BTreeSet::new(),
            start: 1,
        });
    }

    fn kept(desk: &IndexDesk) -> Vec<SegmentNumber> {
        let seen = desk.lock();
        let current = lock(seen.current.as_ref().unwrap());
        current.spools.keys().copied().collect()
    }

    #[tokio::test]
    async fn what_waits_on_disk_is_bounded_in_bytes() {
        let place = tempfile::tempdir().unwrap();
        let desk = IndexDesk::default();
        begin(&desk);
        for number in 1..=3 {
            let segment = spool(place.path(), number, 30).await;
            desk.stored(segment, None, size());
        }
        assert_eq!(kept(&desk), [2, 3], "the archive has the first one");
        let small = spool(place.path(), 4, 1).await;
        desk.stored(small, None, size());
        assert_eq!(kept(&desk), [2, 3, 4], "61 MiB");
        let last = spool(place.path(), 5, 40).await;
        desk.ended(Some(last));
        assert_eq!(kept(&desk), [0; 0], "all stored but the last");
        begin(&desk);
        desk.ended(Some(spool(place.path(), 6, 40).await));
        begin(&desk);
        let ended = desk.lock().ended.len();
        assert_eq!(ended, 1, "80 MiB");
    }
}

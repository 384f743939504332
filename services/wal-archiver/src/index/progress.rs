//! How far a path is indexed, and where the WAL that comes next is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pg_format::{SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::reading::{Cluster, Reading};
use super::{IndexPath, PathState, lock};
use crate::segment_spool::SegmentSpool;
use crate::start_point::archived_under;

/// How far a path is indexed.
pub(super) struct Indexing {
    pub(super) number: u64,
    pub(super) path: Arc<IndexPath>,
    /// Archived segments without an index, before where streaming began; found out at first.
    pub(super) missing: Option<BTreeSet<SegmentNumber>>,
    /// The next of what was streamed.
    pub(super) next: SegmentNumber,
    pub(super) reading: Option<(Reading, SegmentNumber)>,
    pub(super) loaded: Option<Loaded>,
    pub(super) last_is_indexed: bool,
}

/// A segment of the archive, in memory.
pub(super) struct Loaded {
    pub(super) number: SegmentNumber,
    pub(super) bytes: Bytes,
    pub(super) since: Instant,
    pub(super) _turn: Option<OwnedSemaphorePermit>,
}

/// What reading goes on with.
pub(super) enum Source {
    Spool(SegmentSpool),
    Archive(SegmentName),
    /// It is not stored yet.
    NotYet,
}

impl IndexPath {
    pub(super) fn timeline_of(&self, number: SegmentNumber, cluster: Cluster) -> TimelineId {
        archived_under(&self.history, number, cluster.size)
    }
}

impl Indexing {
    pub(super) fn new(state: &Arc<Mutex<PathState>>) -> Self {
        let state = lock(state);
        Indexing {
            number: state.number,
            next: state.path.start,
            path: Arc::clone(&state.path),
            missing: None,
            reading: None,
            loaded: None,
            last_is_indexed: false,
        }
    }

    /// The first segment that is stored and not indexed.
    pub(super) fn first_missing(&self, state: &Mutex<PathState>) -> Option<SegmentNumber> {
        let missing = self.missing.iter().flatten().next().copied();
        let streamed = || (self.next < lock(state).stored_to).then_some(self.next);
        missing.or_else(streamed)
    }

    pub(super) fn indexed(&mut self, number: SegmentNumber) {
        if number == self.next {
            self.next += 1;
        } else if let Some(missing) = &mut self.missing {
            let _ = missing.remove(&number);
        }
    }

    /// Where the bytes of a segment from `offset` on are.
    pub(super) fn source(
        &self,
        state: &Mutex<PathState>,
        number: SegmentNumber,
        offset: u64,
        size: WalSegmentSize,
    ) -> Source {
        let state = lock(state);
        let last = state
            .last
            .as_ref()
            .filter(|last| last.name().number(size) == number);
        if let Some(spool) = state.spools.get(&number).or(last)
            && spool.written() > offset
        {
            return Source::Spool(spool.clone());
        }
        let timeline = archived_under(&self.path.history, number, size);
        let name = SegmentName::new(timeline, number, size);
        let streamed = (self.path.start..state.stored_to).contains(&number);
        if streamed || self.path.archived.contains(&name) {
            Source::Archive(name)
        } else {
            Source::NotYet
        }
    }
}

//! The index of pushed segments. Who pushes a segment stores its index; what is missing of it after a while is made
//! here, from the archive.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_format::{SegmentName, SegmentNumber};
use tokio::time::Instant;

use super::chain::Chain;
use crate::index::IndexPath;
use crate::session::BranchContext;

/// The index of a segment comes right behind it.
const WAIT_FOR_PUSH: Duration = Duration::from_secs(30);

/// Looks after what the pushing left undone.
#[derive(Debug, Default)]
pub(super) struct LateIndex {
    /// Every segment before this was looked at.
    done: Option<SegmentNumber>,
    advanced_at: Option<Instant>,
}

impl LateIndex {
    /// The chain goes further.
    pub(super) fn advanced(&mut self) {
        let _ = self.advanced_at.get_or_insert_with(Instant::now);
    }

    /// Has the keeper of the index look, when it is time.
    pub(super) fn look(&mut self, branch: &BranchContext, chain: &mut Chain, server_major: u32) {
        if chain.last().is_none() {
            return;
        }
        let waited = self
            .advanced_at
            .is_some_and(|at| at.elapsed() >= WAIT_FOR_PUSH);
        if self.done.is_some() && !waited {
            return;
        }
        let size = branch.branch.wal_segment_size;
        // The last one before may not have been complete then: its last record goes on in the next one.
        let from = self.done.and_then(|done| done.checked_sub(1)).unwrap_or(0);
        let archived: BTreeSet<SegmentName> = chain
            .archived()
            .iter()
            .filter(|name| (from..chain.next()).contains(&name.number(size)))
            .copied()
            .collect();
        branch.index.begin(IndexPath {
            history: chain.history().clone(),
            server_major,
            archived,
            start: chain.next(),
        });
        self.done = Some(chain.next());
        chain.forget_before(chain.next().saturating_sub(2));
        self.advanced_at = None;
    }
}

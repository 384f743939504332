//! What of the index is stored, without building the rest: for whoever fills it up.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use pg_format::{SegmentNumber, TimelineId};
use wal_index::SegmentIndex;

use super::group_of;
use crate::{BranchReader, Result};

/// Group objects that are read at the same time.
const GROUPS_AT_ONCE: usize = 4;

impl BranchReader {
    /// The stored index of one segment; nothing if there is none, or it cannot be used.
    ///
    /// # Errors
    /// The store failed.
    pub async fn stored_wal_index(
        &self,
        timeline: TimelineId,
        number: SegmentNumber,
    ) -> Result<Option<SegmentIndex>> {
        let group = self.index_group(timeline, group_of(number)).await?;
        Ok(group.into_iter().find(|index| index.segment == number))
    }

    /// Those of `numbers` of which no index is stored that can be used.
    ///
    /// # Errors
    /// The store failed.
    pub async fn without_wal_index(
        &self,
        timeline: TimelineId,
        mut numbers: BTreeSet<SegmentNumber>,
    ) -> Result<BTreeSet<SegmentNumber>> {
        let groups: BTreeSet<u64> = numbers.iter().copied().map(group_of).collect();
        let mut stored = futures::stream::iter(groups)
            .map(|group| self.index_group(timeline, group))
            .buffer_unordered(GROUPS_AT_ONCE);
        while let Some(group) = stored.try_next().await? {
            for index in group {
                let _ = numbers.remove(&index.segment);
            }
        }
        Ok(numbers)
    }
}

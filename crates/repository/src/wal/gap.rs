//! `wal/gaps/`: WAL that is missing for good, one object for each gap.
//!
//! A gap is recorded before the chain behind it begins, so that it can be told whenever there is somebody
//! to be told.

use chrono::{DateTime, Utc};
use events::event::GapCause;
use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::{BranchReader, BranchWriter, RepositoryError, Result, WalPosition, document};

const FORMAT: &str = "zektor-wal-gap";

/// WAL that is missing and cannot be had any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalGap {
    /// The timeline.
    pub timeline: TimelineId,
    /// First missing byte.
    pub from_lsn: Lsn,
    /// First byte that is there again.
    pub to_lsn: Lsn,
    /// Why.
    pub cause: GapCause,
    /// When it was found, by the archiver's clock.
    pub detected_at: DateTime<Utc>,
    /// What was proven of the WAL before it: the position that is written next is that of the chain behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<GapProof>,
}

/// What was proven of the WAL before a gap, on the gap's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapProof {
    /// Not behind the gap's beginning.
    pub lsn: Lsn,
    /// Whatever had been committed by then, by the *server's* clock, lies before `lsn`.
    pub at: DateTime<Utc>,
}

impl GapProof {
    /// What a position says of WAL that is missing from `gap` on.
    #[must_use]
    pub fn of(position: &WalPosition, timeline: TimelineId, gap: Lsn) -> Option<Self> {
        let before = position.timeline == timeline && position.lsn <= gap;
        // The position of a chain that has just begun proves nothing.
        (before && position.proven_at > DateTime::UNIX_EPOCH).then_some(GapProof {
            lsn: position.lsn,
            at: position.proven_at,
        })
    }
}

impl WalGap {
    /// The first found first.
    pub(crate) fn in_order(mut gaps: Vec<WalGap>) -> Vec<WalGap> {
        gaps.sort_by_key(|gap| (gap.detected_at, gap.timeline, gap.from_lsn));
        gaps
    }
}

impl BranchReader {
    /// The branch's gaps, the first found first.
    ///
    /// # Errors
    /// One is damaged, or the store failed.
    pub async fn wal_gaps(&self) -> Result<Vec<WalGap>> {
        let mut gaps = Vec::new();
        for key in self.wal_gap_keys().await? {
            gaps.extend(RepositoryError::absent_as_none(self.wal_gap(&key).await)?);
        }
        Ok(WalGap::in_order(gaps))
    }

    pub(crate) async fn wal_gap_keys(&self) -> Result<Vec<String>> {
        let listed = self.store.list(&self.layout.wal_gaps()).await?;
        Ok(listed.into_iter().map(|(key, _)| key).collect())
    }

    pub(crate) async fn wal_gap(&self, key: &str) -> Result<WalGap> {
        document::decode(FORMAT, key, &self.store.get(key).await?)
    }
}

impl BranchWriter {
    /// Records a gap, over what was known of one with the same beginning.
    ///
    /// # Errors
    /// The store failed.
    pub async fn put_wal_gap(&self, gap: &WalGap) -> Result<()> {
        let key = self.layout.wal_gap(gap.timeline, gap.from_lsn);
        self.store.put(&key, document::encode(FORMAT, gap)?).await
    }
}

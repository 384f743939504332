//! `wal/position`: how far a branch's archive is proven complete, and at which moment.

use chrono::{DateTime, Utc};
use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::{BranchReader, BranchWriter, Result, document};

const FORMAT: &str = "zektor-wal-position";

/// The proven end of a branch's archive.
///
/// Everything from `first_segment` up to `lsn` is in the repository without a gap, and whatever had
/// been committed on the server by `proven_at` lies before `lsn`. Retention does not write here: what it has let go of
/// since the archiver began last is not there, and `first_segment` may be of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPosition {
    /// The timeline that is archived now.
    pub timeline: TimelineId,
    /// Durable without a gap up to here.
    pub lsn: Lsn,
    /// By the *server's* clock: the latest restorable time.
    pub proven_at: DateTime<Utc>,
    /// File name of the first segment of the unbroken chain that ends at `lsn`.
    pub first_segment: String,
    /// When this was written, by the archiver's clock.
    pub updated: DateTime<Utc>,
}

impl BranchReader {
    /// How far the archive is proven complete.
    ///
    /// # Errors
    /// Nothing was archived yet ([`crate::RepositoryError::Absent`]), the object is damaged, or the
    /// store failed.
    pub async fn wal_position(&self) -> Result<WalPosition> {
        let key = self.layout.wal_position();
        document::decode(FORMAT, &key, &self.store.get(&key).await?)
    }
}

impl BranchWriter {
    /// Records how far the archive is proven complete, over the last position.
    ///
    /// # Errors
    /// The store failed.
    pub async fn put_wal_position(&self, position: &WalPosition) -> Result<()> {
        let key = self.layout.wal_position();
        self.store
            .put(&key, document::encode(FORMAT, position)?)
            .await
    }
}

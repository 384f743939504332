//! Reads the records of archived WAL, segment after segment along a history.
//!
//! What must stay true: what a visitor sees was validated by `WalReader`, in the order of the WAL, and nothing is left
//! out. One segment is in memory at a time.

use bytes::Bytes;
use pg_format::wal::{RecordContent, WalReader, WalReaderConfig, WalRecord};
use pg_format::{Lsn, SegmentNumber};
use wal_index::TransactionEnd;

use super::{Place, WalPath};
use crate::{BranchReader, RepositoryError, Result};

/// So much is validated before others get their turn.
const PIECE_BYTES: usize = 1 << 20;

impl BranchReader {
    /// Shows every record that begins from `from` on and before `to`, in order. Gives back where the archived WAL ends,
    /// at most `to`: no record that begins before it is left out. A last record that is not archived to its end is.
    ///
    /// Reads the WAL from the beginning of the segment that holds `from`, and beyond `to` as far as the last record
    /// goes.
    ///
    /// # Errors
    /// WAL is damaged, or was deleted since the listing ([`RepositoryError::Absent`]); the server's version is not known;
    /// or the store failed.
    pub async fn records_between(
        &self,
        path: &WalPath,
        from: Lsn,
        to: Lsn,
        mut visit: impl FnMut(&WalRecord<'_>) + Send,
    ) -> Result<Lsn> {
        if to <= from {
            return Ok(to);
        }
        let mut feed = Feed::new(self, path, path.format.segment_size.segment_of(from))?;
        let mut wanted = |record: &WalRecord<'_>| {
            if (from..to).contains(&record.start) {
                visit(record);
            }
        };
        while feed.reached() < to && feed.piece(&mut wanted).await? {}
        Ok(feed.reached().min(to))
    }

    /// The ends of transactions that begin from `from` on and before `to`, in order. As [`Self::records_between`].
    ///
    /// # Errors
    /// As there.
    pub async fn ends_between(
        &self,
        path: &WalPath,
        from: Lsn,
        to: Lsn,
    ) -> Result<Vec<TransactionEnd>> {
        let mut ends = Vec::new();
        let _ = self
            .records_between(path, from, to, |record| ends.extend(end_of(record)))
            .await?;
        Ok(ends)
    }

    /// The bytes of a place that are of use.
    async fn place(&self, path: &WalPath, place: Place) -> Result<Bytes> {
        let complete = || self.get_segment(place.name);
        let mut bytes = match place.complete {
            true => complete().await?,
            false => match RepositoryError::absent_as_none(self.get_partial(place.name).await)? {
                Some(bytes) => bytes,
                // Completed since the listing.
                None => complete().await?,
            },
        };
        let useful = place
            .end
            .bytes_since(place.name.start(path.format.segment_size));
        bytes.truncate(usize::try_from(useful).unwrap_or(usize::MAX));
        Ok(bytes)
    }
}

/// When and how a record ends a transaction, if it does.
fn end_of(record: &WalRecord<'_>) -> Option<TransactionEnd> {
    let (time, xid, committed) = match record.content() {
        Ok(RecordContent::Commit(commit)) => (commit.time, commit.xid, true),
        Ok(RecordContent::Abort(abort)) => (abort.time, abort.xid, false),
        Ok(_) => return None,
        // Every end begins with its time, whatever of the rest is not understood.
        Err(_) => {
            use pg_format::wal::TransactionEndKind::{Commit, CommitPrepared};
            let end = record.transaction_end().ok()??;
            (end.time, None, matches!(end.kind, Commit | CommitPrepared))
        }
    };
    Some(TransactionEnd {
        lsn: record.start,
        end: record.end,
        time,
        xid: xid.unwrap_or(0),
        committed,
    })
}

/// Feeds archived WAL to a reader from the beginning of a segment on, until it ends.
pub(crate) struct Feed<'a> {
    branch: &'a BranchReader,
    path: &'a WalPath,
    reader: WalReader,
    /// The segment that is read next.
    next: SegmentNumber,
    /// What is left of the one before.
    rest: Bytes,
    /// The reader has met something that is not the WAL it should be.
    failed: bool,
}

impl<'a> Feed<'a> {
    pub(crate) fn new(
        branch: &'a BranchReader,
        path: &'a WalPath,
        number: SegmentNumber,
    ) -> Result<Self> {
        let format = path.format;
        let reader = WalReader::new(WalReaderConfig {
            start: format.segment_size.start_of(number),
            history: path.history.clone(),
            system_identifier: format.system_identifier,
            segment_size: format.segment_size,
            block_size: format.block_size,
            server_major: format.server_major,
        });
        let reader = reader
            .map_err(|error| RepositoryError::refused(format!("cannot read the WAL: {error}")))?;
        Ok(Feed {
            branch,
            path,
            reader,
            next: number,
            rest: Bytes::new(),
            failed: false,
        })
    }

    /// Every record that begins before it has been shown.
    pub(crate) fn reached(&self) -> Lsn {
        if self.failed {
            return self.reader.validated_end();
        }
        let unfinished = self.reader.unfinished_record();
        unfinished.unwrap_or_else(|| self.reader.position())
    }

    /// Feeds the next piece; `false` when the archived WAL ends.
    pub(crate) async fn piece(
        &mut self,
        visit: &mut (impl FnMut(&WalRecord<'_>) + Send),
    ) -> Result<bool> {
        if self.rest.is_empty() && !self.load().await? {
            return Ok(false);
        }
        let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        self.reader.feed_each(&piece, visit).map_err(|error| {
            self.failed = true;
            let name = self.path.place(self.next.saturating_sub(1));
            let key = name.map_or_else(String::new, |place| place.name.to_string());
            RepositoryError::corrupt(key, error)
        })?;
        tokio::task::yield_now().await;
        Ok(true)
    }

    async fn load(&mut self) -> Result<bool> {
        let start = self.path.format.segment_size.start_of(self.next);
        let Some(place) = self.path.place(self.next) else {
            return Ok(false);
        };
        // The file before ended within its segment.
        if self.reader.position() != start {
            return Ok(false);
        }
        self.rest = self.branch.place(self.path, place).await?;
        self.next = self.next.saturating_add(1);
        Ok(!self.rest.is_empty())
    }
}

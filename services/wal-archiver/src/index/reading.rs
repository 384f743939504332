//! Records of stored WAL on their way into an index builder.

use bytes::Bytes;
use pg_format::wal::{WalBlockSize, WalError, WalReader, WalReaderConfig, WalReaderConfigError};
use pg_format::{Lsn, SegmentNumber, SystemIdentifier, WalSegmentSize};
use wal_index::{IndexBuilder, IndexSettings, OpenTransaction, SegmentIndex};

use super::IndexPath;

/// Between two pieces, other tasks get their turn.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// Which cluster's WAL it is, and what its index is to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) system_identifier: SystemIdentifier,
    pub(super) size: WalSegmentSize,
    pub(super) settings: IndexSettings,
}

/// A reader and a builder that are at the same place.
#[derive(Debug)]
pub(super) struct Reading {
    reader: WalReader,
    builder: IndexBuilder,
}

impl Reading {
    /// Begins with a segment; `carry` is what the one before left open.
    pub(super) fn begin(
        cluster: Cluster,
        path: &IndexPath,
        number: SegmentNumber,
        carry: Vec<OpenTransaction>,
    ) -> Result<Self, WalReaderConfigError> {
        let start = cluster.size.start_of(number);
        let reader = WalReader::new(WalReaderConfig {
            start,
            history: path.history.clone(),
            system_identifier: cluster.system_identifier,
            segment_size: cluster.size,
            block_size: WalBlockSize::DEFAULT,
            server_major: path.server_major,
        })?;
        let builder = IndexBuilder::new(cluster.settings, cluster.size, start, carry);
        Ok(Reading { reader, builder })
    }

    /// The first byte that has not been read.
    pub(super) fn position(&self) -> Lsn {
        self.reader.position()
    }

    /// Reads the next bytes.
    pub(super) async fn feed(&mut self, bytes: &Bytes) -> Result<(), WalError> {
        let piece_bytes = usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX);
        for piece in bytes.chunks(piece_bytes) {
            let builder = &mut self.builder;
            self.reader
                .feed_each(piece, |record| builder.observe(record))?;
            self.builder.advance(self.reached());
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The index of the next segment of which every record is read.
    pub(super) fn take(&mut self) -> Option<SegmentIndex> {
        self.builder.take_finished()
    }

    /// The index of a segment that stays a part, as far as it was read.
    pub(super) fn unfinished(&self) -> SegmentIndex {
        self.builder.unfinished(self.reached())
    }

    /// Every record that begins before it has been seen.
    fn reached(&self) -> Lsn {
        let unfinished = self.reader.unfinished_record();
        unfinished.unwrap_or_else(|| self.reader.position())
    }
}

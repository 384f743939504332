//! A pushed segment is looked at as streamed WAL is: every page, every record, and how it follows what is archived.
//!
//! What must stay true: nothing reaches the archive that the WAL reader refuses. A record that goes on into the next
//! segment is checked to its end when that one is pushed, for a segment is read after the one before it.

use pg_format::wal::{WalBlockSize, WalError, WalReader, WalReaderConfig, WalReaderConfigError};
use pg_format::{Lsn, SegmentNumber, TimelineHistory};
use repository::BranchRecord;
use wal_index::{IndexBuilder, IndexSettings, OpenTransaction, SegmentIndex};

/// Bytes that are looked at together.
const PIECE_BYTES: usize = 1 << 20;

/// Why a file is no WAL of this branch.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotItsWal {
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Version(#[from] WalReaderConfigError),
}

/// What a segment is held against.
pub(super) struct Expected<'a> {
    pub(super) record: &'a BranchRecord,
    pub(super) history: TimelineHistory,
    pub(super) number: SegmentNumber,
    /// The archived segment before it, if there is one.
    pub(super) before: Option<&'a [u8]>,
    /// What the segment that is read first finds open.
    pub(super) carry: Vec<OpenTransaction>,
    pub(super) settings: IndexSettings,
}

/// Reads a whole segment; gives the index of those of the two segments that are complete now.
pub(super) fn segment(expected: Expected<'_>, raw: &[u8]) -> Result<Vec<SegmentIndex>, NotItsWal> {
    let size = expected.record.wal_segment_size;
    let before = expected.before.unwrap_or_default();
    let start = first_byte(&expected, before);
    let mut reader = reader(&expected, start)?;
    let mut builder = IndexBuilder::new(expected.settings, size, start, expected.carry);
    let mut indexes = Vec::new();
    for piece in before.chunks(PIECE_BYTES).chain(raw.chunks(PIECE_BYTES)) {
        reader.feed_each(piece, |record| builder.observe(record))?;
        builder.advance(reader.unfinished_record().unwrap_or(reader.position()));
        indexes.extend(std::iter::from_fn(|| builder.take_finished()));
    }
    Ok(indexes)
}

/// Reads the part of a segment that an ended timeline leaves; gives the bytes of it that are valid. Behind them is
/// whatever the recycled file had.
pub(super) fn beginning(expected: &Expected<'_>, raw: &[u8]) -> Result<usize, NotItsWal> {
    let size = expected.record.wal_segment_size;
    let begin = size.start_of(expected.number);
    let before = expected.before.unwrap_or_default();
    let mut reader = reader(expected, first_byte(expected, before))?;
    for piece in before.chunks(PIECE_BYTES) {
        reader.feed(piece)?;
    }
    let page = usize::try_from(WalBlockSize::DEFAULT.bytes()).unwrap_or(raw.len());
    for (index, piece) in raw.chunks(page).enumerate() {
        match reader.feed(piece) {
            // The first page says whose it is.
            Err(error) if index == 0 && reader.validated_end() <= begin => return Err(error.into()),
            Err(_) => break,
            Ok(()) => {}
        }
    }
    let valid = reader.validated_end().0.saturating_sub(begin.0);
    Ok(usize::try_from(valid).unwrap_or(raw.len()).min(raw.len()))
}

fn first_byte(expected: &Expected<'_>, before: &[u8]) -> Lsn {
    let begin = expected.record.wal_segment_size.start_of(expected.number);
    Lsn(begin.0.saturating_sub(before.len() as u64))
}

fn reader(expected: &Expected<'_>, start: Lsn) -> Result<WalReader, WalReaderConfigError> {
    WalReader::new(WalReaderConfig {
        start,
        history: expected.history.clone(),
        system_identifier: expected.record.system_identifier,
        segment_size: expected.record.wal_segment_size,
        block_size: WalBlockSize::DEFAULT,
        server_major: expected.record.server_version / 10_000,
    })
}

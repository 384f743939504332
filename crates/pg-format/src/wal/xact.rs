//! Ends of transactions: the records that a time target of recovery is compared with.

use super::body::RecordBodyError;
use super::record::{RecordHeader, ResourceManager};
use crate::PgTimestamp;

/// How and when a transaction ended.
///
/// The time is taken before the record is inserted, so times do not rise strictly with the LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// How it ended.
    pub kind: TransactionEndKind,
    /// The server's clock when it decided to end it.
    pub time: PgTimestamp,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionEndKind {
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Abort,
    /// `COMMIT PREPARED`
    CommitPrepared,
    /// `ROLLBACK PREPARED`
    AbortPrepared,
}

impl TransactionEnd {
    /// Bits of the info byte that name the operation (`XLOG_XACT_OPMASK`).
    const OPERATION: u8 = 0x70;

    pub(super) fn kind_of(header: &RecordHeader) -> Option<TransactionEndKind> {
        if header.resource_manager != ResourceManager::TRANSACTION {
            return None;
        }
        match header.info & Self::OPERATION {
            0x00 => Some(TransactionEndKind::Commit),
            0x20 => Some(TransactionEndKind::Abort),
            0x30 => Some(TransactionEndKind::CommitPrepared),
            0x40 => Some(TransactionEndKind::AbortPrepared),
            _ => None,
        }
    }

    /// Commit and abort records of every kind begin with the time.
    pub(super) fn parse(
        kind: TransactionEndKind,
        main_data: &[u8],
    ) -> Result<Self, RecordBodyError> {
        let time = main_data.first_chunk().ok_or(RecordBodyError::NoTime)?;
        Ok(TransactionEnd {
            kind,
            time: PgTimestamp(i64::from_le_bytes(*time)),
        })
    }
}

//! Write-ahead log: pages, records, and a reader that proves a stream of them whole.
//!
//! WAL is a sequence of fixed-size pages, each with a header; records follow one another across
//! page and segment borders, each linked to the one before and covered by a CRC. Formats follow
//! `src/include/access/xlog_internal.h`, `xlogrecord.h` and `xact.h`; what is accepted follows
//! `src/backend/access/transam/xlogreader.c`. PostgreSQL 14 to 18.
//!
//! [`WalReader`] is what stands between a server and the archive: bytes that it accepts are bytes
//! that recovery will accept.

mod body;
mod content;
mod error;
mod page;
mod reader;
mod record;
#[cfg(test)]
mod tests;
mod xact;

pub use body::{BlockImage, BlockRef, BlockRefs, RecordBody, RecordBodyError, RelationFile};
pub use content::{
    Checkpoint, CheckpointKind, Numbers, Parameters, PreparedTransaction, RecordContent,
    RelationFiles, ServerText, TransactionAbort, TransactionCommit, TransactionDatabase,
    TransactionOrigin, WalLevel,
};
pub use error::{WalError, WalErrorKind};
pub use page::{
    InvalidWalBlockSize, LongPageHeader, WalBlockSize, WalPageHeader, major_version_of_magic,
    page_magic,
};
pub use reader::{WalReader, WalReaderConfig, WalReaderConfigError};
pub use record::{RecordHeader, RecordSummary, ResourceManager, WalRecord};
pub use xact::{TransactionEnd, TransactionEndKind};

//! The repository: how backups and WAL rest in an object store, and how they come back.
//!
//! The layout is drawn in `ARCHITECTURE.md`. What must stay true:
//!
//! - The object store is the truth. A backup exists when its manifest exists, and the manifest is
//!   written last, created only if absent. WAL exists when its object exists.
//! - "Absent" is said only when the store itself said so; anything else is an error
//!   ([`ErrorClass::Absent`] against [`ErrorClass::Transient`]).
//! - Every byte that is read back was checked against a BLAKE3 digest first.
//! - A put that returned is durable. For a local directory that means synced, with every directory
//!   above it.
//! - Every object carries its format and version; one made by a newer Zektor is refused.
//! - Whoever only restores holds a [`BranchReader`], which has no way to write.
//! - Memory is bounded by options, never by the size of a database: about 120 MiB for a
//!   [`BackupWriter`] with the default [`BackupOptions`].

pub mod archive;
mod backup;
mod branch;
mod digest;
mod document;
mod error;
mod expire;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
mod frame;
mod hollow;
mod index;
mod instances;
mod layout;
mod leftover;
mod mark;
mod materialise;
mod open;
mod purge;
mod repository;
mod single_files;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod wal;
mod window;

pub use backup::{
    BackupOptions, BackupWriter, CommitOutcome, EntryKind, EntryPath, FileHeader, IndexPart,
    Manifest, Pack, StoredBackup, Totals,
};
pub use branch::{BranchRecord, ClaimOutcome, ParentBranch};
pub use digest::Digest;
pub use error::{ErrorClass, RepositoryError};
pub use expire::{Advanced, Deleted, NamedPacks, Pruning};
pub use hollow::{Hollow, HollowBranch};
pub use index::IndexSlice;
pub use leftover::StoredPacks;
pub use mark::{Marks, PutMark, ReadMark, effective};
pub use materialise::{Owner, Progress, Restored, Target};
pub use repository::{BranchReader, BranchWriter, Repository};
pub use store::RetryPolicy;
pub use verify::{Problem, VerifyReport};
pub use wal::{
    GapProof, OpenSegment, PutOutcome, WalCoverage, WalFormat, WalGap, WalObject, WalObjectKind,
    WalPath, WalPosition, wal_coverage, wal_stretches,
};
pub use window::window;

/// The result of everything here that can fail.
pub type Result<T, E = RepositoryError> = std::result::Result<T, E>;

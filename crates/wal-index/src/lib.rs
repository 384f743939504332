//! The commit-time index: what the WAL says of when, as pure values.
//!
//! Built record by record while WAL streams, or from archived WAL at any later time, with the same result, byte for
//! byte. It answers "which is the last transaction that ended not later than T?" and "when exactly was it dropped?".
//! Facts come from WAL alone; names of relations ([`RelationMap`]) are kept apart and joined when somebody asks
//! ([`moments`]).
//!
//! - [`IndexBuilder`] makes a [`SegmentIndex`] of each segment from its records.
//! - [`encode`] and [`decode`] are how a group of segments is stored.
//! - [`Search`] finds the transaction end that a recovery target means.
//! - [`moments`] says what was dropped, truncated, deleted; [`buckets`] counts commits over time.

mod buckets;
mod builder;
mod format;
mod model;
mod moments;
mod names;
mod resolve;

pub use buckets::{Bucket, Buckets, buckets};
pub use builder::{CatalogChanges, IndexBuilder, IndexSettings};
pub use format::{FormatError, decode, encode};
pub use model::{
    Commit, CreatedFile, DroppedDatabase, Ends, Interval, OpenTransaction, RowCounts, SegmentIndex,
    TransactionEnd, TransactionEvent, WalEvent,
};
pub use moments::{Before, Moment, MomentKind, moments};
pub use names::{
    After, Database, Names, Relation, RelationChanges, RelationHistory, RelationKind, RelationMap,
};
pub use resolve::{Bounds, ResolveError, Resolved, Search, Step, Stop, Target};

//! PostgreSQL's on-disk and on-the-wire formats, as pure values.
//!
//! Everything here parses bytes that came from somewhere else, so nothing here panics on bad
//! input, reads a clock or touches a disk. Segment size, block size and server version are values
//! of the cluster and are always passed in, never constants. Binary formats are read as
//! little-endian servers (x86-64, ARM64) write them.
//!
//! Memory: a [`wal::WalReader`] holds at most about 1 MiB whatever it is fed. Everything else parses
//! bytes that the caller holds already and takes memory in proportion to them; who reads from the
//! network bounds their length.

/// Serde and JSON Schema by the type's `Display` and `FromStr`, with the pattern of the text.
macro_rules! text_serde {
    ($type:ident, $pattern:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}
pub(crate) use text_serde;

mod backup_label;
mod backup_manifest;
mod control;
mod history;
mod lsn;
mod page;
mod segment;
mod timeline;
mod timestamp;
mod version;
pub mod wal;

pub use backup_label::{
    BackupLabel, BackupLabelError, BackupMethod, BackupSource, IncrementalFrom,
};
pub use backup_manifest::{
    BackupManifest, BackupManifestError, ChecksumAlgorithm, FileChecksum, FileHasher, ManifestFile,
    ManifestPath, ManifestWalRange,
};
pub use control::{ClusterState, ControlFile, ControlFileError, ControlSettings};
pub use history::{HistoryError, TimelineHistory, TimelineRange, TimelineSwitch};
pub use lsn::{Lsn, ParseLsnError};
pub use page::{PageVerdict, check_page, page_checksum};
pub use segment::{
    InvalidSegmentSize, ParseSegmentNameError, SegmentName, SegmentNumber, WalSegmentSize,
};
pub use timeline::{ParseTimelineError, SystemIdentifier, TimelineId};
pub use timestamp::PgTimestamp;
pub use version::{ParseServerVersionError, ServerVersion};

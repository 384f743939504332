//! `pg_control`: what a data directory says about its cluster (`src/include/catalog/pg_control.h`).
//!
//! The layout has been the same from PostgreSQL 14 to 18 but for one flag before the CRC, which 18
//! added. Settings in it are what a restored copy must at least have for hot standby.

use crate::{Lsn, SystemIdentifier, TimelineId};

/// `PG_CONTROL_VERSION` of PostgreSQL 14 to 17, and where their CRC is.
const BEFORE_18: ([u32; 2], usize) = ([1300, 1700], 288);
/// The same of PostgreSQL 18.
const FROM_18: (u32, usize) = (1800, 292);

/// What `pg_control` says, as far as it is needed here. Its CRC was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The format of the file: 1300, 1700 or 1800.
    pub control_version: u32,
    /// The format of the system catalogs, changed by every major version.
    pub catalog_version: u32,
    /// What the server was doing.
    pub state: ClusterState,
    /// Where the latest checkpoint's record is.
    pub checkpoint_lsn: Lsn,
    /// Where replay after it begins.
    pub redo_lsn: Lsn,
    /// The timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// Recovery must go at least this far; invalid unless in archive recovery.
    pub min_recovery_point: Lsn,
    /// Settings of the server that standbys must at least match.
    pub settings: ControlSettings,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
    /// Bytes in a data page.
    pub block_size: u32,
    /// Data pages in a file of a large relation.
    pub blocks_per_file: u32,
    /// Bytes in a WAL page.
    pub wal_block_size: u32,
    /// Bytes in a WAL segment.
    pub wal_segment_size: u32,
    /// Data pages have checksums.
    pub data_checksums: bool,
}

/// What a server was doing when it last wrote `pg_control` (`DBState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up.
    StartingUp,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly, a standby.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// In archive recovery.
    InArchiveRecovery,
    /// Running, or crashed while running.
    InProduction,
}

/// Settings that a standby or a restored copy must at least match while it replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// `max_connections`
    pub max_connections: i32,
    /// `max_worker_processes`
    pub max_worker_processes: i32,
    /// `max_wal_senders`
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: i32,
}

impl ControlFile {
    /// Parses the file, or its first 512 bytes, and checks its CRC.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let fields = Fields(bytes);
        let control_version = fields.word(8)?;
        let crc_offset = if control_version == FROM_18.0 {
            FROM_18.1
        } else if BEFORE_18.0.contains(&control_version) {
            BEFORE_18.1
        } else {
            return Err(ControlFileError::Version {
                version: control_version,
            });
        };
        let stored = fields.word(crc_offset)?;
        let computed = crc32c::crc32c(bytes.get(..crc_offset).unwrap_or_default());
        if stored != computed {
            return Err(ControlFileError::Crc { stored, computed });
        }
        Ok(ControlFile {
            system_identifier: SystemIdentifier(fields.long(0)?),
            control_version,
            catalog_version: fields.word(12)?,
            state: ClusterState::of(fields.word(16)?)?,
            checkpoint_lsn: Lsn(fields.long(32)?),
            redo_lsn: Lsn(fields.long(40)?),
            timeline: TimelineId(fields.word(48)?),
            min_recovery_point: Lsn(fields.long(136)?),
            settings: ControlSettings {
                max_connections: fields.integer(180)?,
                max_worker_processes: fields.integer(184)?,
                max_wal_senders: fields.integer(188)?,
                max_prepared_transactions: fields.integer(192)?,
                max_locks_per_transaction: fields.integer(196)?,
            },
            // One byte; the rest of the word aligns what follows.
            track_commit_timestamp: fields.word(200)? & 0xFF != 0,
            block_size: fields.word(216)?,
            blocks_per_file: fields.word(220)?,
            wal_block_size: fields.word(224)?,
            wal_segment_size: fields.word(228)?,
            data_checksums: fields.word(252)? != 0,
        })
    }
}

impl ClusterState {
    fn of(number: u32) -> Result<Self, ControlFileError> {
        Ok(match number {
            0 => ClusterState::StartingUp,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            state => return Err(ControlFileError::State { state }),
        })
    }
}

/// Numbers at their offsets in the file.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Result<[u8; N], ControlFileError> {
        let found = self.0.get(offset..).and_then(<[u8]>::first_chunk);
        found.copied().ok_or(ControlFileError::Cut {
            length: self.0.len(),
        })
    }

    fn word(&self, offset: usize) -> Result<u32, ControlFileError> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn integer(&self, offset: usize) -> Result<i32, ControlFileError> {
        self.bytes(offset).map(i32::from_le_bytes)
    }

    fn long(&self, offset: usize) -> Result<u64, ControlFileError> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

/// The bytes are not a `pg_control` of a supported version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Too few bytes.
    #[error("pg_control is cut short to {length} bytes")]
    Cut {
        /// Bytes there are.
        length: usize,
    },
    /// Another version's file, or no `pg_control` at all.
    #[error("pg_control has the format {version}; those of PostgreSQL 14 to 18 are known")]
    Version {
        /// The format.
        version: u32,
    },
    /// Torn or damaged.
    #[error("pg_control has the checksum {computed:#010x}, but should have {stored:#010x}")]
    Crc {
        /// In the file.
        stored: u32,
        /// Of the file.
        computed: u32,
    },
    /// A state that no version knows.
    #[error("pg_control has the unknown cluster state {state}")]
    State {
        /// The number.
        state: u32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{ControlFile, ControlFileError};

    /// The real files are in the golden tests; these are the ways to be wrong.
    fn sealed(version: u32, crc_offset: usize, state: u8) -> Vec<u8> {
        let mut file = vec![0; 512];
        file[8..12].copy_from_slice(&version.to_le_bytes());
        file[16] = state;
        let crc = crc32c::crc32c(&file[..crc_offset]);
        file[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
        file
    }

    #[test]
    fn refuses_what_is_not_whole() {
        let check = |file: &[u8], error: &str| {
            assert_eq!(ControlFile::parse(file).unwrap_err().to_string(), error);
        };
        assert!(ControlFile::parse(&sealed(1300, 288, 1)).is_ok());
        assert!(ControlFile::parse(&sealed(1700, 288, 1)).is_ok());
        assert!(ControlFile::parse(&sealed(1800, 292, 6)).is_ok());
        check(
            &sealed(1800, 292, 7),
            "pg_control has the unknown cluster state 7",
        );
        let version = "pg_control has the format 1902; those of PostgreSQL 14 to 18 are known";
        check(&sealed(1902, 292, 1), version);
        check(
            &sealed(1800, 292, 1)[..295],
            "pg_control is cut short to 295 bytes",
        );
        let mut torn = sealed(1800, 292, 1);
        torn[40] = 1;
        assert!(matches!(
            ControlFile::parse(&torn),
            Err(ControlFileError::Crc { .. })
        ));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}

//! Checkpoints, restore points, changes of settings and timelines; files and databases.

use super::{Numbers, RecordContent, Undecoded};
use crate::wal::RecordBodyError;
use crate::wal::content::fields::Missing;
use crate::{ControlSettings, Lsn, PgTimestamp, TimelineId};

/// A checkpoint (`CheckPoint`), the same in 14 to 18 as far as it is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// While running, or the last record before the server stopped.
    pub kind: CheckpointKind,
    /// Where replay from it begins.
    pub redo: Lsn,
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline before, if this checkpoint begins a timeline; otherwise the same.
    pub previous_timeline: TimelineId,
    /// When it began, in whole seconds.
    pub time: PgTimestamp,
}

/// When a checkpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckpointKind {
    /// While the server runs.
    Online,
    /// At shutdown, and at the end of recovery.
    Shutdown,
}

/// Settings that a standby must match, or that decide what is in the WAL (`xl_parameter_change`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Those that size shared memory.
    pub settings: ControlSettings,
    /// `wal_level`
    pub wal_level: WalLevel,
    /// `wal_log_hints`
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
}

/// `wal_level`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalLevel {
    /// Crash recovery only: no base backup can be brought past such WAL.
    Minimal,
    /// Archiving and standbys.
    Replica,
    /// Logical decoding besides.
    Logical,
}

/// All four bits belong to the operation.
const OPERATION: u8 = 0xF0;

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const END_OF_RECOVERY: u8 = 0x90;
const FPI_FOR_HINT: u8 = 0xA0;
const FPI: u8 = 0xB0;

/// Bytes of the name in a restore point (`MAXFNAMELEN`).
const RESTORE_POINT_NAME_BYTES: usize = 64;

pub(super) fn xlog<'a>(record: &Undecoded<'_, 'a>) -> Result<RecordContent<'a>, RecordBodyError> {
    match record.operation(OPERATION) {
        CHECKPOINT_SHUTDOWN => checkpoint(record, CheckpointKind::Shutdown),
        CHECKPOINT_ONLINE => checkpoint(record, CheckpointKind::Online),
        PARAMETER_CHANGE => parameters(record),
        RESTORE_POINT => record.read(|fields| {
            Ok(RecordContent::RestorePoint {
                time: fields.time()?,
                name: fields.text_in(RESTORE_POINT_NAME_BYTES)?,
            })
        }),
        // 17 appends the WAL level.
        END_OF_RECOVERY => record.read_start(|fields| {
            Ok(RecordContent::EndOfRecovery {
                time: fields.time()?,
                timeline: TimelineId(fields.word()?),
                previous_timeline: TimelineId(fields.word()?),
            })
        }),
        FPI | FPI_FOR_HINT => Ok(RecordContent::FullPageImage),
        _ => Ok(RecordContent::Other),
    }
}

fn checkpoint<'a>(
    record: &Undecoded<'_, 'a>,
    kind: CheckpointKind,
) -> Result<RecordContent<'a>, RecordBodyError> {
    record.read_start(|fields| {
        let redo = fields.lsn()?;
        let timeline = TimelineId(fields.word()?);
        let previous_timeline = TimelineId(fields.word()?);
        // Full-page writes, WAL level, next and oldest ids.
        let _: [u8; 48] = fields.take()?;
        let unix_seconds = i64::from_le_bytes(fields.take()?);
        Ok(RecordContent::Checkpoint(Checkpoint {
            kind,
            redo,
            timeline,
            previous_timeline,
            time: PgTimestamp::from_unix_micros(unix_seconds.saturating_mul(1_000_000)),
        }))
    })
}

fn parameters<'a>(record: &Undecoded<'_, 'a>) -> Result<RecordContent<'a>, RecordBodyError> {
    record.read_start(|fields| {
        let settings = ControlSettings {
            max_connections: fields.integer()?,
            max_worker_processes: fields.integer()?,
            max_wal_senders: fields.integer()?,
            max_prepared_transactions: fields.integer()?,
            max_locks_per_transaction: fields.integer()?,
        };
        let wal_level = WalLevel::of(fields.word()?).map_err(Missing::Wrong)?;
        Ok(RecordContent::ParameterChange(Parameters {
            settings,
            wal_level,
            wal_log_hints: fields.byte()? != 0,
            track_commit_timestamp: fields.byte()? != 0,
        }))
    })
}

impl WalLevel {
    fn of(number: u32) -> Result<Self, RecordBodyError> {
        match number {
            0 => Ok(WalLevel::Minimal),
            1 => Ok(WalLevel::Replica),
            2 => Ok(WalLevel::Logical),
            level => Err(RecordBodyError::WalLevel { level }),
        }
    }
}

/// `storage_xlog.h`
pub(super) fn storage<'a>(
    record: &Undecoded<'_, 'a>,
) -> Result<RecordContent<'a>, RecordBodyError> {
    const CREATE: u8 = 0x10;
    const TRUNCATE: u8 = 0x20;
    /// The main fork is cut too (`SMGR_TRUNCATE_HEAP`), not its maps only.
    const TRUNCATE_HEAP: u32 = 0x01;
    match record.operation(OPERATION) {
        CREATE => record.read(|fields| {
            let file = fields.relation_file()?;
            let fork = fields.word()?;
            let fork = u8::try_from(fork)
                .map_err(|_| Missing::Wrong(RecordBodyError::Fork { number: fork }))?;
            Ok(RecordContent::FileCreated { file, fork })
        }),
        TRUNCATE => record.read(|fields| {
            let blocks = fields.word()?;
            let file = fields.relation_file()?;
            if fields.word()? & TRUNCATE_HEAP == 0 {
                return Ok(RecordContent::Other);
            }
            Ok(RecordContent::FileTruncated { file, blocks })
        }),
        _ => Ok(RecordContent::Other),
    }
}

/// `dbcommands_xlog.h`; 15 put another operation before this one.
pub(super) fn database<'a>(
    record: &Undecoded<'_, 'a>,
) -> Result<RecordContent<'a>, RecordBodyError> {
    let drop = if record.server_major <= 14 {
        0x10
    } else {
        0x20
    };
    if record.operation(OPERATION) != drop {
        return Ok(RecordContent::Other);
    }
    record.read(|fields| {
        let database = fields.word()?;
        let count = fields.count()?;
        let mut tablespaces = Numbers::default();
        fields.numbers(count, &mut tablespaces)?;
        Ok(RecordContent::DropDatabase {
            database,
            tablespaces,
        })
    })
}

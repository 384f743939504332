//! Looks through WAL for what recovery must not replay: a tablespace that was created after the backup.
//!
//! The record of `CREATE TABLESPACE` names the source's directory, and its replay makes that directory the
//! branch's. Where both run on one machine, that is the live source's (`tblspc_redo`, PostgreSQL
//! `src/backend/commands/tablespace.c`; from 15 on it goes on with a directory that is there already). Tablespaces
//! of the backup itself have their own directories, and no record before the backup's start is replayed.
//!
//! What must stay true: segments come in any order, and each one is judged together with the end of the one before
//! it, in which a record may begin that is completed here.

use std::collections::BTreeMap;

use bytes::Bytes;
use events::event::BackupSummary;
use pg_format::wal::{
    ResourceManager, WalBlockSize, WalPageHeader, WalReader, WalReaderConfig, WalRecord, page_magic,
};
use pg_format::{Lsn, SegmentName, SegmentNumber, SystemIdentifier};

use crate::served::ServedWal;

/// `RM_TBLSPC_ID`, PostgreSQL `src/include/access/rmgrlist.h`.
const TABLESPACE: ResourceManager = ResourceManager(5);
/// `XLOG_TBLSPC_CREATE`, and the bits that tell it from `XLOG_TBLSPC_DROP` (`src/include/commands/tablespace.h`).
const CREATE: u8 = 0x00;
const OPERATION: u8 = 0xF0;
/// Bytes at the border of two segments that are read together: two of the largest pages. A record that creates a
/// tablespace has little more than a path (`MAXPGPATH`, a kibibyte).
const BORDER_BYTES: usize = 128 << 10;

/// The cluster that wrote the WAL.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// Its identifier.
    pub system_identifier: SystemIdentifier,
    /// Its major version.
    pub major: u32,
}

impl Cluster {
    /// The cluster of a backup.
    #[must_use]
    pub fn of(backup: &BackupSummary) -> Self {
        Cluster {
            system_identifier: backup.system_identifier,
            major: backup.server_version / 10_000,
        }
    }

    /// Whether its version's WAL can be read.
    pub(super) fn is_known(self) -> bool {
        page_magic(self.major).is_some()
    }

    /// A reader for the WAL of a plan from `start` on, which is the start of a page of the segment that begins with
    /// `head`. `None` for what cannot be read: a version without known formats, or what is no WAL.
    pub(super) fn reader(self, served: &ServedWal, start: Lsn, head: &[u8]) -> Option<WalReader> {
        let long = WalPageHeader::parse(head)?.long?;
        let config = WalReaderConfig {
            start,
            history: served.history().clone(),
            system_identifier: self.system_identifier,
            segment_size: served.size(),
            block_size: WalBlockSize::new(u64::from(long.block_size)).ok()?,
            server_major: self.major,
        };
        WalReader::new(config).ok()
    }
}

/// A tablespace whose creation lies in the WAL of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTablespace {
    /// Its oid.
    pub oid: u32,
    /// The source's directory.
    pub location: String,
    /// Where the record begins.
    pub lsn: Lsn,
}

/// What was found in one segment alone.
pub(super) struct Looked {
    name: SegmentName,
    created: Option<CreatedTablespace>,
    head: Bytes,
    tail: Bytes,
}

/// Looks through one segment, as recovery gets it.
pub(super) fn look(cluster: Cluster, served: &ServedWal, name: SegmentName, raw: &Bytes) -> Looked {
    let valid = usize::try_from(served.valid_bytes(name)).unwrap_or(usize::MAX);
    let raw = raw.slice(..valid.min(raw.len()));
    let start = name.start(served.size());
    let created = cluster
        .reader(served, start, &raw)
        .and_then(|mut reader| first_created(&mut reader, served, Lsn::INVALID, &[&raw]));
    Looked {
        name,
        created,
        head: Bytes::copy_from_slice(&raw[..raw.len().min(BORDER_BYTES)]),
        tail: Bytes::copy_from_slice(&raw[raw.len().saturating_sub(BORDER_BYTES)..]),
    }
}

/// What was found so far.
pub(super) struct Inspected {
    cluster: Cluster,
    borders: BTreeMap<SegmentNumber, (SegmentName, Bytes, Bytes)>,
    forbidden: BTreeMap<SegmentName, CreatedTablespace>,
}

impl Inspected {
    pub(super) fn new(cluster: Cluster) -> Self {
        Inspected {
            cluster,
            borders: BTreeMap::new(),
            forbidden: BTreeMap::new(),
        }
    }

    /// Why recovery must not have a segment.
    pub(super) fn forbidden(&self, name: SegmentName) -> Option<&CreatedTablespace> {
        self.forbidden.get(&name)
    }

    /// Adds a segment; the segments that were found to be forbidden by that.
    pub(super) fn add(&mut self, served: &ServedWal, looked: Looked) -> Vec<SegmentName> {
        let (name, number) = (looked.name, looked.name.number(served.size()));
        let mut found = Vec::new();
        found.extend(looked.created.map(|created| (name, created)));
        let _ = self
            .borders
            .insert(number, (name, looked.head, looked.tail));
        for number in [number, number + 1] {
            found.extend(self.across(served, number));
        }
        let names = found.iter().map(|(name, _)| *name).collect();
        self.forbidden.extend(found);
        names
    }

    /// Forgets the borders of segments before `number`.
    pub(super) fn forget_before(&mut self, number: SegmentNumber) {
        self.borders = self.borders.split_off(&number);
    }

    /// A record that begins in the segment before `number` and ends in it.
    fn across(
        &self,
        served: &ServedWal,
        number: SegmentNumber,
    ) -> Option<(SegmentName, CreatedTablespace)> {
        let (before, _, tail) = self.borders.get(&number.checked_sub(1)?)?;
        let (name, head, _) = self.borders.get(&number)?;
        let start = before
            .end(served.size())
            .0
            .checked_sub(tail.len() as u64)
            .map(Lsn)?;
        let mut reader = self.cluster.reader(served, start, head)?;
        // One that ends in the segment before is that segment's.
        let border = name.start(served.size());
        let created = first_created(&mut reader, served, border, &[tail, head])?;
        Some((*name, created))
    }
}

/// The first creation that is replayed and ends after `border`. Reading ends where the WAL does, or where it is
/// damaged, as recovery does.
fn first_created(
    reader: &mut WalReader,
    served: &ServedWal,
    border: Lsn,
    pieces: &[&[u8]],
) -> Option<CreatedTablespace> {
    let mut first = None;
    for piece in pieces {
        let read = reader.feed_each(piece, |record| {
            if first.is_none() && record.start >= served.start() && record.end > border {
                first = created(record);
            }
        });
        if let Err(error) = read {
            tracing::debug!(%error, "wal of the restore cannot be read further");
            break;
        }
    }
    first
}

/// A record's oid and path (`xl_tblspc_create_rec`); an in-place tablespace has no path, and is no danger.
fn created(record: &WalRecord<'_>) -> Option<CreatedTablespace> {
    let header = &record.header;
    if header.resource_manager != TABLESPACE || header.info & OPERATION != CREATE {
        return None;
    }
    let body = record.body().ok()?;
    let (oid, path) = body.main_data.split_first_chunk::<4>()?;
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    (!path.is_empty()).then(|| CreatedTablespace {
        oid: u32::from_le_bytes(*oid),
        location: String::from_utf8_lossy(path).into_owned(),
        lsn: record.start,
    })
}

#[cfg(test)]
mod tests;

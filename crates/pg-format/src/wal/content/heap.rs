//! Changes of rows (`heapam_xlog.h`).
//!
//! `VACUUM` and pruning take rows away that nobody sees any more; they are other records.

use super::{Numbers, RecordContent, Undecoded};
use crate::wal::{RecordBodyError, RelationFile};

/// Bits that name the operation (`XLOG_HEAP_OPMASK`); the other one says that the page is new.
const OPERATION: u8 = 0x70;

const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const UPDATE: u8 = 0x20;
const TRUNCATE: u8 = 0x30;
const HOT_UPDATE: u8 = 0x40;

/// Of the second heap resource manager.
const MULTI_INSERT: u8 = 0x50;

/// The row was inserted by `ON CONFLICT` and lost the race (`XLH_DELETE_IS_SUPER`).
const DELETE_IS_SUPER: u8 = 0x08;
/// An update moves the row to another partition (`XLH_DELETE_IS_PARTITION_MOVE`).
const DELETE_IS_PARTITION_MOVE: u8 = 0x10;

pub(super) fn heap<'a>(record: &Undecoded<'_, 'a>) -> Result<RecordContent<'a>, RecordBodyError> {
    match record.operation(OPERATION) {
        INSERT => Ok(RecordContent::HeapInsert(relation(record)?)),
        UPDATE | HOT_UPDATE => Ok(RecordContent::HeapUpdate(relation(record)?)),
        DELETE => delete(record),
        TRUNCATE => truncate(record),
        _ => Ok(RecordContent::Other),
    }
}

pub(super) fn heap2<'a>(record: &Undecoded<'_, 'a>) -> Result<RecordContent<'a>, RecordBodyError> {
    match record.operation(OPERATION) {
        MULTI_INSERT => Ok(RecordContent::HeapInsert(relation(record)?)),
        _ => Ok(RecordContent::Other),
    }
}

/// The table is that of the first page; an update names no second one but of the same table.
fn relation(record: &Undecoded<'_, '_>) -> Result<RelationFile, RecordBodyError> {
    let first = record.body.blocks().next();
    first
        .map(|block| block.relation)
        .ok_or(RecordBodyError::NoBlock)
}

/// `xl_heap_delete`: xmax, offset, infomask bits, flags; the old row may follow.
fn delete<'a>(record: &Undecoded<'_, 'a>) -> Result<RecordContent<'a>, RecordBodyError> {
    let relation = relation(record)?;
    record.read_start(|fields| {
        let _xmax_offset_infomask: [u8; 7] = fields.take()?;
        let flags = fields.byte()?;
        if flags & DELETE_IS_SUPER != 0 {
            Ok(RecordContent::Other)
        } else if flags & DELETE_IS_PARTITION_MOVE != 0 {
            Ok(RecordContent::HeapUpdate(relation))
        } else {
            Ok(RecordContent::HeapDelete(relation))
        }
    })
}

/// `xl_heap_truncate`
fn truncate<'a>(record: &Undecoded<'_, 'a>) -> Result<RecordContent<'a>, RecordBodyError> {
    record.read(|fields| {
        let database = fields.word()?;
        let count = fields.count()?;
        let _flags_and_padding: [u8; 4] = fields.take()?;
        let mut relations = Numbers::default();
        fields.numbers(count, &mut relations)?;
        Ok(RecordContent::HeapTruncate {
            database,
            relations,
        })
    })
}

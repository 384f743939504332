//! The walk over the headers of a record's body.

use super::super::{
    BlockImage, BlockRef, RecordBody, RecordBodyError, RelationFile, TransactionEnd,
    TransactionEndKind,
};
use super::synthetic::{SyntheticWal, config, main_data};
use crate::{Lsn, PgTimestamp};

const RELATION: RelationFile = RelationFile {
    tablespace: 1663,
    database: 5,
    number: 16_384,
};
const RELATION_BYTES: [u8; 12] = [0x7F, 6, 0, 0, 5, 0, 0, 0, 0, 0x40, 0, 0];

/// A body of these headers, followed by as many bytes as they announce.
fn parse(headers: &[&[u8]], payload: usize, major: u32) -> Result<Vec<BlockRef>, RecordBodyError> {
    let mut body = headers.concat();
    body.extend(vec![0xEE; payload]);
    RecordBody::parse(&body, body.len() as u32, major).map(|body| body.blocks().collect())
}

fn block(id: u8) -> BlockRef {
    BlockRef {
        id,
        relation: RELATION,
        fork: 0,
        block: 9,
        will_init: false,
        image: None,
        data_length: 0,
    }
}

#[test]
fn every_kind_of_block_reference() {
    let data = |id: u8, flags: u8, length: u8| [id, flags, length, 0];
    let nine = [9, 0, 0, 0];
    // A plain one, then the same relation's map, then one with data that is made anew.
    let headers: [&[u8]; 9] = [
        &[253, 7, 0],
        &[252, 1, 2, 0, 0],
        &data(0, 0x00, 0),
        &RELATION_BYTES,
        &nine,
        &[&data(1, 0x82, 0)[..], &nine].concat(),
        &[&data(4, 0xE0, 3)[..], &nine].concat(),
        &[255, 5],
        &[],
    ];
    let blocks = parse(&headers, 3 + 5, 18).unwrap();
    let map = BlockRef {
        fork: 2,
        ..block(1)
    };
    let made = BlockRef {
        will_init: true,
        data_length: 3,
        ..block(4)
    };
    assert_eq!(blocks, [block(0), map, made]);
    let wrong = RecordBodyError::Length {
        headers: 46,
        announced: 8,
        length: 55,
    };
    assert_eq!(parse(&headers, 9, 18), Err(wrong));
}

#[test]
fn images_are_read_by_the_rules_of_the_version() {
    let image = |flags: u8, hole: &[u8]| {
        let head = [0, 0x10, 0, 0, 100, 0, 40, 0, flags];
        [&head[..], hole, &RELATION_BYTES, &[9, 0, 0, 0]].concat()
    };
    let check = |major: u32, flags: u8, hole: &[u8], compressed: bool, apply: bool| {
        let blocks = parse(&[&image(flags, hole)], 100, major).unwrap();
        let hole_length = hole.first().map(|low| u16::from(*low));
        let image = BlockImage {
            length: 100,
            hole_offset: 40,
            hole_length,
            compressed,
            apply,
        };
        assert_eq!(
            blocks,
            [BlockRef {
                image: Some(image),
                ..block(0)
            }],
            "{major} {flags:#x}"
        );
    };
    for major in 15..=18 {
        check(major, 0x03, &[], false, true);
        check(major, 0x01, &[], false, false);
        for method in [0x04, 0x08, 0x10] {
            check(major, method | 0x02, &[], true, true);
            check(major, method | 0x03, &[77, 0], true, true);
        }
    }
    check(14, 0x05, &[], false, true);
    check(14, 0x06, &[], true, true);
    check(14, 0x07, &[77, 0], true, true);
}

#[test]
fn contradictions_are_refused() {
    let refuse = |headers: &[&[u8]], error: RecordBodyError| {
        assert_eq!(parse(headers, 0, 18), Err(error));
    };
    let plain = [&[1, 0, 0, 0][..], &RELATION_BYTES, &[9, 0, 0, 0]].concat();
    refuse(&[&plain[..19]], RecordBodyError::Cut);
    refuse(&[&plain, &plain], RecordBodyError::BlockOrder { id: 1 });
    refuse(
        &[&[0, 0x20, 0, 0, 1, 1]],
        RecordBodyError::BlockData { id: 0 },
    );
    refuse(
        &[&[0, 0x00, 1, 0, 1, 1]],
        RecordBodyError::BlockData { id: 0 },
    );
    refuse(
        &[&[0, 0x80, 0, 0, 9, 0, 0, 0]],
        RecordBodyError::NoRelation { id: 0 },
    );
    refuse(&[&[33, 0]], RecordBodyError::UnknownId { id: 33 });
    refuse(&[&[251, 0]], RecordBodyError::UnknownId { id: 251 });
    let length = RecordBodyError::Length {
        headers: 2,
        announced: 9,
        length: 2,
    };
    refuse(&[&[255, 9]], length);
}

#[test]
fn a_record_without_a_body_has_no_parts() {
    let body = RecordBody::parse(&[], 0, 18).unwrap();
    assert_eq!((body.main_data, body.blocks().count()), (&[][..], 0));
}

#[test]
fn main_data_beyond_what_is_kept_is_cut() {
    let whole = main_data(&[7; 1000]);
    let body = RecordBody::parse(&whole[..105], whole.len() as u32, 18).unwrap();
    assert_eq!(
        (body.main_data, body.main_data_length),
        (&[7; 100][..], 1000)
    );
}

#[test]
fn ends_of_transactions_have_their_time() {
    let time = 824_515_200_000_001_i64;
    let check = |info: u8, before: &[u8], length: usize, kind: Option<TransactionEndKind>| {
        let mut wal = SyntheticWal::new(config(Lsn(1 << 24), 16));
        let mut main = vec![1; length];
        main[..8].copy_from_slice(&time.to_le_bytes());
        let _ = wal.record(1, info, 42, &[before, &main_data(&main)].concat());
        let mut found = None;
        wal.reader()
            .feed_each(&wal.bytes, |record| found = Some(record.summary().unwrap()))
            .unwrap();
        let found = found.unwrap();
        assert_eq!((found.xid, found.info), (42, info));
        let time = PgTimestamp(time);
        assert_eq!(
            found.transaction_end,
            kind.map(|kind| TransactionEnd { kind, time })
        );
    };
    let origin = [253, 1, 0];
    check(0x00, &[], 8, Some(TransactionEndKind::Commit));
    check(0x80, &origin, 300, Some(TransactionEndKind::Commit));
    check(0x80, &[], 100_000, Some(TransactionEndKind::Commit));
    check(0x20, &[252, 9, 0, 0, 0], 8, Some(TransactionEndKind::Abort));
    check(0xB0, &[], 40, Some(TransactionEndKind::CommitPrepared));
    check(0xC0, &origin, 40, Some(TransactionEndKind::AbortPrepared));
    check(0x10, &[], 80, None);
    check(0x50, &[], 20, None);
    check(0x60, &[], 20, None);
}

#[test]
fn the_end_of_a_transaction_without_a_time_is_an_error() {
    let mut wal = SyntheticWal::new(config(Lsn(1 << 24), 16));
    let _ = wal.record(1, 0, 42, &main_data(&[1; 7]));
    let mut found = None;
    wal.reader()
        .feed_each(&wal.bytes, |record| found = Some(record.summary()))
        .unwrap();
    assert_eq!(found, Some(Err(RecordBodyError::NoTime)));
}

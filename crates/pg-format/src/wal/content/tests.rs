//! What records say, from bytes laid out by hand; real ones are compared in `tests/golden.rs`.

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::super::tests::synthetic::{SyntheticWal, config, main_data};
use super::super::{
    RecordBodyError, RecordHeader, RelationFile, ResourceManager, TransactionEndKind, WalReader,
    WalRecord,
};
use super::{RecordContent, TransactionAbort, TransactionCommit};
use crate::{Lsn, PgTimestamp};

const TIME: PgTimestamp = PgTimestamp(824_515_200_000_001);

/// Reads one record in pieces and shows what it says.
fn content_of(
    major: u32,
    manager: u8,
    info: u8,
    body: &[u8],
    check: impl FnOnce(Result<RecordContent<'_>, RecordBodyError>),
) {
    let mut wal = SyntheticWal::new(config(Lsn(1 << 24), 16));
    wal.config.server_major = major;
    let _ = wal.record(manager, info, 42, body);
    let mut check = Some(check);
    let mut reader: WalReader = wal.reader();
    for piece in wal.bytes.chunks(5000) {
        let visit = |record: &WalRecord<'_>| {
            if let Some(check) = check.take() {
                check(record.content());
            }
        };
        reader.feed_each(piece, visit).unwrap();
    }
    assert!(check.is_none());
}

#[track_caller]
fn refuse(major: u32, manager: u8, info: u8, main: &[u8], error: RecordBodyError) {
    content_of(major, manager, info, &main_data(main), |content| {
        assert_eq!(content, Err(error));
    });
}

fn words(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The end of a transaction with lists of these lengths.
fn end(
    flags: u32,
    subtransactions: u32,
    files: u32,
    invalidations: u32,
    prepared: Option<u32>,
) -> Vec<u8> {
    let mut main = TIME.0.to_le_bytes().to_vec();
    let mut flags = flags;
    let mut parts = Vec::new();
    if subtransactions > 0 {
        flags |= 1 << 1;
        parts.extend(words([subtransactions]));
        parts.extend(words(100..100 + subtransactions));
    }
    if files > 0 {
        flags |= 1 << 2;
        parts.extend(words([files]));
        parts.extend((0..files).flat_map(|number| words([1663, 5, number])));
    }
    if invalidations > 0 {
        flags |= 1 << 3;
        parts.extend(words([invalidations]));
        parts.resize(parts.len() + invalidations as usize * 16, 9);
    }
    if let Some(xid) = prepared {
        flags |= 1 << 4 | 1 << 7;
        parts.extend(words([xid]));
        parts.extend(b"gid\0");
    }
    main.extend(words([flags]));
    main.extend(parts);
    main
}

fn commit(main: &[u8], info: u8, check: impl FnOnce(TransactionCommit<'_>)) {
    content_of(18, 1, info, &main_data(main), |content| match content {
        Ok(RecordContent::Commit(commit)) => check(commit),
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_mebibyte_of_a_commit_is_kept() {
    // 20,000 relations dropped, and what other sessions must forget of them.
    let main = end(0, 3, 60_000, 1000, None);
    commit(&main, 0x80, |commit| {
        let last = RelationFile {
            tablespace: 1663,
            database: 5,
            number: 59_999,
        };
        assert_eq!(commit.dropped_files.len(), 60_000);
        assert_eq!(commit.dropped_files.iter().last(), Some(last));
        assert_eq!(
            commit.subtransactions.iter().collect::<Vec<_>>(),
            [100, 101, 102]
        );
        assert_eq!(
            (commit.xid, commit.truncated, commit.invalidations),
            (Some(42), false, 1000)
        );
    });
}

#[test]
fn what_is_cut_is_not_guessed() {
    // Too many files: those that are kept are given, and that there are more is said.
    commit(&end(0, 0, 100_000, 0, None), 0x80, |commit| {
        assert!(commit.truncated);
        assert!((80_000..100_000).contains(&commit.dropped_files.len()));
        assert_eq!(commit.xid, Some(42));
    });
    // Invalidations are the last part: all that matters is there.
    commit(&end(0, 0, 10, 100_000, None), 0x80, |commit| {
        assert_eq!((commit.truncated, commit.dropped_files.len()), (false, 10));
    });
    // What a prepared transaction is comes after them.
    commit(&end(0, 0, 10, 100_000, Some(77)), 0xB0, |commit| {
        assert_eq!((commit.truncated, commit.dropped_files.len()), (true, 10));
        assert_eq!((commit.xid, commit.gid), (None, None));
    });
    commit(&end(0, 0, 10, 1000, Some(77)), 0xB0, |commit| {
        assert_eq!(commit.kind, TransactionEndKind::CommitPrepared);
        assert_eq!((commit.truncated, commit.xid), (false, Some(77)));
        assert_eq!(commit.gid.and_then(super::ServerText::to_str), Some("gid"));
    });
}

#[test]
fn the_memory_of_a_long_commit_is_given_back() {
    let mut wal = SyntheticWal::new(config(Lsn(1 << 24), 16));
    let _ = wal.record(1, 0x80, 42, &main_data(&end(0, 0, 80_000, 0, None)));
    let mut reader = wal.reader();
    let (most, last) = wal.bytes.split_at(wal.bytes.len() - 8);
    reader.feed(most).unwrap();
    assert!((900_000..=1 << 20).contains(&reader.kept_bytes()));
    reader.feed(last).unwrap();
    assert!(reader.kept_bytes() <= 64 << 10, "{}", reader.kept_bytes());
}

#[test]
fn an_end_is_understood_to_its_last_byte() {
    let whole = end(0, 2, 2, 2, Some(5));
    let flags = u32::from_le_bytes(*whole[8..].first_chunk().unwrap());
    let mut cut = whole.clone();
    let _ = cut.pop();
    refuse(18, 1, 0x80, &cut, RecordBodyError::MainDataCut);
    let longer = [&whole[..], &[0]].concat();
    let left = RecordBodyError::MainDataLeftOver { bytes: 1 };
    refuse(18, 1, 0x80, &longer, left);
    let left = RecordBodyError::MainDataLeftOver { bytes: 4 };
    refuse(18, 1, 0x00, &whole[..12], left);
    // Flags that the version does not have.
    for (major, flag) in [(14, 1 << 8), (15, 1 << 9), (18, 1 << 28)] {
        let mut main = whole.clone();
        main[8..12].copy_from_slice(&(flags | flag).to_le_bytes());
        let flags = flags | flag;
        refuse(
            major,
            1,
            0x80,
            &main,
            RecordBodyError::TransactionFlags { flags },
        );
    }
    let mut main = whole;
    main[12..16].copy_from_slice(&(-1_i32).to_le_bytes());
    refuse(18, 1, 0x80, &main, RecordBodyError::Count { count: -1 });
}

#[test]
fn dropped_statistics_grew_in_18() {
    for (major, bytes) in [(15, 12), (17, 12), (18, 16)] {
        let mut main = TIME.0.to_le_bytes().to_vec();
        main.extend(words([1 << 8 | 1 << 4, 2]));
        main.resize(main.len() + 2 * bytes, 3);
        main.extend(words([99]));
        content_of(major, 1, 0xC0, &main_data(&main), |content| {
            let Ok(RecordContent::Abort(abort)) = content else {
                panic!("{content:?}");
            };
            let TransactionAbort {
                xid,
                dropped_statistics,
                kind,
                ..
            } = abort;
            assert_eq!(
                (kind, xid, dropped_statistics),
                (TransactionEndKind::AbortPrepared, Some(99), 2)
            );
        });
    }
}

#[test]
fn drop_database_moved_in_15() {
    let main = words([16_384, 2, 1663, 1700]);
    let check = |major: u32, info: u8, dropped: bool| {
        content_of(major, 4, info, &main_data(&main), |content| match content {
            Ok(RecordContent::DropDatabase {
                database,
                tablespaces,
            }) => {
                assert!(dropped, "{major}");
                assert_eq!(database, 16_384);
                assert_eq!(tablespaces.iter().collect::<Vec<_>>(), [1663, 1700]);
            }
            content => assert_eq!((content, dropped), (Ok(RecordContent::Other), false)),
        });
    };
    check(14, 0x10, true);
    check(14, 0x00, false);
    for major in 15..=18 {
        check(major, 0x20, true);
        check(major, 0x10, false);
    }
}

#[test]
fn rows_that_only_seem_to_be_deleted() {
    let relation = RelationFile {
        tablespace: 1663,
        database: 5,
        number: 16_384,
    };
    let block = [&[0, 0, 0, 0][..], &words([1663, 5, 16_384, 9])].concat();
    let check = |flags: u8, expected: RecordContent<'_>| {
        let body = [&block[..], &main_data(&[0, 0, 0, 0, 1, 0, 0, flags])].concat();
        content_of(18, 10, 0x10, &body, |content| {
            assert_eq!(content, Ok(expected))
        });
    };
    check(0x00, RecordContent::HeapDelete(relation));
    check(0x06, RecordContent::HeapDelete(relation));
    check(0x10, RecordContent::HeapUpdate(relation));
    // An insert with ON CONFLICT that lost takes its own row back.
    check(0x08, RecordContent::Other);
    refuse(18, 10, 0x10, &[0; 8], RecordBodyError::NoBlock);
}

#[test]
fn other_records_must_hold_what_they_say() {
    refuse(18, 0, 0x70, &[0; 71], RecordBodyError::MainDataCut);
    refuse(18, 0, 0x10, &[0; 71], RecordBodyError::MainDataCut);
    refuse(
        18,
        0,
        0x60,
        &words([0, 0, 0, 0, 0, 3, 0]),
        RecordBodyError::WalLevel { level: 3 },
    );
    refuse(
        18,
        1,
        0x10,
        &[0; 80],
        RecordBodyError::PrepareMagic { magic: 0 },
    );
    refuse(
        18,
        2,
        0x10,
        &words([1, 2, 3, 256]),
        RecordBodyError::Fork { number: 256 },
    );
    let left = RecordBodyError::MainDataLeftOver { bytes: 4 };
    refuse(18, 2, 0x20, &words([1, 2, 3, 4, 7, 0]), left);
    refuse(
        18,
        10,
        0x30,
        &words([5, 2, 0, 1]),
        RecordBodyError::MainDataCut,
    );
}

proptest! {
    /// Any cut of the kept part gives less, or says that it is less, but never something else.
    #[test]
    fn a_cut_end_gives_a_beginning(
        subtransactions in 0_u32..20,
        files in 0_u32..20,
        invalidations in 0_u32..20,
        prepared in prop::option::of(1_u32..9),
        kept in any::<prop::sample::Index>(),
    ) {
        let main = end(0, subtransactions, files, invalidations, prepared);
        let body = main_data(&main);
        let header = body.len() - main.len();
        let kept = header + 8 + kept.index(main.len() - 7);
        let info = if prepared.is_some() { 0xB0 } else { 0x80 };
        let record = WalRecord {
            start: Lsn(1 << 24),
            end: Lsn((1 << 24) + 24 + body.len() as u64),
            header: RecordHeader {
                length: 24 + body.len() as u32,
                xid: if prepared.is_some() { 0 } else { 42 },
                previous: Lsn(8),
                info,
                resource_manager: ResourceManager::TRANSACTION,
                crc: 0,
            },
            body: &body[..kept],
            server_major: 18,
        };
        let Ok(RecordContent::Commit(commit)) = record.content() else {
            panic!("{:?}", record.content());
        };
        let all: Vec<u32> = (0..files).collect();
        let given: Vec<u32> = commit.dropped_files.iter().map(|file| file.number).collect();
        prop_assert!(all.starts_with(&given));
        prop_assert!(commit.subtransactions.len() <= subtransactions as usize);
        prop_assert_eq!(commit.time, TIME);
        if !commit.truncated {
            prop_assert_eq!(given, all);
            prop_assert_eq!(commit.subtransactions.len(), subtransactions as usize);
            prop_assert_eq!(commit.xid, Some(prepared.unwrap_or(42)));
        } else if prepared.is_some() {
            prop_assert!(commit.xid.is_none() || commit.xid == prepared);
            prop_assert!(kept < body.len());
        }
    }
}

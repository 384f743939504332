//! How the bytes were cut does not matter, and no bytes bring the reader down.

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::test_runner::{Config, TestCaseError};

use super::super::{RecordSummary, WalError, WalReader};
use super::synthetic::{MIB, SyntheticWal, config};
use crate::Lsn;

type Outcome = (Vec<(Lsn, Lsn, usize)>, Lsn, Option<WalError>);

/// Feeds pieces of the given lengths, over and over.
fn read_in_pieces(wal: &SyntheticWal, lengths: &[usize]) -> Outcome {
    let mut reader: WalReader = wal.reader();
    let mut records = Vec::new();
    let mut rest = &wal.bytes[..];
    let mut lengths = lengths.iter().cycle();
    let mut error = None;
    while !rest.is_empty() && error.is_none() {
        let length = lengths
            .next()
            .copied()
            .unwrap_or(rest.len())
            .clamp(1, rest.len());
        let (piece, later) = rest.split_at(length);
        rest = later;
        let result = reader.feed_each(piece, |record| {
            let visible = record.body().map_or(0, |body| body.main_data.len());
            records.push((record.start, record.end, visible));
        });
        error = result.err();
    }
    (records, reader.validated_end(), error)
}

fn wal_of(start_page: u64, lengths: &[(usize, bool)]) -> SyntheticWal {
    let mut wal = SyntheticWal::new(config(Lsn(32 * MIB - start_page * 8192), 1));
    for (length, switch) in lengths {
        let _ = wal.message(*length);
        if *switch && wal.bytes.len() < 3 << 20 {
            let _ = wal.switch();
        }
    }
    wal
}

#[test]
fn byte_by_byte() {
    let wal = wal_of(
        2,
        &[
            (3, false),
            (9000, false),
            (50, true),
            (70_000, false),
            (0, false),
        ],
    );
    let whole = read_in_pieces(&wal, &[usize::MAX]);
    assert_eq!((whole.0.len(), whole.1, &whole.2), (6, wal.end(), &None));
    for length in [1, 2, 3, 7, 24, 8191, 8192, 8193] {
        assert_eq!(
            read_in_pieces(&wal, &[length]),
            whole,
            "pieces of {length} bytes"
        );
    }
}

#[test]
fn a_long_record_takes_no_memory() {
    // 1020 MiB cannot be fed in a test; that what is kept does not grow shows at 40 MiB as well.
    let mut wal = SyntheticWal::new(config(Lsn(32 * MIB), 16));
    let long = wal.message(40 << 20);
    let next = wal.message(1);
    let (records, end, error) = read_in_pieces(&wal, &[100_000]);
    assert_eq!(error, None);
    assert_eq!(
        records.iter().map(|record| record.0).collect::<Vec<_>>(),
        [long, next]
    );
    assert!(records[0].2 < 40_000, "{} bytes were kept", records[0].2);
    assert_eq!(end, wal.end());
}

/// Fed bytes with one bit wrong, the reader gives no record that was not there.
fn check_damage(wal: &SyntheticWal, damaged: &SyntheticWal) -> Result<(), TestCaseError> {
    let (whole, ..) = read_in_pieces(wal, &[usize::MAX]);
    let (records, end, _) = read_in_pieces(damaged, &[usize::MAX]);
    prop_assert!(whole.starts_with(&records));
    prop_assert!(end <= wal.end());
    Ok(())
}

proptest! {
    #![proptest_config(Config::with_cases(200))]

    #[test]
    fn any_cut_gives_the_same(
        start_page in 0_u64..4,
        lengths in prop::collection::vec((0_usize..20_000, prop::bool::weighted(0.1)), 1..15),
        pieces in prop::collection::vec(1_usize..30_000, 1..20),
        damage in prop::option::of((any::<prop::sample::Index>(), 0_u32..8)),
    ) {
        let wal = wal_of(start_page, &lengths);
        let mut fed = wal_of(start_page, &lengths);
        if let Some((at, bit)) = damage {
            let at = at.index(fed.bytes.len());
            fed.bytes[at] ^= 1 << bit;
        }
        let whole = read_in_pieces(&fed, &[usize::MAX]);
        prop_assert_eq!(read_in_pieces(&fed, &pieces), whole);
        check_damage(&wal, &fed)?;
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..20_000),
        start: u32,
    ) {
        let mut wal = SyntheticWal::new(config(Lsn(u64::from(start) * 8192), 16));
        wal.bytes = bytes;
        let _ = read_in_pieces(&wal, &[1000]);
    }

    /// Right page headers, so that what follows them is reached.
    #[test]
    fn random_records_never_panic(
        content in prop::collection::vec(any::<u8>(), 0..20_000),
        sealed: bool,
        manager in 0_u8..22,
        info: u8,
    ) {
        let mut wal = SyntheticWal::new(config(Lsn(32 * MIB), 16));
        if sealed {
            let _ = wal.record(manager, info, 1, &content);
        } else {
            wal.raw(&content);
        }
        let mut reader = wal.reader();
        let mut records: Vec<RecordSummary> = Vec::new();
        let result = reader.feed_each(&wal.bytes, |record| {
            if let Ok(body) = record.body() {
                let _ = body.blocks().count();
            }
            records.extend(record.summary());
        });
        if sealed {
            prop_assert_eq!(result, Ok(()));
        }
    }

    #[test]
    fn the_end_of_the_range_is_no_trap(back in 0_u64..4, bytes in 0_usize..40_000) {
        let mut wal = SyntheticWal::new(config(Lsn(u64::MAX - 8191 - back * 8192), 16));
        wal.bytes = vec![0; bytes];
        let _ = read_in_pieces(&wal, &[usize::MAX]);
    }
}

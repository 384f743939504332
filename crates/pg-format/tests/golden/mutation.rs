//! Damaged WAL: whatever happens to bytes of real WAL, the reader gives no record that was not
//! written, and nothing brings it down.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use pg_format::Lsn;
use pg_format::wal::{WalBlockSize, WalReader};
use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError};

use super::stretch::{Stretch, stretch};
use super::{MAJORS, STRETCHES};

const PAGE: usize = 8192;

/// Of every version and stretch.
static ALL: LazyLock<Vec<Stretch>> = LazyLock::new(|| {
    let of_version = |major| STRETCHES.map(|name| stretch(major, name));
    MAJORS.into_iter().flat_map(of_version).collect()
});

/// What happens to the bytes.
#[derive(Clone, Debug)]
enum Mutation {
    /// One bit is wrong.
    Flip(Index, u8),
    /// Other bytes stand there.
    Overwrite(Index, Vec<u8>),
    /// Bytes of another place stand there, page on page if they are aligned.
    Copy {
        from: Index,
        to: Index,
        length: usize,
        aligned: bool,
    },
    /// Zeros stand there.
    Zero(Index, usize),
    /// Bytes are missing, and what follows moves up.
    Remove(Index, usize),
    /// The rest is missing.
    Truncate(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Mutation::Overwrite(at, bytes)),
        3 => (at(), at(), 1_usize..20_000, any::<bool>()).prop_map(|(from, to, length, aligned)| {
            Mutation::Copy { from, to, length, aligned }
        }),
        1 => (at(), 1_usize..20_000).prop_map(|(at, length)| Mutation::Zero(at, length)),
        1 => (at(), prop_oneof![Just(8_usize), Just(PAGE), 1_usize..100])
            .prop_map(|(at, length)| Mutation::Remove(at, length)),
        1 => at().prop_map(Mutation::Truncate),
    ]
}

impl Mutation {
    fn apply(&self, wal: &mut Vec<u8>) {
        if wal.is_empty() {
            return;
        }
        let end = |at: usize, length: usize| (at + length).min(wal.len());
        match self {
            Mutation::Flip(at, bit) => {
                let at = at.index(wal.len());
                wal[at] ^= 1 << bit;
            }
            Mutation::Overwrite(at, bytes) => {
                let at = at.index(wal.len());
                let end = end(at, bytes.len());
                wal[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Mutation::Copy {
                from,
                to,
                length,
                aligned,
            } => {
                let unit = if *aligned { PAGE } else { 8 };
                let from = from.index(wal.len()) / unit * unit;
                let to = to.index(wal.len()) / unit * unit;
                let length = (*length).min(wal.len() - from).min(wal.len() - to);
                wal.copy_within(from..from + length, to);
            }
            Mutation::Zero(at, length) => {
                let at = at.index(wal.len());
                let end = end(at, *length);
                wal[at..end].fill(0);
            }
            Mutation::Remove(at, length) => {
                let at = at.index(wal.len());
                let _ = wal.drain(at..end(at, *length));
            }
            Mutation::Truncate(at) => wal.truncate(at.index(wal.len())),
        }
    }
}

/// The bytes of a record, without the page headers within; what is missing is left out.
fn record_bytes(stretch: &Stretch, start: Lsn, length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = start;
    while bytes.len() < length as usize {
        let page_offset = at.0 as usize % PAGE;
        if page_offset == 0 {
            at.0 += match stretch.config.segment_size.offset_in_segment(at) {
                0 => 40,
                _ => 24,
            };
            continue;
        }
        let from = (at.0 - stretch.config.start.0) as usize;
        let taken = (PAGE - page_offset).min(length as usize - bytes.len());
        bytes.extend(stretch.bytes.iter().skip(from).take(taken));
        at.0 += taken as u64;
    }
    bytes
}

/// Where records begin and their bytes, up to the first error.
fn records(stretch: &Stretch, piece: usize) -> (BTreeMap<Lsn, Vec<u8>>, Lsn) {
    let mut reader = WalReader::new(stretch.config.clone()).unwrap();
    let mut found = BTreeMap::new();
    for piece in stretch.bytes.chunks(piece) {
        let result = reader.feed_each(piece, |record| {
            let content = record.content();
            assert!(content.is_ok(), "{content:?}");
            let bytes = record_bytes(stretch, record.start, record.header.length);
            assert_eq!(found.insert(record.start, bytes), None);
        });
        if result.is_err() {
            break;
        }
    }
    (found, reader.validated_end())
}

fn check(
    whole: &Stretch,
    first_page: Index,
    mutations: &[Mutation],
    piece: usize,
) -> Result<(), TestCaseError> {
    // Some pages from the middle: what is damaged then is read.
    let pages = whole.bytes.len() / PAGE;
    let first = first_page.index(pages);
    let last = (first + 24).min(pages);
    let mut part = Stretch {
        config: whole.config.clone(),
        bytes: whole.bytes[first * PAGE..last * PAGE].to_vec(),
    };
    part.config.start.0 += (first * PAGE) as u64;
    assert_eq!(part.config.block_size, WalBlockSize::DEFAULT);
    let (written, _) = records(&part, usize::MAX);
    for mutation in mutations {
        mutation.apply(&mut part.bytes);
    }
    let (read, end) = records(&part, piece);
    for (start, bytes) in &read {
        prop_assert_eq!(written.get(start), Some(bytes), "{:?}", start);
    }
    prop_assert!(end.0 <= part.config.start.0 + part.bytes.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(Config::with_cases(1500))]

    #[test]
    fn damaged_wal_gives_no_record_that_was_not_written(
        stretch in 0..MAJORS.len() * STRETCHES.len(),
        first_page: Index,
        mutations in prop::collection::vec(mutation(), 1..6),
        piece in prop_oneof![Just(usize::MAX), 1_usize..30_000],
    ) {
        check(&ALL[stretch], first_page, &mutations, piece)?;
    }
}

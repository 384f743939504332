//! Checksums of data pages: which pages of a relation file are damaged.
//!
//! The algorithm is PostgreSQL's (`src/include/storage/checksum_impl.h`): 32 parallel FNV-1a sums
//! over 32-bit words, folded, mixed with the block number. It needs a cluster with data checksums
//! enabled. Pages are in the byte order of the server; only little-endian servers are supported.

use crate::Lsn;

const LANES: usize = 32;
const FNV_PRIME: u32 = 16_777_619;
const PAGE_HEADER_BYTES: usize = 24;
const CHECKSUM_OFFSET: usize = 8;
const UPPER_OFFSET: usize = 14;

/// The value each of the parallel sums starts from: part of the format.
#[rustfmt::skip]
const LANE_SEEDS: [u32; LANES] = [
    0x5B1F_36E9, 0xB852_5960, 0x02AB_50AA, 0x1DE6_6D2A, 0x79FF_467A, 0x9BB9_F8A3, 0x217E_7CD2,
    0x83E1_3D2C, 0xF8D4_474F, 0xE39E_B970, 0x42C6_AE16, 0x9932_16FA, 0x7B09_3B5D, 0x98DA_FF3C,
    0xF718_902A, 0x0B1C_9CDB, 0xE58F_764B, 0x1876_36BC, 0x5D7B_3BB1, 0xE73D_E7DE, 0x92BE_C979,
    0xCCA6_C0B2, 0x304A_0979, 0x85AA_43D4, 0x7831_25BB, 0x6CA8_EAA2, 0xE407_EAC6, 0x4B5C_FC3E,
    0x9FBF_8C76, 0x15CA_20BE, 0xF2CA_9FD3, 0x959B_D756,
];

/// What a page says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// The checksum is right.
    Ok,
    /// All zero: allocated, never written.
    New,
    /// Changed at or after the start LSN, so WAL replay will overwrite it with a full-page image
    /// and it may be torn now.
    ChangedSinceStart,
    /// The checksum is wrong, or the header is that of a new page but the rest is not zero.
    Bad {
        /// The checksum in the page.
        stored: u16,
        /// What it should be.
        computed: u16,
    },
    /// The bytes are not a whole block: the file was cut short.
    Cut,
}

/// Judges one block of a relation file copied by a base backup that started at `start_lsn`.
///
/// `block` is counted from the relation's beginning, so blocks of the file `16384.1` go on where
/// `16384` ended. A page caught in the middle of being written can look [`PageVerdict::Bad`] while
/// its header is still old: who can, reads it once more before believing it.
#[must_use]
pub fn check_page(page: &[u8], block: u32, start_lsn: Lsn) -> PageVerdict {
    let Some(header) = page.first_chunk::<PAGE_HEADER_BYTES>() else {
        return PageVerdict::Cut;
    };
    if !page.len().is_multiple_of(LANES * 4) {
        return PageVerdict::Cut;
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let is_new = half(UPPER_OFFSET) == 0;
    if is_new && page.iter().all(|byte| *byte == 0) {
        return PageVerdict::New;
    }
    if !is_new && page_lsn(header) >= start_lsn {
        return PageVerdict::ChangedSinceStart;
    }
    let (stored, computed) = (half(CHECKSUM_OFFSET), page_checksum(page, block));
    if stored == computed && !is_new {
        PageVerdict::Ok
    } else {
        PageVerdict::Bad { stored, computed }
    }
}

/// The LSN of a page's last change: two 32-bit halves, the high one first.
fn page_lsn(header: &[u8; PAGE_HEADER_BYTES]) -> Lsn {
    let [a, b, c, d, e, f, g, h, ..] = *header;
    let high = u32::from_le_bytes([a, b, c, d]);
    Lsn(u64::from(high) << 32 | u64::from(u32::from_le_bytes([e, f, g, h])))
}

/// The checksum that belongs into a page (`pg_checksum_page`); the one in it does not matter.
///
/// Bytes after the last whole 128 are left out, which no block size has.
#[must_use]
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = LANE_SEEDS;
    let (rows, _) = page.as_chunks::<{ LANES * 4 }>();
    let mut rows = rows.iter();
    if let Some(first) = rows.next() {
        let mut first = *first;
        first[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
        add_row(&mut sums, &first);
    }
    for row in rows {
        add_row(&mut sums, row);
    }
    for _ in 0..2 {
        add_row(&mut sums, &[0; LANES * 4]);
    }
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    // At most 65 535, and never zero: zero means "no checksum".
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

/// One round for every lane. Plain loops over arrays, so that the compiler vectorises them.
fn add_row(sums: &mut [u32; LANES], row: &[u8; LANES * 4]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{PageVerdict, check_page, page_checksum};
    use crate::Lsn;

    /// A page with an LSN of 1/2 and something on it.
    fn page(block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..8192_u32)
            .map(|at| at.wrapping_mul(31).to_le_bytes()[0])
            .collect();
        page[..8].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    const LATER: Lsn = Lsn(0x1_0000_0003);

    #[test]
    fn verdicts() {
        let mut page = page(7);
        assert_eq!(check_page(&page, 7, LATER), PageVerdict::Ok);
        assert_eq!(
            check_page(&page, 7, Lsn(0x1_0000_0002)),
            PageVerdict::ChangedSinceStart
        );
        assert!(
            matches!(check_page(&page, 8, LATER), PageVerdict::Bad { .. }),
            "moved"
        );
        page[5000] ^= 1;
        assert!(
            matches!(check_page(&page, 7, LATER), PageVerdict::Bad { .. }),
            "flipped"
        );
        assert_eq!(check_page(&page[..8191], 7, LATER), PageVerdict::Cut);
        assert_eq!(check_page(&[], 7, LATER), PageVerdict::Cut);
        let mut zero = vec![0; 8192];
        assert_eq!(check_page(&zero, 7, LATER), PageVerdict::New);
        zero[8191] = 1;
        assert!(
            matches!(check_page(&zero, 7, LATER), PageVerdict::Bad { .. }),
            "new but not zero"
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), block: u32, lsn: u64) {
            let _ = check_page(&bytes, block, Lsn(lsn));
        }
    }

    /// With 65,535 possible checksums about one of the 65,408 flips keeps the page's by chance.
    #[test]
    fn nearly_every_flipped_bit_is_seen() {
        let mut page = page(1);
        let right = page_checksum(&page, 1);
        let mut unseen = 0;
        for at in 16..page.len() {
            for bit in 0..8 {
                page[at] ^= 1 << bit;
                unseen += u32::from(page_checksum(&page, 1) == right);
                page[at] ^= 1 << bit;
            }
        }
        assert!(unseen <= 5, "{unseen} flips were not seen");
    }
}

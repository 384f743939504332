//! Which reads bring the chunks of some entries: neighbours in a pack come together.

use std::ops::Range;

use crate::backup::{Chunk, Content, Entry, StoredChunk};

/// A read is not made longer than this, so that reads side by side have bounded memory.
const LONGEST_READ_BYTES: u64 = 8 << 20;
/// Reading on over so many unwanted bytes costs less than another request.
const LARGEST_GAP_BYTES: u64 = 128 << 10;
/// A read of a pack's first chunk takes the header with it, so that it is checked.
const HEADER_BYTES: u64 = crate::backup::PACK_HEADER_BYTES as u64;

/// One ranged read of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) pack: u32,
    pub(crate) range: Range<u64>,
    pub(crate) chunks: Vec<Wanted>,
}

/// A chunk, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) chunk: StoredChunk,
    /// Index into the entries.
    pub(crate) entry: usize,
    pub(crate) file_offset: u64,
}

/// The chunks of `entries` that are in packs, in the order of packs and offsets.
pub(crate) fn wanted(entries: &[Entry]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (entry, line) in entries.iter().enumerate() {
        let Content::File { offset, chunks, .. } = &line.content else {
            continue;
        };
        let mut file_offset = *offset;
        for chunk in chunks {
            if let Chunk::Stored(chunk) = *chunk {
                all.push(Wanted {
                    chunk,
                    entry,
                    file_offset,
                });
            }
            file_offset += u64::from(chunk.raw_bytes());
        }
    }
    all.sort_by_key(|wanted| (wanted.chunk.pack, wanted.chunk.offset));
    all
}

/// The reads that bring all chunks of `entries`.
pub(crate) fn plan(entries: &[Entry]) -> Vec<Read> {
    let mut reads: Vec<Read> = Vec::new();
    for wanted in wanted(entries) {
        let pack = wanted.chunk.pack;
        let mut begin = u64::from(wanted.chunk.offset);
        let end = begin + u64::from(wanted.chunk.stored_bytes);
        if begin == HEADER_BYTES {
            begin = 0;
        }
        match reads.last_mut() {
            Some(read)
                if read.pack == pack
                    && begin <= read.range.end + LARGEST_GAP_BYTES
                    && end - read.range.start <= LONGEST_READ_BYTES =>
            {
                read.range.end = read.range.end.max(end);
                read.chunks.push(wanted);
            }
            _ => reads.push(Read {
                pack,
                range: begin..end,
                chunks: vec![wanted],
            }),
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::plan;
    use crate::Digest;
    use crate::backup::{Chunk, Content, Entry, EntryPath, StoredChunk};

    fn check(chunks: &[(u32, u32, u32)], expected: &[(u32, u64, u64, usize)]) {
        let stored = |(pack, offset, stored_bytes): &(u32, u32, u32)| {
            let (raw_bytes, digest) = (1 << 20, Digest::of(b""));
            let stored_bytes = *stored_bytes;
            Chunk::Stored(StoredChunk {
                pack: *pack,
                offset: *offset,
                stored_bytes,
                raw_bytes,
                digest,
            })
        };
        let chunks: Vec<_> = chunks.iter().map(stored).collect();
        let content = Content::File {
            size: (chunks.len() as u64) << 20,
            offset: 0,
            chunks,
        };
        let entry = Entry {
            path: EntryPath::data("f"),
            mode: 0o600,
            modified: 0,
            content,
        };
        let reads = plan(&[entry]);
        let reads = reads
            .iter()
            .map(|r| (r.pack, r.range.start, r.range.end, r.chunks.len()));
        assert_eq!(reads.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn neighbours_are_read_together() {
        check(&[(0, 8, 92), (0, 100, 50)], &[(0, 0, 150, 2)]);
        check(
            &[(0, 100, 50), (0, 8, 92), (1, 100, 5)],
            &[(0, 0, 150, 2), (1, 100, 105, 1)],
        );
        let far = 1 << 20;
        check(
            &[(0, 8, 92), (0, far, 50)],
            &[(0, 0, 100, 1), (0, far.into(), (far + 50).into(), 1)],
        );
        let mib = 1 << 20;
        let whole: Vec<_> = (0..20).map(|n| (0, 8 + n * mib, mib)).collect();
        let reads: Vec<_> = (0..3_u64)
            .map(|n| {
                let first = if n == 0 {
                    0
                } else {
                    8 + (7 + (n - 1) * 8) * u64::from(mib)
                };
                let end = 8 + (7 + n * 8) * u64::from(mib);
                (
                    0,
                    first,
                    end.min(8 + 20 * u64::from(mib)),
                    if n == 0 {
                        7
                    } else {
                        8.min(20 - 7 - (n as usize - 1) * 8)
                    },
                )
            })
            .collect();
        check(&whole, &reads);
    }
}

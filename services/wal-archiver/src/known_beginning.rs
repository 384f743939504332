//! What is stored of the segment that streaming begins with: the stream must repeat it, byte for byte.
//!
//! Complete segments are written once, and the WAL reader checks that the stream goes on where the last of them ends.
//! Only inside of the open segment could a copy of the cluster, which parted from it there, take its place unseen.

use pg_format::SegmentName;

use crate::error::ArchiveError;

/// The stored beginning of a segment, compared with what is streamed of it.
#[derive(Clone, Debug)]
pub(crate) struct KnownBeginning {
    name: SegmentName,
    length: u64,
    stored: blake3::Hash,
    streamed: blake3::Hasher,
}

impl KnownBeginning {
    /// The segment `name` begins with these bytes.
    #[must_use]
    pub(crate) fn new(name: SegmentName, bytes: &[u8]) -> Self {
        KnownBeginning {
            name,
            length: bytes.len() as u64,
            stored: blake3::hash(bytes),
            streamed: blake3::Hasher::new(),
        }
    }

    /// How much of the segment is stored, in bytes.
    #[must_use]
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Takes what is streamed next, from the segment's beginning on.
    ///
    /// # Errors
    /// It is not what is stored.
    pub(crate) fn follow(&mut self, piece: &[u8]) -> Result<(), ArchiveError> {
        let missing = self.length - self.streamed.count();
        if missing == 0 {
            return Ok(());
        }
        let length = usize::try_from(missing).unwrap_or(usize::MAX);
        let _ = self.streamed.update(&piece[..length.min(piece.len())]);
        if self.streamed.count() < self.length || self.streamed.finalize() == self.stored {
            return Ok(());
        }
        Err(ArchiveError::AnotherCluster { segment: self.name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_format::{TimelineId, WalSegmentSize};

    fn known(bytes: &[u8]) -> KnownBeginning {
        let size = WalSegmentSize::new(1 << 20).unwrap();
        KnownBeginning::new(SegmentName::new(TimelineId(1), 7, size), bytes)
    }

    #[test]
    fn what_differs_is_refused_in_whatever_pieces_it_comes() {
        for (streamed, agrees) in [("abcdef-more", true), ("abcdex", false), ("abc", true)] {
            for size in 1..streamed.len() {
                let mut known = known(b"abcdef");
                let mut pieces = streamed.as_bytes().chunks(size);
                let outcome = pieces.try_for_each(|piece| known.follow(piece));
                assert_eq!(outcome.is_ok(), agrees, "{streamed} by {size}");
            }
        }
    }

    #[test]
    fn an_empty_beginning_agrees_with_everything() {
        assert!(known(b"").follow(b"x").is_ok());
    }
}
